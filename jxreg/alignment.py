"""One level of a coarse-to-fine registration: what is compared where, and its best pose.

A level sees a square window of the image at its own resolution and a volume pooled to match. It
only compares pixels that the volume can explain: valid in the image, near the volume's shadow, and
not crossed by anatomy that the scan has cut off. That mask follows the pose; each step is judged
under the mask that it was made with.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxlie
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jxreg import drr, similarity
from jxreg.ascent import Climb, climbs, pose_motion
from jxreg.camera import downsample as downsample_camera
from jxreg.camera import pixel_grid, project_points
from jxreg.drr.coverage import missing_share, silhouette
from jxreg.drr.rays import voxel_rays
from jxreg.errors import InputError
from jxreg.frame import Frame, add_scatter, downsample, valid_mask, window
from jxreg.refinement import LeastSquares, RefineTrace, least_squares
from jxreg.simulation import project, project_rays
from jxreg.sparse import draw_patches, sparse_similarity
from jxreg.volume import Volume, coarsest

FEATURES = {
    "ncc": lambda level: similarity.ncc_features,
    "local_ncc": lambda level: _local(level),
    "gradient_ncc": lambda level: similarity.gradient_features,
    "gradient_correlation": lambda level: similarity.gradient_correlation_features,
}
"""Similarities that are inner products of features, for which Levenberg-Marquardt is meant."""
SCATTER = (0.0, 0.003, 0.006, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2)
"""Scatter that an image may hold, as fractions of the signal in air."""
MISSING_PIXELS = 32
"""Rows of rays that tell where a scan is cut off; between them its share is interpolated."""


@dataclass(frozen=True)
class Level:
    """One step of the coarse-to-fine refinement."""

    pixels: int
    """Rows and columns of the image at this level; each divides the largest."""
    voxels: int
    """Level of the volume's pyramid: 0 is the volume itself, 1 the next coarser one."""
    similarity: str = "gradient_correlation"
    """Similarity that this level climbs: a name in `jxreg.similarity.SIMILARITIES`."""
    sigma: float = 0.05
    """Window of `local_ncc`, as a fraction of the image's width."""
    steps: int = 12
    """Largest number of Levenberg-Marquardt steps."""
    tolerance: float = 0.01
    """The level ends before a step shorter than this [mm, or 0.02 rad]."""
    climb: Climb | None = None
    """Gradient ascent instead of Levenberg-Marquardt; a similarity that has no features is always
    climbed, by default as `Climb()` says."""
    missing: float = 0.6
    """A ray that misses this share of its tissue counts nothing, one that misses none counts 1."""
    scatter: bool = False
    """Whether the DRR gets the amount of scatter that explains the image best."""
    margin: int = 5
    """Pixels this near the volume's shadow are compared: a lone bone needs some around it."""
    robust: float | None = None
    """Limit of `similarity.robust_weights`, 1 or so, against tools and implants that the volume
    does not hold; None weighs nothing down."""


@dataclass(frozen=True)
class Prior:
    """Gaussian belief about the twist from the start, about the isocenter in camera axes."""

    shift: float = 30.0
    """Standard deviation across the beam [mm]."""
    depth: float = 30.0
    """Standard deviation along the beam [mm]."""
    rotation: float = 0.3
    """Standard deviation about each axis [rad]."""
    pixels: float = 20.0
    """How many independent measurements an image is worth; the more, the less the prior counts."""


class Scene(NamedTuple):
    """Everything of one level that does not depend on the pose."""

    volume: Volume
    """The volume at this level."""
    frame: Frame
    """The window of the image at this level, with its mask."""
    coarsest: Volume
    """The coarsest volume, which says where rays miss tissue."""
    cut: Bool[Array, "2 3"] | None
    """Faces of the grid that cut through the anatomy; None if the volume is all there is."""
    background: Float[Array, "rows columns"] | None = None
    """DRR of what else is in the image and stays where it is."""


class Terms(NamedTuple):
    """How image and DRR are compared at a pose: held while the step from there is judged."""

    mask: Float[Array, "rows columns"]
    shadow: Float[Array, "rows columns"]
    scatter: Float[Array, ""]
    """Scatter given to the DRR, as a fraction of the signal in air."""
    image: Float[Array, "rows columns"]
    """The DRR, without the scatter."""
    fixed: Array
    """Features of the image under the mask."""
    similarity: Float[Array, ""]
    variance: Float[Array, ""]
    """Sum of squared residuals of the features, for one of the measurements of the prior."""


class Aligned(NamedTuple):
    """What one level did; of several bodies and views (`rig`) the pose is a rig."""

    pose: Any
    trace: RefineTrace
    """The value is the similarity."""
    terms: Any
    """`Terms` at the pose found."""
    hessian: Float[Array, "n n"]
    """J^T J of the features and of the prior, whose weight is the variance."""


def focus(volume: Volume, frame: Frame, pose: jaxlie.SE3, pixels: int) -> Frame:
    """The part of the image where the volume is expected, square and of fixed size.

    The window holds the projection of the volume's grid, and a quarter more on each side for a
    start that is off, as far as the image reaches.
    """
    return focus_on_all((volume,), frame, (pose,), pixels)


def focus_on_all(
    volumes: tuple[Volume, ...], frame: Frame, poses: tuple[jaxlie.SE3, ...], pixels: int
) -> Frame:
    """`focus` on several volumes, each at its own pose."""
    rows, columns = frame.camera.image_size
    projected = jnp.concatenate(
        [
            project_points(frame.camera, pose, _corners(volume))
            for volume, pose in zip(volumes, poses, strict=True)
        ]
    )
    low, high = projected.min(0), projected.max(0)
    margin = 0.25 * (high - low)
    last = jnp.array([columns, rows], low.dtype) - 0.5
    low, high = jnp.clip(low - margin, -0.5, last), jnp.clip(high + margin, -0.5, last)
    empty = ~((high - low) > 4).all()  # out of view or not finite: look at everything
    low, high = jnp.where(empty, -0.5, low), jnp.where(empty, last, high)
    side = (high - low).max()
    return window(frame, (low + high - side) / 2, side, pixels)


def _corners(volume: Volume) -> Float[Array, "8 3"]:
    sides = jnp.array(volume.mu.shape[-3:], volume.affine.dtype) - 1
    index = jnp.stack(jnp.meshgrid(*([jnp.array([0.0, 1.0])] * 3), indexing="ij"), -1)
    return index.reshape(8, 3) * sides @ volume.affine[:3, :3].T + volume.affine[:3, 3]


def scene(volume: Volume, finest: Frame, cut: Bool[Array, "2 3"] | None, level: Level) -> Scene:
    """What a level compares: image and volume at its resolution."""
    return Scene(volume_at(volume, level), frame_at(finest, level), coarsest(volume), cut)


def volume_at(volume: Volume, level: Level) -> Volume:
    """The volume at a level's resolution."""
    pyramid = (volume, *volume.coarser)
    return pyramid[min(level.voxels, len(pyramid) - 1)]


def frame_at(finest: Frame, level: Level) -> Frame:
    """The window of the image at a level's resolution."""
    return downsample(finest, finest.image.shape[-1] // level.pixels)


def align(scene: Scene, level: Level, pose: jaxlie.SE3, start: jaxlie.SE3, prior: Prior) -> Aligned:
    """Refines a pose at one level.

    The result of a similarity without features is judged by `local_ncc`.

    Raises:
        InputError: The similarity is unknown, `Level.climb` names something unknown, or its patches
            do not fit.
    """
    steps, tolerance, trace = level.steps, level.tolerance, None
    how = climb_of(level)
    if how is not None:
        pose, trace = climbs(
            lambda pose: objective(scene, level, look(scene, level, pose, prior), start, prior),
            pose,
            how,
            lambda pose: pose_motion(how, pose, scene.volume.isocenter),
        )
        steps, tolerance = 0, jnp.inf
    refined, terms = least_squares(
        _comparison(scene, level, start, prior),
        pose,
        pivot=scene.volume.isocenter,
        steps=steps,
        tolerance=tolerance,
    )
    trace = refined.trace if trace is None else trace
    return Aligned(refined.pose, trace, terms, refined.hessian)


def look(scene: Scene, level: Level, pose: jaxlie.SE3, prior: Prior) -> Terms:
    """How image and DRR compare at a pose."""
    comparison = _comparison(scene, level, pose, prior)
    return comparison.settle(pose, comparison.observe(pose))


def _comparison(scene: Scene, level: Level, start: jaxlie.SE3, prior: Prior) -> LeastSquares:
    """Differences of features, with the prior."""

    def observe(pose):
        return predict((scene,), (pose,))

    def settle_at(pose, image) -> Terms:
        return settle((scene,), level, (pose,), image, prior)

    def residuals(pose, image, terms: Terms):
        belief = departure(start, pose, scene.volume.isocenter, prior)
        return difference(level, image, terms), jnp.sqrt(terms.variance) * belief

    return LeastSquares(observe, settle_at, residuals, lambda _, terms: terms.similarity)


def predict(
    scenes: tuple[Scene, ...], poses: tuple[jaxlie.SE3, ...]
) -> Float[Array, "rows columns"]:
    """One image of one or several volumes, each at its pose, over the background."""
    parts = [_drr(scene, pose) for scene, pose in zip(scenes, poses, strict=True)]
    if scenes[0].background is not None:
        parts.append(scenes[0].background)
    return functools.reduce(jnp.add, parts)


def settle(
    scenes: tuple[Scene, ...],
    level: Level,
    poses: tuple[jaxlie.SE3, ...],
    image: Float[Array, "rows columns"],
    prior: Prior,
) -> Terms:
    """How an image and its prediction are compared.

    The DRR gets the amount of scatter that explains the image best. Without it dense anatomy looks
    too contrasted, and the pose comes out too near or too far: on a head by 2 mm.
    """
    features = _features(level)
    mask, shadow = _usable(scenes, level, poses, image)
    fixed = features(scenes[0].frame.image, mask)
    scatter = jnp.zeros((), image.dtype)
    if level.scatter:
        scatter = _fitted_scatter(lambda s: features(add_scatter(image, s), mask), fixed)
    moving = features(add_scatter(image, scatter), mask)
    variance = ((moving - fixed) ** 2).sum() / prior.pixels
    return Terms(mask, shadow, scatter, image, fixed, similarity.inner(moving, fixed), variance)


def difference(level: Level, image: Float[Array, "rows columns"], terms: Terms) -> Array:
    """Features of a prediction, less those of the image, under some terms."""
    return _features(level)(add_scatter(image, terms.scatter), terms.mask) - terms.fixed


def _features(level: Level):
    return FEATURES.get(level.similarity, FEATURES["local_ncc"])(level)


def _fitted_scatter(features_of, fixed: Array) -> Float[Array, ""]:
    """The candidate whose features are most like those of the image."""
    candidates = jnp.array(SCATTER, fixed.dtype)
    scores = jax.lax.map(lambda s: similarity.inner(features_of(s), fixed), candidates)
    return candidates[jnp.argmax(scores)]


def climb_of(level: Level) -> Climb | None:
    """How a level is climbed; None if Levenberg-Marquardt refines it."""
    if level.climb is None and level.similarity not in FEATURES:
        return Climb()
    return level.climb


def objective(
    scene: Scene, level: Level, terms: Terms, start: jaxlie.SE3, prior: Prior
) -> Callable[..., Float[Array, ""]]:
    """What a climb maximises: the similarity of a pose under some terms, less the prior's share.

    For an optimizer of your own, near the pose where the terms were settled (`look`). Half the sum
    of squares of Levenberg-Marquardt is 1 less this. Where `Level.climb` asks for random patches,
    the function takes a pose and the key that draws them.
    """
    image, how = scene.frame.image, climb_of(level) or Climb()
    count = how.patches

    def value(pose: jaxlie.SE3, *key: PRNGKeyArray) -> Float[Array, ""]:
        if count is None:
            alike = likeness((scene,), level, (pose,), terms)
        else:
            pixels = draw_patches(key[0], terms.mask, count, how.patch)
            moving = add_scatter(_patches(scene, pose, pixels), terms.scatter)
            here = pixels[..., 1], pixels[..., 0]
            alike = sparse_similarity(_measure(level), moving, image[here], terms.mask[here])
        belief = departure(start, pose, scene.volume.isocenter, prior)
        return alike - 0.5 * terms.variance * (belief**2).sum()

    return value


def likeness(
    scenes: tuple[Scene, ...], level: Level, poses: tuple[jaxlie.SE3, ...], terms: Terms
) -> Float[Array, ""]:
    """Similarity of an image and its prediction under some terms."""
    moving = add_scatter(predict(scenes, poses), terms.scatter)
    return _measure(level)(moving, scenes[0].frame.image, terms.mask)


def _measure(level: Level) -> Callable[..., Float[Array, ""]]:
    """The similarity of a level, of two images and a mask."""
    name, known = level.similarity, similarity.SIMILARITIES
    if name not in known:
        names = ", ".join(known)
        raise InputError("similarity", f"{name!r}", f"one of {names}", "correct the name")
    if name not in FEATURES:
        return known[name]
    features = _features(level)

    def measure(moving, fixed, mask):
        return similarity.inner(features(moving, mask), features(fixed, mask))

    return measure


def _drr(scene: Scene, pose: jaxlie.SE3) -> Float[Array, "rows columns"]:
    """The volume as the X-ray would show it: what the scan has cut off goes on as the cut face."""
    return project(scene.volume, scene.frame.camera, pose, drr.joseph(scene.cut))


def _patches(
    scene: Scene, pose: jaxlie.SE3, pixels: Int[Array, "count side side 2"]
) -> Float[Array, "count side side"]:
    """What `predict` gives for one volume, at some pixels (u, v) only."""
    rays = pixels.reshape(-1, 2).astype(scene.frame.image.dtype)
    camera, integrate = scene.frame.camera, drr.joseph(scene.cut)
    image = project_rays(scene.volume, camera, pose, rays, integrate).reshape(pixels.shape[:-1])
    if scene.background is None:
        return image
    return image + scene.background[pixels[..., 1], pixels[..., 0]]


def _usable(scenes: tuple[Scene, ...], level: Level, poses, image: Float[Array, "rows columns"]):
    """Weight of each pixel, and the shadow of the volumes alone, without the background."""
    background = scenes[0].background
    shadow = silhouette(image if background is None else image - background, level.margin)
    mask = valid_mask(scenes[0].frame) * shadow
    for scene, pose in zip(scenes, poses, strict=True):
        if scene.cut is not None:
            mask = mask * complete(scene, level, pose, scene.cut)
    if level.robust is not None:
        seen = scenes[0].frame.image
        mask = mask * similarity.robust_weights(image, seen, mask, limit=level.robust)
    return mask, shadow


def complete(scene: Scene, level: Level, pose: jaxlie.SE3, cut: Bool[Array, "2 3"]):
    """Weight of each pixel by its ray: 1 if the scan holds all of it, 0 at `Level.missing`."""
    return jnp.clip(1 - missing(scene, pose, cut) / level.missing, 0, 1)


def missing(scene: Scene, pose: jaxlie.SE3, cut: Bool[Array, "2 3"]):
    """Share of each ray's way that the scan has cut off, seen by at most 32 x 32 rays or so."""
    camera = scene.frame.camera
    rays_apart = max(1, camera.image_size[0] // MISSING_PIXELS)
    few = downsample_camera(camera, rays_apart)
    rays = voxel_rays(scene.coarsest, few, pose, pixel_grid(few))
    share = missing_share(scene.coarsest, rays, cut).reshape(few.image_size)
    rows, columns = (n * rays_apart for n in few.image_size)
    size = camera.image_size
    return jax.image.resize(share, (rows, columns), "linear")[: size[0], : size[1]]


def _local(level: Level):
    def features(image, mask):
        return similarity.local_features(image, mask, level.sigma)

    return features


def departure(
    start: jaxlie.SE3, pose: jaxlie.SE3, pivot: Float[Array, "3"], prior: Prior
) -> Float[Array, "6"]:
    """Motion of the pivot and rotation since the start, in standard deviations of the prior.

    A rotation by the angle a counts as 2 sin(a / 2), the vector part of its quaternion.
    """
    shift = pose.apply(pivot) - start.apply(pivot)
    turn = 2 * (pose.rotation() @ start.rotation().inverse()).wxyz[1:]
    return jnp.concatenate(
        [shift / jnp.array([prior.shift, prior.shift, prior.depth]), turn / prior.rotation]
    )
