"""`jxreg render`: a DRR of a volume."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from jxreg.cli.exposure import PhysicsOptions, Simulated, check_physics, simulated
from jxreg.cli.options import (
    CameraOptions,
    PoseOptions,
    VolumeOptions,
    check_pose,
    check_pose_options,
    pose_of,
    read_volume,
)

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
    physics: PhysicsOptions = PhysicsOptions(),
    reading: VolumeOptions = VolumeOptions(),
) -> int:
    """Render a DRR of a CT as a C-arm would see it, or with --physics an X-ray.

    Beside drr.png go drr.json, its pose and camera, which --pose and --camera read, and
    drr.about.json: inputs with their sha256, settings, versions.

    Args:
        volume: CT: NIfTI, NRRD, MHA, or a folder of DICOM slices.
        out: Image: .png (16 bit), .npy, .nii or .nii.gz (where the detector stood), .dcm (XA, of
            an X-ray DX).
        pose: Where the C-arm stands.
        camera: Its geometry; by default that of the pose file, whose numbers the options overrule,
            else 1020 mm from source to detector and 280 mm of detector.
        size: Rows and columns of the image [px]; by default those of the camera, else 256 256.
        mirrored: Show the image as seen from the detector, the conventional display; with a camera
            file too, whatever it says.
        quadrature: How the line integral is taken.
        step_mm: Step of `trilinear` [mm]; by default the smallest voxel side.
        physics: Spectrum, detector, noise and scatter.
        reading: What to take from the volume's file, and what its numbers mean.
    """
    from jxreg.cli.console import progress_console, result_console, step
    from jxreg.cli.provenance import input_entry

    _check_ending(out)
    check_pose_options(pose)
    check_physics(physics)
    integrate = _integrate(quadrature, step_mm)
    console = progress_console()
    made = _camera(camera, pose, size, mirrored)
    with step(console, f"read {volume.name}"):
        loaded = read_volume(volume, reading)
    placed = pose_of(pose, loaded, source_to_isocenter=0.69 * float(made.sdd))
    check_pose("pose", placed, made, loaded)
    with step(console, f"render {made.image_size[0]} x {made.image_size[1]} ({quadrature})"):
        shot = simulated(loaded, made, placed, integrate, physics) if physics.physics else None
        image = _rendered(loaded, made, placed, integrate) if shot is None else shot.attenuation
    about = {
        "inputs": [input_entry("volume", volume)],
        "quadrature": quadrature,
        "step_mm": step_mm,
        "attenuation": [float(image.min()), float(image.max())],
        **({} if shot is None else {"physics": shot.about}),
    }
    _write(out, image, made, placed, loaded.isocenter, about, shot)
    result_console().print(str(out), soft_wrap=True, markup=False)
    return 0


def _camera(options: CameraOptions, pose: PoseOptions, size, mirrored: bool) -> "Camera":
    """The camera of a file (the pose file's own, if no other is given), or of the options.

    Numbers beside a camera file are refused; those beside a pose file overrule its camera's.
    """
    from jxreg.camera import Camera, rescale
    from jxreg.errors import InputError
    from jxreg.io import load_camera
    from jxreg.io.camera_choice import overruled, refuse_numbers

    if size is not None and min(size) < 1:
        raise InputError("--size", f"{size[0]} {size[1]}", "positive rows and columns", "in pixels")
    numbers = (options.sdd, options.pixel_spacing, options.principal_point)
    if options.camera is not None:
        refuse_numbers(str(options.camera), *numbers)
    file = options.camera or _with_camera(pose.pose)
    if file is not None:
        camera = load_camera(file)
        camera = camera if size is None else rescale(camera, size)
        sdd, spacing, point = numbers
        shown = True if mirrored else None
        return overruled(camera, sdd=sdd, spacing=spacing, point=point, mirrored=shown)
    rows, columns = size or (256, 256)
    side = 280.0 / max(rows, columns)
    return Camera.from_sdd(
        1020.0 if options.sdd is None else options.sdd,
        (rows, columns),
        options.pixel_spacing or (side, side),
        options.principal_point,
        mirrored=mirrored,
    )


def _with_camera(pose: Path | None) -> Path | None:
    """The pose file, if it holds a camera too."""
    import json

    if pose is None or not pose.is_file():
        return None
    try:
        return pose if "camera" in json.loads(pose.read_bytes()) else None
    except (ValueError, TypeError):
        return None  # `load_pose` says what is wrong with it


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
    out: Path,
    image,
    camera: "Camera",
    pose: "jaxlie.SE3",
    isocenter: "Array",
    about: dict,
    shot: Simulated | None,
) -> None:
    from jxreg.cli.dicom_output import write_dx, write_xa
    from jxreg.io import save_pose, write_atomic, write_nifti, write_npy, write_png
    from jxreg.io.pose_file import json_bytes
    from jxreg.report import versions

    if out.suffix == ".png":
        write_png(out, image)
    elif out.suffix == ".npy":
        write_npy(out, image)
    elif out.suffix == ".dcm" and shot is not None:
        write_dx(out, shot.numbers, camera, pose, isocenter, shot.technique)
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
