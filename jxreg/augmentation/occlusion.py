"""Parts of an image that are gone: a rectangle erased, the border behind a collimator."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PRNGKeyArray

from jxreg.augmentation.composition import Image, Interval, within


def erasing(
    key: PRNGKeyArray,
    image: Image,
    area: Interval = (0.02, 0.33),
    aspect: Interval = (0.3, 3.3),
    value: Interval = (0.0, 0.0),
) -> Image:
    """A rectangle anywhere in the image gets one value (Zhong et al., AAAI 2020).

    Args:
        key: Random key.
        image: In [0, 1].
        area: Of the rectangle, as a share of the image's.
        aspect: Height over width.
        value: What is put there.
    """
    area_key, aspect_key, place, fill = jax.random.split(key, 4)
    rows, columns = image.shape
    pixels = rows * columns * within(area_key, area)
    ratio = within(aspect_key, aspect)
    size = jnp.minimum(jnp.sqrt(pixels * jnp.stack([ratio, 1 / ratio])), jnp.array([rows, columns]))
    corner = jax.random.uniform(place, (2,)) * (jnp.array([rows, columns]) - size)
    inside = _rectangle(image, corner, corner + size)
    return jnp.where(inside, within(fill, value), image)


def collimation(
    key: PRNGKeyArray,
    image: Image,
    border: Interval = (0.0, 10 / 128),
    value: Interval = (0.0, 0.0),
) -> Image:
    """A border at each side, as blades of a collimator leave it.

    Args:
        key: Random key.
        image: In [0, 1].
        border: Width of each of the four, as a share of the image's side; each drawn by itself.
        value: What is put there.
    """
    sides, fill = jax.random.split(key)
    low, high = border
    first, last = jax.random.uniform(sides, (2, 2), minval=low, maxval=high)
    size = jnp.array(image.shape)
    return jnp.where(_rectangle(image, first * size, (1 - last) * size), image, within(fill, value))


def _rectangle(image: Image, start: Array, stop: Array) -> Bool[Array, "rows columns"]:
    """Pixels whose centres lie between two corners (down, across), from their outer corner."""
    down, across = (
        (jnp.arange(n) + 0.5 >= a) & (jnp.arange(n) + 0.5 < b)
        for n, a, b in zip(image.shape, start, stop, strict=True)
    )
    return down[:, None] & across
