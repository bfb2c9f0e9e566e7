"""Normalised features of one image; the sum of products of two images' features is a similarity.

A feature function maps `(image, mask)` to an array f whose squares sum to 1 (to 0 where the image shows
nothing). So for every similarity built on it

    similarity = inner(f(moving), f(fixed))    and    |f(moving) - f(fixed)|^2 = 2 (1 - similarity):

the difference of the features is the residual that a Gauss-Newton step needs.

The mask holds weights from 0 to 1, one a pixel; None counts every pixel once. What lies under a weight of 0
has no influence at all, be it NaN. An image that is constant under its mask, to the resolution of its
floating-point type, has features 0 and gradient 0. A NaN under the mask makes every feature NaN.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jxreg.similarity.windows import gaussian_smooth


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
    weights = None if mask is None else eroded(mask)
    centred = jnp.stack([_centred(g, weights)[0] for g in image_gradients(_visible(image, mask))])
    both = None if weights is None else jnp.stack([weights, weights])
    return _weighted(_unit(centred, both), both)


def gradient_correlation_features(
    image: Float[Array, "rows columns"], mask: Float[Array, "rows columns"] | None = None
) -> Float[Array, "2 rows-2 columns-2"]:
    """Features of gradient correlation: both derivatives, each normalised on its own.

    An image with no variation in one direction keeps only the other half: its features' squares sum to 1/2.
    """
    weights = None if mask is None else eroded(mask)
    across, down = image_gradients(_visible(image, mask))
    features = jnp.stack([ncc_features(across, weights), ncc_features(down, weights)])
    return features / jnp.sqrt(2.0)


def zero_normalised(
    image: Float[Array, "rows columns"], mask: Float[Array, "rows columns"] | None = None
) -> Float[Array, "rows columns"]:
    """Shift and scale so that the weighted mean is 0 and the weighted sum of squares is 1.

    Args:
        image: Any image; the offset may be large against the contrast (the mean is taken off twice).
        mask: Weights.

    Returns:
        The image, 0 where the weight is 0; all 0 where the image is constant or the mask empty.
    """
    centred, mean = _centred(_visible(image, mask), mask)
    return _unit(centred, mask, resolution=jnp.abs(mean))


def locally_normalised(
    image: Float[Array, "rows columns"],
    mask: Float[Array, "rows columns"] | None = None,
    sigma: float = 0.05,
    floor: float = 0.03,
) -> Float[Array, "rows columns"]:
    """Take off the local mean and divide by the local standard deviation, in a Gaussian window.

    Removes what varies slowly (scatter, beam hardening, a contrast that depends on the thickness). Under a
    mask it is a normalised convolution: pixels outside give nothing to mean and deviation.

    Args:
        image: Attenuation.
        mask: Weights.
        sigma: Standard deviation of the window, as a fraction of the image's width.
        floor: Local deviations much smaller than this fraction of the image's standard deviation are left
            small: q / sqrt(local variance + (floor * deviation)^2). It keeps the noise in air from being
            amplified to the size of bone edges.

    Returns:
        The image, of local variance at most 1; 0 where the weight is 0.
    """
    weights = jnp.ones_like(image) if mask is None else mask
    width = sigma * image.shape[1]
    # Where no pixel is within reach the ratio is meaningless, and the weight there is 0.
    reach = jnp.maximum(gaussian_smooth(weights, width), 1e-6)
    standard = zero_normalised(image, mask) * jnp.sqrt(weights.sum())
    local = standard - gaussian_smooth(weights * standard, width) / reach
    variance = gaussian_smooth(weights * local**2, width) / reach
    tiny = jnp.finfo(image.dtype).eps ** 2
    return _visible(local / jnp.sqrt(jnp.maximum(variance + floor**2, tiny)), mask)


def image_gradients(image: Float[Array, "rows columns"]) -> Float[Array, "2 rows-2 columns-2"]:
    """Sobel derivatives by column (x), then by row (y) [1/pixel], of the pixels that have all neighbours."""
    across = image[:, 2:] - image[:, :-2]
    down = image[2:] - image[:-2]
    across = across[:-2] + 2 * across[1:-1] + across[2:]
    down = down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]
    return jnp.stack([across, down]) / 8


def eroded(mask: Float[Array, "rows columns"]) -> Float[Array, "rows-2 columns-2"]:
    """Weights of `image_gradients`: the smallest of the 3 x 3 pixels that a derivative is made of."""
    down = jnp.minimum(jnp.minimum(mask[:-2], mask[1:-1]), mask[2:])
    return jnp.minimum(jnp.minimum(down[:, :-2], down[:, 1:-1]), down[:, 2:])


def _visible(image, mask):
    """The image, 0 where the weight is 0, so that not even a NaN there is seen."""
    return image if mask is None else jnp.where(mask > 0, image, 0)


def _weighted(image, mask):
    """Each pixel times the square root of its weight, for sums of products of two images."""
    if mask is None:
        return image
    return image * jnp.sqrt(jnp.where(mask > 0, mask, 1)) * (mask > 0)


def _centred(image, mask):
    """The image without its weighted mean, and the mean."""
    first = _mean(image, mask)
    # In float32 the mean of 10^5 pixels is good to 1e-6 of itself; the second pass takes the rest off.
    second = _mean(image - first, mask)
    return _visible(image - first - second, mask), first


def _mean(image, mask):
    if mask is None:
        return image.mean()
    total = mask.sum()
    return jnp.where(total > 0, (mask * image).sum() / jnp.where(total > 0, total, 1), 0)


def _unit(image, mask, resolution: float | Array = 0.0):
    """Scale to a weighted sum of squares of 1; all 0 where the deviation is rounding of `resolution`."""
    weights = jnp.ones_like(image) if mask is None else mask
    energy = (weights * image**2).sum()
    rounding = 2 * jnp.finfo(image.dtype).eps * resolution
    # `<=` is False for NaN, which so stays NaN and is seen.
    flat = energy <= weights.sum() * rounding**2
    return jnp.where(flat, 0, image / jnp.sqrt(jnp.where(flat, 1, energy)))
