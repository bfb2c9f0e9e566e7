"""X-rays of a volume that follow physics: materials, a spectrum, one attenuation image.

A volume becomes one of materials by `polychromatic`: its channels are the attenuation of each
material at the effective energy of the CT, so that they add up to the volume as it was, and its
`beam` says how each channel attenuates the rest of the spectrum. Rendered in one march and combined
in closed form (`physics.beam`), it shows what a detector sees, less noise and scatter. `register`
and its relatives take such a volume like any other, and refine through the whole chain.
"""

from collections.abc import Mapping

import jax.numpy as jnp
import jaxlie
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from jxreg import drr
from jxreg.camera import Camera, pixel_grid
from jxreg.physics.beam import attenuate, beam_of
from jxreg.physics.intensity import Mixture, Model, ct
from jxreg.physics.materials import Material, material
from jxreg.physics.nodes import BOUND, reduced
from jxreg.physics.spectra import Spectrum
from jxreg.physics.tissue import ENERGY_CT, at_energy
from jxreg.volume import MU_WATER, Beam, Volume, spacing

LARGEST = {"soft": 40.0, "bone": 12.0, "titanium": 4.5, "iodine": 0.15, "air": 1.0}
"""Area density that a ray may cross [g/cm^2], where a reduced spectrum is checked: as much of each
material, or what the volume has of it along its axes if that is more."""
DEEPEST = 3.0
"""Attenuation up to which other materials are checked, each alone at the mean coefficient."""
DARKEST = 10.0
"""Attenuation up to which rays along the axes count: X-rays are not taken through more."""


def polychromatic(
    volume: Volume,
    spectrum: Spectrum,
    response: ArrayLike | None = None,
    *,
    model: Model = ct,
    bound: float | None = BOUND,
    largest: Mapping[str, float] | None = None,
) -> Volume:
    """The volume with its materials as channels, and a beam.

    Args:
        volume: Attenuation of one channel, as from `load_volume`: that of water is `MU_WATER`.
        spectrum: Photons by energy.
        response: Signal of one photon of each energy in the detector; by default its energy.
        model: What the values, in Hounsfield units, mean (`physics.intensity`), and at which energy
            the channels are attenuation.
        bound: Largest error of the attenuation that fewer terms than the spectrum has may make;
            where no few terms hold it, and for None, the spectrum is kept whole.
        largest: Area density [g/cm^2] of a material, by name, up to which the bound holds.

    Raises:
        InputError: No signal is left, or `largest` is not positive.
    """
    mixture = model(hounsfield(volume.mu))
    beam = beam_of(spectrum, mixture.materials, response)
    if bound is not None:
        beam = reduced(beam, _largest(volume, mixture, beam, largest or {}), bound)
    return material_volume(volume, mixture, beam)


def material_volume(volume: Volume, mixture: Mixture, beam: Beam) -> Volume:
    """A mixture on a volume's grid, in a beam of area densities (`physics.beam_of`)."""
    scales = area_scales(mixture.materials, mixture.energy_ct)
    mu = np.stack([np.asarray(d) / s for d, s in zip(0.1 * mixture.densities, scales, strict=True)])
    kappa = np.asarray(beam.kappa) * scales[:, None]
    relative = Beam(jnp.asarray(kappa, float), jnp.asarray(beam.log_weights, float))
    sizes = tuple(
        float(np.linalg.norm(np.asarray(level.affine)[:3, :3], axis=0).mean())
        for level in volume.coarser
    )
    return Volume.from_array(
        mu,
        volume.affine,
        volume.isocenter,
        pyramid_mm=sizes,
        prepare=volume.packed is not None,
        beam=relative,
    )


def area_scales(
    materials: tuple[Material, ...], energy_ct: float = ENERGY_CT
) -> Float[np.ndarray, " m"]:
    """Area density [g/cm^2] of a line integral of 1 through each channel of a material volume."""
    water = at_energy(material("water"), energy_ct)
    kappa = np.array([at_energy(one, energy_ct) for one in materials])
    return 0.1 * water / (MU_WATER * kappa)


def hounsfield(mu: Float[Array, "..."]) -> Float[Array, "..."]:
    """Hounsfield units of attenuation [1/mm]; the inverse of `volume.mu_from_hu`."""
    return 1000 * (mu / MU_WATER - 1)


def project(
    volume: Volume, camera: Camera, pose: jaxlie.SE3, integrate: drr.Integrate | None = None
) -> Float[Array, "rows columns"]:
    """Attenuation image of a volume: through its beam if it has one, else the channels added up.

    Args:
        volume: Attenuation, or what `polychromatic` made.
        camera: Geometry of the detector.
        pose: Extrinsic, `camera_from_world`.
        integrate: As in `drr.render`.
    """
    return project_rays(volume, camera, pose, pixel_grid(camera), integrate).reshape(
        camera.image_size
    )


def project_rays(
    volume: Volume,
    camera: Camera,
    pose: jaxlie.SE3,
    pixels: Float[Array, "n 2"],
    integrate: drr.Integrate | None = None,
) -> Float[Array, " n"]:
    """`project` at some pixels (u, v) only."""
    lengths = drr.render_rays(volume, camera, pose, pixels, integrate)
    if volume.beam is not None:
        return attenuate(volume.beam, lengths)
    return lengths if lengths.ndim == 1 else lengths.sum(0)


def areas(
    volume: Volume,
    materials: tuple[Material, ...],
    camera: Camera,
    pose: jaxlie.SE3,
    integrate: drr.Integrate | None = None,
    *,
    energy_ct: float = ENERGY_CT,
) -> Float[Array, "m rows columns"]:
    """Area density [g/cm^2] of each material of a material volume in every pixel.

    Args:
        volume: From `polychromatic` or `material_volume`.
        materials: Those of its mixture.
        camera: Geometry of the detector.
        pose: Extrinsic, `camera_from_world`.
        integrate: As in `drr.render`.
        energy_ct: That of its mixture [keV].
    """
    lengths = drr.render(volume, camera, pose, integrate)
    scales = jnp.asarray(area_scales(materials, energy_ct), lengths.dtype)
    return lengths * scales[:, None, None]


def _largest(
    volume: Volume, mixture: Mixture, beam: Beam, given: Mapping[str, float]
) -> list[float]:
    """How far a reduced spectrum is checked, for each material."""
    mean = np.asarray(beam.kappa) @ np.exp(beam.log_weights)
    crossed = _crossed(volume, mixture, beam)
    return [
        given.get(one.name, max(LARGEST.get(one.name, DEEPEST / float(k)), through))
        for one, k, through in zip(mixture.materials, mean, crossed, strict=True)
    ]


def _crossed(volume: Volume, mixture: Mixture, beam: Beam) -> Float[np.ndarray, " m"]:
    """Largest area density of each material [g/cm^2] on the rays along the volume's axes."""
    densities = np.asarray(mixture.densities)
    most = np.zeros(len(densities))
    for axis, voxel_mm in enumerate(np.asarray(spacing(volume.affine))):
        areas = 0.1 * voxel_mm * densities.sum(axis + 1).reshape(len(densities), -1)
        seen = np.asarray(attenuate(beam, jnp.asarray(areas))) <= DARKEST
        most = np.maximum(most, areas[:, seen].max(1, initial=0.0))
    return most
