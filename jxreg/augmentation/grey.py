"""What changes grey values pixel by pixel: gamma, noise, salt and pepper."""

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from jxreg.augmentation.composition import Image, Interval, within


def gamma(key: PRNGKeyArray, image: Image, exponent: Interval = (0.7, 1.8)) -> Image:
    """The image to a power: another characteristic curve of the detector."""
    return jnp.clip(image, 0, 1) ** within(key, exponent)


def gaussian_noise(key: PRNGKeyArray, image: Image, deviation: Interval = (0.01, 0.01)) -> Image:
    """White noise of a standard deviation within `deviation`, cut off at 0 and 1."""
    amount, field = jax.random.split(key)
    noise = jax.random.normal(field, image.shape, image.dtype)
    return jnp.clip(image + within(amount, deviation) * noise, 0, 1)


def salt_and_pepper(
    key: PRNGKeyArray,
    image: Image,
    amount: Interval = (0.005, 0.01),
    salt: Interval = (0.4, 0.6),
) -> Image:
    """Pixels that are 1 or 0.

    Args:
        key: Random key.
        image: In [0, 1].
        amount: Share of pixels that become either.
        salt: Share of these that become 1.
    """
    amount_key, salt_key, field = jax.random.split(key, 3)
    struck = within(amount_key, amount)
    bright = struck * within(salt_key, salt)
    drawn = jax.random.uniform(field, image.shape, image.dtype)
    return jnp.where(drawn < bright, 1.0, jnp.where(drawn < struck, 0.0, image))
