"""The physics of an exposure with everything drawn: spectrum, scatter, photons.

What a network is to be robust against is not noise on grey values but another tube voltage (bone
and soft tissue fade differently, and harden), scatter that lifts the dark parts, and few photons.
All three act on the signal before its logarithm, so they come before the other augmentations.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jxreg.augmentation.composition import Interval, within
from jxreg.camera import Camera, pixel_spacing
from jxreg.physics.beam import attenuation, beam_of
from jxreg.physics.blur import with_tail
from jxreg.physics.materials import material
from jxreg.physics.nodes import reduced
from jxreg.physics.scatter import Scatter, scattered
from jxreg.physics.signal import Signal, attenuation_of
from jxreg.physics.spectra import tube_spectrum
from jxreg.simulation import LARGEST, area_scales

BOUND = 1e-3
"""Largest error of the attenuation by the few terms that stand for a spectrum."""
NOTHING = -1e3
"""Logarithm of the weight of a term that a spectrum does not need."""


@dataclass(frozen=True)
class Exposure:
    """What is drawn for each image, uniformly unless it says otherwise."""

    kilovolts: tuple[float, ...] = (60.0, 75.0, 90.0, 110.0)
    """Tube voltages, of which one is drawn."""
    aluminium: float = 3.0
    """Filtration of the tube [mm]."""
    photons: Interval = (1e4, 1e6)
    """Photons a pixel without an object, uniform in their logarithm."""
    scatter: Interval = (0.0, 1.0)
    """Scatter over primary in the patient's shadow."""
    near: Interval = (10.0, 40.0)
    """Standard deviation of the narrow half of the scatter [mm on the detector]."""
    far: Interval = (60.0, 120.0)
    """Standard deviation of the wide half [mm on the detector]."""


def exposed(
    key: PRNGKeyArray,
    lengths: Float[Array, "channels rows columns"],
    camera: Camera,
    exposure: Exposure = Exposure(),
) -> Float[Array, "rows columns"]:
    """Attenuation image of an exposure; at least one photon a pixel is taken to arrive.

    Args:
        key: Random key.
        lengths: Line integrals of soft tissue, then of bone in any number of channels, as from a
            volume of `synthesis.training_volume`.
        camera: Geometry.
        exposure: Static.
    """
    tube, dose, amount, near, far, noise = jax.random.split(key, 6)
    which = jax.random.randint(tube, (), 0, len(exposure.kilovolts))
    kappa, log_weights = (x.astype(lengths.dtype)[which] for x in _beams(exposure, len(lengths)))
    low, high = exposure.photons
    photons = jnp.exp(within(dose, (float(np.log(low)), float(np.log(high)))))
    mean = jnp.exp(-attenuation(lengths, kappa, log_weights))
    spread = with_tail(within(near, exposure.near), 0.5, within(far, exposure.far))
    one = jnp.ones_like(mean)
    signal = Signal(mean, mean / photons, one, one, 1 / photons)
    ratio = within(amount, exposure.scatter)
    mean = mean + scattered(signal, pixel_spacing(camera), Scatter(ratio, spread=spread))
    deviation = jnp.sqrt(jnp.maximum(mean, 0) / photons)
    drawn = mean + deviation * jax.random.normal(noise, mean.shape, mean.dtype)
    return attenuation_of(drawn, one, 1 / photons)


def _beams(
    exposure: Exposure, channels: int
) -> tuple[Float[Array, "voltages channels terms"], Float[Array, "voltages terms"]]:
    """Coefficients relative to the channels of a volume, and weights, of every voltage."""
    materials = (material("soft"), material("bone"))
    filters = (("aluminium", exposure.aluminium),)
    largest = [LARGEST[one.name] for one in materials]
    beams = [
        reduced(beam_of(tube_spectrum(kvp, filters), materials), largest, BOUND)
        for kvp in exposure.kilovolts
    ]
    terms = max(beam.log_weights.size for beam in beams)
    rest = [(0, terms - beam.log_weights.size) for beam in beams]
    kappa = np.stack([np.pad(b.kappa, [(0, 0), r]) for b, r in zip(beams, rest, strict=True)])
    weights = [
        np.pad(b.log_weights, r, constant_values=NOTHING) for b, r in zip(beams, rest, strict=True)
    ]
    of_channels = np.minimum(np.arange(channels), 1)
    relative = (area_scales(materials)[:, None] * kappa)[:, of_channels]
    return jnp.asarray(relative), jnp.asarray(np.stack(weights))
