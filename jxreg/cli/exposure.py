"""`jxreg render --physics`: a CT exposed to a tube's spectrum, as a detector sees it."""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import jaxlie
    import numpy as np
    from jaxtyping import Array, Float

    from jxreg.camera import Camera
    from jxreg.cli.dicom_output import Technique
    from jxreg.drr import Integrate
    from jxreg.physics.exposure import Setup
    from jxreg.physics.signal import Response
    from jxreg.volume import Volume

ELECTRONIC_KEV = 300.0
"""Noise of the electronics of a flat panel, about that of five photons."""


@dataclass(frozen=True)
class PhysicsOptions:
    """An X-ray instead of a DRR: spectrum, detector, noise, scatter."""

    physics: bool = False
    """Simulate an X-ray: tube, beam hardening, detector. The options below need this one."""
    kvp: float | None = None
    """Tube voltage, 40 to 150 [kV]; 80 by default."""
    filter: tuple[tuple[str, float], ...] | None = None
    """Material and thickness of each filter [mm]; aluminium 3 by default, none if none is named."""
    mas: float | None = None
    """Tube current times exposure time [mAs]; 1 by default."""
    noise: int | None = None
    """Seed of quantum and electronic noise; without it the image has none."""
    scatter: float | None = None
    """Scatter over primary in the patient's shadow; none by default."""
    grid: bool = False
    """Put an anti-scatter grid in front of the detector."""
    focal_spot: float | None = None
    """Width of the focal spot [mm]; a point by default."""
    resolution: float | None = None
    """Frequency at which the detector transfers half of the contrast [1/mm]; no blur by default."""
    heel: bool = False
    """Let the anode, on the right of the beam, take some of it."""
    modality: str | None = None
    """What the volume's numbers mean: ct (the default), cbct, deepdrr, cta, 3d-ra or mra."""
    counting: bool = False
    """Count photons instead of integrating their energy in 0.55 mm of caesium iodide."""


class Simulated(NamedTuple):
    """A simulated X-ray."""

    attenuation: "Float[np.ndarray, 'rows columns']"
    """Against an exposure without the patient; absolute."""
    numbers: "Float[np.ndarray, 'rows columns']"
    """What a 16-bit detector stores, proportional to what arrived."""
    technique: "Technique"
    about: dict[str, Any]
    """Settings and what follows from them, for the record."""


def check_physics(options: PhysicsOptions) -> None:
    """Refuses options of the simulation without --physics, and impossible numbers.

    Raises:
        InputError: Such an option.
    """
    from jxreg.errors import InputError

    given = [f.name for f in fields(options) if getattr(options, f.name) != f.default]
    if given and not options.physics:
        option = "--" + given[0].replace("_", "-")
        raise InputError(option, "given for a DRR", "--physics beside it", "add it")
    if options.modality == "labels":
        fix = "in Python, jxreg.physics.intensity.labels takes a material for each"
        raise InputError("--modality", "labels", "a modality whose numbers are intensities", fix)
    if options.scatter is not None and not 0 <= options.scatter < float("inf"):
        raise InputError("--scatter", f"{options.scatter:g}", "0 or more", "correct it")
    if options.noise is not None and not 0 <= options.noise < 2**63:
        raise InputError("--noise", f"{options.noise}", "0 to 2^63 - 1", "correct it")
    for name in ("focal_spot", "resolution", "mas"):
        value = getattr(options, name)
        if value is not None and not 0 < value < float("inf"):
            option = "--" + name.replace("_", "-")
            raise InputError(option, f"{value:g}", "a positive number", "correct it")


def simulated(
    volume: "Volume",
    camera: "Camera",
    pose: "jaxlie.SE3",
    integrate: "Integrate | None",
    options: PhysicsOptions,
) -> Simulated:
    """An X-ray of a CT.

    Args:
        volume: Attenuation [1/mm], which tells its Hounsfield units.
        camera: Geometry.
        pose: Extrinsic, `camera_from_world`.
        integrate: Quadrature; None for the default of `render`.
        options: The exposure.

    Raises:
        InputError: The voltage is out of range, or a filter or the modality is unknown.
    """
    import jax.numpy as jnp
    import numpy as np

    from jxreg.cli.dicom_output import Technique
    from jxreg.physics import half_value_layer, mass_attenuation, mean_energy, tube_spectrum
    from jxreg.physics.exposure import exposed, primary_signal
    from jxreg.physics.readout import digitised, full_scale
    from jxreg.physics.signal import attenuation_of, quanta

    kvp = 80.0 if options.kvp is None else options.kvp
    mas = 1.0 if options.mas is None else options.mas
    filters = (("aluminium", 3.0),) if options.filter is None else options.filter
    spectrum = tube_spectrum(kvp, filters, mas)
    response = _response(options, spectrum.energies)
    setup = _setup(options, camera, float(pose.apply(volume.isocenter)[2]))
    modality = options.modality or "ct"
    materials, areas = _areas(volume, camera, pose, integrate, modality)
    kappa = np.stack([mass_attenuation(of, spectrum.energies) for of in materials])
    photons = jnp.asarray(spectrum.photons, areas.dtype)
    beam = quanta(jnp.asarray(kappa, areas.dtype), photons, response)
    primary = primary_signal(areas, beam, camera, setup)
    expected = exposed(primary, camera, setup)
    signal = _with_noise(options, expected, camera, setup)
    numbers = digitised(signal, full_scale(expected.reference))
    spot = options.focal_spot or 0.0
    about = {
        "kvp": kvp,
        "mas": mas,
        "filters": [list(item) for item in filters],
        "mean_kev": mean_energy(spectrum),
        "half_value_layer_mm_al": half_value_layer(spectrum),
        "modality": modality,
        "materials": [of.name for of in materials],
        "detector": "counting" if options.counting else "CsI, energy-integrating",
        "open_field": float(expected.reference.max()),
        "noise_seed": options.noise,
        "scatter_to_primary": options.scatter or 0.0,
        "grid": options.grid,
        "focal_spot_mm": spot,
        "half_transfer_per_mm": options.resolution,
        "heel": options.heel,
    }
    technique = Technique(kvp, mas, tuple(filters), spot, options.grid, options.counting)
    attenuation = np.asarray(attenuation_of(signal, expected.reference))
    return Simulated(attenuation, np.asarray(numbers), technique, about)


def _areas(volume: "Volume", camera: "Camera", pose, integrate, modality: str):
    """Materials of a volume, and the mass of each on every ray [g/cm2]."""
    import functools

    import jax
    import numpy as np

    from jxreg.drr import render
    from jxreg.physics.intensity import model
    from jxreg.simulation import hounsfield
    from jxreg.volume import Volume

    mixture = model(modality)(hounsfield(volume.mu))
    densities = np.asarray(mixture.densities)
    made = Volume.from_array(densities, volume.affine, volume.isocenter, pyramid_mm=())
    march = render if integrate is None else functools.partial(render, integrate=integrate)
    return mixture.materials, 0.1 * jax.jit(march)(made, camera, pose)


def _response(options: PhysicsOptions, energies) -> "Response":
    from jxreg.physics.response import counting, scintillator

    return counting(energies, threshold_kev=20.0) if options.counting else scintillator(energies)


def _setup(options: PhysicsOptions, camera: "Camera", source_to_object: float) -> "Setup":
    from jxreg.physics.blur import focal_spot, of_half_frequency
    from jxreg.physics.exposure import Setup
    from jxreg.physics.field import Heel
    from jxreg.physics.scatter import Grid, Scatter

    spot, frequency = options.focal_spot, options.resolution
    return Setup(
        heel=Heel() if options.heel else None,
        focal_spot=focal_spot(spot, spot, source_to_object, camera.sdd) if spot else None,
        scatter=Scatter(ratio=options.scatter) if options.scatter else None,
        grid=Grid() if options.grid else None,
        transfer=of_half_frequency(frequency) if frequency else None,
        electronic_noise=None if options.counting else ELECTRONIC_KEV,
    )


def _with_noise(options: PhysicsOptions, expected, camera: "Camera", setup: "Setup") -> "Array":
    import jax

    from jxreg.physics.exposure import drawn

    if options.noise is None:
        return expected.mean
    return drawn(jax.random.key(options.noise), expected, camera, setup)
