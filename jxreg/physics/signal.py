"""The expected signal of the primary beam in each pixel, and the variance that its quanta give it.

A photon of energy E that is absorbed (probability eta) leaves a signal e: its energy less what
escapes in an energy-integrating detector, 1 in a counting one. Photons are a Poisson process, so
the signal is compound Poisson: with P photons in a bin, mean = sum eta e P, and
variance = sum eta e^2 P / I, where I is the Swank factor.

Source: Swank, Absorption and noise in X-ray phosphors, J. Appl. Phys. 44, 1973, eq. 5-8; Campbell's
theorem for the moments of a compound Poisson process.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from jxreg.physics.beam import attenuation


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


def mean_weights(photons: Float[Array, " bins"], response: Response) -> Float[Array, " bins"]:
    """Signal that each bin of a spectrum gives; the same function of `photons` as the signal."""
    return photons * response.absorbed * response.signal


def variance_weights(photons: Float[Array, " bins"], response: Response) -> Float[Array, " bins"]:
    """Variance that each bin gives."""
    return photons * response.absorbed * response.signal**2 / response.swank


def transmitted(
    areas: Float[Array, "materials rows columns"],
    kappa: Float[Array, "materials bins"],
    weights: Float[Array, " bins"],
) -> Float[Array, "rows columns"]:
    """Sum over the spectrum of weight times exp(-kappa . A), by `beam.attenuation`.

    Args:
        areas: Mass of each material on the ray, per area [g/cm2].
        kappa: Mass attenuation of each material in each bin [cm2/g].
        weights: What each bin counts; photons, signal or variance, not negative.
    """
    kappa, weights = kappa.astype(areas.dtype), weights.astype(areas.dtype)
    smallest = jnp.finfo(areas.dtype).tiny  # a bin without photons has no logarithm
    total = weights.sum()
    shares = jnp.log(jnp.maximum(weights / total, smallest))
    return total * jnp.exp(-attenuation(areas, kappa, shares))


def signal_of(
    mean: Float[Array, "rows columns"],
    variance: Float[Array, "rows columns"],
    photons: Float[Array, " bins"],
    response: Response,
    field: Float[Array, "rows columns"],
    collimator: Float[Array, "rows columns"] | float = 1.0,
) -> Signal:
    """Signal of an exposure from what passes the object, for one photon per mm2 at 1 m in air.

    Args:
        mean: `transmitted` by `mean_weights`.
        variance: `transmitted` by `variance_weights`.
        photons: Photons of each bin, per mm2 at 1 m.
        response: Of the detector.
        field: Photons a pixel for one per mm2 at 1 m, as `field.photons_per_pixel`, heel included.
        collimator: Share of the radiation that passes blades and iris.
    """
    air = mean_weights(photons, response).sum()
    quantum = variance_weights(photons, response).sum() / air
    lit = field * collimator
    return Signal(lit * mean, lit * variance, lit * air, field * air, quantum)


def attenuation_of(
    signal: Float[Array, "rows columns"],
    reference: Float[Array, "rows columns"],
    floor: ArrayLike = 1e-6,
) -> Float[Array, "rows columns"]:
    """Attenuation -log(S / S0), absolute; at least `floor` of the reference is taken to arrive."""
    return -jnp.log(jnp.maximum(signal / reference, floor))
