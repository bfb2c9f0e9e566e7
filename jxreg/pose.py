"""Poses: what they mean, how C-arm angles make them, how twists move them, how far apart they are.

A pose is always the extrinsic `camera_from_world`, a proper rigid `jaxlie.SE3`: it maps a point of
the world (patient RAS+, mm) into the camera frame, whose origin is the X-ray source, with x to the
right of the image, y down and z from the source to the detector. A mirrored image is a matter of
the camera, never of the pose.

A twist is six numbers, (translation [mm], rotation [rad]), in camera axes. `perturb` applies it
about a point of the world, as a rule the isocenter, so that a rotation turns the patient in place
instead of swinging it around the source.

`exp` and `log` stand here because those of jaxlie cut their series at an angle of 3e-3 rad in
float32 (3e-6 in float64) and drop the coupling of rotation and translation below it: values off by
0.1 mm for a translation of 100 mm, and derivatives by 50 mm/rad. Here no branch loses accuracy.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxlie import SE3, SO3
from jaxtyping import Array, ArrayLike, Float

Point = ArrayLike | Sequence[ArrayLike]
"""Three coordinates, as an array or as any sequence of numbers."""


class CArm(NamedTuple):
    """Position of a C-arm as its display tells it (DICOM positioner angles)."""

    primary: Float[Array, "*batch"]
    """Angle about the patient's long axis [rad]: LAO +, RAO -; 0 has the detector anterior."""
    secondary: Float[Array, "*batch"]
    """Angle towards the head [rad]: CRA +, CAU -; between -pi / 2 and pi / 2."""
    roll: Float[Array, "*batch"]
    """Turn of the patient in the image, about the optical axis from x to y [rad]."""
    source_to_isocenter: Float[Array, "*batch"]
    """Distance from the source to the isocenter of the C-arm [mm]."""
    offset: Float[Array, "*batch 3"]
    """Where the volume's isocenter lies in camera axes, from (0, 0, source_to_isocenter) [mm]."""


def from_carm(
    primary_degrees: ArrayLike = 0.0,
    secondary_degrees: ArrayLike = 0.0,
    roll_degrees: ArrayLike = 0.0,
    *,
    source_to_isocenter: ArrayLike,
    isocenter: Point,
    offset: Point = (0.0, 0.0, 0.0),
) -> SE3:
    """Pose of a C-arm whose axes meet in the isocenter.

    At 0/0 the detector is in front of the patient (anterior) and the source behind: an image with
    the patient's right on its right, as seen from behind. The conventional display is mirrored,
    which is a flag of the camera. With the detector behind (AP) the primary angle is 180.

    Source: DICOM PS3.3 C.8.7.5, XA positioner.

    Args:
        primary_degrees: Positioner primary angle: LAO +, RAO - [deg].
        secondary_degrees: Positioner secondary angle: CRA +, CAU - [deg].
        roll_degrees: Turn of the patient in the image about the optical axis, x to y [deg].
        source_to_isocenter: Distance from the source to the isocenter [mm].
        isocenter: Point in the world that the optical axis meets when the offset is zero [mm].
        offset: Moves that point in camera axes [mm].
    """
    primary, secondary, roll, distance, isocenter, offset = _same_float(
        primary_degrees, secondary_degrees, roll_degrees, source_to_isocenter, isocenter, offset
    )
    primary, secondary, roll = (jnp.deg2rad(a) for a in (primary, secondary, roll))
    # Rz(roll) Rx(pi / 2 - secondary) Rz(-primary), as a quaternion
    half = jnp.pi / 4 - secondary / 2
    total, difference = (roll - primary) / 2, (roll + primary) / 2
    wxyz = [
        jnp.cos(half) * jnp.cos(total),
        jnp.sin(half) * jnp.cos(difference),
        jnp.sin(half) * jnp.sin(difference),
        jnp.cos(half) * jnp.sin(total),
    ]
    rotation = SO3(jnp.stack(wxyz))
    target = offset.at[2].add(distance)
    return SE3.from_rotation_and_translation(rotation, target - rotation.apply(isocenter))


def to_carm(pose: SE3, *, source_to_isocenter: ArrayLike, isocenter: Point) -> CArm:
    """Angles and offset of a pose: the inverse of `from_carm`.

    Exact for a primary angle in (-180, 180] and a secondary angle between -90 and 90 degrees; at
    the ends of the latter primary and roll turn about the same axis and only their sum is known.

    Args:
        pose: Pose, `camera_from_world`.
        source_to_isocenter: Distance from the source to the isocenter [mm], which a pose alone
            cannot tell from an offset in depth.
        isocenter: The point in the world that `from_carm` was given [mm].
    """
    distance, isocenter = _same_float(source_to_isocenter, isocenter)
    w, x, y, z = pose.rotation().wxyz
    total, difference = jnp.arctan2(z, w), jnp.arctan2(y, x)
    tilt = 2 * jnp.arctan2(jnp.hypot(x, y), jnp.hypot(w, z))
    offset = pose.apply(isocenter).at[2].add(-distance)
    return CArm(
        primary=_wrap(difference - total),
        secondary=jnp.pi / 2 - tilt,
        roll=_wrap(difference + total),
        source_to_isocenter=distance,
        offset=offset,
    )


def exp(twist: Float[Array, "6"]) -> SE3:
    """Rigid motion of a twist (translation [mm], rotation [rad]); accurate for every angle.

    Source: Barfoot, State Estimation for Robotics, 2017, section 7.1; the coefficients are the
    Stumpff functions of the squared angle.
    """
    v, w = twist[:3], twist[3:]
    squared = jnp.sum(w * w)
    c0, c1, _, _ = _stumpff(squared / 4)
    _, _, c2, c3 = _stumpff(squared)
    wv = jnp.cross(w, v)
    translation = v + c2 * wv + c3 * jnp.cross(w, wv)
    return SE3(jnp.concatenate([c0[None], c1 / 2 * w, translation]))


def log(motion: SE3) -> Float[Array, "6"]:
    """Twist (translation [mm], rotation [rad]) of a rigid motion, with the angle in [0, pi].

    Source: Barfoot, State Estimation for Robotics, 2017, section 7.1.
    """
    w = _rotation_log(motion.rotation())
    squared = jnp.sum(w * w)
    _, c1, c2, c3 = _stumpff(squared / 4)
    v = motion.translation()
    wv = jnp.cross(w, v)
    v = v - wv / 2 + (c2 - c3) / (4 * c1) * jnp.cross(w, wv)
    return jnp.concatenate([v, w])


def perturb(pose: SE3, twist: Float[Array, "6"], pivot: Point) -> SE3:
    """Move a pose by a twist about a point.

    With p = pose @ pivot the result is Trans(p) exp(twist) Trans(-p) pose: the pivot is displaced
    by the twist's translation alone, the rotation turns the patient about it.

    Args:
        pose: Pose, `camera_from_world`.
        twist: Translation [mm] and rotation [rad] in camera axes.
        pivot: Fixed point of the rotation, in the world [mm]; as a rule the isocenter.
    """
    motion = exp(twist)
    swing = _displacement(motion.rotation(), _arm(pose, pivot))
    return SE3.from_rotation_and_translation(
        (motion.rotation() @ pose.rotation()).normalize(),
        pose.translation() + motion.translation() - swing,
    )


def twist_between(start: SE3, end: SE3, pivot: Point) -> Float[Array, "6"]:
    """Twist that moves one pose to another: `perturb(start, twist, pivot)` is `end`.

    Args:
        start: Pose, `camera_from_world`.
        end: The other pose.
        pivot: Fixed point of the rotation, in the world [mm].
    """
    rotation = (end.rotation() @ start.rotation().inverse()).normalize()
    swing = _displacement(rotation, _arm(start, pivot))
    translation = end.translation() - start.translation() + swing
    return log(SE3.from_rotation_and_translation(rotation, translation))


def _arm(pose: SE3, pivot: Point) -> Float[Array, "3"]:
    """From the world's origin to the pivot, in camera axes [mm]."""
    return pose.rotation().apply(jnp.asarray(pivot, pose.wxyz_xyz.dtype))


def _displacement(rotation: SO3, point: Float[Array, "3"]) -> Float[Array, "3"]:
    """Rotated point minus point; keeps its digits when the rotation is small."""
    w, axis = rotation.wxyz[0], rotation.wxyz[1:]
    half = jnp.cross(axis, point)
    return 2 * (w * half + jnp.cross(axis, half))


def _rotation_log(rotation: SO3) -> Float[Array, "3"]:
    """Axis times angle; the shorter way round."""
    wxyz = rotation.wxyz
    wxyz = jnp.where(wxyz[0] < 0, -wxyz, wxyz)
    w, axis = wxyz[0], wxyz[1:]
    squared = jnp.sum(axis * axis)
    small = squared < 0.01 * w * w
    safe = jnp.sqrt(jnp.where(small, 1.0, squared))
    w_safe = jnp.where(small, w, 1.0)
    ratio = jnp.where(small, squared / w_safe**2, 0.0)
    series = sum((-ratio) ** k / (2 * k + 1) for k in range(9)) / w_safe  # atan(n / w) / n
    return 2 * axis * jnp.where(small, series, jnp.arctan2(safe, w) / safe)


def _stumpff(x: Float[Array, ""]) -> tuple[Float[Array, ""], ...]:
    """Stumpff functions c0 to c3 of x >= 0: c_k = sum over i of (-x)^i / (k + 2 i)!.

    With x the square of an angle a: cos(a), sin(a) / a, (1 - cos(a)) / a^2, (a - sin(a)) / a^3.
    """
    small = x < 1.0
    a = jnp.sqrt(jnp.where(small, 1.0, x))
    c1 = jnp.sin(a) / a
    closed = (jnp.cos(a), c1, (1 - jnp.cos(a)) / a**2, (1 - c1) / a**2)
    x = jnp.where(small, x, 0.0)
    series = []
    for k in range(4):
        total = jnp.ones_like(x)
        for i in range(9, 0, -1):  # Horner; the next term is below 1e-19
            total = 1 - x * total / ((k + 2 * i) * (k + 2 * i - 1))
        series.append(total / (6 if k == 3 else max(k, 1)))
    return tuple(jnp.where(small, s, c) for s, c in zip(series, closed, strict=True))


def _wrap(angle: Float[Array, ""]) -> Float[Array, ""]:
    """The same angle in (-pi, pi]."""
    return angle - 2 * jnp.pi * jnp.ceil(angle / (2 * jnp.pi) - 0.5)


def _same_float(*values: Point) -> list[Array]:
    """Arrays of one floating type; Python numbers take the type of the arrays beside them."""
    arrays = [jnp.asarray(value) for value in values]
    dtype = jnp.result_type(float, *arrays)
    return [array.astype(dtype) for array in arrays]
