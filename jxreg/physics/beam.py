"""What is left of a spectrum behind some materials, as one attenuation for each ray.

With A_m the area density of material m along a ray and kappa_mj its mass attenuation coefficient in
bin j, whose share of the signal in air is w_j,

    p = -log sum_j w_j exp(-sum_m kappa_mj A_m)

and dp / dA_m = sum_j s_j kappa_mj, s being the shares of what is left: the effective coefficient of
the hardened beam. So value and gradient are running sums over the bins, and nothing is kept by bin.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, ArrayLike, Float

from jxreg.errors import InputError
from jxreg.physics.materials import Material, mass_attenuation
from jxreg.physics.spectra import Spectrum
from jxreg.volume import Beam

UNROLLED = 8
"""Bins up to which there is no loop: a reduced spectrum is one pass over the rays."""


def beam_of(
    spectrum: Spectrum, materials: Sequence[Material], response: ArrayLike | None = None
) -> Beam:
    """The whole spectrum, each bin a term of the sum.

    Args:
        spectrum: Photons by energy.
        materials: What will be in the way, in the order of the area densities.
        response: Signal of one photon in each bin; by default its energy, as of an ideal detector
            that adds up energy.

    Raises:
        InputError: No signal is left, or a response is negative.
    """
    energies = np.asarray(spectrum.energies, np.float64)
    response = energies if response is None else np.asarray(response, np.float64)
    weights = np.asarray(spectrum.photons, np.float64) * response
    least, most = (weights.min(), weights.max()) if weights.size else (0.0, 0.0)
    if not (0 <= least and 0 < most < np.inf):
        raise InputError(
            "spectrum",
            f"signal between {least:g} and {most:g} in {weights.size} bins",
            "photons and a response that are not negative, and some of both",
            "check the filters and the response",
        )
    kept = weights > 0
    kappa = np.stack([mass_attenuation(one, energies[kept]) for one in materials])
    return Beam(kappa, np.log(weights[kept] / weights.sum()))


def monochromatic(materials: Sequence[Material], energy: float) -> Beam:
    """A beam of one energy [keV], which nothing hardens."""
    at = np.array([energy])
    return Beam(np.stack([mass_attenuation(one, at) for one in materials]), np.zeros(1))


def attenuate(beam: Beam, areas: Float[Array, "m *pixels"]) -> Float[Array, "*pixels"]:
    """`attenuation` of a beam, in the precision of the area densities."""
    kappa, log_weights = (jnp.asarray(x, areas.dtype) for x in beam)
    return attenuation(areas, kappa, log_weights)


@jax.custom_jvp
def attenuation(
    areas: Float[Array, "m *pixels"], kappa: Float[Array, "m n"], log_weights: Float[Array, " n"]
) -> Float[Array, "*pixels"]:
    """Attenuation -log(signal / signal in air) of a polychromatic beam; differentiable in all.

    Args:
        areas: Area density of each material along each ray [g/cm^2].
        kappa: Mass attenuation coefficient of each material in each bin [cm^2/g].
        log_weights: Logarithm of each bin's share of the signal in air.
    """
    return _sums(areas, kappa, log_weights)[0]


def effective_coefficients(
    areas: Float[Array, "m *pixels"], kappa: Float[Array, "m n"], log_weights: Float[Array, " n"]
) -> Float[Array, "m *pixels"]:
    """Mass attenuation coefficients [cm^2/g] of what is left of the beam: dp / dA."""
    return _sums(areas, kappa, log_weights)[1]


def _attenuation_jvp(primals, tangents):
    areas, kappa, log_weights = primals
    areas_dot, kappa_dot, log_weights_dot = tangents
    p, effective = _sums(areas, kappa, log_weights)
    change = jnp.zeros_like(p)
    if not _is_zero(areas_dot):
        change = change + (effective * areas_dot).sum(0)
    if not (_is_zero(kappa_dot) and _is_zero(log_weights_dot)):
        kappa_dot = jnp.zeros_like(kappa) if _is_zero(kappa_dot) else kappa_dot
        w_dot = jnp.zeros_like(log_weights) if _is_zero(log_weights_dot) else log_weights_dot
        change = change + _by_bins(areas, (kappa, log_weights), p, (kappa_dot, w_dot))
    return p, change


attenuation.defjvp(_attenuation_jvp, symbolic_zeros=True)


def _sums(areas, kappa, log_weights):
    """Attenuation and effective coefficients, by running sums over the bins."""
    bins = kappa.T, log_weights

    def largest(top, one):
        return jnp.maximum(top, _exponent(areas, *one)), None

    def add(sums, one):
        left = jnp.exp(_exponent(areas, *one) - top)
        total, *weighted = sums
        return (total + left, *(s + left * k for s, k in zip(weighted, one[0], strict=True))), None

    nothing = jnp.zeros_like(areas[0])
    top = _over(largest, nothing - jnp.inf, bins)
    total, *weighted = _over(add, (nothing,) * (1 + areas.shape[0]), bins)
    return -(top + jnp.log(total)), jnp.stack(weighted) / total


def _by_bins(areas, bins, p, bins_dot):
    """Change of the attenuation with the coefficients and the weights of the bins."""

    def add(change, one):
        (kappa, w), (kappa_dot, w_dot) = one
        share = jnp.exp(_exponent(areas, kappa, w) + p)
        return change - share * _exponent(areas, kappa_dot, w_dot), None

    per_bin = jax.tree.map(lambda x: x.T, (bins, bins_dot))
    return _over(add, jnp.zeros_like(p), per_bin)


def _over(step, start, bins):
    """What a step makes of one bin after the other."""
    count = jax.tree.leaves(bins)[0].shape[0]
    return jax.lax.scan(step, start, bins, unroll=count <= UNROLLED)[0]


def _exponent(areas, kappa, log_weight):
    """The exponent of one bin, log w - kappa A; material by material, so that XLA fuses it."""
    for area, coefficient in zip(areas, kappa, strict=True):
        log_weight = log_weight - coefficient * area
    return log_weight


def _is_zero(tangent) -> bool:
    return isinstance(tangent, SymbolicZero)
