"""Augmentations one after the other, each with its own probability, drawn for each image."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

Image = Float[Array, "rows columns"]
Augment = Callable[[PRNGKeyArray, Image], Image]
"""From an image in [0, 1] to another."""
Interval = tuple[float | int, float | int]
"""Lowest and highest value, drawn uniformly."""


class Step(NamedTuple):
    """An augmentation, and how often it happens."""

    apply: Augment
    probability: float = 1.0


def compose(*steps: Step) -> Augment:
    """All steps in their order; each happens or not by a draw of its own.

    Under `jax.vmap` a step is computed for every image, and the draw chooses: shapes stay static.
    """

    def augment(key: PRNGKeyArray, image: Image) -> Image:
        for step, own in zip(steps, jax.random.split(key, len(steps)), strict=True):
            choice, draw = jax.random.split(own)
            changed = step.apply(draw, image)
            image = jnp.where(jax.random.uniform(choice) < step.probability, changed, image)
        return image

    return augment


def within(key: PRNGKeyArray, interval: Interval) -> Float[Array, ""]:
    """A number drawn uniformly."""
    return jax.random.uniform(key, (), minval=interval[0], maxval=interval[1])
