"""Windows slid over images: Gaussian blur, moments of two images, what a mask leaves of them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jxreg.errors import InputError


class Moments(NamedTuple):
    """Moments of two images in every window that lies fully inside them."""

    moving_mean: Float[Array, "rows columns"]
    fixed_mean: Float[Array, "rows columns"]
    moving_variance: Float[Array, "rows columns"]
    fixed_variance: Float[Array, "rows columns"]
    covariance: Float[Array, "rows columns"]


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
    return _weigh(_gaussian(rows, sigma, image), image, _gaussian(columns, sigma, image))


def box_moments(
    moving: Float[Array, "rows columns"], fixed: Float[Array, "rows columns"], size: int
) -> Moments:
    """Moments in all windows of `size` x `size` pixels, at a cost of about 4 log2(size) images.

    Windows of 1, 2, 4, ... pixels are merged pairwise by the formula of Chan, Golub and LeVeque
    (1979), first by row, then by column. Every variance is then a sum of squares: nothing cancels,
    and a window without contrast has variance 0 exactly. Summed-area tables, or E[x^2] - E[x]^2
    after one mean is taken off, leave float32 errors of the size of faint contrast.

    Args:
        moving: An image.
        fixed: Another.
        size: Side of the windows [pixels].

    Raises:
        InputError: The image is smaller than the window.
    """
    _check_window(moving, size)
    zero = jnp.zeros_like(moving)
    moments = jnp.stack([moving, fixed, zero, zero, zero])
    return Moments(*_slide(_slide(moments, size, axis=1), size, axis=2))


def gaussian_moments(
    moving: Float[Array, "rows columns"],
    fixed: Float[Array, "rows columns"],
    size: int,
    sigma: float,
) -> Moments:
    """Moments in all windows of `size` x `size` pixels with Gaussian weights, by matrix products.

    Each image's mean is taken off first; variances are good to about 1e-6 of the whole image's.

    Args:
        moving: An image.
        fixed: Another.
        size: Side of the windows [pixels].
        sigma: Standard deviation of the weights [pixels].

    Raises:
        InputError: The image is smaller than the window.
    """
    _check_window(moving, size)
    down, across = (_gaussian_windows(side, size, sigma, moving) for side in moving.shape)
    offsets = moving.mean(), fixed.mean()
    x, y = moving - offsets[0], fixed - offsets[1]
    products = (x, y, x * x, y * y, x * y)
    x_mean, y_mean, xx, yy, xy = (_weigh(down, image, across) for image in products)
    return Moments(
        moving_mean=x_mean + offsets[0],
        fixed_mean=y_mean + offsets[1],
        moving_variance=jnp.maximum(xx - x_mean**2, 0),
        fixed_variance=jnp.maximum(yy - y_mean**2, 0),
        covariance=xy - x_mean * y_mean,
    )


def window_minimum(
    image: Float[Array, "rows columns"], size: int
) -> Float[Array, "rows-{size}+1 columns-{size}+1"]:
    """Smallest value in every window of `size` x `size` that lies fully inside the image.

    Of a mask: the weights of these windows; 0 as soon as one pixel of the window is masked out.
    """
    for axis in (0, 1):
        length = image.shape[axis] - size + 1
        parts = [_part(image, start, length, axis) for start in range(size)]
        image = jnp.stack(parts).min(axis=0)
    return image


def _slide(moments, size: int, axis: int):
    """Moments (5, rows, columns) of windows of `size` times one, along an axis."""
    if size == 1:
        return moments
    half = _slide(moments, size // 2, axis)
    even = _merge(half, half, size // 2, size // 2, axis)
    return _merge(even, moments, size - 1, 1, axis) if size % 2 else even


def _merge(first, second, first_length: int, second_length: int, axis: int):
    """Moments of windows in which one of the second kind follows on one of the first."""
    count = second.shape[axis] - first_length
    first = _part(first, 0, count, axis)
    second = _part(second, first_length, count, axis)
    share = first_length / (first_length + second_length)
    apart = first[:2] - second[:2]
    spread = jnp.stack([apart[0] ** 2, apart[1] ** 2, apart[0] * apart[1]])
    merged = share * first + (1 - share) * second
    return jnp.concatenate([merged[:2], merged[2:] + share * (1 - share) * spread])


def _part(image, start: int, length: int, axis: int):
    return jax.lax.slice_in_dim(image, start, start + length, axis=axis)


def _weigh(down, image, across):
    # The default precision of a GPU (TF32) would leave three digits.
    return jnp.linalg.multi_dot([down, image, across.T], precision=jax.lax.Precision.HIGHEST)


def _gaussian(length: int, sigma, image):
    """Weights (at, of) of all pixels along one axis, each row summing to 1."""
    index = jnp.arange(length, dtype=image.dtype)
    # At 0.02 pixels and below, all neighbours have weight 0 in float64 too.
    distance = (index[:, None] - index) / jnp.maximum(jnp.asarray(sigma, image.dtype), 0.02)
    return _rows_to_one(jnp.exp(-0.5 * distance**2))


def _gaussian_windows(length: int, size: int, sigma: float, image):
    """Weights (window, pixel) of all windows along one axis, each row summing to 1."""
    start = jnp.arange(length - size + 1, dtype=image.dtype)[:, None]
    place = jnp.arange(length, dtype=image.dtype) - start
    weights = jnp.exp(-0.5 * ((place - (size - 1) / 2) / sigma) ** 2)
    return _rows_to_one(jnp.where((place >= 0) & (place < size), weights, 0))


def _rows_to_one(weights):
    return weights / weights.sum(axis=1, keepdims=True)


def _check_window(image, size: int):
    rows, columns = image.shape
    if not 1 <= size <= min(rows, columns):
        raise InputError(
            "window",
            f"{size} pixels for an image of {rows} x {columns}",
            "1 pixel or more, and no more than the image has",
            "use a smaller window or a larger image",
        )
