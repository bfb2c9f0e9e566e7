"""Normalised features of one image; the sum of products of two images' features is a similarity.

A feature function maps `(image, mask)` to an array f whose squares sum to 1 (to 0 where the image
shows nothing). So for every similarity built on it

    similarity = inner(f(moving), f(fixed))
    |f(moving) - f(fixed)|^2 = 2 (1 - similarity)

and the difference of the features is the residual that a Gauss-Newton step needs.

The mask holds a weight from 0 to 1 for each pixel; None counts every pixel once. What lies under a
weight of 0 has no influence at all, be it NaN. An image that is constant where it is seen, to the
resolution of its floating-point type, has features 0 and gradient 0. A NaN that is seen makes every
feature NaN.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jxreg.similarity.windows import gaussian_smooth, window_minimum


def inner(moving: Float[Array, "*shape"], fixed: Float[Array, "*shape"]) -> Float[Array, ""]:
    """Sum of products of two images' features: their similarity."""
    return jnp.sum(moving * fixed)


def ncc_features(
    image: Float[Array, "rows columns"], mask: Float[Array, "rows columns"] | None = None
) -> Float[Array, "rows columns"]:
    """Features of normalised cross-correlation."""
    return _weighted(zero_normalised(image, mask), mask)


def local_features(
    image: Float[Array, "rows columns"],
    mask: Float[Array, "rows columns"] | None = None,
    sigma: float = 0.05,
    floor: float = 0.03,
) -> Float[Array, "rows columns"]:
    """Features of `local_ncc`: those of NCC, of the locally normalised image.

    Args:
        image: Attenuation.
        mask: Weights.
        sigma: As in `locally_normalised`.
        floor: As in `locally_normalised`.
    """
    return ncc_features(locally_normalised(image, mask, sigma, floor), mask)


def gradient_features(
    image: Float[Array, "rows columns"], mask: Float[Array, "rows columns"] | None = None
) -> Float[Array, "2 rows-2 columns-2"]:
    """Features of gradient NCC: both derivatives, each without its mean, normalised together."""
    gradients, weights = visible_gradients(image, mask)
    centred = jnp.stack([_centred(gradient, weights)[0] for gradient in gradients])
    both = None if weights is None else jnp.stack([weights, weights])
    return _weighted(_unit(centred, both), both)


def gradient_correlation_features(
    image: Float[Array, "rows columns"], mask: Float[Array, "rows columns"] | None = None
) -> Float[Array, "2 rows-2 columns-2"]:
    """Features of gradient correlation: both derivatives, each normalised on its own.

    Of an image that does not vary in one direction only the other half is left: its squares sum to
    one half.
    """
    gradients, weights = visible_gradients(image, mask)
    return jnp.stack([ncc_features(gradient, weights) for gradient in gradients]) / 2**0.5


def zero_normalised(
    image: Float[Array, "rows columns"], mask: Float[Array, "rows columns"] | None = None
) -> Float[Array, "rows columns"]:
    """Shift and scale so that the weighted mean is 0 and the weighted sum of squares is 1.

    Args:
        image: Any image; the offset may be large against the contrast.
        mask: Weights.

    Returns:
        The image, 0 where the weight is 0; all 0 where the image is constant or the mask empty.
    """
    centred, mean = _centred(visible(image, mask), mask)
    return _unit(centred, mask, resolution=jnp.abs(mean))


def standardised(
    image: Float[Array, "rows columns"], mask: Float[Array, "rows columns"] | None = None
) -> Float[Array, "rows columns"]:
    """`zero_normalised`, with a weighted mean square of 1: in standard deviations."""
    return zero_normalised(image, mask) * jnp.sqrt(image.size if mask is None else mask.sum())


def locally_normalised(
    image: Float[Array, "rows columns"],
    mask: Float[Array, "rows columns"] | None = None,
    sigma: float = 0.05,
    floor: float = 0.03,
) -> Float[Array, "rows columns"]:
    """Take off the local mean and divide by the local standard deviation, in a Gaussian window.

    Removes what varies slowly: scatter, beam hardening, a contrast that depends on thickness. Under
    a mask it is a normalised convolution: pixels outside give nothing to mean and deviation.

    Args:
        image: Attenuation.
        mask: Weights.
        sigma: Standard deviation of the window, as a fraction of the image's width.
        floor: Added to the local deviation, as root of the sum of squares, as a fraction of the
            whole image's deviation. It keeps the noise of air from growing to the size of edges.

    Returns:
        The image, 0 where the weight is 0.
    """
    weights = jnp.ones_like(image) if mask is None else mask
    width = sigma * image.shape[1]
    # Where no pixel is within reach the ratio is meaningless, and the weight there is 0.
    reach = jnp.maximum(gaussian_smooth(weights, width), 1e-6)
    standard = standardised(image, mask)
    local = standard - gaussian_smooth(weights * standard, width) / reach
    variance = gaussian_smooth(weights * local**2, width) / reach
    tiny = jnp.finfo(image.dtype).eps ** 2
    return visible(local / jnp.sqrt(jnp.maximum(variance + floor**2, tiny)), mask)


def image_gradients(image: Float[Array, "rows columns"]) -> Float[Array, "2 rows-2 columns-2"]:
    """Sobel derivatives by column (x), then by row (y) [1/pixel], without the outermost pixels."""
    across = image[:, 2:] - image[:, :-2]
    down = image[2:] - image[:-2]
    across = across[:-2] + 2 * across[1:-1] + across[2:]
    down = down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]
    return jnp.stack([across, down]) / 8


def visible_gradients(
    image: Float[Array, "rows columns"], mask: Float[Array, "rows columns"] | None
) -> tuple[Float[Array, "2 rows-2 columns-2"], Float[Array, "rows-2 columns-2"] | None]:
    """`image_gradients` and their weights: the smallest of the 3 x 3 pixels they are made of."""
    weights = None if mask is None else window_minimum(mask, 3)
    return image_gradients(visible(image, mask)), weights


def visible(
    image: Float[Array, "rows columns"], mask: Float[Array, "rows columns"] | None
) -> Float[Array, "rows columns"]:
    """The image, 0 where the weight is 0, so that not even a NaN there is seen."""
    return image if mask is None else jnp.where(mask > 0, image, 0)


def nan_unless_finite(value: Float[Array, ""], *images: Float[Array, "..."]) -> Float[Array, ""]:
    """Say so where comparisons have hidden that an image is not finite."""
    finite = jnp.array([jnp.isfinite(image).all() for image in images]).all()
    return jnp.where(finite, value, jnp.nan)


def _weighted(image, mask):
    """Each pixel times the square root of its weight, for sums of products of two images."""
    if mask is None:
        return image
    return image * jnp.sqrt(jnp.where(mask > 0, mask, 1)) * (mask > 0)


def _centred(image, mask):
    """The image without its weighted mean, and the mean."""
    first = _mean(image, mask)
    # The mean of 10^5 float32 numbers is good to 1e-6 of itself; a second pass takes that off.
    second = _mean(image - first, mask)
    return visible(image - first - second, mask), first


def _mean(image, mask):
    if mask is None:
        return image.mean()
    total = mask.sum()
    return jnp.where(total > 0, (mask * image).sum() / jnp.where(total > 0, total, 1), 0)


def _unit(image, mask, resolution: float | Array = 0.0):
    """Scale to a weighted sum of squares of 1; 0 where the contrast is rounding of `resolution`."""
    weights = jnp.ones_like(image) if mask is None else mask
    energy = (weights * image**2).sum()
    rounding = 2 * jnp.finfo(image.dtype).eps * resolution
    # `<=` is False for NaN, which so stays NaN and is seen.
    flat = energy <= weights.sum() * rounding**2
    return jnp.where(flat, 0, image / jnp.sqrt(jnp.where(flat, 1, energy)))
