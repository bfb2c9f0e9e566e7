"""Structural similarity: for comparing images of one scale, such as two renderings."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jxreg.similarity.correlation import weighted_mean
from jxreg.similarity.windows import gaussian_moments, window_minimum


def ssim(
    moving: Float[Array, "rows columns"],
    fixed: Float[Array, "rows columns"],
    mask: Float[Array, "rows columns"] | None = None,
    *,
    data_range: float | None = None,
    window: int = 11,
    sigma: float = 1.5,
) -> Float[Array, ""]:
    """Structural similarity index, -1 to 1 (Wang et al., 2004; k1 = 0.01, k2 = 0.03).

    Compares brightness too: both images must have one intensity scale. Of a constant fixed image
    (with no `data_range` given) it is 0.

    Args:
        moving: Rendered image.
        fixed: Acquired image.
        mask: Weights; a window counts with its smallest one.
        data_range: Range of the intensities; None takes that of the visible fixed image.
        window: Side of the Gaussian window [pixels]; only windows inside the image count.
        sigma: Standard deviation of the window [pixels].

    Raises:
        InputError: The image is smaller than the window.
    """
    seen = jnp.ones(fixed.shape, bool) if mask is None else mask > 0
    low = jnp.where(seen, fixed, jnp.inf).min()
    # What is masked out takes on a value from the image, so that large numbers cannot spoil others.
    low = jnp.where(jnp.isinf(low), 0, low)
    moving, fixed = jnp.where(seen, moving, low), jnp.where(seen, fixed, low)
    extent = fixed.max() - low if data_range is None else jnp.asarray(data_range, fixed.dtype)
    flat = extent <= 0
    moments = gaussian_moments(moving, fixed, window, sigma)
    scores = _scores(moments, jnp.where(flat, 1, extent))
    weights = jnp.ones_like(scores) if mask is None else window_minimum(mask, window)
    return jnp.where(flat, 0, weighted_mean(scores, weights))


def _scores(moments, extent):
    """The index in each window: luminance times contrast and structure."""
    c1, c2 = (0.01 * extent) ** 2, (0.03 * extent) ** 2
    squares = moments.moving_mean**2 + moments.fixed_mean**2
    # (2 xy + c1) / (x^2 + y^2 + c1), without a difference of large numbers.
    luminance = 1 - (moments.moving_mean - moments.fixed_mean) ** 2 / (squares + c1)
    variances = moments.moving_variance + moments.fixed_variance
    return luminance * (2 * moments.covariance + c2) / (variances + c2)
