"""Scatter by kernels: smooth, in proportion to the beam, more of it behind more of the patient.

Where the primary signal is I_p = I_0 exp(-P), it sends out scatter of the amount
I_p a (I_p / I_0)^alpha P^beta, which a kernel spreads over the detector.

Source: Sun and Star-Lack, Improved scatter correction using adaptive scatter kernel superposition,
Phys. Med. Biol. 55, 2010, eq. 6-9, with one kernel for all thicknesses.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jxreg.physics.blur import Spread, blurred, with_tail
from jxreg.physics.signal import Signal

_NOTHING = 1e-3
"""Attenuation that is no object but may be rounding."""


class Scatter(NamedTuple):
    """How much scatter there is, and how far it spreads.

    The defaults are of the usual size (as much scatter as primary behind 20 cm of water in an open
    field, three times as much behind 35 cm), and are not those of any device.
    """

    ratio: ArrayLike | None = None
    """Scatter over primary, both averaged over the object's shadow; the amount is scaled to it.
    None leaves it to `amplitude`."""
    amplitude: ArrayLike = 0.12
    """The factor a."""
    alpha: ArrayLike = -0.2
    beta: ArrayLike = 1.0
    spread: Spread | None = None
    """Kernel of unit weight; by default Gaussians of 25 and 90 mm, half each."""


class Grid(NamedTuple):
    """Anti-scatter grid, as what passes it."""

    primary: ArrayLike = 0.7
    scatter: ArrayLike = 0.15


@jax.jit
def scattered(
    signal: Signal, spacing: Float[Array, "2"], scatter: Scatter
) -> Float[Array, "rows columns"]:
    """Scatter in the unit of the signal: zero without an object, in proportion to the beam.

    Args:
        signal: Of the primary beam.
        spacing: Distance of rows and of columns on the detector [mm].
        scatter: How much, how far.
    """
    passed = _passed(signal)
    depth = -jnp.log(jnp.maximum(passed, jnp.finfo(passed.dtype).tiny))
    behind = depth > _NOTHING
    depth = jnp.where(behind, depth, 1.0)
    source = signal.incident * jnp.exp(-(1 + scatter.alpha) * depth) * depth**scatter.beta
    source = scatter.amplitude * jnp.where(behind, source, 0.0)
    spread = with_tail(25.0, 0.5, 90.0) if scatter.spread is None else scatter.spread
    image = jnp.maximum(blurred(source, spacing, spread), 0.0)
    if scatter.ratio is None:
        return image
    return image * (scatter.ratio / _ratio(signal, image))


def with_scatter(signal: Signal, image: Float[Array, "rows columns"]) -> Signal:
    """Adds scatter, with quanta of the size that those of the open beam have."""
    return signal._replace(
        mean=signal.mean + image, variance=signal.variance + signal.quantum * image
    )


def through_grid(signal: Signal, grid: Grid) -> Signal:
    """The primary signal behind an anti-scatter grid; its reference has the grid as well."""
    keep = grid.primary
    return signal._replace(
        mean=keep * signal.mean,
        variance=keep * signal.variance,
        incident=keep * signal.incident,
        reference=keep * signal.reference,
    )


def _passed(signal: Signal) -> Float[Array, "rows columns"]:
    """Share of the primary beam that the object lets through; 1 where there is no beam."""
    lit = signal.incident > 0
    return jnp.where(lit, signal.mean / jnp.where(lit, signal.incident, 1.0), 1.0)


def _ratio(signal: Signal, image: Float[Array, "rows columns"]) -> Float[Array, ""]:
    """Scatter over primary in the shadow, where a pixel counts as much as it is dark."""
    passed = _passed(signal)
    shadow = jnp.where(passed < 1 - _NOTHING, 1 - passed, 0.0)
    primary = jnp.sum(shadow * signal.mean)
    shaded = primary > 0
    return jnp.where(shaded, jnp.sum(shadow * image) / jnp.where(shaded, primary, 1.0), 1.0)
