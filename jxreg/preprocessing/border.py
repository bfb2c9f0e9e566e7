"""Dead borders of an image: constant dark regions of any form, and rows and columns."""

import numpy as np
from jaxtyping import Float, Shaped

LARGEST, BRIGHTEST = 0.25, 0.03
"""Largest dead border on one side, as a fraction of the image; that of one as bright as air."""


def border_mask(
    image: Float[np.ndarray, "rows columns"], quantum: float
) -> Float[np.ndarray, "rows columns"]:
    """Mask of what is not a dead border: a frame of any one value around the image.

    Rows (and columns) from the border on count as dead if each is constant to a grey level and the
    first one that is not differs from them nearly everywhere. Air beside a body does not.

    Args:
        image: Attenuation.
        quantum: One grey level, in the unit of the image.
    """
    mask = np.ones(image.shape, np.float32)
    top, bottom = _dead(image, quantum), _dead(image[::-1], quantum)
    left, right = _dead(image.T, quantum), _dead(image.T[::-1], quantum)
    rows, columns = image.shape
    mask[:top] = mask[rows - bottom :] = 0
    mask[:, :left] = mask[:, columns - right :] = 0
    return mask


def _dead(image: np.ndarray, quantum: float) -> int:
    """How many of the first rows are dead."""
    rows, columns = image.shape
    # A frame's corners belong to its other sides, which have the same value.
    constant = np.ptp(image, axis=1) <= quantum
    count = int(np.argmin(constant)) if not constant.all() else 0
    bright = image[0, columns // 2] <= image.min() + quantum
    if count == 0 or count > (BRIGHTEST if bright else LARGEST) * rows:
        return 0
    step = np.abs(image[count] - image[0, columns // 2]) > max(3 * quantum, 0.02 * np.ptp(image))
    first, last = np.flatnonzero(step)[[0, -1]] if step.any() else (0, 0)
    inside = step[first : last + 1]
    return count if inside.mean() > 0.9 and inside.size > 0.5 * columns else 0


def collimation_mask(
    intensity: Shaped[np.ndarray, "rows columns"], quantum: float = 1.0, margin: float = 0.005
) -> Float[np.ndarray, "rows columns"]:
    """Mask of the field that the collimator, a round image intensifier or a cut-out left open.

    Only what is certain is masked: regions that touch the border of the image, are constant at its
    darkest value within one grey level, end in an edge and not in a gradual shade, and hold at
    least 0.1 % of the image. A collimator with scatter behind it is not constant and stays; so
    does saturated air.

    Args:
        intensity: Image that is bright where much radiation arrived.
        quantum: One grey level; 0 asks for exactly equal values.
        margin: Width of the half-shadow that is masked around such a region, as a fraction of the
            longer side.

    Returns:
        1 in the open field, 0 elsewhere.
    """
    from scipy import ndimage

    low, high = np.percentile(intensity, [0, 99])
    regions = np.zeros(intensity.shape, np.int32)
    dark = intensity <= low + quantum
    count = int(ndimage.label(dark, output=regions))  # pyright: ignore[reportArgumentType]
    border = np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]])
    large = np.bincount(regions.ravel(), minlength=count + 1) >= max(64, 1e-3 * intensity.size)
    closed = large & np.isin(np.arange(count + 1), border)
    closed[0] = False  # pixels that are not dark
    if not closed.any():
        return np.ones(intensity.shape, np.float32)
    shadow = round(margin * max(intensity.shape))
    step = max(4 * quantum, 0.01 * (high - low))
    for region in np.flatnonzero(closed):
        inside = regions == region
        beside = _widened(inside, shadow + 3) & ~_widened(inside, shadow)
        closed[region] = beside.any() and np.median(intensity[beside]) >= low + step
    return (~_widened(closed[regions], shadow)).astype(np.float32)


def _widened(region: np.ndarray, pixels: int) -> np.ndarray:
    """The region and all pixels within a square reach of it."""
    from scipy import ndimage

    return ndimage.maximum_filter(region.astype(np.uint8), 2 * pixels + 1) > 0
