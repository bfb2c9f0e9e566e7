"""One level of a coarse-to-fine registration: what is compared where, and its best pose.

A level sees a square window of the image at its own resolution and a volume pooled to match. It
only compares pixels that the volume can explain: valid in the image, near the volume's shadow, and
not crossed by anatomy that the scan has cut off. That mask is made anew between rounds, from the
pose so far, and is fixed within one, so that every round climbs one function.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jaxlie
from jaxtyping import Array, Bool, Float

from jxreg import drr, similarity
from jxreg.camera import pixel_grid, project_points
from jxreg.drr.coverage import missing_share, silhouette
from jxreg.drr.rays import voxel_rays
from jxreg.frame import Frame, add_scatter, downsample, valid_mask, window
from jxreg.refinement import Refined, RefineTrace, levenberg_marquardt, refine
from jxreg.volume import Volume

FEATURES = {
    "ncc": lambda level: similarity.ncc_features,
    "local_ncc": lambda level: _local(level),
    "gradient_ncc": lambda level: similarity.gradient_features,
    "gradient_correlation": lambda level: similarity.gradient_correlation_features,
}
"""Similarities that are inner products of features, for which Levenberg-Marquardt is meant."""
SCATTER = (0.0, 0.003, 0.006, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2)
"""Scatter that an image may hold, as fractions of the signal in air."""
TOLERANCE = 1e-3
"""A round ends with a step shorter than this [mm]."""


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
    rounds: int = 3
    """How often the mask of usable pixels is made."""
    steps: int = 4
    """Largest number of Levenberg-Marquardt steps in each round."""
    gradient_steps: int = 40
    """Steps of Adam in each round, for a similarity that is no inner product of features."""
    missing: float = 0.6
    """A ray that misses this share of its tissue counts nothing, one that misses none counts 1."""
    scatter: bool = False
    """Whether the DRR gets the amount of scatter that explains the image best."""
    margin: int = 5
    """Pixels this near the volume's shadow are compared: a lone bone needs some around it."""


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
    cut: Bool[Array, "2 3"]
    """Faces of the grid that cut through the anatomy."""


class View(NamedTuple):
    """A scene from one pose."""

    similarity: Float[Array, ""]
    variance: Float[Array, ""]
    """Sum of squared residuals of the features, for one of the measurements of the prior."""
    hessian: Float[Array, "6 6"]
    """J^T J of the features and of the prior, whose weight is the variance."""
    mask: Float[Array, "rows columns"]
    shadow: Float[Array, "rows columns"]


class Aligned(NamedTuple):
    """What one level did."""

    pose: jaxlie.SE3
    trace: RefineTrace
    """The value is the similarity."""
    first: View
    """From the start of the whole registration."""
    last: View
    """From the pose found."""


def focus(volume: Volume, frame: Frame, pose: jaxlie.SE3, pixels: int) -> Frame:
    """The part of the image where the volume is expected, square and of fixed size.

    The window holds the projection of the volume's grid, and a quarter more on each side for a
    start that is off, as far as the image reaches.
    """
    rows, columns = frame.camera.image_size
    sides = jnp.array(volume.mu.shape[-3:], volume.affine.dtype) - 1
    index = jnp.stack(jnp.meshgrid(*([jnp.array([0.0, 1.0])] * 3), indexing="ij"), -1)
    corners = index.reshape(8, 3) * sides @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    projected = project_points(frame.camera, pose, corners)
    low, high = projected.min(0), projected.max(0)
    margin = 0.25 * (high - low)
    last = jnp.array([columns, rows], low.dtype) - 0.5
    low, high = jnp.clip(low - margin, -0.5, last), jnp.clip(high + margin, -0.5, last)
    empty = ~((high - low) > 4).all()  # out of view or not finite: look at everything
    low, high = jnp.where(empty, -0.5, low), jnp.where(empty, last, high)
    side = (high - low).max()
    return window(frame, (low + high - side) / 2, side, pixels)


def scene(volume: Volume, finest: Frame, cut: Bool[Array, "2 3"], level: Level) -> Scene:
    """What a level compares: image and volume at its resolution."""
    pyramid = (volume, *volume.coarser)
    frame = downsample(finest, finest.image.shape[-1] // level.pixels)
    return Scene(pyramid[min(level.voxels, len(pyramid) - 1)], frame, pyramid[-1], cut)


def align(scene: Scene, level: Level, pose: jaxlie.SE3, start: jaxlie.SE3, prior: Prior) -> Aligned:
    """Refines a pose at one level: rounds of a fresh mask and a few Levenberg-Marquardt steps."""
    one_round = _least_squares(scene, level, start, prior)
    if level.similarity in FEATURES:
        tolerances = [jnp.inf, *[TOLERANCE] * level.rounds, jnp.inf]
    else:
        pose, trace = _climb(scene, level, pose)
        tolerances = [jnp.inf, jnp.inf]
    at_start = jnp.arange(len(tolerances)) == 0

    def turn(pose, kind):
        at_start, tolerance = kind
        here = jax.tree.map(lambda a, b: jnp.where(at_start, a, b), start, pose)
        refined, view = one_round(here, tolerance)
        after = jax.tree.map(lambda a, b: jnp.where(at_start, b, a), refined.pose, pose)
        return after, (refined.trace, view)

    # The looks at both ends are rounds without a step, so that one compiled loop does everything.
    kinds = at_start, jnp.array(tolerances, pose.wxyz_xyz.dtype)
    pose, (traces, views) = jax.lax.scan(turn, pose, kinds)
    if level.similarity in FEATURES:
        trace = _joined(jax.tree.map(lambda x: x[1:-1], traces))
    first, last = (jax.tree.map(lambda x, i=i: x[i], views) for i in (0, -1))
    return Aligned(pose, trace, first, last)


def _least_squares(scene: Scene, level: Level, start: jaxlie.SE3, prior: Prior):
    """A round of Levenberg-Marquardt on differences of features, with the prior.

    The DRR gets the amount of scatter that explains the image best at the round's first pose.
    Without it dense anatomy looks too contrasted, and the pose comes out too near or too far: on a
    head by 2 mm. A similarity without features is judged by `local_ncc`.
    """
    features = FEATURES.get(level.similarity, FEATURES["local_ncc"])(level)
    pivot = scene.volume.isocenter

    def one_round(pose, tolerance) -> tuple[Refined, View]:
        image = _drr(scene, pose)
        mask, shadow = _usable(scene, level, pose, image)
        fixed = features(scene.frame.image, mask)
        scatter = (
            _fitted_scatter(lambda s: features(add_scatter(image, s), mask), fixed)
            if level.scatter
            else 0.0
        )
        moving = features(add_scatter(image, scatter), mask)
        variance = ((moving - fixed) ** 2).sum() / prior.pixels

        def belief(pose):
            return jnp.sqrt(variance) * departure(start, pose, pivot, prior)

        def residuals(pose):
            moving = add_scatter(_drr(scene, pose), scatter)
            return features(moving, mask) - fixed, belief(pose)

        refined = levenberg_marquardt(
            residuals, pose, pivot=pivot, steps=level.steps, tolerance=tolerance
        )
        doubt = 0.5 * (jax.vmap(belief)(refined.trace.pose) ** 2).sum(1)
        similarities = 1 - refined.trace.value + doubt
        refined = refined._replace(trace=refined.trace._replace(value=similarities))
        value = similarity.inner(moving, fixed)
        return refined, View(value, variance, refined.hessian, mask, shadow)

    return one_round


def _fitted_scatter(features_of, fixed: Array) -> Float[Array, ""]:
    """The candidate whose features are most like those of the image."""
    candidates = jnp.array(SCATTER, fixed.dtype)
    scores = jax.lax.map(lambda s: similarity.inner(features_of(s), fixed), candidates)
    return candidates[jnp.argmax(scores)]


def _climb(scene: Scene, level: Level, pose: jaxlie.SE3) -> tuple[jaxlie.SE3, RefineTrace]:
    """Rounds of Adam on any similarity; steps shrink from 2 mm (or 0.04 rad) to a twentieth."""
    import optax

    measure = similarity.SIMILARITIES[level.similarity]
    schedule = optax.cosine_decay_schedule(2.0, level.gradient_steps, 0.05)

    def one_round(pose, _):
        mask, _ = _usable(scene, level, pose, _drr(scene, pose))
        refined = refine(
            lambda pose: measure(_drr(scene, pose), scene.frame.image, mask),
            pose,
            optax.adam(schedule),
            pivot=scene.volume.isocenter,
            steps=level.gradient_steps,
        )
        return refined.pose, refined.trace

    pose, traces = jax.lax.scan(one_round, pose, None, length=level.rounds)
    return pose, _joined(traces)


def _joined(traces: RefineTrace) -> RefineTrace:
    """One trace from those of several rounds (leading axis)."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), traces)


def _drr(scene: Scene, pose: jaxlie.SE3) -> Float[Array, "rows columns"]:
    """The volume as the X-ray would show it: what the scan has cut off goes on as the cut face."""
    image = drr.render(scene.volume, scene.frame.camera, pose, drr.joseph(scene.cut))
    return image if image.ndim == 2 else image.sum(0)


def _usable(scene: Scene, level: Level, pose: jaxlie.SE3, image: Float[Array, "rows columns"]):
    """Weight of each pixel at a pose, and the volume's shadow alone."""
    camera = scene.frame.camera
    shadow = silhouette(image, level.margin)
    rays = voxel_rays(scene.coarsest, camera, pose, pixel_grid(camera))
    missing = missing_share(scene.coarsest, rays, scene.cut).reshape(camera.image_size)
    complete = jnp.clip(1 - missing / level.missing, 0, 1)
    return valid_mask(scene.frame) * shadow * complete, shadow


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
