"""Where a network looked, as an image whose pixels sum to 1."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jxreg.errors import InputError
from jxreg.nets.posenet import Prediction


def activation_map(
    prediction: Prediction, image_size: tuple[int, int]
) -> Float[Array, "rows columns"]:
    """How strongly the backbone responds at each pixel: weights for `sparse.draw_patches`.

    Source: DiffPose (Gopalakrishnan et al., CVPR 2024), whose sparse refinement draws patches so:
    the last feature maps summed, resized with cubics, from their least to their largest value.

    Args:
        prediction: What the network says of an image.
        image_size: Rows and columns of the map.
    """
    return _probabilities(jax.image.resize(prediction.activation, image_size, "cubic"))


def attention_map(
    prediction: Prediction, image_size: tuple[int, int]
) -> Float[Array, "rows columns"]:
    """How much all places together look at each pixel: the mean over heads and places.

    Args:
        prediction: What a network with attention says of an image.
        image_size: Rows and columns of the map.

    Raises:
        InputError: The network has no attention.
    """
    if prediction.attention is None:
        raise InputError(
            "attention map",
            "a prediction of a network without attention",
            "one of a network with attention",
            "make the network with `attention=SelfAttention`, or take `activation_map`",
        )
    looked_at = prediction.attention.mean((0, 1)).reshape(prediction.activation.shape)
    resized = jax.image.resize(looked_at, image_size, "linear")
    return resized / resized.sum()


def _probabilities(image: Float[Array, "rows columns"]) -> Float[Array, "rows columns"]:
    """From zero at the least value; of an image of one value, up to rounding, all alike."""
    above = image - image.min()
    flat = above.max() <= 1e-5 * jnp.abs(image).max()
    return jnp.where(flat, 1 / image.size, above / jnp.where(flat, 1.0, above.sum()))
