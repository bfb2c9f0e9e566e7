"""load_frames(): any X-ray file to a Frame with a leading axis of frames."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike

from jxreg.camera import Camera
from jxreg.errors import InputError
from jxreg.frame import Frame
from jxreg.io.boundary import existing_file, notice
from jxreg.io.camera_choice import overruled, refuse_numbers
from jxreg.io.dicom_file import is_dicom
from jxreg.io.exposure import Exposure, Geometry
from jxreg.io.frame_content import frame_content
from jxreg.io.pose_file import load_camera
from jxreg.pose import CArm
from jxreg.preprocessing import Detect

EXPECTED = "an X-ray image (DICOM, PNG, TIFF, JPEG, BMP or NPY)"


def load_frames(
    path: str | Path,
    *,
    camera: Camera | str | Path | None = None,
    sdd: ArrayLike | None = None,
    pixel_spacing: ArrayLike | Sequence[ArrayLike] | None = None,
    principal_point: tuple[ArrayLike, ArrayLike] | None = None,
    mirrored: bool | None = None,
    source_to_isocenter: ArrayLike | None = None,
    intensity: Literal["auto", "linear", "log", "attenuation"] = "auto",
    invert: bool = False,
    white: int | float | None = None,
    detect: Detect = Detect(),
) -> Frame:
    """Reads X-ray images as attenuation with their cameras.

    Every leaf of the result has a leading axis of frames, so that
    `jax.vmap(..., in_axes=0)(frames)` works, and `jax.tree.map(lambda x: x[0], frames)` is one.

    Geometry comes from `camera`, else from the options, else from the DICOM header; without a
    distance in the header from a camera file beside the image (`name.json` beside `name.png`),
    whose numbers the options overrule one by one; it is not read where `sdd` is given and the pixel
    spacing is known without it. In DICOM the pixel spacing is ImagerPixelSpacing, at the detector;
    PixelSpacing counts only without a calibration type. The central ray is taken to meet the image
    centre unless the header tells where the field of view lies on the detector. Positioner angles,
    or the name of the projection, give `Frame.carm`, and PatientOrientation whether the display is
    mirrored; without it the usual display of a C-arm is assumed, head up and seen from the
    detector, which is mirrored.

    Pixel values are turned into attenuation by what the header says (photometric interpretation,
    pixel intensity relationship and its sign, modality rescale or table). Without a header whole
    numbers are taken as intensity, or its logarithm where the noise says so, and floats as
    attenuation. An image that looks inverted is told, and left as it is unless `detect` asks.

    Args:
        path: DICOM (XA, RF, DX, CR; single or multi-frame), PNG, TIFF, JPEG, BMP or NPY.
        camera: Camera, or the path of a camera or pose file. It holds the whole geometry: the next
            three are refused beside it.
        sdd: Source-to-detector distance [mm].
        pixel_spacing: Distance of rows and of columns on the detector [mm], or one for both.
        principal_point: Pixel (u, v) of the central ray.
        mirrored: Whether the image is a mirror image of what the source sees; overrules the header
            and the camera.
        source_to_isocenter: Distance for `Frame.carm` [mm].
        intensity: What the pixel values are proportional to: the intensity that arrived, its
            logarithm, or attenuation already.
        invert: Bright and dark are the other way round than assumed, as in an exported image
            whose bone is bright.
        white: Pixel value without an object; by default the 99.9th percentile of each frame.
        detect: What to look for in the image: shutters, a round field, dead borders and text are
            masked, metal if asked, and what is found is told; `preprocessing.NOTHING` for
            nothing.

    Raises:
        InputError: The file cannot be used, or its geometry is not known; the message names the
            option that gives it.
    """
    path = existing_file(path, EXPECTED)
    exposure = read_exposure(path)
    made = _camera(path, exposure, camera, sdd, pixel_spacing, principal_point, mirrored)
    content = frame_content(exposure, detect, intensity, invert, white)
    image, mask = jnp.asarray(content.image, float), content.mask
    carm = _carm(exposure.geometry, source_to_isocenter)
    for text in (*exposure.geometry.notes, *content.notes):
        notice(path, text)
    mask = None if mask is None else jnp.asarray(mask)
    return Frame(image, _repeated(made, len(image)), mask, carm)


def read_exposure(path: str | Path) -> Exposure:
    """Reads an X-ray file in its own numbers.

    Raises:
        InputError: The file cannot be used, or its kind is unknown.
    """
    from jxreg.io.dicom_xray import read_dicom_xray
    from jxreg.io.raster import SUFFIXES, read_raster

    path = existing_file(path, EXPECTED)
    if is_dicom(path):
        return read_dicom_xray(path)
    if path.suffix.lower() in SUFFIXES:
        return read_raster(path)
    raise InputError(str(path), f"ending {path.suffix!r}", EXPECTED, "convert it, or rename it")


def camera_beside(path: str | Path) -> Path | None:
    """The camera file of an image: `name.json` or `name.png.json` beside `name.png`."""
    path = Path(path)
    for candidate in (path.with_suffix(".json"), path.with_name(path.name + ".json")):
        if candidate.is_file():
            return candidate
    return None


def _camera(
    path: Path, exposure: Exposure, camera, sdd, pixel_spacing, principal_point, mirrored
) -> Camera:
    known, size = exposure.geometry, exposure.pixels.shape[-2:]
    if camera is not None:
        refuse_numbers(str(path), sdd, pixel_spacing, principal_point)
    given = _beside(path, known, sdd, pixel_spacing) if camera is None else camera
    if given is not None:
        made = given if isinstance(given, Camera) else load_camera(given)
        if made.image_size != size:
            found = f"a camera of {made.image_size} for an image of {size} (rows, columns)"
            raise InputError(str(path), found, "one size", "use camera.rescale or camera.crop")
        numbers = {"sdd": sdd, "spacing": pixel_spacing, "point": principal_point}
        return _named(path, lambda: overruled(made, **numbers, mirrored=mirrored))
    spacing = known.pixel_spacing if pixel_spacing is None else pixel_spacing
    sdd = known.sdd if sdd is None else sdd
    if spacing is None or sdd is None:
        unknown = "; ".join(known.missing) or "no geometry"
        fix = "or give camera= (--camera)"
        raise InputError(str(path), unknown, "the geometry of the image", fix)
    row, column = np.broadcast_to(np.asarray(spacing, np.float64), (2,)).tolist()
    point = known.principal_point if principal_point is None else principal_point
    mirrored = known.mirrored if mirrored is None else mirrored
    return _named(path, lambda: Camera.from_sdd(sdd, size, (row, column), point, mirrored=mirrored))


def _beside(path: Path, known: Geometry, sdd, pixel_spacing) -> Path | None:
    """The camera file beside an image that needs one."""
    if known.sdd:
        return None
    beside = camera_beside(path)
    spacing = known.pixel_spacing if pixel_spacing is None else pixel_spacing
    if beside is not None and sdd is not None and spacing is not None:
        notice(path, f"sdd is given and the spacing is known; {beside.name} beside it is not read")
        return None
    return beside


def _named(path: Path, make: Callable[[], Camera]) -> Camera:
    """A camera, its errors with the name of the file."""
    try:
        return make()
    except InputError as error:
        found = f"{error.subject} = {error.found}"
        raise InputError(str(path), found, error.expected, error.fix) from error


def _carm(known: Geometry, source_to_isocenter: ArrayLike | None) -> CArm | None:
    distance = source_to_isocenter
    distance = known.source_to_isocenter if distance is None else distance
    if known.angles is None or distance is None:
        return None
    primary, secondary, roll = known.angles
    ones = np.ones(len(primary))
    return CArm(
        jnp.asarray(primary, float),
        jnp.asarray(secondary, float),
        jnp.asarray(roll * ones, float),
        jnp.asarray(np.asarray(distance) * ones, float),
        jnp.zeros((len(primary), 3)),
    )


def _repeated(camera: Camera, frames: int) -> Camera:
    """The camera with a leading axis on its leaves."""
    intrinsic = jnp.broadcast_to(camera.intrinsic, (frames, 3, 3))
    return replace(camera, intrinsic=intrinsic, sdd=jnp.broadcast_to(camera.sdd, (frames,)))
