"""The record of a registration: every number and every name, as JSON values."""

import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxlie import SE3
from jaxtyping import Array, Float

from jxreg.camera import Camera
from jxreg.io.pose_file import camera_dict
from jxreg.pose import perturb, to_carm, twist_between
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
    distance = source_to_isocenter or float(start.apply(isocenter)[2])
    record = {
        "format": "jxreg-registration",
        "version": 1,
        "title": context.title,
        "status": Status(int(result.status)).name,
        "camera_from_world": result.pose.as_matrix(),
        "world": "RAS",
        "unit": "mm",
        "camera": camera_dict(camera),
        "isocenter": isocenter,
        "carm": _carm(result.pose, isocenter, distance),
        "standard_deviation": _deviations(result, isocenter, distance),
        "similarity": result.similarity,
        "initial_similarity": result.initial_similarity,
        "coverage": result.coverage,
        "kept": result.kept,
        "covariance": result.covariance,
        "moved": _motion(start, result.pose, isocenter),
        "start": {
            "source": context.start_source,
            "camera_from_world": start.as_matrix(),
            "carm": _carm(start, isocenter, distance),
        },
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
    record = _plain(record)
    return record | {"reasons": reasons(record)}


def versions() -> dict[str, str]:
    """Versions of jxreg, of what computes, and the device."""
    found = {}
    for name in ("jxreg", "jax", "jaxlib", "jaxlie", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    device = jax.devices()[0]
    return found | {"python": platform.python_version(), "device": str(device.device_kind)}


def _carm(pose: SE3, isocenter: Array, distance: float) -> dict[str, Any]:
    carm = to_carm(pose, source_to_isocenter=distance, isocenter=isocenter)
    return {
        "primary_degrees": np.degrees(carm.primary),
        "secondary_degrees": np.degrees(carm.secondary),
        "roll_degrees": np.degrees(carm.roll),
        "source_to_isocenter": distance,
        "offset": carm.offset,
    }


def _motion(start: SE3, end: SE3, isocenter: Array) -> dict[str, Any]:
    twist = np.asarray(twist_between(start, end, isocenter), np.float64)
    return {
        "translation_mm": np.linalg.norm(twist[:3]),
        "rotation_degrees": np.degrees(np.linalg.norm(twist[3:])),
    }


def _deviations(result: Registration, isocenter: Array, distance: float) -> dict[str, Any]:
    """One standard deviation of what the C-arm shows, to first order in the covariance."""

    def shown(twist):
        carm = to_carm(
            perturb(result.pose, twist, isocenter),
            source_to_isocenter=distance,
            isocenter=isocenter,
        )
        return jnp.concatenate([jnp.stack([carm.primary, carm.secondary, carm.roll]), carm.offset])

    jacobian = np.asarray(jax.jit(jax.jacfwd(shown))(jnp.zeros(6)), np.float64)
    covariance = np.asarray(result.covariance, np.float64)
    with np.errstate(invalid="ignore"):
        deviation = np.sqrt(np.diag(jacobian @ covariance @ jacobian.T))
    angles = dict(zip(_ANGLES, np.degrees(deviation[:3]), strict=True))
    return angles | {"offset": deviation[3:]}


_ANGLES = ("primary_degrees", "secondary_degrees", "roll_degrees")


def _plain(value: Any) -> Any:
    """The same in dict, list, str, int, float, bool and None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    array = np.asarray(value)
    if array.ndim > 0:
        return [_plain(item) for item in array]
    item = array.item()
    return None if isinstance(item, float) and not math.isfinite(item) else item
