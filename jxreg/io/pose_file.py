"""Pose and camera files in JSON, strict on both sides.

    {"format": "jxreg-pose", "version": 1, "camera_from_world": [[4x4]], "world": "RAS",
     "unit": "mm", "camera": {"sdd": mm, "image_size": [rows, columns],
     "pixel_spacing": [row_mm, column_mm], "principal_point": [u, v]}}

The value of `camera` alone is a camera file. `"mirrored": true` in it says that the image is
displayed mirrored (its columns run against the camera's x axis). Numbers have 17 digits.
"""

import json
import math
import re
from pathlib import Path

import jax.numpy as jnp
import jaxlie
import numpy as np
from jaxtyping import Float

from jxreg import camera as camera_
from jxreg.camera import Camera
from jxreg.errors import InputError
from jxreg.io.atomic import write_atomic
from jxreg.io.boundary import existing_file, reading

_POSE = "a pose file (JSON with format jxreg-pose, version 1)"
_CAMERA = "a camera file (JSON with sdd, image_size, pixel_spacing, principal_point)"
_POSE_KEYS = {"format", "version", "camera_from_world", "world", "unit"}
_CAMERA_KEYS = {"sdd", "image_size", "pixel_spacing"}


def save_pose(path: str | Path, pose: jaxlie.SE3, camera: Camera | None = None) -> None:
    """Writes one pose, `camera_from_world`, and the camera it belongs to.

    Raises:
        InputError: The pose is not finite, the camera cannot be told in the format, or the file
            cannot be written.
    """
    write_atomic(path, json_bytes(pose_dict(pose, camera)))


def load_pose(path: str | Path) -> jaxlie.SE3:
    """Reads the pose of a pose file; `load_camera` reads its camera.

    Raises:
        InputError: The file is missing, not such a file, or its matrix is not a rigid motion.
    """
    path = existing_file(path, _POSE)
    entry = read_json(path, _POSE)
    check_keys(path, entry, _POSE_KEYS, {"camera"}, _POSE)
    for key, value in (("format", "jxreg-pose"), ("version", 1), ("world", "RAS"), ("unit", "mm")):
        if entry[key] != value:
            raise InputError(str(path), f"{key} = {entry[key]!r}", f"{key} = {value!r}", _EDIT)
    return pose_of(path, entry)


def pose_of(path: str | Path, entry: dict) -> jaxlie.SE3:
    """The pose of an entry with the key `camera_from_world`.

    Raises:
        InputError: The matrix is not a rigid motion; it names the file.
    """
    matrix = numbers(path, entry, "camera_from_world", (4, 4))
    check_rigid(path, matrix)
    return jaxlie.SE3.from_matrix(jnp.asarray(matrix, float))


def save_camera(path: str | Path, camera: Camera) -> None:
    """Writes one camera.

    Raises:
        InputError: The camera has skew or rows that run upwards, or the file cannot be written.
    """
    write_atomic(path, json_bytes(camera_dict(camera)))


def load_camera(path: str | Path) -> Camera:
    """Reads a camera file, or the camera of a pose file.

    Raises:
        InputError: The file is missing, not such a file, or a number is impossible.
    """
    path = existing_file(path, _CAMERA)
    entry = read_json(path, _CAMERA)
    if isinstance(entry, dict) and "camera" in entry:
        entry = entry["camera"]
    return camera_of(path, entry)


def camera_of(path: str | Path, entry) -> Camera:
    """The camera of such an entry of any JSON file; the inverse of `camera_dict`.

    Raises:
        InputError: A key is missing or unknown, or a number is impossible; it names the file.
    """
    check_keys(path, entry, _CAMERA_KEYS, {"principal_point", "mirrored"}, _CAMERA)
    size = numbers(path, entry, "image_size", (2,))
    if (size != np.round(size)).any() or (size < 1).any():
        raise InputError(str(path), f"image_size {size.tolist()}", "[rows, columns]", _EDIT)
    mirrored = entry.get("mirrored", False)
    if not isinstance(mirrored, bool):
        raise InputError(str(path), f"mirrored = {mirrored!r}", "true or false", _EDIT)
    point = entry.get("principal_point")
    if point is not None:
        point = tuple(numbers(path, entry, "principal_point", (2,)))
    try:
        return Camera.from_sdd(
            numbers(path, entry, "sdd", ()),
            (int(size[0]), int(size[1])),
            tuple(numbers(path, entry, "pixel_spacing", (2,))),
            point,
            mirrored=mirrored,
        )
    except InputError as error:
        found = f"{error.subject} = {error.found}"
        raise InputError(str(path), found, error.expected, error.fix) from error


def pose_dict(pose: jaxlie.SE3, camera: Camera | None = None) -> dict:
    """What a pose file holds, as plain Python values.

    Raises:
        InputError: The pose is a batch or not finite.
    """
    entry = {
        "format": "jxreg-pose",
        "version": 1,
        "camera_from_world": rigid_matrix(pose).tolist(),
        "world": "RAS",
        "unit": "mm",
    }
    return entry if camera is None else entry | {"camera": camera_dict(camera)}


def camera_dict(camera: Camera) -> dict:
    """What a camera file holds, as plain Python values.

    Raises:
        InputError: The camera is a batch, has skew, or its rows run upwards.
    """
    k = np.asarray(camera.intrinsic, np.float64)
    sdd = np.asarray(camera.sdd, np.float64)
    if k.shape != (3, 3) or k[0, 1] != 0 or k[1, 1] <= 0 or not np.isfinite(k).all():
        raise InputError(
            "camera",
            f"intrinsic {k.tolist()}",
            "one camera without skew whose rows run downwards",
            "save one camera at a time; turn the image with frame.flip_vertical",
        )
    entry = {
        "sdd": float(sdd),
        "image_size": [int(n) for n in camera.image_size],
        "pixel_spacing": [float(sdd / k[1, 1]), float(sdd / abs(k[0, 0]))],
        "principal_point": [float(k[0, 2]), float(k[1, 2])],
    }
    return entry | {"mirrored": True} if bool(camera_.is_mirrored(camera)) else entry


def rigid_matrix(pose: jaxlie.SE3) -> Float[np.ndarray, "4 4"]:
    """The 4 x 4 matrix of a pose in double precision, orthonormal to rounding.

    Raises:
        InputError: The pose is a batch or not finite.
    """
    wxyz_xyz = np.asarray(pose.wxyz_xyz, np.float64)
    if wxyz_xyz.shape != (7,) or not np.isfinite(wxyz_xyz).all():
        raise InputError(
            "pose",
            f"{wxyz_xyz.tolist()}",
            "one pose of finite numbers",
            "save one pose at a time; a registration that failed has none",
        )
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = quaternion_rotation(wxyz_xyz[:4]), wxyz_xyz[4:]
    return matrix


def quaternion_rotation(wxyz: Float[np.ndarray, "4"]) -> Float[np.ndarray, "3 3"]:
    """Rotation matrix of a quaternion (w, x, y, z) of any length, in double precision."""
    w, x, y, z = wxyz / np.linalg.norm(wxyz)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def check_rigid(path: str | Path, matrix: Float[np.ndarray, "4 4"]) -> None:
    """Refuses a matrix that is not a proper rigid motion, to 1e-6.

    Raises:
        InputError: Scale, shear, a reflection, or a last row other than 0 0 0 1.
    """
    rotation = matrix[:3, :3]
    error = np.abs(rotation.T @ rotation - np.eye(3)).max()
    found = None
    if (matrix[3] != [0, 0, 0, 1]).any():
        found = f"its last row is {matrix[3].tolist()}"
    elif error > 1e-6:
        found = f"its rotation is off by {error:.1e} from orthonormal"
    elif np.linalg.det(rotation) < 0:
        found = "its rotation is a reflection (determinant -1)"
    if found:
        raise InputError(
            str(path),
            found,
            "a proper rigid 4 x 4 matrix",
            "remove scale and shear; a mirrored display is mirrored = true in the camera",
        )


def json_bytes(entry: dict) -> bytes:
    """JSON text, a key or a row of numbers a line, numbers with all their digits.

    Raises:
        ValueError: A number is not finite; JSON has no word for it.
    """
    text = json.dumps(entry, indent=2, allow_nan=False)
    text = re.sub(r"\[([^][{}\"]+)\]", lambda row: f"[{' '.join(row[1].split())}]", text)
    return (text + "\n").encode()


def read_json(path: Path, expected: str):
    """The value in a JSON file; NaN and infinity, which JSON does not know, are refused.

    Raises:
        InputError: The file is not JSON.
    """

    def refuse(word):
        raise ValueError(f"{word} is not a number in JSON")

    def finite(digits):  # 1e999 is infinite too
        number = float(digits)
        return number if math.isfinite(number) else refuse(digits)

    with reading(path, expected):
        text = path.read_text(encoding="utf-8")
        return json.loads(text, parse_constant=refuse, parse_float=finite)


_EDIT = "correct the file"


def check_keys(
    path: str | Path, entry, required: set[str], optional: set[str], expected: str
) -> None:
    """Refuses an entry that is no object, or has a key too few or too many.

    Raises:
        InputError: It names the keys.
    """
    if not isinstance(entry, dict):
        raise InputError(str(path), f"a {type(entry).__name__}", expected, _EDIT)
    missing, unknown = required - entry.keys(), entry.keys() - required - optional
    if missing or unknown:
        found = f"missing keys {sorted(missing)}, unknown keys {sorted(map(str, unknown))}"
        raise InputError(str(path), found, expected, _EDIT)


def numbers(path: str | Path, entry: dict, key: str, shape: tuple[int, ...]) -> np.ndarray:
    """The finite numbers of an entry, in double precision.

    Raises:
        InputError: They are of another shape, or not finite.
    """
    try:
        value = np.asarray(entry[key])
        good = value.shape == shape and value.dtype.kind in "iuf" and np.isfinite(value).all()
    except ValueError:
        good = False
    if not good:
        form = " x ".join(map(str, shape)) + " numbers" if shape else "a number"
        raise InputError(str(path), f"{key} = {str(entry[key])[:80]}", f"finite {form}", _EDIT)
    return np.asarray(entry[key], np.float64)
