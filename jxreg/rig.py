"""One level of a registration of several images, several bodies, or both: one least squares.

Cameras that keep their places to each other are a rig, with axes of its own; a body has a pose in
it. Every camera sees the sum of the bodies. What is compared in each image, and how, is as in
`alignment`; here the residuals of all images are put together. The geometry of the rig may be
sought as well, each part of it held by a Gaussian prior.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxlie
from jaxtyping import Array, Float

from jxreg.alignment import (
    Aligned,
    Level,
    Prior,
    Scene,
    Terms,
    climb_of,
    departure,
    difference,
    focus_on_all,
    frame_at,
    likeness,
    volume_at,
)
from jxreg.alignment import predict as predict_image
from jxreg.alignment import settle as settle_image
from jxreg.ascent import climbs
from jxreg.camera import with_lens
from jxreg.frame import Frame
from jxreg.pose import perturb
from jxreg.refinement import (
    ROTATION_SCALE,
    TRANSLATION_SCALE,
    TURNS,
    LeastSquares,
    Motion,
    minimise,
    nudge,
)
from jxreg.volume import Volume, coarsest

LENS_SCALE = (0.002, 1.0, 1.0)
"""Units of the optimizer: of the logarithm of the SDD, and of the principal point [mm]."""
VIEW_AXIS = Scene(None, 0, None, None, 0)  # pyright: ignore[reportArgumentType]
"""What of a scene has a leading axis of views."""


class Rig(NamedTuple):
    """What is sought: bodies and cameras in a common frame."""

    bodies: jaxlie.SE3
    """Poses of the bodies, `rig_from_world`; leading axis bodies."""
    cameras: jaxlie.SE3
    """`camera_from_rig`; leading axis views."""
    lens: Float[Array, "views 3"]
    """Logarithm of the factor on the SDD, and shift (u, v) of the principal point [mm]."""


@dataclass(frozen=True)
class Geometry:
    """What is sought besides the poses of the bodies, each with the prior that holds it."""

    cameras: Prior | None = None
    """How far each camera may be from its place in the rig; None: it is where it is said to be."""
    sdd: float = 0.0
    """Standard deviation of each SDD, as a fraction of it; 0: it is known."""
    principal_point: float = 0.0
    """Standard deviation of each principal point along u and v [mm]; 0: it is known."""

    @property
    def lens(self) -> tuple[float, float, float]:
        """Standard deviations of `Rig.lens`; 0 for what is known."""
        return self.sdd, self.principal_point, self.principal_point


class RigTerms(NamedTuple):
    """How images and DRRs are compared: `Terms` of every image, and of all together."""

    views: Terms
    """Leading axis views."""
    similarity: Float[Array, ""]
    """Mean of the images."""
    variance: Float[Array, ""]
    """Mean of the images."""


def rig_of(bodies: Sequence[jaxlie.SE3], cameras: Sequence[jaxlie.SE3]) -> Rig:
    """A rig from poses of bodies and places of cameras."""
    known = jnp.zeros((len(cameras), 3), bodies[0].wxyz_xyz.dtype)
    return Rig(stacked(bodies), stacked(cameras), known)


def focused(volumes: tuple[Volume, ...], frames: Sequence[Frame], rig: Rig, pixels: int) -> Frame:
    """The window of each image in which the bodies are expected; leading axis views."""
    windows = []
    for view, frame in enumerate(frames):
        camera_from_rig = jax.tree.map(lambda x, view=view: x[view], rig.cameras)
        poses = tuple(camera_from_rig @ body_of(rig, b) for b in range(len(volumes)))
        window = focus_on_all(volumes, frame, poses, pixels)
        windows.append(replace(window, carm=None))
    return stacked(windows)


def rig_scene(volume: Volume, finest: Frame, cut, level: Level) -> Scene:
    """What a level compares of one body; frames with a leading axis of views."""
    frames = jax.vmap(lambda frame: frame_at(frame, level))(finest)
    return Scene(volume_at(volume, level), frames, coarsest(volume), cut)


def stacked(items: Sequence[Any]) -> Any:
    """Pytrees as one, with a leading axis."""
    return jax.tree.map(lambda *x: jnp.stack(x), *items)


def align_rig(
    scenes: tuple[Scene, ...], level: Level, rig: Rig, start: Rig, geometry: Geometry, prior: Prior
) -> Aligned:
    """Refines a rig at one level.

    Args:
        scenes: One for each body; their frame and background have a leading axis of views.
        level: The level; its climb has no parametrisation and no patches.
        rig: Where to begin.
        start: Where the priors are.
        geometry: What is sought besides the bodies.
        prior: Of each body, about its isocenter in the axes of the rig.

    Returns:
        The rig as pose, terms as `RigTerms`; the Hessian is by the parameters of `motion_of`.
    """
    steps, tolerance, trace = level.steps, level.tolerance, None
    problem = _comparison(scenes, level, start, geometry, prior)
    motion, how = motion_of(start, _pivots(scenes), geometry), climb_of(level)
    if how is not None:

        def objective_at(rig):
            terms = problem.settle(rig, problem.observe(rig))
            return rig_objective(scenes, level, terms, start, geometry, prior)

        rig, trace = climbs(objective_at, rig, how, lambda _: motion)
        steps, tolerance = 0, jnp.inf
    refined, terms = minimise(problem, rig, motion, steps=steps, tolerance=tolerance)
    trace = refined.trace if trace is None else trace
    return Aligned(refined.pose, trace, terms, refined.hessian)


def _comparison(
    scenes: tuple[Scene, ...], level: Level, start: Rig, geometry: Geometry, prior: Prior
) -> LeastSquares:
    """Differences of features of all images, with the priors."""
    pivots = _pivots(scenes)

    def observe(rig):
        return predict_rig(scenes, rig)

    def settle(rig, images) -> RigTerms:
        return settle_rig(scenes, level, rig, images, prior)

    def residuals(rig, images, terms: RigTerms):
        apart = jax.vmap(lambda image, terms: difference(level, image, terms))(images, terms.views)
        belief = _departures(start, rig, pivots, geometry, prior)
        return apart, jnp.sqrt(terms.variance) * belief

    return LeastSquares(observe, settle, residuals, lambda _, terms: terms.similarity)


def rig_objective(
    scenes: tuple[Scene, ...],
    level: Level,
    terms: RigTerms,
    start: Rig,
    geometry: Geometry,
    prior: Prior,
) -> Callable[[Rig], Float[Array, ""]]:
    """What a climb maximises: mean similarity of the images, less the share of the priors.

    Half the sum of squares of Levenberg-Marquardt is 1 less this, times the number of images; of
    one image of known geometry, whose camera is the rig, it is `alignment.objective`.

    Args:
        scenes: As of `align_rig`.
        level: As of `align_rig`.
        terms: From `settle_rig`, near the rigs that are compared.
        start: As of `align_rig`.
        geometry: As of `align_rig`.
        prior: As of `align_rig`.
    """
    pivots, views = _pivots(scenes), start.lens.shape[0]

    def alike(scenes, poses, terms):
        return likeness(scenes, level, poses, terms)

    def value(rig: Rig) -> Float[Array, ""]:
        belief = _departures(start, rig, pivots, geometry, prior)
        similarity = _per_view(alike, scenes, rig, terms.views).mean()
        return similarity - 0.5 * terms.variance * (belief**2).sum() / views

    return value


def settle_rig(
    scenes: tuple[Scene, ...], level: Level, rig: Rig, images: Float[Array, "v h w"], prior: Prior
) -> RigTerms:
    """How the images and what the rig predicts of them are compared."""

    def settle(scenes, poses, image):
        return settle_image(scenes, level, poses, image, prior)

    views = _per_view(settle, scenes, rig, images)
    return RigTerms(views, views.similarity.mean(), views.variance.mean())


def predict_rig(scenes: tuple[Scene, ...], rig: Rig) -> Float[Array, "views rows columns"]:
    """What every camera sees."""
    return _per_view(predict_image, scenes, rig)


def _per_view(function: Callable, scenes: tuple[Scene, ...], rig: Rig, *more) -> Any:
    """`function(scenes, poses, ...)` of each view, its camera as the rig has it."""

    def at(scenes, camera_from_rig, lens, *more):
        frame = scenes[0].frame
        frame = replace(frame, camera=with_lens(frame.camera, lens))
        poses = tuple(camera_from_rig @ body_of(rig, b) for b in range(len(scenes)))
        return function(tuple(scene._replace(frame=frame) for scene in scenes), poses, *more)

    axes = ((VIEW_AXIS,) * len(scenes), 0, 0, *(0 for _ in more))
    return jax.vmap(at, in_axes=axes)(scenes, rig.cameras, rig.lens, *more)


def body_of(rig: Rig, number: int) -> jaxlie.SE3:
    """Pose of one body, `rig_from_world`."""
    return jax.tree.map(lambda x: x[number], rig.bodies)


def motion_of(start: Rig, pivots: Float[Array, "bodies 3"], geometry: Geometry) -> Motion:
    """How a step moves a rig: twists of the bodies, then of the cameras, then their lenses.

    Bodies turn about their isocenters in the axes of the rig. A camera moves as if the isocenter of
    the first body moved before it, so that all its parameters count in mm at the patient.
    """
    bodies, views = pivots.shape[0], start.lens.shape[0]
    centre = body_of(start, 0).apply(pivots[0])
    sought = [k for k, deviation in enumerate(geometry.lens) if deviation > 0]
    twist = [TRANSLATION_SCALE] * 3 + [ROTATION_SCALE] * 3
    cameras = views if geometry.cameras is not None else 0
    scale = twist * (bodies + cameras) + [LENS_SCALE[k] for k in sought] * views
    turns = TURNS * (bodies + cameras) + (False,) * (len(sought) * views)

    def by(how):
        def moved(rig: Rig, parameters) -> Rig:
            ends = 6 * bodies, 6 * (bodies + cameras)
            twists, camera_twists, lens = jnp.split(parameters, ends)
            poses = jax.vmap(how)(rig.bodies, twists.reshape(-1, 6), pivots)
            places = rig.cameras
            if cameras:
                twists = camera_twists.reshape(-1, 6)
                places = jax.vmap(how, in_axes=(0, 0, None))(places, twists, centre)
            change = rig.lens
            if sought:
                change = change.at[:, jnp.array(sought)].add(lens.reshape(views, -1))
            return Rig(poses, places, change)

        return moved

    return Motion(jnp.array(scale, start.lens.dtype), by(perturb), by(nudge), turns)


def _pivots(scenes: tuple[Scene, ...]) -> Float[Array, "bodies 3"]:
    return jnp.stack([scene.volume.isocenter for scene in scenes])


def _departures(
    start: Rig, rig: Rig, pivots: Float[Array, "bodies 3"], geometry: Geometry, prior: Prior
) -> Float[Array, " n"]:
    """How far everything is from the start, in standard deviations of its prior."""
    parts = [
        jax.vmap(lambda a, b, pivot: departure(a, b, pivot, prior))(
            start.bodies, rig.bodies, pivots
        )
    ]
    if geometry.cameras is not None:
        centre = body_of(start, 0).apply(pivots[0])
        held = geometry.cameras
        away = jax.vmap(lambda a, b: departure(a, b, centre, held))
        parts.append(away(start.cameras, rig.cameras))
    for column, deviation in enumerate(geometry.lens):
        if deviation > 0:
            parts.append((rig.lens - start.lens)[:, column] / deviation)
    return jnp.concatenate([part.ravel() for part in parts])
