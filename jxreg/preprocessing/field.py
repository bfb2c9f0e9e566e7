"""The field that shutters and a round intensifier leave open, with scatter behind them or not."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jxreg.preprocessing import curves
from jxreg.preprocessing.curves import Circle, Curve, Edges

ROUNDS = 8
"""Most curves that bound a field; an octagon has eight."""
STEP = 0.04
"""Least step of the brightness across an edge, as a fraction of air."""
SPREAD = 3.8
"""Height of a step over its slope after a blur of 1.5 pixels [pixel]."""
STEEP = STEP / SPREAD
"""Least slope of an edge, after that blur [1/pixel]."""
SHARP = 0.5
"""Least part of a step that is made within two pixels of the curve."""
EVEN = 0.6
"""Largest spread of the brightness behind an edge, as a fraction of the step there."""


class Field(NamedTuple):
    """What is open, and the curves that bound it."""

    mask: Float[np.ndarray, "rows columns"]
    """1 in the open field, 0 elsewhere."""
    curves: tuple[Curve, ...]
    """In pixels of the image."""


def open_field(
    brightness: Float[np.ndarray, "rows columns"],
    seen: Bool[np.ndarray, "rows columns"],
    ignored: Bool[np.ndarray, "rows columns"] | None = None,
) -> Field:
    """The field within straight edges, turned as they may be, and a circle.

    An edge closes what lies behind it only if the image falls along nearly all of it by one sharp
    step, and what is behind is dark, even and without edges of its own: anatomy is not.

    Args:
        brightness: `contrast.brightness` of an image of some 200 to 600 pixels.
        seen: Pixels that are not known to be closed.
        ignored: Pixels whose edges mean nothing, as of burnt-in text.
    """
    from scipy import ndimage

    smooth = ndimage.gaussian_filter(brightness, 1.0)
    clear = ndimage.binary_erosion(seen, iterations=3, border_value=0)
    least = max(STEEP, 3 * _noise_slope(brightness, seen))
    if ignored is not None:
        clear &= ~ignored
    edges = curves.find_edges(brightness, clear, least)
    shape = brightness.shape
    candidates = [*curves.lines(edges, shape, 40), *curves.circles(edges, shape, 10)]
    open_, found = seen.copy(), []
    grid = np.moveaxis(np.indices(shape), 0, -1).astype(float)
    for _ in range(ROUNDS):
        scores = [_support(smooth, open_, edges, grid, curve) for curve in candidates]
        if not scores or max(scores) <= 0:
            break
        curve = candidates.pop(int(np.argmax(scores)))
        found.append(curve)
        open_ &= curves.distance(curve, grid) < 0
    return Field(within(found, shape), tuple(found))


def within(bounds: Sequence[Curve], shape: tuple[int, int]) -> Float[np.ndarray, "rows columns"]:
    """1 inside all curves and their half-shadow of 0.5 % of the image, 0 elsewhere."""
    shadow = 1 + round(0.005 * max(shape))
    grid = np.moveaxis(np.indices(shape), 0, -1).astype(np.float32)
    mask = np.ones(shape, bool)
    for curve in bounds:
        mask &= curves.distance(curve, grid) < -shadow
    return mask.astype(np.float32)


def scaled(curve: Curve, factor: int) -> Curve:
    """The same curve in an image whose pixels are `factor` times smaller."""
    shift = (factor - 1) / 2
    if isinstance(curve, Circle):
        return Circle(curve.centre * factor + shift, curve.radius * factor)
    offset = curve.offset * factor + shift * float(curve.normal.sum())
    return curves.Line(curve.normal, offset)


def _noise_slope(image, seen) -> float:
    """Typical slope that noise makes, after a blur of 1.5 pixels [1/pixel]."""
    from scipy import ndimage

    second = ndimage.convolve(image, np.outer([1.0, -2.0, 1.0], [1.0, -2.0, 1.0]))
    deviation = 1.4826 * float(np.median(np.abs(second[seen]))) / 6 if seen.any() else 0.0
    return deviation / (np.sqrt(8 * np.pi) * 1.5**2) * np.sqrt(2)


def _support(smooth, open_, edges: Edges, grid, curve: Curve) -> float:
    """Pixels of the open image in which a curve is seen as an edge; 0 if it closes nothing."""
    points, normals = _along(curve, open_.shape)
    at = {d: _sample(smooth, points + d * normals) for d in (-6, -4, -2, 2, 4, 6, 10)}
    usable = _sample(open_.astype(np.float32), points + 4 * normals) > 0.5
    usable &= _sample(open_.astype(np.float32), points - 4 * normals) > 0.5
    step = at[-4] - at[4]
    seen = usable & (step > STEP)
    if seen.sum() < 0.15 * min(open_.shape):
        return 0.0
    dark, height = np.median(at[4][seen]), np.median(step[seen])
    both_dark = at[-4] < dark + 0.25 * height
    asked = usable & ~both_dark
    if (seen & asked).sum() < 0.75 * asked.sum():
        return 0.0
    uneven = np.median(np.abs(at[4] - at[10])[seen])
    within, about = (np.median((at[-d] - at[d])[seen]) for d in (2, 6))
    if uneven > 0.25 * height or within < SHARP * about:
        return 0.0
    closed = _is_closed(smooth, open_, edges, grid, curve, float(height))
    return float(seen.sum()) if closed else 0.0


def _is_closed(smooth, open_, edges: Edges, grid, curve: Curve, height: float) -> bool:
    """Whether all behind a curve is dark, and without edges of its own."""
    away = curves.distance(curve, grid)
    behind, inside = open_ & (away > 2), open_ & (away < -2)
    if behind.sum() < 0.003 * open_.size or inside.sum() < 0.1 * open_.size:
        return False
    if np.median(smooth[behind]) > np.quantile(smooth[inside], 0.15) + 0.01:
        return False
    far = smooth[open_ & (away > 10)]
    if far.size and np.ptp(np.quantile(far, [0.1, 0.9])) > EVEN * height:
        return False
    index = edges.points.astype(int)
    deep = (curves.distance(curve, edges.points) > 6) & open_[tuple(index.T)]
    deep &= edges.slopes > max(STEEP, 0.15 * height / SPREAD)
    return bool(deep.sum() <= 0.5 * np.sqrt(behind.sum()))


def _along(curve: Curve, shape: tuple[int, int]):
    """Points on a curve, a pixel apart, and its normals there."""
    if isinstance(curve, Circle):
        turn = np.arange(0, 2 * np.pi, 1 / curve.radius)
        normals = np.stack([np.sin(turn), np.cos(turn)], -1)
        points = curve.centre + curve.radius * normals
    else:
        reach = np.hypot(*shape)
        along = np.array([-curve.normal[1], curve.normal[0]])
        middle = (np.array(shape) - 1) / 2
        foot = middle + (curve.offset - middle @ curve.normal) * curve.normal
        points = foot + np.arange(-reach, reach)[:, None] * along
        normals = np.broadcast_to(curve.normal, points.shape)
    inside = ((points > 0) & (points < np.array(shape) - 1)).all(1)
    return points[inside], normals[inside]


def _sample(image, points):
    from scipy import ndimage

    return ndimage.map_coordinates(image, points.T, order=1, mode="nearest")
