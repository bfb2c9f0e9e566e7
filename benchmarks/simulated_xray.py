"""X-ray images of known pose that the registration does not model: its test bench.

The image is made by the other algorithm (Siddon chords through constant voxels, while registration
samples a trilinear field) from soft tissue and bone apart, with a spectrum that hardens in bone,
smooth scatter, blur, quantum noise and 12 bits.
"""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jaxlie
from jaxtyping import Array, Float, PRNGKeyArray

from jxreg import drr
from jxreg.camera import Camera
from jxreg.frame import Frame, attenuation
from jxreg.similarity.windows import gaussian_smooth
from jxreg.volume import MU_WATER, Volume

BONE_FROM, BONE_TO = 1.15 * MU_WATER, 1.6 * MU_WATER  # 150 HU and 600 HU

# Attenuation relative to 60 keV, of water and of cortical bone (NIST XCOM), and a 90 kVp-like
# weight of each energy in the signal.
ENERGIES_KEV = (40.0, 50.0, 60.0, 70.0, 80.0)
WATER = (1.303, 1.102, 1.0, 0.937, 0.892)
BONE = (2.113, 1.347, 1.0, 0.818, 0.708)
STEEL = (2.857, 1.542, 0.949, 0.661, 0.469)  # of iron, absolute [1/mm]
WEIGHT = (0.17, 0.27, 0.26, 0.18, 0.12)


class Acquisition(NamedTuple):
    """What the detector adds to the primary beam."""

    photons: float = 20_000.0
    """Quanta a pixel in air."""
    scatter: float = 0.25
    """Mean scatter in the patient's shadow, as a fraction of the mean primary signal there."""
    scatter_width: float = 0.15
    """Width of the scatter, as a fraction of the image."""
    blur: float = 0.6
    """Blur of the detector [px]."""


class InTheBeam(NamedTuple):
    """What stands in the beam and is in no CT."""

    steel: Float[Array, "rows columns"] | None = None
    """Path length through steel [mm]."""
    open: Float[Array, "rows columns"] | None = None
    """1 where the shutters are open, 0 behind them; 0.5 % gets through, and scatter."""


def materials(volume: Volume) -> Volume:
    """Two channels, soft tissue and bone, that add up to the volume."""
    bone = jnp.clip((volume.mu - BONE_FROM) / (BONE_TO - BONE_FROM), 0, 1) * volume.mu
    return Volume(jnp.stack([volume.mu - bone, bone]), volume.affine, volume.isocenter)


def simulate(
    key: PRNGKeyArray,
    two_materials: Volume,
    camera: Camera,
    pose: jaxlie.SE3,
    acquisition: Acquisition = Acquisition(),
) -> Float[Array, "rows columns"]:
    """Attenuation image as a reader of a 12-bit linear detector would make it."""
    grey = expose(key, two_materials, camera, pose, acquisition)
    return attenuation(grey, grey.max())


def expose(
    key: PRNGKeyArray,
    two_materials: Volume,
    camera: Camera,
    pose: jaxlie.SE3,
    acquisition: Acquisition = Acquisition(),
    beam: InTheBeam = InTheBeam(),
) -> Float[Array, "rows columns"]:
    """Grey values of a 12-bit linear detector."""
    soft, bone = drr.render(two_materials, camera, pose, drr.siddon())
    primary = _primary(soft, bone, beam.steel)
    scatter = acquisition.scatter * scattered(primary, acquisition.scatter_width)
    if beam.open is not None:
        primary = primary * (0.005 + 0.995 * beam.open)
        scatter = scatter * (0.3 + 0.7 * beam.open.mean())
        scatter = scatter * (0.3 + 0.7 * gaussian_smooth(beam.open, 4.0))
    return detected(key, primary + scatter, acquisition)


def detected(
    key: PRNGKeyArray, arriving: Float[Array, "rows columns"], acquisition: Acquisition
) -> Float[Array, "rows columns"]:
    """Grey values of what arrives at the detector, 1 in air."""
    signal = gaussian_smooth(arriving, acquisition.blur)
    counts = jax.random.poisson(key, acquisition.photons * signal).astype(signal.dtype)
    return jnp.clip(jnp.round(4095 * counts / (1.1 * acquisition.photons)), 0, 4095)


def shuttered(frame: Frame, share: float) -> Frame:
    """The frame with that share of it closed on each side; no part of it for 0."""
    if share == 0:
        return frame
    edge = round(share * frame.image.shape[0])
    mask = jnp.zeros_like(frame.image).at[edge:-edge, edge:-edge].set(1.0)
    return replace(frame, image=jnp.where(mask > 0, frame.image, 0.0), mask=mask)


def _primary(soft, bone, steel) -> Float[Array, "rows columns"]:
    """Primary signal of the spectrum, 1 in air."""
    spectrum = zip(WEIGHT, WATER, BONE, STEEL, strict=True)
    if steel is None:
        return sum(w * jnp.exp(-a * soft - b * bone) for w, a, b, _ in spectrum)
    return sum(w * jnp.exp(-a * soft - b * bone - c * steel) for w, a, b, c in spectrum)


def scattered(primary: Float[Array, "rows columns"], width: float) -> Float[Array, "rows columns"]:
    """Smooth scatter with the mean of the primary signal in the patient's shadow.

    Its source is what left the beam, in proportion to p exp(-p) (Ohnesorge et al., Eur Radiol 9,
    1999), spread by a Gaussian of `width` times the image.
    """
    source = -primary * jnp.log(primary)
    spread = gaussian_smooth(source, width * primary.shape[1])
    shadow = (primary < 0.95).astype(primary.dtype)
    return spread * (shadow * primary).sum() / jnp.maximum((shadow * spread).sum(), 1e-6)
