"""Contrast-limited adaptive histogram equalisation."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from jxreg.augmentation.composition import Image, Interval, within

TILES = 8
"""Histograms down and across the image."""
BINS = 128
"""Grey levels that a histogram tells apart."""


def clahe(key: PRNGKeyArray, image: Image, clip: Interval = (1.0, 10.0)) -> Image:
    """`equalised` with a limit drawn from `clip`."""
    return equalised(image, within(key, clip))


def equalised(image: Image, limit: ArrayLike) -> Image:
    """CLAHE: the cumulated histograms of tiles as curves, interpolated between their middles.

    Source: Zuiderveld, Contrast limited adaptive histogram equalization, Graphics Gems IV, 1994.

    Args:
        image: In [0, 1].
        limit: Largest count of a bin, in units of what a flat histogram has; what is above it goes
            to all bins alike. Traced; the smaller, the weaker, and 1 leaves the image as it is but
            for the bins.
    """
    level = jnp.clip((image * BINS).astype(jnp.int32), 0, BINS - 1)
    curves = _curves(level, jnp.asarray(limit, image.dtype))
    # A pixel is at a fraction of the way between two tiles' middles, down and across.
    (above, below, part), (left, right, share) = (_neighbours(n) for n in image.shape)
    part, share = jnp.asarray(part, image.dtype)[:, None], jnp.asarray(share, image.dtype)

    def at(row, column):
        return curves[row[:, None], column, level]

    top = (1 - share) * at(above, left) + share * at(above, right)
    bottom = (1 - share) * at(below, left) + share * at(below, right)
    return (1 - part) * top + part * bottom


def _curves(level: Int[Array, "rows columns"], limit) -> Float[Array, "tiles tiles bins"]:
    """Share of each tile's pixels up to each level, after the limit."""
    row, column = (np.arange(n) * TILES // n for n in level.shape)
    tile = jnp.asarray(row[:, None] * TILES + column)
    count = jnp.zeros((TILES * TILES, BINS), limit.dtype).at[tile, level].add(1)
    size = np.outer(np.bincount(row, minlength=TILES), np.bincount(column, minlength=TILES))
    flat = jnp.asarray(np.maximum(size, 1).reshape(-1, 1) / BINS, limit.dtype)
    kept = jnp.minimum(count, limit * flat)
    kept = kept + (count - kept).mean(1, keepdims=True)
    return (jnp.cumsum(kept, 1) / (BINS * flat)).reshape(TILES, TILES, BINS)


def _neighbours(pixels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tiles before and behind each pixel of an axis, and how far it is on the way."""
    place = np.clip((np.arange(pixels) + 0.5) * TILES / pixels - 0.5, 0, TILES - 1)
    before = np.floor(place).astype(int)
    return before, np.minimum(before + 1, TILES - 1), place - before
