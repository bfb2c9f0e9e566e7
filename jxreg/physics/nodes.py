"""A spectrum of a hundred bins as a handful of terms with the same attenuation.

Each term is a share of the signal and a coefficient of every material, all of them free: fitted to
the full sum over a box of area densities by Levenberg-Marquardt, and checked against it elsewhere.
Free coefficients need no care at absorption edges, and fewer terms than energies would.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jxreg.errors import InputError
from jxreg.physics.beam import Beam

BOUND = 2e-4
"""Largest error of the attenuation that is accepted."""
FEWEST, MOST = 5, 8
"""Terms that are tried."""
POINTS = {1: 40, 2: 12, 3: 7, 4: 5}
"""Values of each area density that are fitted, by how many materials there are."""
CHECKED = 4000
STARTS = (0.0, 0.05, 0.5)
"""Shares of the box behind which bins are grouped for a start: some end in a worse minimum."""
STEPS = 1000
LEAST_DAMPING = 1e-12
LONGEST = 0.3
"""Largest change of a logarithm in one step."""


def reduced(beam: Beam, largest: Sequence[float], bound: float = BOUND) -> Beam:
    """The beam in as few terms as keep its attenuation, five to eight, else in its own bins.

    Args:
        beam: All bins.
        largest: Largest area density [g/cm^2] of each material; the bound holds from 0 to there.
        bound: Largest error of the attenuation.

    Raises:
        InputError: `largest` is not one positive number a material.
    """
    box = np.asarray(largest, np.float64)
    kappa, log_weights = (np.asarray(x, np.float64) for x in beam)
    if box.shape != kappa.shape[:1] or not (np.isfinite(box).all() and (box > 0).all()):
        raise InputError(
            "largest",
            f"{tuple(largest)}",
            f"{kappa.shape[0]} positive area densities [g/cm^2], one a material",
            "say how much of each material a ray may cross",
        )
    full = Beam(kappa, log_weights)
    for share in STARTS:
        for count in range(FEWEST, min(MOST, log_weights.size - 1) + 1):
            terms = _fitted(full, _grid(box), _start(full, count, share * box), bound)
            if largest_error(terms, full, box) <= bound:
                return terms
    return beam


def largest_error(beam: Beam, full: Beam, largest: Sequence[float] | np.ndarray) -> float:
    """Largest difference of two beams' attenuation at points of a box that no fit has seen."""
    box = np.asarray(largest, np.float64)
    random = np.random.default_rng(0).random((CHECKED, box.size)) ** 1.5
    corners = np.stack(np.meshgrid(*[[0.0, 1.0]] * box.size), -1).reshape(-1, box.size)
    areas = np.concatenate([random, corners]) * box
    return float(np.abs(_model(areas, *beam)[0] - _model(areas, *full)[0]).max())


def _grid(box: Float[np.ndarray, " m"]) -> Float[np.ndarray, "points m"]:
    """Area densities to fit: more of them at both ends, most near nothing."""
    count = POINTS.get(box.size, 4)
    steps = ((1 - np.cos(np.linspace(0, np.pi, count))) / 2) ** 1.5
    return np.stack(np.meshgrid(*[b * steps for b in box], indexing="ij"), -1).reshape(-1, box.size)


def _fitted(full: Beam, areas: Float[np.ndarray, "points m"], x: np.ndarray, bound: float) -> Beam:
    """Levenberg-Marquardt in the logarithms of all coefficients and shares, from a start."""
    truth, _ = _model(areas, *full)
    residual, jacobian = _residual(x, areas, truth)
    damping = 1e-3
    for _ in range(STEPS):
        if np.abs(residual).max() < bound / 4 or damping > 1e10:
            break
        normal = jacobian.T @ jacobian
        damped = normal + damping * np.diag(normal).mean() * np.eye(x.size)
        step = np.linalg.solve(damped, -jacobian.T @ residual)
        trial = x + step * min(1.0, LONGEST / np.abs(step).max())
        new, slopes = _residual(trial, areas, truth)
        if new @ new < residual @ residual:
            x, residual, jacobian = trial, new, slopes
            damping = max(damping / 3, LEAST_DAMPING)
        else:
            damping *= 2
    return _beam(x, areas.shape[1])


def _start(
    full: Beam, count: int, behind: Float[np.ndarray, " m"]
) -> Float[np.ndarray, " parameters"]:
    """Bins in groups of about equal share behind some area densities, none across an edge."""
    weights, left = np.exp(full.log_weights), np.exp(full.log_weights - behind @ full.kappa)
    edges = np.flatnonzero((np.diff(full.kappa) > 0).any(0)) + 1
    parts = np.split(np.arange(weights.size), edges)
    shares = np.array([left[part].sum() for part in parts])
    groups = np.ones(len(parts), int)
    while groups.sum() < count:
        groups[np.argmax(shares / groups)] += 1
    chosen = [
        part[(np.cumsum(left[part]) - left[part] / 2) * n // share == k]
        for part, n, share in zip(parts, groups, shares, strict=True)
        for k in range(n)
    ][:count]
    chosen = [bins for bins in chosen if bins.size]  # one strong bin may be two groups' worth
    share = np.array([weights[bins].sum() for bins in chosen])
    mean = np.stack([full.kappa[:, bins] @ weights[bins] for bins in chosen], 1) / share
    return np.log(np.concatenate([mean, share[None]])).ravel()


def _beam(x: Float[np.ndarray, " parameters"], materials: int) -> Beam:
    *kappa, share = x.reshape(materials + 1, -1)
    share = share - share.max()
    return Beam(np.exp(np.stack(kappa)), share - np.log(np.exp(share).sum()))


def _residual(x, areas, truth):
    """Errors of the attenuation, and their derivatives by the parameters."""
    beam = _beam(x, areas.shape[1])
    p, share = _model(areas, *beam)
    by_kappa = share[:, None] * areas[:, :, None] * beam.kappa
    by_share = np.exp(beam.log_weights) - share
    return p - truth, np.concatenate([by_kappa.reshape(p.size, -1), by_share], 1)


def _model(areas, kappa, log_weights):
    """Attenuation, and each term's share of what is left."""
    exponent = log_weights - areas @ kappa
    top = exponent.max(1, keepdims=True)
    left = np.exp(exponent - top)
    total = left.sum(1, keepdims=True)
    return -(top + np.log(total))[:, 0], left / total
