"""Windows slid over an image: Gaussian blur, moments in a window, the mask that is left of it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def gaussian_smooth(
    image: Float[Array, "rows columns"], sigma: float | Float[Array, ""]
) -> Float[Array, "rows columns"]:
    """Blur with a Gaussian; at the border the window is cut off and its weights again sum to 1.

    Two dense matrix products, which for images of a few hundred pixels is faster than a convolution
    and leaves `sigma` free to be traced.

    Args:
        image: Any image.
        sigma: Standard deviation of the Gaussian [pixels]; 0 leaves the image as it is.
    """
    rows, columns = image.shape
    down = _gaussian_matrix(rows, sigma, image.dtype)
    across = _gaussian_matrix(columns, sigma, image.dtype)
    # The default precision of a GPU (TF32) would leave three digits.
    return jnp.linalg.multi_dot([down, image, across.T], precision=jax.lax.Precision.HIGHEST)


def _gaussian_matrix(size: int, sigma, dtype) -> Float[Array, "size size"]:
    index = jnp.arange(size, dtype=dtype)
    # Below 0.05 pixels all neighbours have weight 0 in float64 too.
    distance = (index[:, None] - index) / jnp.maximum(jnp.asarray(sigma, dtype), 0.05)
    weights = jnp.exp(-0.5 * distance**2)
    return weights / weights.sum(axis=1, keepdims=True)


def box_window(size: int, dtype) -> Float[Array, " {size}"]:
    """Equal weights that sum to 1."""
    return jnp.full(size, 1 / size, dtype)


def gaussian_window(size: int, sigma: float, dtype) -> Float[Array, " {size}"]:
    """Gaussian weights that sum to 1, `sigma` in pixels."""
    distance = (jnp.arange(size, dtype=dtype) - (size - 1) / 2) / sigma
    weights = jnp.exp(-0.5 * distance**2)
    return weights / weights.sum()
