"""Similarities that correlate: intensities, local intensities, derivatives.

All take `(moving, fixed, mask=None)` and give a number, higher for more alike. Mask, constant
images and NaN are as in `jxreg.similarity.features`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jxreg.similarity.features import (
    gradient_correlation_features,
    gradient_features,
    inner,
    local_features,
    nan_unless_finite,
    ncc_features,
    standardised,
    visible_gradients,
)
from jxreg.similarity.windows import box_moments, window_minimum


def ncc(
    moving: Float[Array, "rows columns"],
    fixed: Float[Array, "rows columns"],
    mask: Float[Array, "rows columns"] | None = None,
) -> Float[Array, ""]:
    """Zero-normalised cross-correlation over the whole image, -1 to 1.

    Wide basin, but beam hardening and scatter move its maximum; finish on a local one.
    """
    return inner(ncc_features(moving, mask), ncc_features(fixed, mask))


def local_ncc(
    moving: Float[Array, "rows columns"],
    fixed: Float[Array, "rows columns"],
    mask: Float[Array, "rows columns"] | None = None,
    *,
    sigma: float = 0.05,
    floor: float = 0.03,
) -> Float[Array, ""]:
    """NCC of the two images after local normalisation in a Gaussian window, -1 to 1.

    Args:
        moving: Rendered image.
        fixed: Acquired image.
        mask: Weights.
        sigma: Standard deviation of the window, as a fraction of the image's width.
        floor: Smallest local contrast that counts; see `locally_normalised`.
    """
    return inner(
        local_features(moving, mask, sigma, floor), local_features(fixed, mask, sigma, floor)
    )


def patch_ncc(
    moving: Float[Array, "rows columns"],
    fixed: Float[Array, "rows columns"],
    mask: Float[Array, "rows columns"] | None = None,
    *,
    patch: int = 9,
    floor: float = 0.003,
) -> Float[Array, ""]:
    """Mean NCC of all square patches that lie fully inside the image, -1 to 1.

    Args:
        moving: Rendered image.
        fixed: Acquired image.
        mask: Weights; a patch counts with its smallest one.
        patch: Side of a patch [pixels].
        floor: Added to the deviations in a patch, as root of the sum of squares, as a fraction of
            the whole image's deviation, so that patches below it count little. 0 is the bare
            definition, in which a patch that is flat in one image gives 0.

    Raises:
        InputError: The image is smaller than a patch.
    """
    moments = box_moments(standardised(moving, mask), standardised(fixed, mask), patch)
    product = (moments.moving_variance + floor**2) * (moments.fixed_variance + floor**2)
    flat = product <= 0
    scores = jnp.where(flat, 0, moments.covariance / jnp.sqrt(jnp.where(flat, 1, product)))
    if mask is None:
        return scores.mean()
    return weighted_mean(scores, window_minimum(mask, patch))


def multiscale_ncc(
    moving: Float[Array, "rows columns"],
    fixed: Float[Array, "rows columns"],
    mask: Float[Array, "rows columns"] | None = None,
    *,
    patches: tuple[int | None, ...] = (None, 9),
    weights: tuple[float, ...] = (0.5, 0.5),
) -> Float[Array, ""]:
    """Weighted sum of NCC over patches of several sizes (Gopalakrishnan et al., 2024).

    Args:
        moving: Rendered image.
        fixed: Acquired image.
        mask: Weights.
        patches: Side of the patches of each scale [pixels]; None is the whole image.
        weights: Weight of each scale.
    """
    total = jnp.zeros((), moving.dtype)
    for patch, weight in zip(patches, weights, strict=True):
        if patch is None:
            total += weight * ncc(moving, fixed, mask)
        else:
            total += weight * patch_ncc(moving, fixed, mask, patch=patch)
    return total


def gradient_multiscale_ncc(
    moving: Float[Array, "rows columns"],
    fixed: Float[Array, "rows columns"],
    mask: Float[Array, "rows columns"] | None = None,
    *,
    patch: int = 9,
    gradient_patch: int = 11,
) -> Float[Array, ""]:
    """Mean of `multiscale_ncc` and of the patch NCC of both derivatives: what xvr maximises.

    Args:
        moving: Rendered image.
        fixed: Acquired image.
        mask: Weights.
        patch: Side of the patches of the images, beside the whole of them [pixels].
        gradient_patch: Side of the patches of the derivatives [pixels].
    """
    images = multiscale_ncc(moving, fixed, mask, patches=(None, patch))
    moving_gradients, weights = visible_gradients(moving, mask)
    fixed_gradients, _ = visible_gradients(fixed, mask)
    across, down = (
        patch_ncc(one, other, weights, patch=gradient_patch)
        for one, other in zip(moving_gradients, fixed_gradients, strict=True)
    )
    return (images + (across + down) / 2) / 2


def gradient_ncc(
    moving: Float[Array, "rows columns"],
    fixed: Float[Array, "rows columns"],
    mask: Float[Array, "rows columns"] | None = None,
) -> Float[Array, ""]:
    """NCC of the Sobel derivatives by x and y, normalised together, -1 to 1.

    Weights edges by their strength, whatever their direction. A linear shading changes nothing.
    """
    return inner(gradient_features(moving, mask), gradient_features(fixed, mask))


def gradient_correlation(
    moving: Float[Array, "rows columns"],
    fixed: Float[Array, "rows columns"],
    mask: Float[Array, "rows columns"] | None = None,
) -> Float[Array, ""]:
    """Mean of the NCC of the derivatives by x and of those by y, -1 to 1 (Penney et al., 1998)."""
    return inner(
        gradient_correlation_features(moving, mask), gradient_correlation_features(fixed, mask)
    )


def gradient_orientation(
    moving: Float[Array, "rows columns"],
    fixed: Float[Array, "rows columns"],
    mask: Float[Array, "rows columns"] | None = None,
) -> Float[Array, ""]:
    """How well the directions of strong gradients agree, 0 to 1 (De Silva et al., 2016).

    Strong is above the median of its own image, in both images. With the angle a between the two
    gradients, the mean over these pixels of (2 - log(1 + a)) / 2; where fewer than half of the
    pixels are strong, the sum is divided by that half. Strength does not matter beyond the
    selection, so metal and other mismatched content weigh little. The selection has no gradient.
    """
    moving_gradients, weights = visible_gradients(moving, mask)
    fixed_gradients, _ = visible_gradients(fixed, mask)
    if weights is None:
        weights = jnp.ones_like(moving_gradients[0])
    strong = _strong(moving_gradients, weights) & _strong(fixed_gradients, weights)
    strong_weights = jnp.where(strong, weights, 0)
    scores = (2 - jnp.log1p(_angle(moving_gradients, fixed_gradients, strong))) / 2
    total = jnp.maximum(strong_weights.sum(), weights.sum() / 2)
    value = (strong_weights * scores).sum() / jnp.where(total > 0, total, 1)
    # Only what is seen: the step between masked and visible pixels has weight 0.
    return nan_unless_finite(value, weights * moving_gradients, weights * fixed_gradients)


def weighted_mean(values: Float[Array, "..."], weights: Float[Array, "..."]) -> Float[Array, ""]:
    """Mean with weights; 0 where they sum to 0."""
    total = weights.sum()
    return (weights * values).sum() / jnp.where(total > 0, total, 1)


def _strong(gradients, weights):
    """Where the gradient is longer than the weighted median length."""
    squared = jax.lax.stop_gradient((gradients**2).sum(axis=0))
    half = weights.sum() / 2

    # Bisection, since sorting 10^5 numbers takes longer than all the rest.
    def halve(_, bounds):
        low, high = bounds
        middle = (low + high) / 2
        enough = jnp.where(squared > middle, weights, 0).sum() <= half
        return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

    largest = jnp.where(weights > 0, squared, 0).max()
    _, median = jax.lax.fori_loop(0, 48, halve, (jnp.zeros_like(largest), largest))
    return squared > median


def _angle(first, second, where):
    """Angle between two fields of vectors [rad], 0 to pi; 0, without a gradient, elsewhere."""
    dot = jnp.where(where, (first * second).sum(axis=0), 1)
    cross = jnp.where(where, first[0] * second[1] - first[1] * second[0], 0)
    return jnp.abs(jnp.arctan2(cross, dot))
