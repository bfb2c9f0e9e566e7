"""Registration of one X-ray image: start, coarse-to-fine refinement, verdict."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, no_type_check

import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from jxreg import alignment
from jxreg.alignment import Aligned, Level, Prior
from jxreg.camera import Camera
from jxreg.candidates import Found, compare, start_of
from jxreg.confidence import SPREAD, Signals
from jxreg.drr.coverage import cut_faces
from jxreg.errors import InputError
from jxreg.evidence import Look, evidence_of
from jxreg.frame import Frame
from jxreg.global_search import SearchConfig, search
from jxreg.pose import from_carm, perturb
from jxreg.precision import full_precision
from jxreg.refinement import RefineTrace
from jxreg.verdict import Status, Thresholds, judge
from jxreg.volume import Volume

STEP = Prior(shift=1.0, depth=10.0, rotation=0.02)
"""What counts as a step of 1 mm; one image hardly sees the depth."""
HOPELESS = (Status.NON_FINITE, Status.NO_SIGNAL, Status.OUT_OF_VIEW)
"""Verdicts of input that no registration can use: the start comes back."""


@dataclass(frozen=True)
class Nearby:
    """Starts around the given one; the image picks those from which a registration begins.

    Each costs one DRR of the first level; the given one and the best ones go through that level,
    the best of these that end apart through the second one, and the best there through the others.
    A coarse level alone may prefer a wrong optimum that a finer one sees through.
    """

    count: int = 0
    """How many besides the given one; 0 for none."""
    kept: int = 4
    """How many of them go through the first level."""
    carried: int = 3
    """How many of the ends of the first level go through the second."""
    apart: float = 1.0
    """Ends nearer than this [mm, or 0.02 rad] are the same."""
    shift: float = 5.0
    """Farthest along each axis [mm]."""
    rotation: float = 0.09
    """Farthest about each axis [rad]."""


@dataclass(frozen=True)
class RegisterConfig:
    """How `register` refines and judges a pose. The defaults are meant to need no tuning."""

    levels: tuple[Level, ...] = (
        Level(32, 3, tolerance=0.1),
        Level(64, 2, tolerance=0.1),
        Level(128, 1, scatter=True),
    )
    """From coarse to fine."""
    found: tuple[Level, ...] = (
        Level(64, 2, tolerance=0.1, scatter=True),
        Level(128, 1, similarity="gradient_ncc", scatter=True),
        Level(128, 1, scatter=True),
    )
    """The same for what a search or a comparison found. That is good to a pixel of its fine level,
    and where the scan is cut off a coarser level would lead away from it."""
    similarity: str | None = None
    """One similarity for all levels instead of each level's own."""
    truncated: bool = True
    """Whether anatomy may go on beyond the first and last slice; False: the image shows the ends of
    the volume, as for a phantom or a dry bone."""
    nearby: Nearby = Nearby()
    """Other starts to try; for a small bone, whose basin is small."""
    prior: Prior = Prior()
    """How far from the start the pose may be; it counts where the image says little."""
    search: SearchConfig = SearchConfig()
    """Where to look if there is no start; `truncated` above overrules the one in it."""
    thresholds: Thresholds = Thresholds()
    """What the verdict asks for."""


class Trace(NamedTuple):
    """Every step of a registration, level after level."""

    similarity: Float[Array, " steps"]
    step_mm: Float[Array, " steps"]
    """Length of the step, one mm for each mm and each 0.02 rad; 0 for steps not taken."""
    level: Int[Array, " steps"]
    """Its number in the configuration's `levels` and, after them, `found`."""
    pose: jaxlie.SE3


class Views(NamedTuple):
    """The images of a registration that had several, each alone; leading axis views."""

    camera_from_rig: jaxlie.SE3
    """As they were given, or as they were found if their geometry was sought."""
    camera: tuple[Camera, ...]
    """The same of the cameras themselves; a tuple, since images may differ in size."""
    status: Int[Array, " views"]
    """The verdict that each image would get alone, at the common pose."""
    probability: Float[Array, " views"]
    signals: Signals | None
    similarity: Float[Array, " views"]
    initial_similarity: Float[Array, " views"]
    coverage: Float[Array, " views"]
    kept: Float[Array, " views"]


@no_type_check  # JAX rebuilds pytrees from tracers, None and batched leaves
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Registration:
    """What a registration found, and how it went."""

    pose: jaxlie.SE3
    """Extrinsic, `camera_from_world`."""
    status: Int[Array, "*batch"]
    """A `Status`."""
    probability: Float[Array, "*batch"]
    """That the mRPD is below 2 mm, calibrated on simulated X-rays (`confidence`)."""
    similarity: Float[Array, "*batch"]
    """Similarity of the finest level at the pose, in its usable pixels."""
    initial_similarity: Float[Array, "*batch"]
    """The same at the start."""
    covariance: Float[Array, "*batch 6 6"]
    """Of the twist (mm, rad) about the isocenter in camera axes, from residuals and prior;
    calibrated on simulated X-rays (`confidence.SPREAD`)."""
    coverage: Float[Array, "*batch"]
    """Fraction of the image that the volume's shadow covers."""
    kept: Float[Array, "*batch"]
    """Fraction of the shadow's pixels that could be used: valid, and not truncated."""
    trace: Trace
    signals: Signals | None = None
    """What the probability was made of; of several images it is in `views`."""
    views: Views | None = None
    """Of `register_views` and `register_bodies`: each image alone, with a leading axis."""
    found: Found | None = None
    """What a search found, the poses that were second best too; None if there was none."""


Start = jaxlie.SE3 | Found | Callable[[Volume, Frame], "jaxlie.SE3 | Found"]
"""Where a registration may begin."""


def register(
    volume: Volume,
    frame: Frame,
    pose: Start | None = None,
    *,
    again: Start | None = None,
    config: RegisterConfig = RegisterConfig(),
) -> Registration:
    """Finds the pose of the camera that took one X-ray image.

    Args:
        volume: The patient.
        frame: One image (attenuation) and its camera.
        pose: Start, `camera_from_world`, or what `search` or `candidates.compare` found, or several
            starts to compare (a leading axis), or a function of volume and frame that gives one of
            these, such as a network (`recipes.model.starter`). By default the positioner angles
            that came with the image; if none did, the image is searched.
        again: Another start, for an image whose verdict is not OK (`retried`), such as several
            poses of a network that told one.
        config: What to do; static.

    Returns:
        The refined pose with a verdict. Input without signal, out of view or not finite comes back
        with the start as pose and a status that says so.
    """
    begun = begin(volume, frame, pose, config)
    if isinstance(begun, Found):
        finish = replace(config, levels=config.found)
        result = _register(volume, frame, *start_of(begun), finish)
        trace = result.trace._replace(level=result.trace.level + len(config.levels))
        result = replace(result, found=begun, trace=trace)
    else:
        result = _register(volume, frame, *start_of(begun), config)
    return result if again is None else retried(result, volume, frame, again, config)


def retried(
    first: Registration, volume: Volume, frame: Frame, again: Start, config: RegisterConfig
) -> Registration:
    """A second try for a registration that is not OK.

    In compiled code it costs its time only where it is needed, but under `vmap` always.

    Args:
        first: The registration. If it is OK, or nothing can be done with its input, it is the
            result.
        volume: As of `register`.
        frame: As of `register`.
        again: Where to begin.
        config: As of `register`.

    Returns:
        The second registration if it is OK or more probable, else the first one; `found` is of the
        first one in any case.
    """

    def second() -> Registration:
        return replace(register(volume, frame, again, config=config), found=first.found)

    done = jnp.isin(first.status, jnp.array((Status.OK, *HOPELESS)))
    if isinstance(done, Tracer):
        steps = max(_steps(first), _steps(jax.eval_shape(second)))
        return jax.lax.cond(done, lambda: _filled(first, steps), lambda: _better(first, second()))
    return first if done else _better(first, second())


def _better(first: Registration, other: Registration) -> Registration:
    """The other one if it is OK or more probable; the trace is as long as the longer one."""
    steps = max(_steps(first), _steps(other))
    better = (other.status == Status.OK) | (other.probability > first.probability)
    pair = _filled(other, steps), _filled(first, steps)
    return jax.tree.map(lambda a, b: jnp.where(better, a, b), *pair)


def _steps(result: Registration) -> int:
    return result.trace.step_mm.shape[0]


def _filled(result: Registration, steps: int) -> Registration:
    """With a trace of as many steps, the first of them not taken."""
    missing = steps - _steps(result)

    def fill(x, value):
        return jnp.concatenate([jnp.broadcast_to(value, (missing, *x.shape[1:])), x])

    trace = jax.tree.map(lambda x: fill(x, x[0]), result.trace)
    return replace(result, trace=trace._replace(step_mm=fill(result.trace.step_mm, 0.0)))


def begin(
    volume: Volume, frame: Frame, start: Start | None, config: RegisterConfig
) -> jaxlie.SE3 | Found:
    """The pose that a start stands for, or what was found where several were compared.

    Arguments as of `register`.
    """
    if callable(start):
        start = start(volume, frame)
    elif start is None and frame.carm is not None:
        start = initial_pose(volume, frame)
    elif start is None:
        start = search(volume, frame, config=search_of(config))
    if isinstance(start, jaxlie.SE3) and start.wxyz_xyz.ndim > 1:
        how, truncated = config.search.compare, config.truncated
        return compare(volume, frame, start, config=how, truncated=truncated)
    return start


def initial_pose(volume: Volume, frame: Frame) -> jaxlie.SE3:
    """The pose that the frame's positioner angles say, the isocenter taken for the volume's.

    Raises:
        InputError: The frame has no positioner angles.
    """
    if frame.carm is None:
        raise InputError(
            "pose",
            "no start, and no positioner angles with the image",
            "a start within about 30 mm and 10 degrees",
            "give a pose, or the C-arm angles (jxreg.pose.from_carm)",
        )
    carm = frame.carm
    return from_carm(
        jnp.rad2deg(carm.primary),
        jnp.rad2deg(carm.secondary),
        jnp.rad2deg(carm.roll),
        source_to_isocenter=carm.source_to_isocenter,
        isocenter=volume.isocenter,
        offset=carm.offset,
    )


@functools.partial(jax.jit, static_argnames="config")
@full_precision
def _register(
    volume: Volume,
    frame: Frame,
    start: jaxlie.SE3,
    lead: Float[Array, ""],
    config: RegisterConfig,
) -> Registration:
    levels = levels_of(config)
    finest = alignment.focus(volume, frame, start, max(level.pixels for level in levels))
    cut = cut_faces(volume) if config.truncated else None

    descent = descent_of(volume, finest, cut, start, config.prior)
    aligned, trace = through(levels, start, descent, config.nearby)
    scene = alignment.scene(volume, finest, cut, levels[-1])
    first = alignment.look(scene, levels[-1], start, config.prior)
    last_step = alignment.departure(*last_two(start, trace), volume.isocenter, STEP)
    evidence = evidence_of(
        volume,
        frame,
        scene,
        Look(start, first),
        Look(aligned.pose, aligned.terms),
        jnp.linalg.norm(last_step),
    )
    evidence = evidence._replace(lead=lead)
    status = judge(evidence, config.thresholds)
    return Registration(
        unless_hopeless(status, aligned.pose, start),
        status,
        unless_hopeless(status, evidence.probability, 0.0),
        evidence.similarity,
        evidence.initial_similarity,
        covariance(aligned),
        aligned.terms.shadow.mean(),
        evidence.kept,
        trace,
        evidence.signals,
    )


def levels_of(config: RegisterConfig) -> list[Level]:
    """The levels, with the one similarity if the configuration names one."""
    if config.similarity is None:
        return list(config.levels)
    return [replace(level, similarity=config.similarity) for level in config.levels]


def search_of(config: RegisterConfig) -> SearchConfig:
    """The search, of a volume that is cut off or not as the configuration says."""
    return replace(config.search, truncated=config.truncated)


class Descent(NamedTuple):
    """What the way from coarse to fine needs to know of what is registered."""

    align: Callable[[Level, Any], Aligned]
    """Refines a pose at a level."""
    score: Callable[[Level, Any], Float[Array, ""]]
    """Similarity of a pose at a level."""
    move: Callable[[Any, Float[Array, "6"]], Any]
    """A pose moved by a twist."""
    apart: Callable[[Any, Any], Float[Array, ""]]
    """Distance of two poses in units of `STEP`."""


def descent_of(volume: Volume, finest: Frame, cut, start: jaxlie.SE3, prior: Prior) -> Descent:
    """The descent of one body in one image.

    Args:
        volume: The patient.
        finest: From `alignment.focus`.
        cut: Faces that cut through the anatomy, or None.
        start: Where the prior is.
        prior: How far from there the pose may be.
    """

    def align(level: Level, pose: jaxlie.SE3) -> Aligned:
        scene = alignment.scene(volume, finest, cut, level)
        return alignment.align(scene, level, pose, start, prior)

    def score(level: Level, pose: jaxlie.SE3) -> Float[Array, ""]:
        scene = alignment.scene(volume, finest, cut, level)
        return alignment.look(scene, level, pose, prior).similarity

    def move(pose: jaxlie.SE3, twist: Float[Array, "6"]) -> jaxlie.SE3:
        return perturb(pose, twist, volume.isocenter)

    def apart(one: jaxlie.SE3, other: jaxlie.SE3) -> Float[Array, ""]:
        return jnp.linalg.norm(alignment.departure(one, other, volume.isocenter, STEP))

    return Descent(align, score, move, apart)


def through(
    levels: list[Level], start: Any, descent: Descent, nearby: Nearby
) -> tuple[Aligned, Trace]:
    """From coarse to fine: what the last level did, and every step on the way to its pose."""
    done = _nearby(levels[:2], start, descent, nearby) if nearby.count else []
    pose = done[-1].pose if done else start
    for level in levels[len(done) :]:
        done.append(descent.align(level, pose))
        pose = done[-1].pose
    traces = [_trace(aligned.trace, number) for number, aligned in enumerate(done)]
    return done[-1], jax.tree.map(lambda *parts: jnp.concatenate(parts), *traces)


def _trace(trace: RefineTrace, number: int) -> Trace:
    level = jnp.full(trace.value.size, number, jnp.int32)
    return Trace(trace.value, trace.step_length, level, trace.pose)


def _nearby(levels: list[Level], start: Any, descent: Descent, nearby: Nearby) -> list[Aligned]:
    """What one or two levels do with the best of several starts; the given one is among them."""
    twists = jnp.asarray(_twists(nearby), float)
    poses = jax.vmap(lambda twist: descent.move(start, twist))(twists)
    scores = jax.lax.map(lambda pose: descent.score(levels[0], pose), poses)
    chosen = jax.lax.top_k(scores, min(nearby.kept, len(twists)))[1]
    poses = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b[chosen]]), start, poses)
    first = jax.vmap(lambda pose: descent.align(levels[0], pose))(poses)
    if len(levels) == 1:
        return [_taken(first, _best(first))]
    first = _taken(first, _distinct(first, descent, nearby))
    second = jax.lax.map(lambda pose: descent.align(levels[1], pose), first.pose)
    best = _best(second)
    return [_taken(first, best), _taken(second, best)]


def _distinct(each: Aligned, descent: Descent, nearby: Nearby) -> Int[Array, " carried"]:
    """The best ones, each far from the better ones; the best again where there are no more."""
    scores = jnp.nan_to_num(each.terms.similarity, nan=-jnp.inf)
    best, chosen = scores.argmax(), []
    for _ in range(min(nearby.carried, scores.size)):
        next_ = scores.argmax()
        chosen.append(jnp.where(jnp.isfinite(scores[next_]), next_, best))
        away = jax.vmap(descent.apart, in_axes=(None, 0))(_taken(each.pose, chosen[-1]), each.pose)
        scores = jnp.where(away < nearby.apart, -jnp.inf, scores).at[chosen[-1]].set(-jnp.inf)
    return jnp.stack(chosen)


def _best(each: Aligned) -> Int[Array, ""]:
    return jnp.nan_to_num(each.terms.similarity, nan=-jnp.inf).argmax()


def _taken(items: Any, index: Int[Array, "..."]) -> Any:
    return jax.tree.map(lambda x: x[index], items)


def _twists(nearby: Nearby) -> Float[np.ndarray, "count 6"]:
    """Twists spread evenly over the box (the R6 sequence of Roberts, 2018)."""
    root = 1.0
    for _ in range(64):
        root = (1 + root) ** (1 / 7)  # converges to the root of x^7 = x + 1
    unit = (0.5 + np.outer(np.arange(1, nearby.count + 1), root ** -np.arange(1.0, 7.0))) % 1
    return (2 * unit - 1) * np.array([nearby.shift] * 3 + [nearby.rotation] * 3)


def last_two(start: Any, trace: Trace) -> tuple[Any, Any]:
    """The pose before the last step and after it; the same if it was refused."""
    path = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), start, trace.pose)
    before, after = (jax.tree.map(lambda x, i=i: x[i], path) for i in (-2, -1))
    return before, after


def unless_hopeless(status: Int[Array, ""], found: Any, start: Any) -> Any:
    """What was found; the start if there was nothing to find."""
    nothing = jnp.isin(status, jnp.array(HOPELESS))
    return jax.tree.map(lambda a, b: jnp.where(nothing, a, b), start, found)


def covariance(aligned: Aligned) -> Float[Array, "n n"]:
    """Variance of a measurement times the inverse of J^T J, calibrated; infinite if unknown."""
    hessian = aligned.hessian
    scale = jnp.sqrt(jnp.maximum(jnp.diag(hessian), 1e-30))
    inverse = jnp.linalg.inv(hessian / (scale[:, None] * scale))
    return SPREAD * aligned.terms.variance * inverse / (scale[:, None] * scale)
