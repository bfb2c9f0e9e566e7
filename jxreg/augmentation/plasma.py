"""Random smooth fields, and what they do to an image: contrast, brightness, shadow.

A plasma field is a sum of random grids of 2, 3, 5, 9, ... points a side, interpolated linearly, of
which each has `roughness` times the amplitude of the one before. That is what diamond-square makes
(Fournier et al., CACM 25, 1982), whose new points are the mean of their neighbours plus such a
number; but it takes images of any size, needs two small matrix products a grid instead of a chain
of dependent passes, and its spectrum is the same power law, 1 / f^(2 - 2 log2(roughness)). A field
made from its spectrum by a Fourier transform would be periodic: alike at opposite borders.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from jxreg.augmentation.composition import Image, Interval, within

GRIDS = 6
"""Finest detail: a 32nd of the image. Below it the amplitude is under 2 % (roughness 0.5)."""


def plasma(
    key: PRNGKeyArray, shape: tuple[int, int], roughness: ArrayLike
) -> Float[Array, "rows columns"]:
    """A field from 0 to 1.

    Args:
        key: Random key.
        shape: Rows and columns.
        roughness: Amplitude of a grid in units of that of twice its spacing, 0 to 1; traced.
    """
    field = jnp.zeros(shape)
    for octave, own in enumerate(jax.random.split(key, GRIDS)):
        points = 2**octave + 1
        grid = jax.random.uniform(own, (points, points), minval=-1.0, maxval=1.0)
        down, across = (jnp.asarray(_between(n, points), field.dtype) for n in shape)
        field = field + jnp.asarray(roughness) ** octave * (down @ grid @ across.T)
    low, high = field.min(), field.max()
    return (field - low) / jnp.maximum(high - low, jnp.finfo(field.dtype).tiny)


def plasma_contrast(
    key: PRNGKeyArray, image: Image, roughness: Interval = (0.1, 0.5), largest: float = 4.0
) -> Image:
    """Contrast about one half that a field multiplies by 0 to `largest`."""
    field = _drawn(key, image, roughness)
    return jnp.clip((image - 0.5) * largest * field + 0.5, 0, 1)


def plasma_brightness(
    key: PRNGKeyArray,
    image: Image,
    roughness: Interval = (0.1, 0.5),
    intensity: Interval = (-1.0, 1.0),
) -> Image:
    """A field added, from minus to plus an amplitude that is drawn from `intensity`."""
    amount, field = jax.random.split(key)
    added = within(amount, intensity) * (2 * _drawn(field, image, roughness) - 1)
    return jnp.clip(image + added, 0, 1)


def plasma_shadow(
    key: PRNGKeyArray,
    image: Image,
    roughness: Interval = (0.1, 0.7),
    intensity: Interval = (-0.5, 0.5),
    quantity: Interval = (0.0, 0.5),
) -> Image:
    """One number added wherever a field is below a threshold; both numbers are drawn."""
    amount, threshold, field = jax.random.split(key, 3)
    shaded = _drawn(field, image, roughness) < within(threshold, quantity)
    return jnp.clip(image + jnp.where(shaded, within(amount, intensity), 0.0), 0, 1)


def _drawn(key: PRNGKeyArray, image: Image, roughness: Interval) -> Image:
    rough, field = jax.random.split(key)
    rows, columns = image.shape
    return plasma(field, (rows, columns), within(rough, roughness)).astype(image.dtype)


def _between(pixels: int, points: int) -> np.ndarray:
    """Linear interpolation from points spread evenly, ends included, to pixels spread likewise."""
    at = np.linspace(0, points - 1, pixels)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(points)))
