"""Sequences: the pose in every frame of a fluoroscopy run, each frame starting from the last.

`track` is for a run that is there: all frames are one compiled loop. `follow` is for frames as they
come. A frame that does not pass its checks is lost: it keeps its verdict, and the next one starts
from the last good pose. What finds a lost patient again is a function of the caller, such as a
network or a search, run between two such loops, or at once.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jxreg import alignment
from jxreg.alignment import Level
from jxreg.candidates import Found, start_of
from jxreg.descent import STEP, descent_of, last_two, through
from jxreg.drr.coverage import cut_faces
from jxreg.errors import InputError
from jxreg.evidence import Look, evidence_of
from jxreg.frame import Frame
from jxreg.pose import perturb, rotation_angle, twist_between
from jxreg.precision import full_precision
from jxreg.register import (
    RegisterConfig,
    Registration,
    Start,
    begin,
    covariance,
    levels_of,
    register,
    unless_hopeless,
)
from jxreg.verdict import Status, judge
from jxreg.volume import Volume

FRAME = RegisterConfig(levels=(Level(64, 2, steps=3, tolerance=0.2),))
"""From one frame to the next: a start within a few millimetres, and no time to spare."""
Search = Callable[[Volume, Frame], jaxlie.SE3 | Found]


@dataclass(frozen=True)
class TrackConfig:
    """How `track` follows a sequence."""

    first: RegisterConfig | None = RegisterConfig()
    """How a start is refined in the first frame, and a searched one in its own; None: not at
    all."""
    each: RegisterConfig = FRAME
    """How every frame is registered."""
    glance: Level = Level(32, 3)
    """Where it is decided whether the last motion goes on."""
    searches: int = 8
    """How often a lost frame is searched, at most."""


def track(
    volume: Volume,
    frames: Frame,
    pose: Start | None = None,
    *,
    config: TrackConfig = TrackConfig(),
    search: Search | None = None,
) -> Registration:
    """Finds the pose in every frame of a sequence.

    Each frame starts where the last good one ended, or where its motion leads if the image there
    looks more alike.

    Args:
        volume: The patient.
        frames: The sequence; leading axis frames on every leaf, as `load_frames` gives it.
        pose: Start for the first frame, as for `register`.
        config: What to do; static.
        search: From volume and one frame to a start (`recipes.model.starter`, `jxreg.search`). It
            is called outside compiled code, for a frame that is lost; the frames after it are then
            tracked again.

    Returns:
        A registration with a leading axis of frames. Its `initial_similarity` is that of the start
        at the `glance`.

    Raises:
        InputError: The frames have no common leading axis.
    """
    _check(frames)
    start = _refined(volume, _frame(frames, 0), pose, config)[0]
    nothing = _nothing(volume, frames, start, config)
    result = _follow(volume, frames, start, jnp.int32(0), nothing, config)
    next_, left = 0, config.searches if search is not None else 0
    while left and search is not None:
        lost = np.flatnonzero(np.asarray(result.status)[next_:] != Status.OK) + next_
        if not lost.size:
            break
        k, next_, left = int(lost[0]), int(lost[0]) + 1, left - 1
        frame = _frame(frames, k)
        found, status = _refined(volume, frame, search, config)
        if int(status) == Status.OK:
            result = _follow(volume, frames, found, jnp.int32(k), result, config)
    return result


def follow(
    volume: Volume,
    frames: Iterable[Frame],
    pose: Start | None = None,
    *,
    config: TrackConfig = TrackConfig(),
    search: Search | None = None,
) -> Iterator[Registration]:
    """`track` for a live image: the pose in each frame as it comes.

    Args:
        volume: The patient.
        frames: One after the other, of one size.
        pose: Start for the first frame, as for `register`.
        config: What to do; static.
        search: As of `track`, for a frame that is lost, at once.

    Yields:
        The registration of each frame.
    """
    state, left = None, config.searches if search is not None else 0
    for frame in frames:
        if state is None:
            state = _at(_refined(volume, frame, pose, config)[0])
        state, result = _step(volume, frame, state, config)
        if left and int(result.status) != Status.OK:
            left -= 1
            found, status = _refined(volume, frame, search, config)
            if int(status) == Status.OK:
                state, result = _step(volume, frame, _at(found), config)
        yield result


def _check(frames: Frame) -> None:
    sizes = {leaf.shape[:1] for leaf in jax.tree.leaves(frames)}
    if len(sizes) != 1 or sizes == {()} or frames.image.ndim != 3:
        raise InputError(
            "frames",
            f"an image of shape {frames.image.shape}, other leaves with {sorted(sizes)}",
            "a leading axis of frames on every leaf, the camera's too",
            "use load_frames, or stack frames with jax.tree.map(lambda *x: jnp.stack(x), *frames)",
        )


def _frame(frames: Frame, k: int) -> Frame:
    return jax.tree.map(lambda x: x[k], frames)


def _refined(
    volume: Volume, frame: Frame, pose: Start | None, config: TrackConfig
) -> tuple[jaxlie.SE3, Int[Array, ""]]:
    """A start, refined, and its status."""
    if config.first is None:
        return start_of(begin(volume, frame, pose, config.each))[0], jnp.int32(Status.OK)
    result = register(volume, frame, pose, config=config.first)
    return result.pose, result.status


@functools.partial(jax.jit, static_argnames="config")
@full_precision
def _nothing(volume: Volume, frames: Frame, start: jaxlie.SE3, config: TrackConfig) -> Registration:
    """Nothing found yet, in the shape of what will be: so that one compiled loop does it all."""

    def one(frame: Frame, pose: jaxlie.SE3) -> Registration:
        cut = cut_faces(volume) if config.each.truncated else None
        return _register_next(volume, frame, cut, _at(pose), config)

    shapes = jax.eval_shape(one, _frame(frames, 0), start)
    count = frames.image.shape[0]
    return jax.tree.map(lambda x: jnp.zeros((count, *x.shape), x.dtype), shapes)


class _State(NamedTuple):
    """What goes from frame to frame."""

    pose: jaxlie.SE3
    """The last good one."""
    motion: Float[Array, "6"]
    """Twist from the good pose before to the last one; 0 after a lost frame."""


def _at(pose: jaxlie.SE3) -> _State:
    return _State(pose, jnp.zeros_like(pose.wxyz_xyz[:6]))


@functools.partial(jax.jit, static_argnames="config")
@full_precision
def _follow(
    volume: Volume,
    frames: Frame,
    start: jaxlie.SE3,
    begin: Int[Array, ""],
    before: Registration,
    config: TrackConfig,
) -> Registration:
    """Tracks from frame `begin` on; the frames before it keep what they have."""
    cut = cut_faces(volume) if config.each.truncated else None

    def step(state: _State, frame: Frame, _: Registration) -> tuple[_State, Registration]:
        return _next(volume, frame, cut, state, config)

    def keep(state: _State, _: Frame, old: Registration) -> tuple[_State, Registration]:
        return state, old

    def step_or_keep(state: _State, inputs) -> tuple[_State, Registration]:
        number, *rest = inputs
        return jax.lax.cond(number < begin, keep, step, state, *rest)

    numbers = jnp.arange(frames.image.shape[0])
    return jax.lax.scan(step_or_keep, _at(start), (numbers, frames, before))[1]


@functools.partial(jax.jit, static_argnames="config")
@full_precision
def _step(
    volume: Volume, frame: Frame, state: _State, config: TrackConfig
) -> tuple[_State, Registration]:
    """Tracks one frame."""
    cut = cut_faces(volume) if config.each.truncated else None
    return _next(volume, frame, cut, state, config)


def _next(
    volume: Volume, frame: Frame, cut, state: _State, config: TrackConfig
) -> tuple[_State, Registration]:
    """The registration of the next frame, and what goes on from it."""
    result = _register_next(volume, frame, cut, state, config)
    good = result.status == Status.OK
    motion = twist_between(state.pose, result.pose, volume.isocenter)
    kept = jax.tree.map(lambda a, b: jnp.where(good, a, b), result.pose, state.pose)
    return _State(kept, jnp.where(good, motion, 0.0)), result


def _register_next(volume: Volume, frame: Frame, cut, state: _State, config: TrackConfig):
    """Registers a frame from the last pose or from where the motion leads."""
    each = config.each
    levels = levels_of(each)
    largest = max(level.pixels for level in (*levels, config.glance))
    finest = alignment.focus(volume, frame, state.pose, largest)
    start, seen = _start(volume, finest, cut, state, config)

    descent = descent_of(volume, finest, cut, start, each.prior)
    aligned, trace = through(levels, start, descent, each.nearby)
    step = alignment.departure(*last_two(start, trace), volume.isocenter, STEP)
    terms = aligned.terms
    scene = alignment.scene(volume, finest, cut, levels[-1])
    looks = Look(start, terms), Look(aligned.pose, terms)
    evidence = evidence_of(volume, frame, scene, *looks, jnp.linalg.norm(step))
    status = judge(evidence, each.thresholds)
    return Registration(
        unless_hopeless(status, aligned.pose, start),
        status,
        unless_hopeless(status, evidence.probability, 0.0),
        terms.similarity,
        seen,
        covariance(aligned),
        terms.shadow.mean(),
        evidence.kept,
        trace,
        evidence.signals,
    )


def _start(volume: Volume, finest: Frame, cut, state: _State, config: TrackConfig):
    """The better one of staying and going on, and its similarity at a glance."""
    scene = alignment.scene(volume, finest, cut, config.glance)
    ahead = perturb(state.pose, state.motion, volume.isocenter)
    poses = jax.tree.map(lambda a, b: jnp.stack([a, b]), state.pose, ahead)

    def look(pose):
        return alignment.look(scene, config.glance, pose, config.each.prior).similarity

    scores = jax.lax.map(look, poses)
    best = jnp.where(scores[1] > scores[0], 1, 0)
    return jax.tree.map(lambda x: x[best], poses), scores[best]


class Motion(NamedTuple):
    """How the patient moved before the camera."""

    shift_mm: Float[Array, " steps"]
    """Way of the isocenter from each frame to the next [mm], in camera axes; NaN if one is lost."""
    turn_degrees: Float[Array, " steps"]
    """Angle between them [deg]."""
    period: Float[Array, ""]
    """Period of the isocenter's way across the beam [frames]; NaN if there is none."""


def motion(result: Registration, isocenter: Float[Array, "3"]) -> Motion:
    """Statistics of a tracked sequence.

    The period is that of the strongest frequency along the principal axis of the motion, without
    its linear trend, if it makes two thirds of the power, and the motion 0.1 mm, or more. The
    sequence has to be two periods long.
    """
    good = result.status == Status.OK
    places = jax.vmap(lambda pose: pose.apply(isocenter))(result.pose)
    both = good[1:] & good[:-1]
    first, second = (jax.tree.map(lambda x, s=s: x[s], result.pose) for s in _NEIGHBOURS)
    turns = jnp.rad2deg(jax.vmap(rotation_angle)(first, second))
    shifts = jnp.linalg.norm(jnp.diff(places, axis=0), axis=1)
    return Motion(
        jnp.where(both, shifts, jnp.nan),
        jnp.where(both, turns, jnp.nan),
        _period(places[:, :2], good),
    )


_NEIGHBOURS = slice(None, -1), slice(1, None)


def _period(places: Float[Array, "n 2"], good: Bool[Array, " n"]) -> Float[Array, ""]:
    count = places.shape[0]
    time = jnp.arange(count, dtype=places.dtype)
    filled = jax.vmap(_filled, in_axes=(None, 1, None), out_axes=1)(time, places, good)
    design = jnp.stack([jnp.ones(count), time], 1)
    rest = filled - design @ jnp.linalg.lstsq(design, filled)[0]
    along = rest @ jnp.linalg.svd(rest, full_matrices=False)[2][0]
    power = jnp.abs(jnp.fft.rfft(along * jnp.hanning(count), 8 * count)) ** 2
    frequency = jnp.fft.rfftfreq(8 * count)
    slow = frequency * count < 2
    best = jnp.where(slow, 0.0, power).argmax()
    peak = power[best] > power[best - 1]  # not the slope of something slower
    power = jnp.where(slow, 0.0, power)
    near = jnp.abs(frequency - frequency[best]) <= 2 / count
    share = (power * near).sum() / jnp.maximum(power.sum(), 1e-12)
    is_there = (share > 2 / 3) & (along.std() > 0.1) & peak
    return jnp.where(is_there, 1 / jnp.maximum(frequency[best], 1e-6), jnp.nan)


def _filled(time: Any, values: Float[Array, " n"], good: Bool[Array, " n"]) -> Float[Array, " n"]:
    """Lost entries, from the good ones on both sides."""
    inside = jnp.where(good, time, jnp.inf)
    order = jnp.argsort(inside)
    known = jnp.where(good[order], time[order], time[-1] + 1)
    last = values[order][jnp.maximum(good.sum() - 1, 0)]
    return jnp.interp(time, known, jnp.where(good[order], values[order], last))
