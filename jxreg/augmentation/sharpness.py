"""Blur and sharpening in windows of 3 x 3 pixels."""

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jxreg.augmentation.composition import Image, Interval, within


def gaussian_blur(key: PRNGKeyArray, image: Image, sigma: Interval = (0.1, 1.0)) -> Image:
    """A Gaussian of a standard deviation within `sigma` [px], sampled at three pixels a side."""
    side = jnp.exp(-0.5 / within(key, sigma) ** 2)
    return _separable(image, side / (1 + 2 * side))


def box_blur(key: PRNGKeyArray, image: Image) -> Image:
    """The mean of 3 x 3 pixels."""
    return _separable(image, jnp.asarray(1 / 3, image.dtype))


def sharpness(key: PRNGKeyArray, image: Image, factor: Interval = (0.0, 0.5)) -> Image:
    """The image mixed with a smoothed one: 0 is smooth, 1 the image, above 1 it is sharpened.

    The factor is that of PIL and kornia, whose default, 0 to 0.5, only ever smooths. The smoothing
    has the weight 5/13 in the middle and 1/13 around it; pixels at the border stay.
    """
    smooth = image.at[1:-1, 1:-1].set((9 * _box(image) + 4 * image[1:-1, 1:-1]) / 13)
    return jnp.clip(smooth + within(key, factor) * (image - smooth), 0, 1)


def _separable(image: Image, side: Float[Array, ""]) -> Image:
    """Weights (side, 1 - 2 side, side) down and across; the image goes on as its mirror image."""
    wide = jnp.pad(image, 1, mode="reflect")
    down = side * (wide[:-2] + wide[2:]) + (1 - 2 * side) * wide[1:-1]
    return side * (down[:, :-2] + down[:, 2:]) + (1 - 2 * side) * down[:, 1:-1]


def _box(image: Image) -> Float[Array, "rows-2 columns-2"]:
    """Mean of the 3 x 3 pixels around each pixel that has them."""
    down = image[:-2] + image[1:-1] + image[2:]
    return (down[:, :-2] + down[:, 1:-1] + down[:, 2:]) / 9
