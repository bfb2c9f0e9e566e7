"""Starts from landmarks: the pose that puts points of the volume where they are seen in the image.

Some of the points may be wrong (a mixed-up label, a slip of the hand): each counts less the worse
it fits, until it counts nothing. No start is needed.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool, Float

from jxreg.camera import Camera, pixel_spacing, project_points
from jxreg.errors import InputError
from jxreg.precision import full_precision
from jxreg.refinement import LeastSquares, least_squares

LEAST = 4
"""Three points leave up to four poses."""
ORIENTATIONS = 64
"""Orientations that it begins with: some 45 degrees apart."""
SCALES = (16.0, 4.0, 1.0)
"""Tolerances of the three passes, in units of the last one."""
DEPTH = 0.7
"""Where the patient is, as a fraction of the SDD, if the points do not say."""


class Located(NamedTuple):
    """A pose from landmarks."""

    pose: jaxlie.SE3
    """`camera_from_world`."""
    error_mm: Float[Array, " n"]
    """Distance of each landmark from where it was seen, on the detector."""
    fits: Bool[Array, " n"]
    """Which are within the tolerance, and were given."""


def pose_from_landmarks(
    camera: Camera,
    landmarks: Float[Array, "n 3"],
    pixels: Float[Array, "m 2"],
    *,
    tolerance_mm: ArrayLike = 10.0,
) -> Located:
    """Finds the pose from points of the volume and where they are seen, without a start.

    From evenly spread orientations, each with the translation that is best in the linear sense, the
    robust cost of Geman and McClure is lowered by reweighted Levenberg-Marquardt, the scale of the
    cost shrinking in three passes; the lowest cost wins.

    Source: Geman and McClure, Bull. ISI 52, 1987; orientations: Alexa, CVPR 2022 (super-Fibonacci
    spirals).

    Args:
        camera: Of the image.
        landmarks: Points of the volume, world [mm].
        pixels: Where each is seen, (column, row); NaN for one that is not.
        tolerance_mm: Distance on the detector from which on a landmark is taken for wrong.

    Raises:
        InputError: Not one pixel for each landmark, or fewer than four of them.
    """
    _check(landmarks, pixels)
    return _located(
        camera, jnp.asarray(landmarks), jnp.asarray(pixels), jnp.asarray(tolerance_mm, float)
    )


def _check(landmarks, pixels) -> None:
    count, seen = len(landmarks), len(pixels)
    if not isinstance(pixels, Tracer):
        seen = int(np.isfinite(np.asarray(pixels)).all(1).sum())
    if count != len(pixels) or seen < LEAST:
        raise InputError(
            "landmarks",
            f"{count} points of the volume, {seen} of the image",
            f"one of each, {LEAST} or more",
            "mark more landmarks, in the same order",
        )


@jax.jit
@full_precision
def _located(camera: Camera, landmarks, pixels, tolerance) -> Located:
    given = jnp.isfinite(pixels).all(1)
    pixels = jnp.where(given[:, None], pixels, 0.0)
    spacing = pixel_spacing(camera)[::-1]

    def errors(projected):
        return (projected - pixels) * spacing

    def weights(errors, scale):
        # Geman-McClure: e^2 / (s^2 + e^2) is lowered by least squares with s^2 / (s^2 + e^2)^2.
        return given * (scale**2 / (scale**2 + (errors**2).sum(1))) ** 2

    def fitted(pose, scale):
        problem = LeastSquares(
            observe=lambda pose: errors(_projected(camera, pose, landmarks)),
            settle=lambda pose, errors: jnp.sqrt(weights(errors, scale)),
            residuals=lambda pose, errors, roots: errors * roots[:, None],
        )
        pivot = jnp.where(given[:, None], landmarks, 0).sum(0) / given.sum()
        return least_squares(problem, pose, pivot=pivot, steps=12)[0].pose

    def one(wxyz):
        pose = _shifted(camera, jaxlie.SO3(wxyz), landmarks, pixels, given)
        scales = jnp.asarray(SCALES, tolerance.dtype) * tolerance
        pose, _ = jax.lax.scan(lambda pose, scale: (fitted(pose, scale), None), pose, scales)
        squares = (errors(_projected(camera, pose, landmarks)) ** 2).sum(1)
        cost = (given * squares / (tolerance**2 + squares)).sum()
        behind = ((pose.apply(landmarks)[:, 2] <= 0) & given).any()
        return pose.wxyz_xyz, jnp.where(behind | ~jnp.isfinite(cost), jnp.inf, cost)

    poses, costs = jax.vmap(one)(jnp.asarray(_orientations(ORIENTATIONS), landmarks.dtype))
    pose = jaxlie.SE3(poses[jnp.argmin(costs)])
    distance = jnp.linalg.norm(errors(project_points(camera, pose, landmarks)), axis=1)
    distance = jnp.where(given, distance, jnp.nan)
    return Located(pose, distance, distance < tolerance)


def _projected(camera: Camera, pose: jaxlie.SE3, points) -> Float[Array, "n 2"]:
    """As `project_points`, finite for points beside or behind the source."""
    seen = pose.apply(points)
    seen = seen.at[:, 2].set(jnp.maximum(seen[:, 2], 1.0))
    return project_points(camera, jaxlie.SE3.identity(), seen)


def _shifted(camera: Camera, rotation: jaxlie.SO3, points, pixels, given) -> jaxlie.SE3:
    """This orientation with the translation that puts the points on their rays, linearly."""
    turned = jax.vmap(rotation.apply)(points)
    x, y = (jnp.linalg.inv(camera.intrinsic) @ jnp.c_[pixels, jnp.ones(len(pixels))].T)[:2]
    zero, one = jnp.zeros_like(x), jnp.ones_like(x)
    rows = jnp.concatenate([jnp.stack([one, zero, -x], 1), jnp.stack([zero, one, -y], 1)])
    right = jnp.concatenate([x * turned[:, 2] - turned[:, 0], y * turned[:, 2] - turned[:, 1]])
    twice = jnp.tile(given, 2).astype(rows.dtype)
    shift = jnp.linalg.lstsq(rows * twice[:, None], right * twice)[0]
    middle = jnp.where(given[:, None], turned, 0).sum(0) / given.sum()
    depth = shift[2] + middle[2]
    # An orientation far from the truth says nothing of the depth: the patient may even come out
    # behind the source.
    depth = jnp.where((depth > 0.2 * camera.sdd) & (depth < camera.sdd), depth, DEPTH * camera.sdd)
    z = depth - middle[2]
    across = right - rows[:, 2] * z
    mean = (across * twice).reshape(2, -1).sum(1) / given.sum()
    return jaxlie.SE3.from_rotation_and_translation(rotation, jnp.append(mean, z))


@functools.cache
def _orientations(count: int) -> np.ndarray:
    """Unit quaternions spread evenly over all orientations."""
    psi = 1.533751168755204288118041
    s = np.arange(count) + 0.5
    r, q = np.sqrt(s / count), np.sqrt(1 - s / count)
    a, b = 2 * np.pi * s / np.sqrt(2), 2 * np.pi * s / psi
    return np.stack([r * np.sin(a), r * np.cos(a), q * np.sin(b), q * np.cos(b)], 1)
