"""DeepFluoro: 366 X-rays of six cadaver pelves with CT, landmarks and true poses.

Grupp et al., Automatic Annotation of Hip Anatomy in Fluoroscopy, IJCARS 15, 2020. The data are
CC BY-NC 4.0 and not part of jxreg; give the path of `ipcai_2020_full_res_data.h5`, or of one of the
pre-processed files.

The chain, right-most factor first, with the world of the file in LPS:

    camera from world = extrinsic . inverse(cam-to-pelvis-vol),   pixel = K camera

K has negative focal lengths: z points to the source, and the image is a mirror image of what the
source sees, as an image for diagnosis is. `convention.from_xreg` turns that into a proper pose and
a mirrored camera. The landmarks in the images are the projections of those in the CT by the true
pose, not marks made by hand in the image.

The true poses were found with a renderer whose voxel i reached from i to i + 1: in their frame the
centre of a voxel lies half a voxel further than `origin` says (the authors' later programs correct
the poses by 0.5 mm for that). Here the CT is moved instead, so that pose, X-ray and DRR agree and
the landmarks stay where the file has them.
"""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxlie import SE3, SO3
from jaxtyping import Float, Int

from jxreg import frame as frame_
from jxreg.camera import Camera
from jxreg.convention import from_xreg
from jxreg.errors import InputError
from jxreg.frame import Frame
from jxreg.io.dataset import Subject, View, check_proper, chosen, member, open_hdf5, rigid
from jxreg.io.exposure import Exposure, to_attenuation
from jxreg.io.labels import Labels
from jxreg.io.landmarks import Landmarks
from jxreg.volume import Volume, mu_from_hu

EXPECTED = "DeepFluoro's ipcai_2020_full_res_data.h5 (HDF5)"
PREPROCESSED = "a pre-processed file of DeepFluoro, such as ipcai_2020_dataset_ds_8x.h5 (HDF5)"
SPECIMENS = ("17-1882", "18-1109", "18-0725", "18-2799", "18-2800", "17-1905")
"""Keys of the specimens, in the order of their numbers 1 to 6."""
DOUBTFUL = {"17-1882": ("003", "050"), "18-2799": ("002", "004")}
"""Views whose true pose is visibly wrong; without them 362 of 366 are left."""
BORDER = 50
"""Pixels at each side that the collimator shades."""
SDD, SPACING = 1020.0, 0.194
"""Distance and pixel of the only C-arm [mm], for the pre-processed files, which do not tell."""
_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


class Preprocessed(NamedTuple):
    """All X-rays of a specimen from a pre-processed file, which knows neither CT nor poses."""

    frames: Frame
    """Leading axis = X-rays. The camera is nominal: the centre may be off by a pixel."""
    segmentations: Int[np.ndarray, "n rows columns"]
    """Label of each pixel, as in the CT's label map."""
    landmarks: Float[np.ndarray, "n landmarks 2"]
    """(u, v) [px]; NaN where missing. They may lie outside the image."""
    names: tuple[str, ...]
    """Names of the landmarks."""


def load_deepfluoro(
    path: str | Path,
    specimen: str | int,
    *,
    views: tuple[str, ...] | None = None,
    doubtful: bool = False,
    upright: bool = True,
    border: int = BORDER,
    downsample: int = 1,
    half_voxel: bool = True,
) -> Subject:
    """Reads one specimen of the full file: CT, label map, landmarks, X-rays and true poses.

    Args:
        path: The HDF5 file.
        specimen: Its key, such as "17-1882", or its number, 1 to 6.
        views: Names of X-rays such as "003"; by default all but the doubtful ones.
        doubtful: Whether "all" includes the four views whose true pose is doubtful.
        upright: Turn X-rays by 180 degrees where the file says that the patient is upside down.
        border: Pixels to cut off at each side.
        downsample: Pixels to average in each direction.
        half_voxel: Move the CT by half a voxel, which the true poses need (see above).

    Raises:
        InputError: h5py is missing, the file lacks something, a matrix mirrors or is not rigid, or
            there is no such specimen or view.
    """
    key = _key(path, specimen)
    with open_hdf5(path, EXPECTED) as file:
        group = member(path, file, key, EXPECTED)
        volume, labels = _volume(path, group, half_voxel)
        names, points = _points(path, group, "vol-landmarks", 3)
        xrays = member(path, group, "projections", EXPECTED)
        wanted = chosen(path, sorted(xrays), views)
        if views is None and not doubtful:
            wanted = [name for name in wanted if name not in DOUBTFUL.get(key, ())]
        parameters = member(path, file, "proj-params", EXPECTED)
        prepare = {"upright": upright, "border": border, "downsample": downsample}
        found = tuple(_view(path, xrays[n], n, parameters, names, **prepare) for n in wanted)
    return Subject(key, volume, Landmarks(points * np.diag(_LPS)[:3], names), found, labels)


def load_deepfluoro_preprocessed(path: str | Path, specimen: int) -> Preprocessed:
    """Reads all X-rays of one specimen from a pre-processed file.

    They are cropped, upright, and attenuation already, 2 to 16 times smaller than the originals.

    Args:
        path: The HDF5 file.
        specimen: Number of the specimen, 1 to 6.

    Raises:
        InputError: h5py is missing, the file lacks something, or its arrays do not fit together.
    """
    key = f"{specimen:02d}"
    with open_hdf5(path, PREPROCESSED) as file:
        group = member(path, file, key, PREPROCESSED)
        images, labels, lands = (
            np.asarray(member(path, group, name, PREPROCESSED)[()])
            for name in ("projs", "segs", "lands")
        )
        words = member(path, file, "land-names", PREPROCESSED)
        count = int(np.asarray(member(path, words, "num-lands", PREPROCESSED)[()]).item())
        names = tuple(_text(words[f"land-{i:02d}"][()]) for i in range(count))
    n, rows, columns = images.shape if images.ndim == 3 else (0, 0, 0)
    if not n or labels.shape != images.shape or lands.shape != (n, 2, count):
        found = f"projs {images.shape}, segs {labels.shape}, lands {lands.shape}"
        expected = f"N x R x C twice, and N x 2 x {count}"
        raise InputError(str(path), found, expected, "give the file as it was published")
    factor = 2 ** round(np.log2((1536 - 2 * BORDER) / rows))
    mm = SPACING * factor
    camera = Camera.from_sdd(SDD, (rows, columns), (mm, mm), mirrored=True)
    camera = jax.tree.map(lambda leaf: jnp.tile(leaf, (n,) + (1,) * leaf.ndim), camera)
    lands = np.where(np.isfinite(lands), lands, np.nan).astype(np.float64)
    frames = Frame(jnp.asarray(images, float), camera)
    return Preprocessed(frames, labels.astype(np.int32), np.swapaxes(lands, 1, 2), names)


def _key(path: str | Path, specimen: str | int) -> str:
    if isinstance(specimen, int) and 1 <= specimen <= len(SPECIMENS):
        return SPECIMENS[specimen - 1]
    if specimen in SPECIMENS:
        return str(specimen)
    expected = f"1 to {len(SPECIMENS)}, or one of {', '.join(SPECIMENS)}"
    raise InputError(str(path), f"no specimen {specimen!r}", expected, "choose one of them")


def _volume(path, group, half_voxel: bool) -> tuple[Volume, Labels | None]:
    """CT and label map; the arrays of the file run (z, y, x)."""
    image = member(path, group, "vol", EXPECTED)
    hu, spacing, origin, direction = (
        np.asarray(member(path, image, name, EXPECTED)[()], np.float32 if i == 0 else np.float64)
        for i, name in enumerate(("pixels", "spacing", "origin", "dir-mat"))
    )
    affine = np.eye(4)
    affine[:3, :3] = direction.reshape(3, 3) * spacing.ravel()
    affine[:3, 3] = origin.ravel()
    if half_voxel:
        affine[:3, 3] += affine[:3, :3].sum(1) / 2
    volume = Volume.from_array(mu_from_hu(hu.transpose(2, 1, 0)), _LPS @ affine)
    if "vol-seg" not in group:
        return volume, None
    map_ = member(path, group["vol-seg"], "image", EXPECTED)
    ids = np.asarray(member(path, map_, "pixels", EXPECTED)[()]).transpose(2, 1, 0)
    if ids.shape != volume.mu.shape:
        found = f"a label map of {ids.shape} for a CT of {volume.mu.shape} voxels"
        raise InputError(str(path), found, EXPECTED, "give the file as it was published")
    known = group["vol-seg"].get("labels-def", {})
    return volume, Labels(ids.astype(np.int32), {int(n): _text(known[n][()]) for n in known})


def _view(path, group, name, parameters, landmarks, *, upright, border, downsample) -> View:
    extrinsic, camera = _camera(path, parameters)
    poses = _poses(path, group, name, extrinsic)
    pixels = np.asarray(member(path, group, "image", EXPECTED)["pixels"][()], np.float32)
    if pixels.shape != camera.image_size:
        found = f"view {name} of {pixels.shape} pixels"
        raise InputError(str(path), found, f"{camera.image_size}", "give the published file")
    exposure = Exposure(pixels[None], "linear", levels=65536)
    image = to_attenuation(exposure, np.ones_like(exposure.pixels), None)[0]
    rows, columns = camera.image_size
    inner = (rows - 2 * border, columns - 2 * border)
    frame = frame_.crop(Frame(jnp.asarray(image), camera), border, border, inner)
    names, marks = _points(path, group, "gt-landmarks", 2)
    where = dict(zip(names, marks - border, strict=True))
    marks = np.array([where.get(n, [np.nan, np.nan]) for n in landmarks]).reshape(-1, 2)
    if upright and bool(np.asarray(member(path, group, "rot-180-for-up", EXPECTED)[()]).item()):
        frame, poses = _turned(frame, poses)
        marks = np.array([inner[1] - 1, inner[0] - 1]) - marks
    if downsample > 1:
        frame, marks = frame_.downsample(frame, downsample), (marks + 0.5) / downsample - 0.5
    return View(name, frame, poses.pop("pelvis"), marks, poses)


def _camera(path, parameters) -> tuple[Float[np.ndarray, "4 4"], Camera]:
    """The extrinsic of all frames, and their camera with xReg's signs undone."""
    keys = ("extrinsic", "intrinsic", "num-rows", "num-cols", "pixel-row-spacing")
    keys = (*keys, "pixel-col-spacing")
    extrinsic, k, rows, columns, row_mm, column_mm = (
        np.asarray(member(path, parameters, key, EXPECTED)[()], np.float64) for key in keys
    )
    check_proper(path, "extrinsic", extrinsic)
    if not k[0, 0] * k[1, 1] > 0:
        found = f"focal lengths {k[0, 0]:g} and {k[1, 1]:g} px"
        raise InputError(str(path), found, "two of one sign", "give the file as it was published")
    sdd = (abs(k[0, 0]) * column_mm.item() + abs(k[1, 1]) * row_mm.item()) / 2
    intrinsic = from_xreg(np.eye(4), k / k[2, 2])[1]
    return extrinsic, Camera.from_intrinsic(intrinsic, sdd, (int(rows.item()), int(columns.item())))


def _poses(path, group, name, extrinsic) -> dict[str, SE3]:
    """Pose of the pelvis, and of each femur that is in view well enough to be known."""
    truth = member(path, group, "gt-poses", EXPECTED)
    k = np.diag([-1.0, -1.0, 1.0])  # the sign is all that `from_xreg` looks at
    poses = {}
    for body in ("pelvis", "left-femur", "right-femur"):
        known = truth.get(f"{body}-good-fov")
        if body != "pelvis" and (known is None or not np.asarray(known[()]).item()):
            continue
        matrix = member(path, truth, f"cam-to-{body}-vol", EXPECTED)[()]
        matrix = np.asarray(matrix, np.float64)
        check_proper(path, f"cam-to-{body}-vol of view {name}", matrix)
        poses[body] = from_xreg(rigid(extrinsic) @ np.linalg.inv(rigid(matrix)), k)[0]
    return poses


def _turned(frame: Frame, poses: dict[str, SE3]) -> tuple[Frame, dict[str, SE3]]:
    """Image and camera turned by 180 degrees about the optical axis."""
    both = frame_.flip_vertical(frame_.flip_horizontal(frame))
    k = both.camera.intrinsic * jnp.array([-1.0, -1.0, 1.0])  # K (-x, -y, z): the camera turns
    camera = Camera.from_intrinsic(k, both.camera.sdd, both.camera.image_size)
    turn = SE3.from_rotation(SO3.from_z_radians(jnp.pi))
    return Frame(both.image, camera, both.mask), {n: turn @ pose for n, pose in poses.items()}


def _points(path, group, name: str, size: int) -> tuple[tuple[str, ...], np.ndarray]:
    marks = member(path, group, name, EXPECTED)
    names = tuple(sorted(marks))
    rows = [np.asarray(marks[n][()], np.float64).ravel() for n in names]
    if any(row.shape != (size,) for row in rows):
        fix = "give the file as it was published"
        raise InputError(str(path), f"{name} of other shapes", f"{size} numbers each", fix)
    return names, np.array(rows).reshape(-1, size)


def _text(value) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
