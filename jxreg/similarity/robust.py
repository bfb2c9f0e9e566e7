"""Weights that take out what a rendered image cannot explain: tools, implants, cables."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jxreg.similarity.features import visible_gradients

QUANTILE = 0.8
"""Where the strengths of both images' edges are matched; tools take less than the rest."""


def robust_weights(
    moving: Float[Array, "rows columns"],
    fixed: Float[Array, "rows columns"],
    mask: Float[Array, "rows columns"] | None = None,
    *,
    limit: float = 1.0,
) -> Float[Array, "rows columns"]:
    """Weight of each pixel, 0 to 1, by how well the rendered image explains its derivatives.

    A residual counts against the strongest edges that the anatomy itself has in the rendered image:
    w = (1 + (r / (limit s))^2)^-2, the weight of Geman and McClure (1985). r is the length of the
    difference of both images' derivatives; s is that of the rendered image's edges, as root mean
    square weighted by their energy. So anatomy at a wrong pose keeps its weight, however far off,
    and an edge of steel does not. No residual scale shrinks as the pose improves,
    and it does not matter in what unit the images are.

    Meant to be settled anew between least-squares steps and held during each; multiply it with the
    mask. It has no gradient.

    Args:
        moving: Rendered image.
        fixed: Acquired image.
        mask: Weights that hold already.
        limit: Residual at which the weight is a quarter, in units of the anatomy's edges.

    Returns:
        Weights without the mask; 1 where the rendered image is constant.
    """
    moving, fixed = jax.lax.stop_gradient(moving), jax.lax.stop_gradient(fixed)
    moving_gradients, weights = visible_gradients(moving, mask)
    fixed_gradients, _ = visible_gradients(fixed, mask)
    if weights is None:
        weights = jnp.ones_like(moving_gradients[0])
    squared = (moving_gradients**2).sum(0)
    # Both by the same quantile, not by least squares: a tool would pull that to its own strength.
    ours = weighted_quantile(jnp.sqrt(squared), weights, QUANTILE)
    theirs = weighted_quantile(jnp.sqrt((fixed_gradients**2).sum(0)), weights, QUANTILE)
    gain = theirs / jnp.where(ours > 0, ours, 1)
    energy = (weights * squared).sum()
    strong = (weights * squared**2).sum() / jnp.where(energy > 0, energy, 1)
    residual = ((fixed_gradients - gain * moving_gradients) ** 2).sum(0)
    unit = (limit * gain) ** 2 * strong
    ratio = jnp.where(unit > 0, residual / jnp.where(unit > 0, unit, 1), 0)
    return jnp.pad(1 / (1 + ratio) ** 2, 1, mode="edge")


def weighted_quantile(
    values: Float[Array, "..."], weights: Float[Array, "..."], share: float
) -> Float[Array, ""]:
    """Smallest value that `share` of the weight does not exceed, to 1e-9 of the largest one.

    Args:
        values: Numbers of 0 and more.
        weights: Their weights.
        share: Between 0 and 1.
    """
    values = jnp.where(weights > 0, values, 0)
    asked = share * weights.sum()

    # Bisection, since sorting 10^5 numbers takes longer than all the rest.
    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        enough = jnp.where(values <= middle, weights, 0).sum() >= asked
        return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

    largest = values.max()
    return jax.lax.fori_loop(0, 30, halve, (jnp.zeros_like(largest), largest))[1]
