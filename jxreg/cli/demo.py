"""`jxreg demo`: a registration with known truth, from nothing."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import jaxlie

    from jxreg.frame import Frame
    from jxreg.phantoms import Phantom
    from jxreg.volume import Volume


class Scene(NamedTuple):
    """What the demonstration registers, and the answer."""

    phantom: "Phantom"
    volume: "Volume"
    frame: "Frame"
    truth: "jaxlie.SE3"
    start: "jaxlie.SE3"


def run_demo(
    out: Path = Path("jxreg-demo"), pixels: int = 256, voxel_mm: float = 2.5, seed: int = 0
) -> int:
    """Register an X-ray of a pelvis phantom to its CT. Needs no input and no network.

    The X-ray is made by closed formulas, not by the renderer that registers: with other contrast
    of bone than the CT has, scatter and noise. The search starts about 3 cm and 7 degrees off.
    Writes a report, and the CT and the X-ray as files to try the other commands with.

    Args:
        out: Folder for the results.
        pixels: Rows and columns of the X-ray.
        voxel_mm: Side of the CT's voxels [mm].
        seed: Of noise and start.
    """
    import jax

    from jxreg.cli.console import print_registration, progress_console, result_console, step
    from jxreg.cli.outputs import Case, config_entries, level_names, write_case
    from jxreg.cli.provenance import make_folder
    from jxreg.register import RegisterConfig, register
    from jxreg.report import Context

    console, seconds, config = progress_console(), {}, RegisterConfig()
    make_folder(out)
    with step(console, "make a phantom, its CT and an X-ray of it", seconds):
        scene = make_scene(pixels, voxel_mm, seed)
    with step(console, "compile and register", seconds):
        result = register(scene.volume, scene.frame, scene.start, config=config)
        jax.block_until_ready(result)
    context = Context(
        title="phantom X-ray to phantom CT",
        start_source="the true pose, moved at random",
        config=config_entries(config),
        levels=level_names(config),
        seconds=seconds,
        errors=true_errors(scene, result.pose),
        notes=("A demonstration: CT and X-ray are of a phantom whose true pose is known.",),
    )
    with step(console, f"write {out}", seconds):
        record = write_case(out, Case(scene.volume, scene.frame, scene.start, result, context))
        write_inputs(out, scene)
    results = result_console()
    print_registration(results, record)
    results.print(f"\nOpen {out / 'report.html'}, or do it again from files:", markup=False)
    results.print(
        f"  jxreg register {out / 'ct.nii.gz'} {out / 'xray.png'}"
        f" --pose {out / 'start.json'} --out {out / 'again'}",
        markup=False,
        soft_wrap=True,
    )
    return 0 if record["status"] == "OK" else 4


def make_scene(pixels: int, voxel_mm: float, seed: int) -> Scene:
    """A pelvis on a grid, and an exact X-ray of it at a known pose.

    Args:
        pixels: Rows and columns of the X-ray.
        voxel_mm: Side of the voxels [mm].
        seed: Of the noise and of the start.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jxreg import phantoms
    from jxreg.camera import Camera
    from jxreg.frame import Frame
    from jxreg.pose import from_carm, perturb

    random = np.random.default_rng(seed)
    phantom = phantoms.pelvis_and_spine()
    grid = phantoms.grid_around(phantom, voxel_mm)
    volume = phantoms.voxelise(phantoms.total(phantom), *grid)
    side = 380.0 / pixels
    camera = Camera.from_sdd(1020.0, (pixels, pixels), (side, side), mirrored=True)
    signs = random.choice([-1.0, 1.0], 6)
    twist = signs * random.uniform(0.8, 1.2, 6) * np.array([9.0, 9.0, 25.0, 0.07, 0.07, 0.07])

    @jax.jit
    def poses(isocenter, twist):
        carm = {"source_to_isocenter": 710.0, "offset": (4.0, -25.0, 6.0)}
        truth = from_carm(20.0, 8.0, 1.5, isocenter=isocenter, **carm)
        return truth, perturb(truth, twist, isocenter)

    truth, start = poses(volume.isocenter, jnp.asarray(twist, float))
    image = exact_xray(phantom, camera, truth, random)
    return Scene(phantom, volume, Frame(jnp.asarray(image, float), camera), truth, start)


def exact_xray(phantom, camera, pose, random):
    """Attenuation of a phantom's X-ray: closed-form integrals, denser bone, scatter, noise."""
    import jax
    import numpy as np

    from jxreg import phantoms

    soft, bone = np.asarray(jax.jit(phantoms.exact_drr)(phantom, camera, pose), np.float64)
    white = 2e5
    primary = white * np.exp(-(0.95 * soft + 1.25 * bone))
    counts = random.poisson(primary + 0.2 * primary.mean())
    return np.log(white / np.maximum(counts, 1))


def true_errors(scene: Scene, pose: "jaxlie.SE3") -> dict[str, tuple[float, float]]:
    """Errors at the start and at the result, over the centres of the phantom's parts."""
    import jax
    import jax.numpy as jnp

    from jxreg.metrics import mrpd, mtre
    from jxreg.pose import rotation_angle

    centres = jnp.stack([part.world_from_shape.translation() for part in scene.phantom])

    @jax.jit
    def errors(pose):
        metrics = (mtre(pose, scene.truth, centres), mrpd(pose, scene.truth, centres))
        return (*metrics, jnp.rad2deg(rotation_angle(scene.truth, pose)))

    names = ("mTRE [mm]", "mRPD [mm]", "rotation [°]")
    pairs = zip(names, errors(scene.start), errors(pose), strict=True)
    return {name: (float(before), float(after)) for name, before, after in pairs}


def write_inputs(folder: Path, scene: Scene) -> None:
    """CT in Hounsfield units, X-ray with its camera, and the start, as files."""
    import numpy as np

    from jxreg.io import save_camera, save_pose, write_nifti, write_png
    from jxreg.volume import MU_WATER

    hu = np.round(1000 * (np.asarray(scene.volume.mu) / MU_WATER - 1)).astype(np.int16)
    write_nifti(folder / "ct.nii.gz", hu, scene.volume.affine)
    write_png(folder / "xray.png", scene.frame.image)
    save_camera(folder / "xray.json", scene.frame.camera)
    save_pose(folder / "start.json", scene.start, scene.frame.camera)
    save_pose(folder / "truth.json", scene.truth, scene.frame.camera)
