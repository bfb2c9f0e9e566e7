"""An exposure from beam to signal, each part optional and in the order in which it happens.

Heel and collimator shape the beam; the focal spot blurs what the object leaves of it; scatter
joins, and a grid stops most of it; the light of the scintillator spreads (glare far, modulation
transfer near) with its noise; the electronics add theirs. `readout` then makes numbers of it.
"""

from typing import NamedTuple

import jax
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from jxreg.camera import Camera, pixel_spacing
from jxreg.physics.blur import Spread, blurred, energy
from jxreg.physics.field import (
    Collimator,
    Heel,
    collimator_factor,
    heel_factor,
    photons_per_pixel,
)
from jxreg.physics.noise import electronic_noise, quantum_noise, sampled_signal
from jxreg.physics.scatter import Grid, Scatter, scattered, through_grid, with_scatter
from jxreg.physics.signal import Quanta, Response, Signal, quanta, signal_of


class Setup(NamedTuple):
    """What shapes an exposure; None leaves it out."""

    heel: Heel | None = None
    collimator: Collimator | None = None
    focal_spot: Spread | None = None
    scatter: Scatter | None = None
    grid: Grid | None = None
    glare: Spread | None = None
    transfer: Spread | None = None
    """Spread of light in the scintillator, the modulation transfer of the detector."""
    electronic_noise: ArrayLike | None = None
    """Standard deviation a pixel, in the unit of the signal."""


def beam_field(camera: Camera, setup: Setup) -> Float[Array, "rows columns"]:
    """Photons a pixel for one per mm2 at 1 m, where nothing is in the way, no collimator either."""
    field = photons_per_pixel(camera)
    return field if setup.heel is None else field * heel_factor(camera, setup.heel)


def opening(camera: Camera, setup: Setup) -> Float[Array, "rows columns"] | float:
    """Share of the beam that the collimator lets through."""
    return 1.0 if setup.collimator is None else collimator_factor(camera, setup.collimator)


@jax.jit
def primary_signal(
    areas: Float[Array, "materials rows columns"],
    of: Quanta,
    camera: Camera,
    setup: Setup = Setup(),
) -> Signal:
    """Signal of the primary beam.

    Args:
        areas: Mass of each material on the ray to each pixel, per area [g/cm2].
        of: Spectrum and detector, from `signal.quanta`.
        camera: Geometry.
        setup: Its heel and collimator.
    """
    return signal_of(areas, of, beam_field(camera, setup), opening(camera, setup))


@jax.jit
def exposed(primary: Signal, camera: Camera, setup: Setup) -> Signal:
    """The signal to expect, from that of the primary beam.

    Args:
        primary: From `primary_signal`.
        camera: Geometry.
        setup: Focal spot, scatter, grid, glare and transfer.
    """
    spacing = pixel_spacing(camera)
    signal, stray = _with_stray(primary, spacing, setup)
    signal = signal if stray is None else with_scatter(signal, stray)
    for spread in (setup.glare, setup.transfer):
        if spread is not None:
            kept = energy(signal.mean, spacing, spread)
            mean, variance = (blurred(x, spacing, spread) for x in (signal.mean, signal.variance))
            signal = signal._replace(mean=mean, variance=kept * variance)
    return signal


@jax.jit
def drawn(
    key: PRNGKeyArray, expected: Signal, camera: Camera, setup: Setup
) -> Float[Array, "rows columns"]:
    """One image of the expected signal, with normal noise; differentiable but for the key.

    Args:
        key: Random key.
        expected: From `exposed`.
        camera: Geometry.
        setup: Transfer (the texture of the noise) and electronic noise.
    """
    quantum, electronic = jax.random.split(key)
    noise = quantum_noise(quantum, expected.variance, pixel_spacing(camera), setup.transfer)
    return _with_electronics(electronic, expected.mean + noise, setup)


@jax.jit
def sampled(
    key: PRNGKeyArray,
    areas: Float[Array, "materials rows columns"],
    kappa: Float[Array, "materials bins"],
    photons: Float[Array, " bins"],
    response: Response,
    camera: Camera,
    setup: Setup = Setup(),
) -> Float[Array, "rows columns"]:
    """One image by drawing the photons of each bin: exact where they are few, no gradients.

    Args:
        key: Random key.
        areas: Mass of each material on the ray to each pixel, per area [g/cm2].
        kappa: Mass attenuation of each material in each bin [cm2/g].
        photons: Photons of each bin, per mm2 at 1 m.
        response: Of the detector.
        camera: Geometry.
        setup: What shapes the exposure.
    """
    spacing = pixel_spacing(camera)
    primary = primary_signal(areas, quanta(kappa, photons, response), camera, setup)
    _, stray = _with_stray(primary, spacing, setup)
    lit = beam_field(camera, setup) * opening(camera, setup)

    def focus(image):
        image = _focused(image, spacing, setup)
        return image if setup.grid is None else setup.grid.primary * image

    quantum, electronic = jax.random.split(key)
    signal = sampled_signal(quantum, areas, kappa, photons, response, lit, stray, focus)
    for spread in (setup.glare, setup.transfer):
        signal = signal if spread is None else blurred(signal, spacing, spread)
    return _with_electronics(electronic, signal, setup)


def _with_stray(primary: Signal, spacing, setup: Setup) -> tuple[Signal, Array | None]:
    """Primary signal and scatter as they arrive, behind the grid."""
    mean, variance = (_focused(x, spacing, setup) for x in (primary.mean, primary.variance))
    signal = primary._replace(mean=mean, variance=variance)
    stray = None if setup.scatter is None else scattered(signal, spacing, setup.scatter)
    if setup.grid is None:
        return signal, stray
    stray = None if stray is None else setup.grid.scatter * stray
    return through_grid(signal, setup.grid), stray


def _focused(image, spacing, setup: Setup):
    return image if setup.focal_spot is None else blurred(image, spacing, setup.focal_spot)


def _with_electronics(key: PRNGKeyArray, signal, setup: Setup) -> Float[Array, "rows columns"]:
    if setup.electronic_noise is None:
        return signal
    return signal + electronic_noise(key, signal, setup.electronic_noise)
