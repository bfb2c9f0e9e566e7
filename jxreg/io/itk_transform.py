"""ITK transform files (.tfm, text), which 3D Slicer, SimpleITK and elastix read.

What is written: the transform of a file maps points of the fixed image, here camera space, to the
moving image, here the CT: world from camera, with x and y of both sides negated (LPS). 3D Slicer
inverts a file on reading, so its "transform to parent" is the pose itself, `camera_from_world`:
a CT or model put under this transform moves into camera space, with the X-ray source at the origin
and the detector at z = SDD.
"""

from pathlib import Path

import jax.numpy as jnp
import jaxlie
import numpy as np
from jaxtyping import Float

from jxreg.errors import InputError
from jxreg.io.atomic import write_atomic
from jxreg.io.boundary import existing_file, reading
from jxreg.io.pose_file import check_rigid, quaternion_rotation, rigid_matrix
from jxreg.io.scan import LPS_FROM_RAS

EXPECTED = "a rigid ITK transform in text (.tfm)"
_MAX_BYTES = 1 << 20


def save_tfm(path: str | Path, pose: jaxlie.SE3) -> None:
    """Writes a pose as an ITK transform with 17 digits.

    Raises:
        InputError: The pose is not finite or a batch, or the file cannot be written.
    """
    camera_from_world = rigid_matrix(pose)
    rotation, translation = camera_from_world[:3, :3].T, camera_from_world[:3, 3]
    inverse = np.eye(4)
    inverse[:3, :3], inverse[:3, 3] = rotation, -rotation @ translation
    lps = LPS_FROM_RAS @ inverse @ LPS_FROM_RAS
    numbers = [*lps[:3, :3].ravel(), *lps[:3, 3]]
    lines = [
        "#Insight Transform File V1.0",
        "#Transform 0",
        "Transform: AffineTransform_double_3_3",
        "Parameters: " + " ".join(repr(float(x)) for x in numbers),
        "FixedParameters: 0 0 0",
    ]
    write_atomic(path, ("\n".join(lines) + "\n").encode())


def load_tfm(path: str | Path) -> jaxlie.SE3:
    """Reads a pose from an ITK transform that maps camera space to the CT, as `save_tfm` writes it.

    Affine (if rigid), Euler, versor, quaternion and translation transforms are understood.

    Raises:
        InputError: Not such a file, several transforms, or not a rigid motion.
    """
    path = existing_file(path, EXPECTED)
    if path.stat().st_size > _MAX_BYTES:
        raise InputError(str(path), "a large file", EXPECTED, "save a linear transform as .tfm")
    with reading(path, EXPECTED):
        kind, numbers, fixed = _entries(path)
        lps = np.eye(4)
        lps[:3, :3], translation = _linear(path, kind, numbers, fixed)
        center = fixed[:3] if len(fixed) else np.zeros(3)
        lps[:3, 3] = translation + center - lps[:3, :3] @ center
    if not np.isfinite(lps).all():
        raise InputError(str(path), "numbers that are not finite", EXPECTED, "save it again")
    check_rigid(path, lps)
    ras = LPS_FROM_RAS @ lps @ LPS_FROM_RAS
    rotation = ras[:3, :3].T
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, -rotation @ ras[:3, 3]
    return jaxlie.SE3.from_matrix(jnp.asarray(pose, float))


def _entries(path: Path) -> tuple[str, Float[np.ndarray, " n"], Float[np.ndarray, " m"]]:
    """Kind, parameters and fixed parameters of the only transform in a file."""
    lines = path.read_text("utf-8").splitlines()
    if not lines or not lines[0].startswith("#Insight Transform File"):
        raise ValueError("the first line is not '#Insight Transform File V1.0'")
    entries: dict[str, list[str]] = {}
    for line in lines:
        key, colon, value = line.partition(":")
        if colon and not line.startswith("#"):
            entries.setdefault(key.strip(), []).append(value.strip())
    kinds = [k.split("_")[0] for k in entries.get("Transform", [])]
    parameters, fixed = entries.get("Parameters", []), entries.get("FixedParameters", [])
    if kinds and kinds[0] == "CompositeTransform":
        kinds = kinds[1:]
    if len(kinds) != 1 or len(parameters) != 1 or len(fixed) > 1:
        found = f"{len(kinds)} transforms"
        raise InputError(str(path), found, "a single one", "harden it to one linear transform")
    numbers = np.array(parameters[0].split(), np.float64)
    return kinds[0], numbers, np.array((fixed or [""])[0].split(), np.float64)


def _linear(
    path: Path, kind: str, numbers: Float[np.ndarray, " n"], fixed: Float[np.ndarray, " m"]
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3"]]:
    """Rotation and translation, before the center of rotation."""
    if kind in ("AffineTransform", "MatrixOffsetTransformBase") and len(numbers) == 12:
        return numbers[:9].reshape(3, 3), numbers[9:]
    if kind == "TranslationTransform" and len(numbers) == 3:
        return np.eye(3), numbers
    if kind in ("Euler3DTransform", "CenteredEuler3DTransform") and len(numbers) == 6:
        x, y, z = (_axis_rotation(axis, angle) for axis, angle in enumerate(numbers[:3]))
        zyx = len(fixed) > 3 and fixed[3] != 0
        return (z @ y @ x if zyx else z @ x @ y), numbers[3:]
    if kind == "VersorRigid3DTransform" and len(numbers) == 6:
        w = np.sqrt(max(0.0, 1.0 - float(numbers[:3] @ numbers[:3])))
        return quaternion_rotation(np.array([w, *numbers[:3]])), numbers[3:]
    if kind == "QuaternionRigidTransform" and len(numbers) == 7:
        return quaternion_rotation(numbers[[3, 0, 1, 2]]), numbers[4:]
    found = f"a {kind} with {len(numbers)} parameters"
    raise InputError(str(path), found, EXPECTED, "save it as an affine transform")


def _axis_rotation(axis: int, angle: float) -> Float[np.ndarray, "3 3"]:
    i, j = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = np.cos(angle)
    matrix[i, j], matrix[j, i] = -np.sin(angle), np.sin(angle)
    return matrix
