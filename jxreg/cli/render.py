"""`jxreg render`: a DRR of a volume."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from jxreg.cli.options import CameraOptions, PoseOptions, check_pose, pose_of, read_volume

if TYPE_CHECKING:
    import jaxlie
    from jaxtyping import Array, Float

    from jxreg.camera import Camera

ENDINGS = (".png", ".npy", ".nii", ".nii.gz", ".dcm")


def run_render(
    volume: tyro.conf.Positional[Path],
    /,
    out: Path,
    pose: PoseOptions = PoseOptions(),
    camera: CameraOptions = CameraOptions(),
    size: tuple[int, int] | None = None,
    mirrored: bool = False,
    quadrature: Literal["trilinear", "joseph", "siddon"] = "trilinear",
    step_mm: float | None = None,
    mu_per_unit: float | None = None,
) -> int:
    """Render a DRR of a CT as a C-arm would see it.

    Beside drr.png go drr.json, its pose and camera, which --pose and --camera read, and
    drr.about.json: inputs with their sha256, settings, versions.

    Args:
        volume: CT: NIfTI, NRRD, MHA, or a folder of DICOM slices.
        out: Image: .png (16 bit), .npy, .nii or .nii.gz (where the detector stood), .dcm (XA).
        pose: Where the C-arm stands.
        camera: Its geometry; by default 1020 mm from source to detector and 280 mm of detector.
        size: Rows and columns of the image [px]; 256 256 by default.
        mirrored: Show the image as seen from the detector, the conventional display.
        quadrature: How the line integral is taken.
        step_mm: Step of `trilinear` [mm]; by default the smallest voxel side.
        mu_per_unit: Attenuation [1/mm] that 1 in the volume's file stands for; by default its
            numbers are Hounsfield units.
    """
    from jxreg.cli.console import progress_console, result_console, step
    from jxreg.cli.provenance import input_entry

    _check_ending(out)
    console = progress_console()
    made = _camera(camera, pose, size, mirrored)
    with step(console, f"read {volume.name}"):
        loaded = read_volume(volume, mu_per_unit)
    placed = pose_of(pose, loaded, source_to_isocenter=0.69 * float(made.sdd))
    check_pose("pose", placed, made, loaded)
    integrate = _integrate(quadrature, step_mm)
    with step(console, f"render {made.image_size[0]} x {made.image_size[1]} ({quadrature})"):
        image = _rendered(loaded, made, placed, integrate)
    about = {
        "inputs": [input_entry("volume", volume)],
        "quadrature": quadrature,
        "step_mm": step_mm,
        "attenuation": [float(image.min()), float(image.max())],
    }
    _write(out, image, made, placed, loaded.isocenter, about)
    result_console().print(str(out), soft_wrap=True, markup=False)
    return 0


def _camera(options: CameraOptions, pose: PoseOptions, size, mirrored: bool) -> "Camera":
    """The camera of a file (the pose file's own, if no other is given), or of the options."""
    import json

    from jxreg.camera import Camera, rescale
    from jxreg.io import load_camera

    file = options.camera
    if file is None and pose.pose is not None and options.sdd is None and pose.pose.is_file():
        try:
            file = pose.pose if "camera" in json.loads(pose.pose.read_bytes()) else None
        except (ValueError, TypeError):
            file = None  # `load_pose` says what is wrong with it
    if file is not None:
        camera = load_camera(file)
        return camera if size is None else rescale(camera, size)
    rows, columns = size or (256, 256)
    side = 280.0 / max(rows, columns)
    return Camera.from_sdd(
        1020.0 if options.sdd is None else options.sdd,
        (rows, columns),
        options.pixel_spacing or (side, side),
        options.principal_point,
        mirrored=mirrored,
    )


def _integrate(quadrature: str, step_mm: float | None):
    """The quadrature, or None for the default of `render`."""
    from jxreg import drr
    from jxreg.errors import InputError

    if step_mm is not None and quadrature != "trilinear":
        raise InputError(
            "--step-mm", f"given with {quadrature}", "--quadrature trilinear", "leave it out"
        )
    if quadrature == "trilinear":
        return None if step_mm is None else drr.trilinear(step_mm)
    return {"joseph": drr.joseph, "siddon": drr.siddon}[quadrature]()


def _rendered(volume, camera, pose, integrate):
    import jax
    import numpy as np

    from jxreg import drr

    if integrate is None:  # shares what the report compiles
        return np.asarray(jax.jit(drr.render)(volume, camera, pose))
    # the volume is an argument, so that it is not baked into the compiled code
    render = jax.jit(lambda v, c, p: drr.render(v, c, p, integrate))
    return np.asarray(render(volume, camera, pose))


def _check_ending(out: Path) -> None:
    from jxreg.errors import InputError

    if not out.name.endswith(ENDINGS):
        raise InputError(
            str(out), f"ending {out.suffix!r}", "one of " + " ".join(ENDINGS), "rename --out"
        )
    if not out.parent.is_dir():
        raise InputError(
            str(out), f"no folder {out.parent}", "a folder that exists", "make it first"
        )


def _write(
    out: Path, image, camera: "Camera", pose: "jaxlie.SE3", isocenter: "Array", about: dict
) -> None:
    from jxreg.cli.dicom_output import write_xa
    from jxreg.io import save_pose, write_atomic, write_nifti, write_npy, write_png
    from jxreg.io.pose_file import json_bytes
    from jxreg.report import versions

    if out.suffix == ".png":
        write_png(out, image)
    elif out.suffix == ".npy":
        write_npy(out, image)
    elif out.suffix == ".dcm":
        write_xa(out, image, camera, pose, isocenter)
    else:
        write_nifti(out, image.T[:, :, None], detector_affine(camera, pose))
    stem = out.name.removesuffix(".gz").rsplit(".", 1)[0]
    save_pose(out.with_name(f"{stem}.json"), pose, camera)
    about = about | {"versions": versions()}
    write_atomic(out.with_name(f"{stem}.about.json"), json_bytes(about))


def detector_affine(camera: "Camera", pose: "jaxlie.SE3") -> "Float[Array, '4 4']":
    """World (RAS [mm]) from (column, row, 0): puts an image where the detector stood."""
    import jax.numpy as jnp

    from jxreg.camera import detector_points

    pixels = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    corner, right, below = pose.inverse().apply(detector_points(camera, pixels))
    across, down = right - corner, below - corner
    normal = jnp.cross(across, down)
    normal = normal / jnp.linalg.norm(normal)
    top = jnp.stack([across, down, normal, corner], -1)
    return jnp.concatenate([top, jnp.array([[0.0, 0.0, 0.0, 1.0]])])
