"""Straight and round edges of a field: candidates from the edge pixels of an image.

A curve is told by its signed distance: negative in the open field, positive where it is closed.
Pixels are (row, column).
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float


class Edges(NamedTuple):
    """Pixels on an edge, where the image falls steepest, and where it falls to."""

    points: Float[np.ndarray, "n 2"]
    """Pixel (row, column)."""
    normals: Float[np.ndarray, "n 2"]
    """Unit vector to the dark side."""
    slopes: Float[np.ndarray, " n"]
    """How steep the image is there, after a blur of 1.5 pixels [1/pixel]."""


class Line(NamedTuple):
    """Points x with normal . x = offset; the normal points out of the field."""

    normal: Float[np.ndarray, "2"]
    offset: float


class Circle(NamedTuple):
    """A round field."""

    centre: Float[np.ndarray, "2"]
    radius: float


Curve = Line | Circle


def distance(curve: Curve, points: Float[np.ndarray, "*n 2"]) -> Float[np.ndarray, "*n"]:
    """Signed distance of points from a curve [px], positive outside the field."""
    if isinstance(curve, Line):
        return points @ curve.normal - curve.offset
    return np.hypot(*np.moveaxis(points - curve.centre, -1, 0)) - curve.radius


def normals(curve: Curve, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    """Unit normals of a curve at points near it, out of the field."""
    if isinstance(curve, Line):
        return np.broadcast_to(curve.normal, points.shape)
    away = points - curve.centre
    return away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-9)


_ORDERS: Any = ((1, 0), (0, 1))
"""Derivatives along rows and along columns."""


def find_edges(
    image: Float[np.ndarray, "rows columns"], seen: Bool[np.ndarray, "rows columns"], least: float
) -> Edges:
    """Pixels where the slope is largest across the edge, and `least` at least.

    Source: non-maximum suppression as in Canny, IEEE PAMI 8, 1986.

    Args:
        image: Bright where much radiation arrived.
        seen: Pixels that count.
        least: Smallest slope, after a blur of 1.5 pixels [1/pixel].
    """
    from scipy import ndimage

    down, across = (ndimage.gaussian_filter(image, 1.5, order) for order in _ORDERS)
    slope = np.hypot(down, across)
    index = np.argwhere((slope > least) & seen)
    normal = -np.stack([down, across], -1)[tuple(index.T)]
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    beside = [
        ndimage.map_coordinates(slope, (index + side * normal).T, order=1, mode="nearest")
        for side in (-1, 1)
    ]
    here = slope[tuple(index.T)]
    top = (here >= beside[0]) & (here > beside[1])
    return Edges(index[top].astype(float), normal[top], here[top])


def lines(edges: Edges, shape: tuple[int, int], count: int) -> list[Line]:
    """The lines that most edge pixels lie on (Hough transform with the direction of the edge)."""
    if not len(edges.points):
        return []
    angles = np.radians(np.arange(0.0, 360.0, 1.0))
    towards = np.stack([np.sin(angles), np.cos(angles)])
    aligned = edges.normals @ towards > np.cos(np.radians(10.0))
    point, angle = np.nonzero(aligned)
    offset = (edges.points[point] * towards[:, angle].T).sum(1)
    reach, width = int(np.hypot(*shape)) + 2, 2
    bins = ((offset + reach) / width).astype(int)
    votes = np.zeros((len(angles), reach + 2), np.int32)
    np.add.at(votes, (angle, bins), 1)
    found = []
    for _ in range(count):
        k, b = np.unravel_index(votes.argmax(), votes.shape)
        if votes[k, b] < 0.1 * min(shape):
            break
        line = Line(towards[:, k], (b + 0.5) * width - reach)
        found.append(refined_line(line, edges))
        near = np.arange(k - 6, k + 7) % len(angles)
        votes[near, max(0, b - 4) : b + 5] = 0
    return found


def refined_line(line: Line, edges: Edges) -> Line:
    """Total least squares through the edge pixels near a line."""
    for reach in (4.0, 2.0):
        near = np.abs(distance(line, edges.points)) < reach
        near &= edges.normals @ line.normal > 0.9
        points = edges.points[near]
        if len(points) < 8:
            return line
        centre = points.mean(0)
        normal = np.linalg.svd(points - centre, full_matrices=False)[2][1]
        normal = normal * np.sign(normal @ line.normal)
        line = Line(normal, float(normal @ centre))
    return line


def circles(edges: Edges, shape: tuple[int, int], count: int, trials: int = 4000) -> list[Circle]:
    """Circles about the middle that most edge pixels lie on.

    Two edge pixels and their normals make a circle (random sample consensus with a fixed key).
    """
    if len(edges.points) < 16:
        return []
    random = np.random.default_rng(0)
    first, second = random.integers(0, len(edges.points), (2, trials))
    apart, turn = (x[first] - x[second] for x in (edges.points, edges.normals))
    radius = (apart * turn).sum(1) / np.maximum((turn**2).sum(1), 1e-9)
    centre = edges.points[first] - radius[:, None] * edges.normals[first]
    again = edges.points[second] - radius[:, None] * edges.normals[second]
    side, middle = min(shape), (np.array(shape) - 1) / 2
    good = (radius > 0.2 * side) & (radius < 0.8 * max(shape))
    good &= (np.abs(centre - middle) < 0.25 * np.array(shape)).all(1)
    good &= np.linalg.norm(centre - again, axis=1) < 0.03 * side
    some = random.permutation(len(edges.points))[:1500]
    few, found = Edges(*(x[some] for x in edges)), []
    candidates = [Circle(c, float(r)) for c, r in zip(centre[good], radius[good], strict=True)]
    votes = np.array([_on(circle, few, 2.0).sum() for circle in candidates[:400]])
    for number in np.argsort(-votes)[: 3 * count]:
        circle = refined_circle(candidates[number], edges)
        if all(_differ(circle, other) for other in found) and len(found) < count:
            found.append(circle)
    return found


def refined_circle(circle: Circle, edges: Edges) -> Circle:
    """Algebraic least squares (Kasa, 1976) through the edge pixels near a circle."""
    for reach in (5.0, 2.0):
        points = edges.points[_on(circle, edges, reach)]
        if len(points) < 16:
            return circle
        system = np.column_stack([2 * points, np.ones(len(points))])
        solution = np.linalg.lstsq(system, (points**2).sum(1), rcond=None)[0]
        square = solution[2] + solution[:2] @ solution[:2]
        circle = Circle(solution[:2], float(np.sqrt(max(square, 1.0))))
    return circle


def _on(circle: Circle, edges: Edges, reach: float) -> Bool[np.ndarray, " n"]:
    near = np.abs(distance(circle, edges.points)) < reach
    return near & ((normals(circle, edges.points) * edges.normals).sum(1) > 0.9)


def _differ(first: Circle, second: Circle) -> bool:
    shift = np.linalg.norm(first.centre - second.centre)
    return bool(shift + abs(first.radius - second.radius) > 5)
