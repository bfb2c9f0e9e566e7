"""How far an estimated pose is from the true one, and how often it is near enough.

For evaluation, one pair of poses a call (`jax.vmap` for more). The geodesic distances of two poses
are in `jxreg.pose`. The published names hide different formulas; with E = `camera_from_world`, its
inverse P, and a prime for the estimate:

============  ====================================================================  ==============
`mtre`        |E' X - E X|, the target registration error in the camera frame       the standard
`mrpd`        distance of E' X from the ray through E X                             blind to depth
`mpd`         distance of the two projections on the detector                       magnified
`mrpe`        distance of the detector points, each put in the world by its pose    xvr, DiffPose
`xvr_mtre`    |P' X - P X|: the inverse map, applied to world points                xvr, LXPose
============  ====================================================================  ==============

A point beside or behind the source has no projection: there `mpd` and `mrpe` are infinite, with a
gradient of zero, and never NaN.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxlie import SE3
from jaxtyping import Array, ArrayLike, Float

from jxreg.camera import Camera
from jxreg.convention import Orientation, to_diffdrr
from jxreg.lie import log, safe_norm
from jxreg.pose import Point
from jxreg.precision import full_precision

_Z_95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


class AxisErrors(NamedTuple):
    """Estimate minus truth along the three axes of the true camera."""

    rotation_degrees: Float[Array, "*batch 3"]
    """Rotation vector about x, y, z [deg]."""
    translation: Float[Array, "*batch 3"]
    """Displacement of the isocenter along x, y (in plane) and z (depth) [mm]."""


class Rate(NamedTuple):
    """A proportion with its 95 % Wilson interval."""

    rate: Float[Array, "*batch"]
    """Fraction, 0 to 1."""
    low: Float[Array, "*batch"]
    """Lower bound."""
    high: Float[Array, "*batch"]
    """Upper bound."""


@full_precision
def mtre(estimate: SE3, truth: SE3, landmarks: Float[Array, "n 3"]) -> Float[Array, ""]:
    """Mean target registration error in the camera frame [mm].

    Source: van de Kraats et al., IEEE TMI 24(9), 2005.

    Args:
        estimate: Estimated pose, `camera_from_world`.
        truth: True pose.
        landmarks: Anatomical points in the world [mm].
    """
    return _mean_length(estimate.apply(landmarks) - truth.apply(landmarks))


@full_precision
def mrpd(estimate: SE3, truth: SE3, landmarks: Float[Array, "n 3"]) -> Float[Array, ""]:
    """Mean reprojection distance [mm]: of the estimated points from the true rays.

    A ray starts at the source and passes the true position of a landmark. The distance is measured
    where the landmark is, not on the detector, and does not see an error in depth. Of a point on
    the other side of the source it is the distance to the source.

    Source: van de Kraats et al., IEEE TMI 24(9), 2005; Masutani et al., 1998.

    Args:
        estimate: Estimated pose, `camera_from_world`.
        truth: True pose.
        landmarks: Anatomical points in the world [mm].
    """
    points, targets = estimate.apply(landmarks), truth.apply(landmarks)
    squared = jnp.sum(targets**2, -1)
    along = jnp.sum(points * targets, -1)
    in_front = (along > 0) & (squared > 0)
    moved = points - targets  # cancels first, so that small distances keep their digits
    share = jnp.sum(moved * targets, -1) / jnp.where(in_front, squared, 1.0)
    across = moved - share[:, None] * targets
    return _mean_length(jnp.where(in_front[:, None], across, points))


@full_precision
def mpd(
    estimate: SE3, truth: SE3, landmarks: Float[Array, "n 3"], camera: Camera
) -> Float[Array, ""]:
    """Mean projection distance on the detector [mm], magnified as the image is.

    Source: van de Kraats et al., IEEE TMI 24(9), 2005; mPE or mPD in xvr, PSSS and LXPose.

    Args:
        estimate: Estimated pose, `camera_from_world`.
        truth: True pose.
        landmarks: Anatomical points in the world [mm].
        camera: The camera of both poses; only its SDD matters.

    Returns:
        Mean distance [mm]; infinite if a landmark is not in front of the source.
    """
    points, seen = _on_detector(estimate, landmarks, camera)
    targets, seen_truly = _on_detector(truth, landmarks, camera)
    return _mean_where(seen & seen_truly, points - targets)


@full_precision
def mrpe(
    estimate: SE3, truth: SE3, landmarks: Float[Array, "n 3"], camera: Camera
) -> Float[Array, ""]:
    """Mean reprojection error of xvr [mm]: detector points, put in the world by each pose.

    It mixes the error in the image with the motion of the detector, and is what DiffPose reports
    as mTRE.

    Args:
        estimate: Estimated pose, `camera_from_world`.
        truth: True pose.
        landmarks: Anatomical points in the world [mm].
        camera: The camera of both poses; only its SDD matters.

    Returns:
        Mean distance [mm]; infinite if a landmark is not in front of the source.
    """
    points, seen = _on_detector(estimate, landmarks, camera)
    targets, seen_truly = _on_detector(truth, landmarks, camera)
    moved = estimate.inverse().apply(points) - truth.inverse().apply(targets)
    return _mean_where(seen & seen_truly, moved)


@full_precision
def xvr_mtre(
    estimate: SE3,
    truth: SE3,
    landmarks: Float[Array, "n 3"],
    *,
    center: Point,
    orientation: Orientation = "AP",
) -> Float[Array, ""]:
    """What xvr and LXPose print as mTRE [mm]; for comparison with their tables only.

    It applies DiffDRR's pose matrix, world from camera, to points of the world, so that a rotation
    about the isocenter gets a lever arm of about the distance from the source.

    Args:
        estimate: Estimated pose, `camera_from_world`.
        truth: True pose.
        landmarks: Anatomical points in the world [mm].
        center: Center of the volume's grid, which DiffDRR moves to the origin [mm].
        orientation: The `orientation` with which DiffDRR would read the volume.
    """
    points = landmarks - jnp.asarray(center, landmarks.dtype)
    difference = jnp.subtract(
        to_diffdrr(estimate, False, orientation=orientation, center=center).matrix,
        to_diffdrr(truth, False, orientation=orientation, center=center).matrix,
    )
    moved = points @ difference[:3, :3].T
    return _mean_length(moved + difference[:3, 3])


@full_precision
def axis_errors(estimate: SE3, truth: SE3, isocenter: Point) -> AxisErrors:
    """Error about and along each axis of the true camera.

    Args:
        estimate: Estimated pose, `camera_from_world`.
        truth: True pose.
        isocenter: Point in the world whose displacement is the error of translation [mm].
    """
    isocenter = jnp.asarray(isocenter, truth.wxyz_xyz.dtype)
    rotation = log(estimate @ truth.inverse())[3:]
    return AxisErrors(
        rotation_degrees=jnp.rad2deg(rotation),
        translation=estimate.apply(isocenter) - truth.apply(isocenter),
    )


def success_rate(errors: Float[Array, " n"], threshold: ArrayLike) -> Rate:
    """Fraction of errors below a threshold [mm]; what is not a number is no success."""
    return wilson_interval(jnp.sum(errors < threshold), errors.size)


def smsr(errors: Float[Array, " n"]) -> Rate:
    """Sub-millimetre success rate: fraction of errors below 1 mm."""
    return success_rate(errors, 1.0)


def gfr(errors: Float[Array, " n"], threshold: ArrayLike = 10.0) -> Rate:
    """Gross failure rate: fraction of errors above 10 mm; what is not a number is a failure."""
    return wilson_interval(jnp.sum(~(errors <= threshold)), errors.size)


def wilson_interval(count: ArrayLike, total: ArrayLike) -> Rate:
    """Proportion count / total with its 95 % score interval.

    With no trials at all the rate is NaN and the interval [0, 1].

    Source: Wilson, J. Am. Stat. Assoc. 22, 1927.
    """
    count, total = jnp.asarray(count, float), jnp.asarray(total, float)
    rate = count / total  # 0 / 0 is NaN, as it should be
    n = jnp.where(total > 0, total, 1.0)
    share = jnp.where(total > 0, count / n, 0.5)
    spread = _Z_95**2 / n
    middle = (share + spread / 2) / (1 + spread)
    margin = jnp.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    empty = total <= 0
    low = jnp.where(empty | (count <= 0), 0.0, middle - margin)
    high = jnp.where(empty | (count >= total), 1.0, middle + margin)
    return Rate(rate, low, high)


def percentiles(
    errors: Float[Array, " n"], percents: Point = (5.0, 25.0, 50.0, 75.0, 95.0)
) -> Float[Array, " percents"]:
    """Percentiles of errors [mm], interpolated linearly.

    An error that is not a number counts as infinite, so that failures cannot improve the figures.
    """
    ordered = jnp.sort(jnp.where(jnp.isnan(errors), jnp.inf, errors))
    position = jnp.asarray(percents, errors.dtype) / 100 * (errors.size - 1)
    below, above = ordered[jnp.floor(position).astype(int)], ordered[jnp.ceil(position).astype(int)]
    step = jnp.where(below < above, above - below, 0.0)  # inf - inf would be NaN
    part = position - jnp.floor(position)
    return below + jnp.where(part > 0, part * step, 0.0)


def _mean_length(vectors: Float[Array, "n 3"]) -> Float[Array, ""]:
    return jnp.mean(jax.vmap(safe_norm)(vectors))


def _mean_where(seen: Array, vectors: Float[Array, "n 3"]) -> Float[Array, ""]:
    """Mean length; infinite, and without a gradient there, for what is not seen."""
    lengths = jax.vmap(safe_norm)(jnp.where(seen[:, None], vectors, 0.0))
    return jnp.mean(jnp.where(seen, lengths, jnp.inf))


def _on_detector(
    pose: SE3, landmarks: Float[Array, "n 3"], camera: Camera
) -> tuple[Float[Array, "n 3"], Array]:
    """Projections in the camera frame [mm], and which of the points are in front of the source."""
    points = pose.apply(landmarks)
    seen = points[:, 2] > 0
    return camera.sdd * points / jnp.where(seen, points[:, 2], 1.0)[:, None], seen
