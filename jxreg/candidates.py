"""Several starts for one image: refined together, compared, the distinct optima kept, best first.

A pose that hides most of the image behind the ends of the scan has little to agree on, so that a
high similarity alone does not make it win: it is ranked by how unlikely its agreement with the
image is by chance.
"""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxlie
from jaxtyping import Array, Bool, Float, Int

from jxreg import alignment
from jxreg.alignment import Level, Prior, Scene
from jxreg.drr.coverage import cut_faces
from jxreg.frame import Frame, square, valid_mask
from jxreg.precision import full_precision
from jxreg.volume import Volume

WIDE = Prior(shift=60.0, depth=80.0, rotation=0.5)
"""How far a candidate may go from where it began."""
APART = Prior(shift=10.0, depth=40.0, rotation=0.06)
"""Poses that are nearer to each other than this are one optimum."""
FINEST = 128
"""Pixels of the square image that the levels are taken from."""


@dataclass(frozen=True)
class CompareConfig:
    """How candidates are refined and compared."""

    finalists: int = 4
    """Distinct optima that are refined further and returned."""
    coarse: Level = Level(32, 3, similarity="local_ncc", sigma=0.1, tolerance=0.1)
    """How all candidates are refined: local NCC has a wide basin, and forgives contrast."""
    sieve: Level = Level(64, 2, similarity="local_ncc", sigma=0.03)
    """How finalists are chosen: what is small tells a pose from one that only looks like it."""
    fine: Level = Level(64, 2, steps=10, tolerance=0.1, scatter=True)
    """How finalists are refined."""
    judge: Level = Level(128, 1, similarity="local_ncc", sigma=0.02)
    """How they are ranked."""


class Found(NamedTuple):
    """Distinct poses that explain an image, the best first."""

    pose: jaxlie.SE3
    """`camera_from_world`; leading axis finalists."""
    score: Float[Array, " finalists"]
    """Fisher z of the similarity times the root of the share of pixels compared. Where there were
    fewer optima than finalists, some are the same."""
    similarity: Float[Array, " finalists"]
    kept: Float[Array, " finalists"]
    """Share of the valid pixels that were compared."""
    agreeing: Int[Array, ""]
    """Candidates that ended where the best one is."""
    lead: Float[Array, ""]
    """Score of the best pose less that of the best one that is another optimum; infinite if there
    is none."""


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
            `jxreg.pose.antipodal` where front and back may have been mixed up.
        config: What to do; static.
        truncated: As in `RegisterConfig`; static.

    Returns:
        The finalists, good to a pixel or so of the finer level: `register` takes them as its start.
    """
    cut = cut_faces(volume) if truncated else None
    finest = square(frame, FINEST)

    def refined(level: Level, poses: jaxlie.SE3) -> jaxlie.SE3:
        scene = alignment.scene(volume, finest, cut, level)
        return jax.vmap(lambda pose: alignment.align(scene, level, pose, pose, WIDE).pose)(poses)

    def ranked(level: Level, poses: jaxlie.SE3) -> _Rank:
        scene = alignment.scene(volume, finest, cut, level)
        return jax.lax.map(functools.partial(_rank, scene, level), poses)

    candidates = refined(config.coarse, poses)
    count = min(config.finalists, poses.wxyz_xyz.shape[0])
    score = ranked(config.sieve, candidates).score
    chosen = _distinct(candidates, score, count, volume.isocenter)
    finalists = refined(config.fine, _at(candidates, chosen))
    ranks = ranked(config.judge, finalists)
    order = jnp.argsort(-ranks.score)
    poses, score = _at(finalists, order), ranks.score[order]
    best = _at(poses, 0)
    others = ~_near(best, poses, volume.isocenter)
    return Found(
        poses,
        score,
        ranks.similarity[order],
        ranks.kept[order],
        agreeing=_near(best, candidates, volume.isocenter).sum(),
        lead=score[0] - jnp.where(others, score, -jnp.inf).max(),
    )


def best_of(found: Found) -> jaxlie.SE3:
    """The best pose."""
    return _at(found.pose, 0)


class _Rank(NamedTuple):
    score: Float[Array, ""]
    similarity: Float[Array, ""]
    kept: Float[Array, ""]


def _rank(scene: Scene, level: Level, pose: jaxlie.SE3) -> _Rank:
    """How unlikely it is that image and DRR agree so well on so many pixels by chance."""
    terms = alignment.look(scene, level, pose, WIDE)
    kept = terms.mask.sum() / jnp.maximum(valid_mask(scene.frame).sum(), 1.0)
    score = jnp.arctanh(jnp.clip(terms.similarity, -0.999, 0.999)) * jnp.sqrt(kept)
    return _Rank(jnp.where(jnp.isfinite(score), score, -jnp.inf), terms.similarity, kept)


def _distinct(poses: jaxlie.SE3, score, count: int, pivot) -> Int[Array, " count"]:
    """The best of each of the best optima; repeats the first where there are not so many."""

    def body(left, _):
        best = jnp.argmax(left)
        return jnp.where(_near(_at(poses, best), poses, pivot), -jnp.inf, left), best

    _, chosen = jax.lax.scan(body, score, length=count)
    return chosen


def _near(pose: jaxlie.SE3, others: jaxlie.SE3, pivot) -> Bool[Array, " n"]:
    """Which poses belong to the same optimum."""
    away = jax.vmap(lambda other: alignment.departure(pose, other, pivot, APART))(others)
    return jnp.linalg.norm(away, axis=-1) < 1


def _at(poses: jaxlie.SE3, index: Any) -> jaxlie.SE3:
    return jaxlie.SE3(poses.wxyz_xyz[index])
