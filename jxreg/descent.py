"""The way of a pose through the levels, from coarse to fine, from one start or the best of several.

One image or several, one body or several: what is refined is a pose or a rig (`Descent`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
from jaxtyping import Array, Float, Int

from jxreg import alignment
from jxreg.alignment import Aligned, Level, Prior
from jxreg.frame import Frame
from jxreg.pose import perturb
from jxreg.refinement import RefineTrace
from jxreg.volume import Volume

STEP = Prior(shift=1.0, depth=10.0, rotation=0.02)
"""What counts as a step of 1 mm; one image hardly sees the depth."""


@dataclass(frozen=True)
class Nearby:
    """Starts around the given one; the image picks those from which a registration begins.

    Each costs one DRR of the first level; the given one and the best ones go through that level,
    the best of these that end apart through the second one, and the best there through the others.
    Which end is best the next level says, if there is one: the level that led there may prefer a
    wrong optimum that a finer one sees through.
    """

    count: int = 0
    """How many besides the given one; 0 for none."""
    kept: int = 4
    """How many of them go through the first level."""
    carried: int = 3
    """How many of the ends of the first level go through the second one."""
    apart: float = 1.0
    """Ends nearer than this [mm, or 0.02 rad] are the same."""
    shift: float = 5.0
    """Farthest along each axis [mm]."""
    rotation: float = 0.09
    """Farthest about each axis [rad]."""


class Trace(NamedTuple):
    """Every step of a registration, level after level."""

    similarity: Float[Array, " steps"]
    step_mm: Float[Array, " steps"]
    """Length of the step, one mm for each mm and each 0.02 rad; 0 for steps not taken."""
    level: Int[Array, " steps"]
    """Its number in the configuration's `levels` and, after them, `found`."""
    pose: jaxlie.SE3


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
    levels: list[Level], start: Any, descent: Descent, nearby: Nearby, first: int = 0
) -> tuple[Aligned, Trace]:
    """From coarse to fine: what the last level did, and every step on the way to its pose.

    Args:
        levels: From coarse to fine.
        start: A pose, or a rig.
        descent: What is registered.
        nearby: Other starts to try.
        first: Number of the first level in the trace.
    """
    done = _nearby(levels[:3], start, descent, nearby) if nearby.count else []
    pose = done[-1].pose if done else start
    for level in levels[len(done) :]:
        done.append(descent.align(level, pose))
        pose = done[-1].pose
    traces = [_trace(aligned.trace, number) for number, aligned in enumerate(done, first)]
    return done[-1], jax.tree.map(lambda *parts: jnp.concatenate(parts), *traces)


def _trace(trace: RefineTrace, number: int) -> Trace:
    level = jnp.full(trace.value.size, number, jnp.int32)
    return Trace(trace.value, trace.step_length, level, trace.pose)


def _nearby(levels: list[Level], start: Any, descent: Descent, nearby: Nearby) -> list[Aligned]:
    """What the first level or two do with the best of several starts; the given one is among them.

    A third level only says which of the ends is best.
    """
    twists = jnp.asarray(_twists(nearby), float)
    poses = jax.vmap(lambda twist: descent.move(start, twist))(twists)
    scores = jax.lax.map(lambda pose: descent.score(levels[0], pose), poses)
    chosen = jax.lax.top_k(scores, min(nearby.kept, len(twists)))[1]
    poses = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b[chosen]]), start, poses)
    first = jax.vmap(lambda pose: descent.align(levels[0], pose))(poses)
    if len(levels) == 1:
        return [_taken(first, _best(first.terms.similarity))]
    seen = _seen(levels[1], descent, first)
    first = _taken(first, _distinct(first.pose, seen, descent, nearby))
    second = jax.lax.map(lambda pose: descent.align(levels[1], pose), first.pose)
    best = _best(_seen(levels[2], descent, second) if levels[2:] else second.terms.similarity)
    return [_taken(first, best), _taken(second, best)]


def _seen(level: Level, descent: Descent, each: Aligned) -> Float[Array, " n"]:
    """Similarities of the ends of one level as the next one sees them."""
    return jax.lax.map(lambda pose: descent.score(level, pose), each.pose)


def _distinct(
    poses: Any, scores: Float[Array, " n"], descent: Descent, nearby: Nearby
) -> Int[Array, " carried"]:
    """The best ones, each far from the better ones; the best again where there are no more."""
    scores = _finite(scores)
    best, chosen = scores.argmax(), []
    for _ in range(min(nearby.carried, scores.size)):
        next_ = scores.argmax()
        chosen.append(jnp.where(jnp.isfinite(scores[next_]), next_, best))
        away = jax.vmap(descent.apart, in_axes=(None, 0))(_taken(poses, chosen[-1]), poses)
        scores = jnp.where(away < nearby.apart, -jnp.inf, scores).at[chosen[-1]].set(-jnp.inf)
    return jnp.stack(chosen)


def _best(scores: Float[Array, " n"]) -> Int[Array, ""]:
    return _finite(scores).argmax()


def _finite(scores: Float[Array, " n"]) -> Float[Array, " n"]:
    return jnp.where(jnp.isfinite(scores), scores, -jnp.inf)


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
