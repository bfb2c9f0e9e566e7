"""Several starts for one image: refined together, compared, the distinct optima kept, best first.

A pose that hides most of the image behind the ends of the scan has little to agree on, so that a
high similarity alone does not make it win: it is ranked by how unlikely its agreement with the
image is by chance.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxlie
from jaxtyping import Array, Bool, Float, Int

from jxreg import alignment
from jxreg.alignment import Level, Prior, Scene, Terms
from jxreg.drr.coverage import cut_faces, tissue_mask
from jxreg.frame import Frame, square, valid_mask
from jxreg.precision import full_precision
from jxreg.rig import (
    Geometry,
    Rig,
    align_rig,
    body_of,
    focused,
    predict_rig,
    rig_of,
    rig_scene,
    settle_rig,
    stacked,
)
from jxreg.volume import Volume

AGREEING = 0.25
"""Share of the candidates that must have ended at a pose which was compared with no other one."""
SCREENED = 128
"""Poses that are screened together, at most."""
CROWDED = 100.0
"""Taken off the score of a pose for each better one that it is like; scores are far below it."""
WORTHLESS = -1e6
"""Less than any score that much is taken off."""
WINDOW = 128
"""Pixels of the window around a small volume."""


@dataclass(frozen=True)
class CompareConfig:
    """How candidates are refined and compared."""

    finalists: int = 3
    """Distinct optima that are refined further and returned."""
    sure: float = 0.15
    """Lead from which no further round of candidates is tried."""
    part: bool = False
    """Whether the volume is but a part of what the image shows, such as a single bone: only what is
    near its shadow is compared, in a window around it."""
    finest: int = 128
    """Pixels of the square image that the levels, or these windows, are taken from; where windows
    are of fewer pixels (`first`) it is as much coarser."""
    reach: Prior = Prior(shift=60.0, depth=80.0, rotation=0.5)
    """How far a candidate may go from where it began."""
    apart: Prior = Prior(shift=10.0, depth=40.0, rotation=0.06)
    """Poses that are nearer to each other than this are one optimum."""
    first: Level = Level(32, 3, similarity="local_ncc", sigma=0.1)
    """How very many poses are ranked, as they are (`screen`)."""
    coarse: Level = Level(32, 3, similarity="local_ncc", sigma=0.05, tolerance=0.1)
    """How all candidates are refined: local NCC has a wide basin, and forgives contrast."""
    sieve: Level = Level(64, 2, similarity="local_ncc", sigma=0.03)
    """How finalists are chosen: what is small tells a pose from one that only looks like it."""
    fine: Level = Level(64, 2, steps=5, tolerance=0.1, scatter=True)
    """How finalists are refined: far enough to tell which is best."""
    judge: Level = Level(128, 1, similarity="local_ncc", sigma=0.02)
    """How they are ranked."""


class Found(NamedTuple):
    """Distinct poses that explain an image, the best first."""

    pose: jaxlie.SE3
    """`camera_from_world`, or of several images `rig_from_world`; leading axis finalists."""
    score: Float[Array, " finalists"]
    """Fisher z of the similarity times the root of the share of the image compared; of a small
    volume, of the area compared for the size of the volume. Where there were fewer optima than
    finalists, some are the same."""
    similarity: Float[Array, " finalists"]
    kept: Float[Array, " finalists"]
    """Share of the valid pixels that were compared."""
    agreeing: Int[Array, ""]
    """Candidates that ended where the best one is."""
    lead: Float[Array, ""]
    """Score of the best pose less that of the best one that is another optimum; infinite if there
    is none; 0 if the finalists became one where fewer than a quarter of the candidates were."""
    rounds: Int[Array, ""]
    """How many rounds of candidates were tried."""


class Contest(NamedTuple):
    """How poses are refined, ranked and told apart."""

    refine: Callable[[Level, jaxlie.SE3], jaxlie.SE3]
    """Poses with a leading axis, at a level."""
    rank: Callable[[Level, jaxlie.SE3], "Rank"]
    """One pose at a level."""
    away: Callable[[jaxlie.SE3, jaxlie.SE3], Float[Array, ""]]
    """Distance of two poses; below 1 they are one optimum."""


class Rank(NamedTuple):
    """How well a pose explains an image."""

    score: Float[Array, ""]
    similarity: Float[Array, ""]
    kept: Float[Array, ""]


@functools.partial(jax.jit, static_argnames=("config", "truncated"))
@full_precision
def compare(
    volume: Volume,
    frame: Frame,
    poses: jaxlie.SE3,
    *,
    config: CompareConfig = CompareConfig(),
    truncated: bool = True,
) -> Found:
    """Refines starts and says which of them explain an image.

    Args:
        volume: The patient.
        frame: One image (attenuation) and its camera.
        poses: Starts, `camera_from_world`, with a leading axis: from a search, or a start and its
            `jxreg.pose.antipodal` where front and back may have been mixed up. Or with two leading
            axes: rounds of starts, each tried only if those before found nothing that is sure.
        config: What to do; static.
        truncated: As in `RegisterConfig`; static.

    Returns:
        The finalists, good to a pixel or so of the finer level: `register` takes them as its start.
    """
    return contest(_rules(volume, frame, config, truncated), poses, config)


@functools.partial(jax.jit, static_argnames=("config", "truncated"))
@full_precision
def screen(
    volume: Volume,
    frame: Frame,
    poses: jaxlie.SE3,
    count: Int[Array, ""] | int | None = None,
    *,
    config: CompareConfig = CompareConfig(),
    truncated: bool = True,
) -> Float[Array, " n"]:
    """Scores of poses as they are, at the first level: which of very many are worth refining.

    Args:
        volume: The patient.
        frame: One image (attenuation) and its camera.
        poses: `camera_from_world`, with a leading axis.
        count: How many of them, from the first one, are looked at; by default all. The score of the
            others is minus infinity.
        config: As in `compare`; static.
        truncated: As in `RegisterConfig`; static.
    """
    pixels = config.first.pixels
    if config.part:  # a window for each pose costs more than its DRR
        config = replace(config, finest=config.finest * pixels // WINDOW)
    rules = _rules(volume, frame, config, truncated, pixels)
    size = poses.wxyz_xyz.shape[0]
    together = -(-size // -(-size // SCREENED))  # as many in each turn
    count = size if count is None else count

    def score(wxyz_xyz):
        return rules.rank(config.first, jaxlie.SE3(wxyz_xyz)).score

    def body(turn, scores):
        # The last turn begins earlier where no whole one is left.
        begin = jnp.minimum(turn * together, size - together)
        part = jax.lax.dynamic_slice_in_dim(poses.wxyz_xyz, begin, together)
        return jax.lax.dynamic_update_slice_in_dim(scores, jax.vmap(score)(part), begin, 0)

    made = jax.eval_shape(score, poses.wxyz_xyz[0])
    nothing = jnp.full(size, -jnp.inf, made.dtype)
    scores = jax.lax.fori_loop(0, (count + together - 1) // together, body, nothing)
    return jnp.where(jnp.arange(size) < count, scores, -jnp.inf)


@functools.partial(jax.jit, static_argnames=("count", "apart"))
@full_precision
def varied(
    volume: Volume, poses: jaxlie.SE3, score: Float[Array, " n"], count: int, apart: Prior
) -> Int[Array, " count"]:
    """Numbers of the best poses; the more better ones a pose is like, the later it comes.

    Args:
        volume: The patient, about whose isocenter poses turn.
        poses: With a leading axis.
        score: Of each.
        count: How many are wanted, no more than there are; static.
        apart: Poses that are nearer to each other than this are alike; static.
    """
    score = jnp.maximum(score, WORTHLESS)
    return _chosen(_distance(volume, apart), poses, score, count, CROWDED)


def _rules(
    volume: Volume, frame: Frame, config: CompareConfig, truncated: bool, pixels: int = WINDOW
) -> Contest:
    """The contest of poses that explain one image; a window has so many pixels."""
    cut = cut_faces(volume) if truncated else None
    finest = square(frame, config.finest)

    def scene(level: Level, pose: jaxlie.SE3):
        seen = alignment.focus(volume, finest, pose, pixels) if config.part else finest
        return alignment.scene(volume, seen, cut, level)

    def refine(level: Level, poses: jaxlie.SE3) -> jaxlie.SE3:
        def one(pose):
            return alignment.align(scene(level, pose), level, pose, pose, config.reach).pose

        return jax.vmap(one)(poses)

    def rank(level: Level, pose: jaxlie.SE3) -> Rank:
        here = scene(level, pose)
        terms = alignment.look(here, level, pose, config.reach)
        share = compared_area(terms, here, pose) if config.part else terms.mask.mean()
        return rank_of(terms, valid_mask(here.frame), share)

    return Contest(refine, rank, _distance(volume, config.apart))


@functools.partial(jax.jit, static_argnames=("config", "truncated"))
@full_precision
def compare_views(
    volume: Volume,
    frames: tuple[Frame, ...],
    camera_from_rig: tuple[jaxlie.SE3, ...],
    poses: jaxlie.SE3,
    *,
    config: CompareConfig = CompareConfig(),
    truncated: bool = True,
) -> Found:
    """`compare` for several images taken at once.

    Args:
        volume: The patient.
        frames: The images (attenuation), each with its camera.
        camera_from_rig: Where each camera is in the rig.
        poses: Starts, `rig_from_world`, with one or two leading axes.
        config: What to do; static.
        truncated: As in `RegisterConfig`; static.

    Returns:
        The finalists, `rig_from_world`; similarity, share and score are means of the images.
    """
    cut = cut_faces(volume) if truncated else None
    squares = tuple(replace(square(frame, config.finest), carm=None) for frame in frames)
    known, reach = Geometry(), config.reach

    def at(level: Level, pose: jaxlie.SE3) -> tuple[tuple[Scene], Rig]:
        rig = rig_of((pose,), camera_from_rig)
        seen = focused((volume,), squares, rig, WINDOW) if config.part else stacked(squares)
        return (rig_scene(volume, seen, cut, level),), rig

    def refine(level: Level, poses: jaxlie.SE3) -> jaxlie.SE3:
        def one(pose):
            scenes, rig = at(level, pose)
            return body_of(align_rig(scenes, level, rig, rig, known, reach).pose, 0)

        return jax.vmap(one)(poses)

    def rank(level: Level, pose: jaxlie.SE3) -> Rank:
        scenes, rig = at(level, pose)
        terms = settle_rig(scenes, level, rig, predict_rig(scenes, rig), reach).views

        def of_view(terms, frame, place):
            here = scenes[0]._replace(frame=frame)
            share = compared_area(terms, here, place @ pose) if config.part else terms.mask.mean()
            return rank_of(terms, valid_mask(frame), share)

        ranks = jax.vmap(of_view)(terms, scenes[0].frame, rig.cameras)
        return jax.tree.map(jnp.mean, ranks)

    apart = replace(config.apart, depth=config.apart.shift)
    return contest(Contest(refine, rank, _distance(volume, apart)), poses, config)


def contest(rules: Contest, poses: jaxlie.SE3, config: CompareConfig) -> Found:
    """The best of several starts; as `compare`, of whatever the rules are about."""
    poses = jaxlie.SE3(poses.wxyz_xyz.reshape(-1, *poses.wxyz_xyz.shape[-2:]))
    rounds, each = poses.wxyz_xyz.shape[:2]
    count = min(config.finalists, each)

    def ranked(level: Level, poses: jaxlie.SE3) -> Rank:
        return jax.lax.map(functools.partial(rules.rank, level), poses)

    def one_round(state: _State) -> _State:
        candidates = rules.refine(config.coarse, _at(poses, state.number))
        chosen = _distinct(rules, candidates, ranked(config.sieve, candidates).score, count)
        new = rules.refine(config.fine, _at(candidates, chosen))
        best = _joined(new, state.best)
        ranks = jax.tree.map(_appended, ranked(config.judge, new), state.ranks)
        kept = _distinct(rules, best, ranks.score, count)
        ends = state.ends.at[state.number].set(candidates.wxyz_xyz)
        return _State(
            state.number + 1, ends, _at(best, kept), jax.tree.map(lambda x: x[kept], ranks)
        )

    def unsure(state: _State):
        return (state.number < rounds) & ~(_lead(rules, state) > config.sure)

    nothing = jnp.full(count, -jnp.inf, poses.wxyz_xyz.dtype)
    anything = jaxlie.SE3(poses.wxyz_xyz[0, :count])
    state = _State(jnp.int32(0), poses.wxyz_xyz, anything, Rank(nothing, nothing, nothing))
    last = one_round(state) if rounds == 1 else jax.lax.while_loop(unsure, one_round, state)
    return _found(rules, last)


class _State(NamedTuple):
    """What the rounds so far have found."""

    number: Int[Array, ""]
    ends: Float[Array, "rounds each 7"]
    """Where each candidate that was tried has ended."""
    best: jaxlie.SE3
    ranks: Rank


def _found(rules: Contest, last: _State) -> Found:
    order = jnp.argsort(-last.ranks.score)
    poses, ranks = _at(last.best, order), jax.tree.map(lambda x: x[order], last.ranks)
    return Found(
        poses,
        ranks.score,
        ranks.similarity,
        ranks.kept,
        agreeing=_agreeing(rules, last),
        lead=_lead(rules, last),
        rounds=last.number,
    )


def _agreeing(rules: Contest, state: _State) -> Int[Array, ""]:
    """Candidates that ended where the best pose is."""
    rounds, each = state.ends.shape[:2]
    tried = jnp.repeat(jnp.arange(rounds) < state.number, each)
    best = _at(state.best, state.ranks.score.argmax())
    return (_near(rules.away, best, jaxlie.SE3(state.ends.reshape(-1, 7))) & tried).sum()


def _lead(rules: Contest, state: _State) -> Float[Array, ""]:
    """Score of the best pose less that of the best one that is another optimum.

    Where finalists became one, nothing was compared: no lead, unless many candidates were there.
    """
    score = state.ranks.score
    others = ~_near(rules.away, _at(state.best, score.argmax()), state.best)
    lead = score.max() - jnp.where(others, score, -jnp.inf).max()
    tried = state.number * state.ends.shape[1]
    few = _agreeing(rules, state) < AGREEING * tried
    return jnp.where(jnp.isposinf(lead) & few, 0.0, lead)  # NaN before the first round


def best_of(found: Found) -> jaxlie.SE3:
    """The best pose."""
    return _at(found.pose, 0)


def start_of(begun: jaxlie.SE3 | Found) -> tuple[jaxlie.SE3, Float[Array, ""]]:
    """The one pose to begin with, and its lead: infinite where it was compared with none."""
    if isinstance(begun, Found):
        return best_of(begun), begun.lead
    return begun, jnp.full((), jnp.inf, begun.wxyz_xyz.dtype)


def rank_of(terms: Terms, valid: Float[Array, "rows columns"], share: Float[Array, ""]) -> Rank:
    """How unlikely it is that image and DRR agree so well on so many pixels by chance.

    Args:
        terms: Of a pose.
        valid: Valid pixels.
        share: How much was compared, as a fraction of the same for all poses.
    """
    score = jnp.arctanh(jnp.clip(terms.similarity, -0.999, 0.999)) * jnp.sqrt(share)
    kept = terms.mask.sum() / jnp.maximum(valid.sum(), 1.0)
    return Rank(jnp.where(jnp.isfinite(score), score, -jnp.inf), terms.similarity, kept)


def compared_area(terms: Terms, scene: Scene, pose: jaxlie.SE3) -> Float[Array, ""]:
    """Area compared of a small volume, at its depth, in faces of a cube as large as its tissue.

    Windows, and how much of them a shadow fills, differ from pose to pose.

    Args:
        terms: Of the pose.
        scene: What was compared; of one image.
        pose: `camera_from_world`.
    """
    coarse, focal = scene.coarsest, scene.frame.camera.intrinsic
    voxel = jnp.abs(jnp.linalg.det(coarse.affine[:3, :3]))
    tissue = voxel * tissue_mask(coarse).sum()
    depth = pose.apply(coarse.isocenter)[2]
    pixel = depth**2 / jnp.abs(focal[0, 0] * focal[1, 1])
    return terms.mask.sum() * pixel / jnp.maximum(tissue, voxel) ** (2 / 3)


def _distance(volume: Volume, unit: Prior) -> Callable[..., Float[Array, ""]]:
    def away(one: jaxlie.SE3, other: jaxlie.SE3) -> Float[Array, ""]:
        return jnp.linalg.norm(alignment.departure(one, other, volume.isocenter, unit))

    return away


def _distinct(rules: Contest, poses: jaxlie.SE3, score, count: int) -> Int[Array, " count"]:
    """The best of each of the best optima; repeats the first where there are not so many."""
    return _chosen(rules.away, poses, score, count, jnp.inf)


def _chosen(
    away: Callable, poses: jaxlie.SE3, score, count: int, off: float
) -> Int[Array, " count"]:
    """The best pose, again and again; each takes so much off the score of those that it is like."""

    def body(left, _):
        best = jnp.argmax(left)
        alike = _near(away, _at(poses, best), poses)
        return jnp.where(alike, left - off, left).at[best].set(-jnp.inf), best

    return jax.lax.scan(body, score, length=count)[1]


def _near(away: Callable, pose: jaxlie.SE3, others: jaxlie.SE3) -> Bool[Array, " n"]:
    """Which poses belong to the same optimum."""
    return jax.vmap(lambda other: away(pose, other))(others) < 1


def _at(poses: jaxlie.SE3, index: Any) -> jaxlie.SE3:
    return jaxlie.SE3(poses.wxyz_xyz[index])


def _appended(a: Array, b: Array) -> Array:
    return jnp.concatenate([a, b])


def _joined(one: jaxlie.SE3, other: jaxlie.SE3) -> jaxlie.SE3:
    return jaxlie.SE3(_appended(one.wxyz_xyz, other.wxyz_xyz))
