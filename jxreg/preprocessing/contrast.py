"""What the grey values of an image stand for, as far as the image itself tells."""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

PLATEAU = 0.05
"""Least share of the image that air, exposed to black or white, takes."""
SOLID = 0.9
"""A field fills this share of its convex hull at least; a body in air does not."""


def brightness(
    image: Float[np.ndarray, "rows columns"], seen: Bool[np.ndarray, "rows columns"]
) -> Float[np.ndarray, "rows columns"]:
    """Square root of the intensity, 1 in air: quantum noise is the same everywhere in it.

    Args:
        image: Attenuation.
        seen: Pixels that count for what is air.
    """
    air = np.quantile(image[seen], 0.005) if seen.any() else 0.0
    return np.exp(-np.maximum(image - air, 0) / 2).astype(np.float32)


def dark_air(intensity: Float[np.ndarray, "rows columns"], quantum: float) -> bool:
    """Whether the darkest value looks like air around a body: the image is inverted.

    The darkest value takes much of the image from the border on, and what it leaves is no convex
    field as shutters leave it. Of an image without air beside the body it tells nothing.

    Args:
        intensity: Image that should be bright where much radiation arrived.
        quantum: One grey level.
    """
    from scipy import ndimage
    from scipy.spatial import ConvexHull, QhullError

    low, high = float(intensity.min()), float(intensity.max())
    dark = intensity <= low + max(quantum, 0.002 * (high - low))
    regions, count = ndimage.label(dark)  # pyright: ignore
    border = np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]])
    outside = np.isin(regions, np.setdiff1d(border, 0))
    body = ndimage.binary_opening(~outside, iterations=2)
    if not high > low or count == 0 or outside.mean() < PLATEAU or body.sum() < 100:
        return False
    outline = np.argwhere(body & np.logical_not(ndimage.binary_erosion(body)))
    try:
        hull = ConvexHull(outline).volume  # of points in a plane: the area
    except QhullError:
        return False
    return bool(body.sum() < SOLID * hull)


def noise_law(
    intensity: Float[np.ndarray, "rows columns"],
    seen: Bool[np.ndarray, "rows columns"],
    quantum: float,
) -> Literal["linear", "log", "unknown"]:
    """What the noise says the values are proportional to.

    Quantum noise grows with the intensity, as its square root, and falls with it in a logarithm.
    Images without visible noise (smoothed, compressed, 8 bits) tell nothing.

    Args:
        intensity: Image that is bright where much radiation arrived.
        seen: Pixels that count.
        quantum: One grey level.
    """
    from scipy import ndimage

    # Immerkaer, Comput Vis Image Underst 64, 1996: blind to planes.
    second = ndimage.convolve(intensity, np.outer([1.0, -2.0, 1.0], [1.0, -2.0, 1.0])) / 6
    mean = ndimage.uniform_filter(intensity, 5)
    counted = ndimage.binary_erosion(seen, iterations=4)
    counted &= intensity < np.quantile(intensity, 0.999)  # not saturated
    if counted.sum() < 4000:
        return "unknown"
    level, residual = mean[counted], np.abs(second[counted])
    cuts = np.quantile(level, np.linspace(0.02, 0.98, 13))
    bins = np.digitize(level, cuts)
    inner = [bins == k for k in range(1, len(cuts)) if (bins == k).sum() > 200]
    levels = np.array([np.median(level[b]) for b in inner])
    noise = np.array([1.4826 * np.median(residual[b]) for b in inner])
    if len(inner) < 6 or np.median(noise) < 0.7 * max(quantum, 1e-12) or levels.min() <= 0:
        return "unknown"
    rise = np.corrcoef(levels, noise)[0, 1]
    ratio = noise[np.argmax(levels)] / max(noise[np.argmin(levels)], 1e-12)
    if rise > 0.8 and ratio > 1.5:
        return "linear"
    return "log" if rise < -0.8 and ratio < 1 / 1.5 else "unknown"
