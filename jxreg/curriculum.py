"""What a training shows first: the level of difficulty, and draws of poses that follow it.

The level is a number between 0 and 1 that the engine gives to the loss of every step. What it means
is the task's affair: the share of the pose range from which is drawn, with earlier, smaller ranges
replayed now and then (`replayed`), or the share of a fixed set of images that has been brought in
(`from_set`). PSSS (Zhang et al., MICCAI 2023) calls it incremental learning and does not say how it
works; both are our reconstruction.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


@dataclass(frozen=True)
class Curriculum:
    """From the first level to 1, in equal steps. The default is level 1 all along."""

    first: float = 1.0
    """Level at the start."""
    stages: int = 1
    """How many levels there are, the first and the last included."""
    until: float = 0.5
    """Share of the training after which the last level holds, whatever the validation says."""
    patience: int = 0
    """Validations without a better one until the next level comes early; 0 for never."""


def stage_at(curriculum: Curriculum, share: float) -> int:
    """Number of the level that holds at the latest after a share of the training; 0 the first."""
    last = curriculum.stages - 1
    if curriculum.until <= 0 or share >= curriculum.until:
        return last
    return min(last, int(share / curriculum.until * curriculum.stages))


def level_of(curriculum: Curriculum, stage: int) -> float:
    """Level of a stage, between `first` and 1."""
    last = curriculum.stages - 1
    return 1.0 if last == 0 else curriculum.first + (1 - curriculum.first) * stage / last


def replayed(key: PRNGKeyArray, level: Float[Array, ""], share: float = 0.25) -> Float[Array, ""]:
    """Level of one sample: that of the training, or now and then a lower one.

    Args:
        key: Of the sample.
        level: Level of the training.
        share: How many of the samples are drawn from a lower level, uniformly.
    """
    often, where = jax.random.split(key)
    lower = level * jax.random.uniform(where)
    return jnp.where(jax.random.uniform(often) < share, lower, level)


def from_set(key: PRNGKeyArray, level: Float[Array, ""], size: int, seed: int = 0) -> PRNGKeyArray:
    """The key of one member of a fixed set of samples that grows with the level.

    Who makes a sample of a key makes the same one of the same key: a set of keys is a set of images
    that nobody needs to store.

    Args:
        key: Chooses among the members that are there.
        level: Share of the set that has been brought in; one member at least.
        size: Members of the whole set.
        seed: Of the set.
    """
    there = jnp.maximum(jnp.ceil(level * size), 1.0).astype(jnp.int32)
    member = jnp.minimum((jax.random.uniform(key) * there).astype(jnp.int32), there - 1)
    return jax.random.fold_in(jax.random.key(seed), member)
