"""The expected signal of the primary beam in each pixel, and the variance that its quanta give it.

A photon of energy E that is absorbed (probability eta) leaves a signal e: its energy less what
escapes in an energy-integrating detector, 1 in a counting one. Photons are a Poisson process, so
the signal is compound Poisson: with P photons in a bin, mean = sum eta e P, and
variance = sum eta e^2 P / I, where I is the Swank factor.

Source: Swank, Absorption and noise in X-ray phosphors, J. Appl. Phys. 44, 1973, eq. 5-8; Campbell's
theorem for the moments of a compound Poisson process.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jxreg.physics.beam import Beam, attenuate
from jxreg.physics.nodes import BOUND, reduced


class Response(NamedTuple):
    """What a detector makes of one photon that reaches it, by energy bin."""

    absorbed: Float[Array, " bins"]
    """Probability eta that it is absorbed."""
    signal: Float[Array, " bins"]
    """Mean signal e of one that is: keV deposited, or 1 for a count."""
    swank: ArrayLike = 1.0
    """Swank factor I: mean^2 / mean of squares of the light from photons of one energy."""


class Signal(NamedTuple):
    """Expected signal of an exposure [keV or counts a pixel], before noise."""

    mean: Float[Array, "rows columns"]
    variance: Float[Array, "rows columns"]
    """By the statistics of the quanta alone."""
    incident: Float[Array, "rows columns"]
    """The mean without an object."""
    reference: Float[Array, "rows columns"]
    """The mean without object and collimator: what a flat-field calibration divides by."""
    quantum: Float[Array, ""]
    """Variance over mean of the beam without an object [keV or 1]: the size of its quanta."""


class Quanta(NamedTuple):
    """A spectrum in a detector, and how materials in the way attenuate mean and variance."""

    mean: Beam
    """Shares of the signal without an object."""
    variance: Beam
    """Shares of its variance."""
    air: Float[Array, ""]
    """Signal a pixel without an object, for a field of 1."""
    quantum: Float[Array, ""]
    """Variance over mean without an object."""


def mean_weights(photons: Float[Array, " bins"], response: Response) -> Float[Array, " bins"]:
    """Signal that each bin of a spectrum gives; the same function of `photons` as the signal."""
    return photons * response.absorbed * response.signal


def variance_weights(photons: Float[Array, " bins"], response: Response) -> Float[Array, " bins"]:
    """Variance that each bin gives."""
    return photons * response.absorbed * response.signal**2 / response.swank


def quanta(
    kappa: Float[Array, "materials bins"], photons: Float[Array, " bins"], response: Response
) -> Quanta:
    """A spectrum in a detector, all bins; differentiable in everything.

    Args:
        kappa: Mass attenuation of each material in each bin [cm2/g].
        photons: Photons of each bin, per mm2 at 1 m.
        response: Of the detector.
    """
    mean, variance = mean_weights(photons, response), variance_weights(photons, response)
    air = mean.sum()
    return Quanta(_beam(kappa, mean), _beam(kappa, variance), air, variance.sum() / air)


def reduced_quanta(all_bins: Quanta, largest: Sequence[float], bound: float = BOUND) -> Quanta:
    """The same in a handful of terms, those of the variance fitted by themselves.

    Not for compiled code.

    Args:
        all_bins: From `quanta`.
        largest: Largest area density of each material up to which the bound holds [g/cm2].
        bound: Largest error of the logarithm of mean and variance; where no few terms hold it, all
            bins are kept.
    """
    return all_bins._replace(
        mean=reduced(all_bins.mean, largest, bound),
        variance=reduced(all_bins.variance, largest, bound),
    )


def signal_of(
    areas: Float[Array, "materials rows columns"],
    of: Quanta,
    field: Float[Array, "rows columns"],
    collimator: Float[Array, "rows columns"] | float = 1.0,
) -> Signal:
    """Signal of the primary beam.

    Args:
        areas: Mass of each material on the ray, per area [g/cm2].
        of: Spectrum and detector.
        field: Photons a pixel for one per mm2 at 1 m, as `field.photons_per_pixel`, heel included.
        collimator: Share of the radiation that passes blades and iris.
    """
    passed, spread = (jnp.exp(-attenuate(beam, areas)) for beam in (of.mean, of.variance))
    reference = field * of.air
    incident = reference * collimator
    variance = incident * of.quantum * spread
    return Signal(incident * passed, variance, incident, reference, of.quantum)


def _beam(kappa: Float[Array, "materials bins"], weights: Float[Array, " bins"]) -> Beam:
    smallest = jnp.finfo(weights.dtype).tiny  # a bin without photons has no logarithm
    return Beam(kappa, jnp.log(jnp.maximum(weights / weights.sum(), smallest)))


def attenuation_of(
    signal: Float[Array, "rows columns"],
    reference: Float[Array, "rows columns"],
    floor: ArrayLike = 1e-6,
) -> Float[Array, "rows columns"]:
    """Attenuation -log(S / S0), absolute; at least `floor` of the reference is taken to arrive.

    Where there is no beam, in the shadow of the anode, nothing more is taken to.
    """
    lit = reference > 0
    passed = jnp.where(lit, signal / jnp.where(lit, reference, 1.0), 0.0)
    return -jnp.log(jnp.maximum(passed, floor))
