"""The record of a registration: every number and every name, as JSON values."""

import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxlie import SE3
from jaxtyping import Array, ArrayLike, Float

from jxreg import __version__
from jxreg.camera import Camera
from jxreg.candidates import Found
from jxreg.errors import InputError
from jxreg.io.pose_file import camera_dict, rigid_matrix
from jxreg.pose import to_carm, twist_between
from jxreg.register import Registration, Status
from jxreg.report.words import reasons


@dataclass(frozen=True)
class Context:
    """What is known about one frame besides the registration itself."""

    title: str = "Registration"
    """What was registered to what; the heading of the report."""
    start_source: str = "given pose"
    """Where the starting pose came from, in words."""
    inputs: tuple[Mapping[str, str], ...] = ()
    """Role, name and sha256 of each file that was read."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The resolved configuration, in JSON values."""
    levels: tuple[str, ...] = ()
    """Name of each level of the pyramid, coarse to fine."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Time spent on each part [s]."""
    errors: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """True errors by name, at the start and at the result, where the truth is known."""
    notes: tuple[str, ...] = ()
    """What the reader should know about the input, a sentence each."""


def registration_record(
    result: Registration,
    start: SE3,
    camera: Camera,
    isocenter: Float[Array, "3"],
    context: Context | None = None,
    *,
    source_to_isocenter: float | None = None,
) -> dict[str, Any]:
    """Everything known about one registered frame; NaN and infinity become null.

    It holds the keys of a pose file, and more.

    Args:
        result: What `register` returned for one frame.
        start: Pose from which it began, `camera_from_world`.
        camera: The camera of the frame.
        isocenter: The isocenter of the volume, in the world [mm].
        context: Names, timings, inputs.
        source_to_isocenter: Distance that the C-arm shows [mm]; by default that of the start.
    """
    context = context or Context()
    shown = _shown(result.pose, start, jnp.asarray(isocenter))
    distance = source_to_isocenter or float(shown.start_offset[2])
    record = {
        "format": "jxreg-registration",
        "version": 1,
        "title": context.title,
        "status": Status(int(result.status)).name,
        "camera_from_world": _matrix(result.pose),
        "world": "RAS",
        "unit": "mm",
        "camera": camera_dict(camera),
        "isocenter": isocenter,
        "carm": _carm(shown.angles, shown.offset, distance),
        "standard_deviation": _carm(*_deviations(shown.angles, result.covariance), 0.0),
        "probability": result.probability,
        "similarity": result.similarity,
        "initial_similarity": result.initial_similarity,
        "coverage": result.coverage,
        "kept": result.kept,
        "covariance": result.covariance,
        "moved": {
            "translation_mm": np.linalg.norm(shown.twist[:3]),
            "rotation_degrees": np.degrees(np.linalg.norm(shown.twist[3:])),
        },
        "start": {
            "source": context.start_source,
            "camera_from_world": _matrix(start),
            "carm": _carm(shown.start_angles, shown.start_offset, distance),
        },
        "search": _search(result.found),
        "errors": {k: {"start": a, "end": b} for k, (a, b) in context.errors.items()},
        "notes": context.notes,
        "seconds": context.seconds,
        "inputs": context.inputs,
        "versions": versions(),
        "config": context.config,
        "trace": {
            "levels": context.levels,
            "level": result.trace.level,
            "similarity": result.trace.similarity,
            "step_mm": result.trace.step_mm,
        },
    }
    record = plain(record)
    return record | {"reasons": reasons(record)}


def _search(found: Found | None) -> dict[str, Any] | None:
    """What a search found: all distinct poses, the best first; the registration began there."""
    if found is None:
        return None
    return {
        "lead": found.lead,
        "agreeing": found.agreeing,
        "found": [
            {"camera_from_world": _matrix(SE3(pose)), "score": score, "similarity": alike}
            for pose, score, alike in zip(
                found.pose.wxyz_xyz, found.score, found.similarity, strict=True
            )
        ],
    }


def versions() -> dict[str, str]:
    """Versions of jxreg, of what computes, and the device."""
    found = {"jxreg": __version__}
    found |= {name: metadata.version(name) for name in ("jax", "jaxlib", "jaxlie", "numpy")}
    device = jax.devices()[0]
    return found | {"python": platform.python_version(), "device": str(device.device_kind)}


class _Shown(NamedTuple):
    """What a C-arm displays of a pose and of the start."""

    angles: Float[Array, "3"]
    """Primary, secondary, roll [rad]."""
    offset: Float[Array, "3"]
    """The isocenter in the camera frame [mm]."""
    start_angles: Float[Array, "3"]
    start_offset: Float[Array, "3"]
    twist: Float[Array, "6"]
    """From the start to the pose (mm, rad)."""


@jax.jit
def _shown(pose: SE3, start: SE3, isocenter: Array) -> _Shown:
    def displayed(pose):
        carm = to_carm(pose, source_to_isocenter=0.0, isocenter=isocenter)
        return jnp.stack([carm.primary, carm.secondary, carm.roll]), carm.offset

    return _Shown(*displayed(pose), *displayed(start), twist_between(start, pose, isocenter))


def _deviations(angles: ArrayLike, covariance: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """One standard deviation of angles [rad] and offset [mm], to first order.

    The rotation is Rz(roll) Rx(pi / 2 - secondary) Rz(-primary): each angle turns about an axis
    that the angles left of it have turned, and a rotation vector is the sum of those turns.
    """
    _, secondary, roll = np.asarray(angles, np.float64)
    matrix = np.asarray(covariance, np.float64)
    if not np.isfinite(matrix).all():
        return np.full(3, np.nan), np.full(3, np.nan)
    x = np.array([np.cos(roll), np.sin(roll), 0.0])
    y = np.array([-np.sin(roll), np.cos(roll), 0.0])
    z = np.array([0.0, 0.0, 1.0])
    long_axis = np.sin(secondary) * z - np.cos(secondary) * y
    rotation_from_angles = np.stack([-long_axis, -x, z], -1)
    angles_from_rotation = np.linalg.pinv(rotation_from_angles)
    variance = np.diag(angles_from_rotation @ matrix[3:, 3:] @ angles_from_rotation.T)
    with np.errstate(invalid="ignore"):
        return np.sqrt(variance), np.sqrt(np.diag(matrix)[:3])


def _matrix(pose: SE3) -> np.ndarray | None:
    """The matrix of a pose, or None where the pose is not finite."""
    try:
        return rigid_matrix(pose)
    except InputError:
        return None


def _carm(angles: ArrayLike, offset: ArrayLike, distance: float) -> dict[str, Any]:
    primary, secondary, roll = np.degrees(np.asarray(angles, np.float64))
    return {
        "primary_degrees": primary,
        "secondary_degrees": secondary,
        "roll_degrees": roll,
        "source_to_isocenter": distance,
        "offset": np.asarray(offset, np.float64) - [0, 0, distance],
    }


def plain(value: Any) -> Any:
    """The same in dict, list, str, int, float, bool and None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    array = np.asarray(value)
    if array.ndim > 0:
        return [plain(item) for item in array]
    item = array.item()
    return None if isinstance(item, float) and not math.isfinite(item) else item
