"""Similarities from information theory, of histograms that are smooth in the intensities.

Each pixel spreads over four neighbouring bins with the weights of a cubic B-spline (Mattes et al.,
2003). Intensities are counted in standard deviations about the mean of their own image, so that
neither offset nor gain matters. Mask, constant images and NaN are as in
`jxreg.similarity.features`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jxreg.precision import product
from jxreg.similarity.correlation import weighted_mean
from jxreg.similarity.features import nan_unless_finite, standardised


def mutual_information(
    moving: Float[Array, "rows columns"],
    fixed: Float[Array, "rows columns"],
    mask: Float[Array, "rows columns"] | None = None,
    *,
    bins: int = 32,
    span: float = 3.0,
) -> Float[Array, ""]:
    """Mutual information H(moving) + H(fixed) - H(moving, fixed) [nat], 0 or more.

    Args:
        moving: Rendered image.
        fixed: Acquired image.
        mask: Weights.
        bins: Number of bins for each image.
        span: Range of the bins, standard deviations on either side of the mean; what lies beyond
            is counted at its end.
    """
    moving, fixed = standardised(moving, mask), standardised(fixed, mask)
    entropies = _entropies(_joint_histogram(moving, fixed, mask, bins, span))
    return nan_unless_finite(_information(*entropies), moving, fixed)


def normalised_mutual_information(
    moving: Float[Array, "rows columns"],
    fixed: Float[Array, "rows columns"],
    mask: Float[Array, "rows columns"] | None = None,
    *,
    bins: int = 32,
    span: float = 3.0,
) -> Float[Array, ""]:
    """Mutual information over the mean of the two entropies, 0 to 1.

    1 would need a joint histogram without any spread; a smooth one stays below, even for twice the
    same image.

    Args:
        moving: Rendered image.
        fixed: Acquired image.
        mask: Weights.
        bins: As in `mutual_information`.
        span: As in `mutual_information`.
    """
    moving, fixed = standardised(moving, mask), standardised(fixed, mask)
    entropies = _entropies(_joint_histogram(moving, fixed, mask, bins, span))
    total = entropies[0] + entropies[1]
    value = 2 * _information(*entropies) / jnp.where(total > 0, total, 1)
    return nan_unless_finite(value, moving, fixed)


def local_mutual_information(
    moving: Float[Array, "rows columns"],
    fixed: Float[Array, "rows columns"],
    mask: Float[Array, "rows columns"] | None = None,
    *,
    tiles: int = 4,
    bins: int = 16,
    span: float = 3.0,
) -> Float[Array, ""]:
    """Locally weighted mutual information [nat], 0 or more, after Meng et al. (2018).

    The mutual information of each tile of the image, averaged with the weights that the fixed image
    gives: the tile's share of the visible pixels times its entropy, so that tiles which show much
    decide and empty ones do not. The details are a reconstruction from the method's name and aim,
    not from the paper: tiles side by side, bins common to all tiles, weights from the entropy.

    Args:
        moving: Rendered image.
        fixed: Acquired image.
        mask: Weights.
        tiles: Number of tiles along each side. Tiles should hold more than `bins`^2 pixels, or
            chance alone gives information.
        bins: As in `mutual_information`.
        span: As in `mutual_information`.
    """
    weights = jnp.ones_like(moving) if mask is None else mask
    moving, fixed = standardised(moving, mask), standardised(fixed, mask)

    def tile_information(moving, fixed, weights):
        entropies = _entropies(_joint_histogram(moving, fixed, weights, bins, span))
        return _information(*entropies), entropies[1] * weights.sum()

    parts = [_tiled(image, tiles) for image in (moving, fixed, weights)]
    value = weighted_mean(*jax.vmap(tile_information)(*parts))
    return nan_unless_finite(value, moving, fixed)


def _tiled(image, tiles: int):
    """Tiles side by side, (tile, row, column); the image is filled up with zeros."""
    rows, columns = (-(-size // tiles) for size in image.shape)
    missing = (rows * tiles - image.shape[0], columns * tiles - image.shape[1])
    image = jnp.pad(image, [(0, missing[0]), (0, missing[1])])
    split = image.reshape(tiles, rows, tiles, columns).swapaxes(1, 2)
    return split.reshape(tiles * tiles, rows, columns)


def _joint_histogram(moving, fixed, mask, bins: int, span: float):
    """Shares of the weight in each pair of bins (moving, fixed); all 0 for an empty mask."""
    rows = _spread(moving.ravel(), bins, span)
    columns = _spread(fixed.ravel(), bins, span)
    if mask is not None:
        columns *= mask.ravel()[:, None]
    joint = product(rows.T, columns)
    total = joint.sum()
    return joint / jnp.where(total > 0, total, 1)


def _spread(intensities, bins: int, span: float):
    """Weights of each pixel on each bin: a cubic B-spline about its place, summing to 1."""
    # From bin 1 to the last but one, so that no pixel's weights leave the histogram.
    place = 1 + (bins - 3) * jnp.clip((intensities / span + 1) / 2, 0, 1)
    distance = jnp.abs(place[:, None] - jnp.arange(bins, dtype=intensities.dtype))
    near = 2 / 3 - distance**2 * (1 - distance / 2)
    far = jnp.maximum(2 - distance, 0) ** 3 / 6
    return jnp.where(distance < 1, near, far)


def _entropies(joint):
    """Entropies [nat] of the moving image, the fixed image and both together."""
    return tuple(-_x_log_x(p).sum() for p in (joint.sum(axis=1), joint.sum(axis=0), joint))


def _information(moving_entropy, fixed_entropy, joint_entropy):
    return moving_entropy + fixed_entropy - joint_entropy


def _x_log_x(p):
    return jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1)), 0)
