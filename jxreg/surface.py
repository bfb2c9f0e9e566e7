"""Landmarks without a hand: points spread evenly over the surface of a structure.

A label map or a threshold gives a surface; points are drawn uniformly over its area, and of these
the ones farthest from each other are kept. So every part of the surface has a landmark near it, and
the same seed gives the same landmarks. No segmentation network is needed where a label map is at
hand (LXPose takes one of TotalSegmentator).
"""

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from jxreg.errors import InputError
from jxreg.volume import Volume, mu_from_hu, pool, pooling_factors

CANDIDATES = 5000
"""Points drawn over the surface, of which the landmarks are chosen (LXPose)."""


class Surface(NamedTuple):
    """Triangles, in no order and of no sense of rotation."""

    vertices: Float[np.ndarray, "n 3"]
    """Points in the world [mm]; each once."""
    faces: Int[np.ndarray, "m 3"]
    """Vertices of each triangle."""


def automatic_landmarks(
    volume: Volume,
    count: int,
    *,
    labels: Shaped[np.ndarray, "x y z"] | None = None,
    above_hu: float | None = None,
    voxel_mm: float | None = None,
    largest_only: bool = False,
    seed: int = 0,
) -> Float[np.ndarray, "count 3"]:
    """Points on the surface of a structure, as far apart as farthest point sampling puts them.

    Args:
        volume: The CT; with labels, only its grid counts.
        count: How many points.
        labels: Label map on the grid of the volume; every label above 0 belongs to the structure.
        above_hu: Without labels: the structure is what exceeds this [HU].
        voxel_mm: Size that voxels are averaged to first; by default they stay.
        largest_only: Keep only the connected part of the surface that has the largest area, as for
            vessels and for a threshold that finds specks.
        seed: Of the points drawn.

    Returns:
        Points in the world [mm], the farthest first: the first n of them are the n landmarks.

    Raises:
        InputError: Neither labels nor a threshold, or both; no structure, or no positive count.
    """
    if count < 1:
        raise InputError("landmarks", f"{count}", "one or more", "14 to 500 are usual")
    field, level = _field(volume, labels, above_hu)
    grid = Volume(field, volume.affine, volume.isocenter)  # type: ignore
    if voxel_mm is not None:
        grid = pool(grid, pooling_factors(volume.affine, voxel_mm))
    surface = isosurface(np.asarray(grid.mu), np.asarray(grid.affine, np.float64), level)
    if largest_only:
        surface = largest_part(surface)
    drawn = points_on(surface, max(CANDIDATES, count), seed)
    return drawn[farthest_points(drawn, count)]


def isosurface(
    field: Float[np.ndarray, "x y z"], affine: Float[np.ndarray, "4 4"], level: float
) -> Surface:
    """The closed surface at one level of a field on a grid, around which there is nothing.

    Marching cubes, with each cube cut into six tetrahedra along a diagonal: a tetrahedron has three
    cases instead of 256, none is ambiguous, and neighbours agree on the faces they share.

    Source: Doi and Koide, IEICE Trans. E74(1), 1991; the cut is that of Kuhn.

    Args:
        field: Values at voxel centres.
        affine: World [mm] from index.
        level: Larger values are inside.

    Raises:
        InputError: No value is above the level.
    """
    if not (field > level).any():
        found = f"no voxel above {level:g} (the largest is {field.max():g})"
        raise InputError("surface", found, "a structure", "lower the threshold or check the labels")
    field, start = _around(field, level)
    edges, faces = _triangles(field, level)
    weight = field.ravel()[edges].astype(np.float64)
    part = (level - weight[:, :1]) / (weight[:, 1:] - weight[:, :1])
    ends = np.stack(np.unravel_index(edges, field.shape), -1) + np.array(start)
    index = ends[:, 0] + part * (ends[:, 1] - ends[:, 0])
    return Surface(index @ affine[:3, :3].T + affine[:3, 3], faces)


def areas(surface: Surface) -> Float[np.ndarray, " m"]:
    """Area of each triangle [mm^2]."""
    a, b, c = surface.vertices[surface.faces].transpose(1, 0, 2)
    return np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2


def largest_part(surface: Surface) -> Surface:
    """The connected part with the largest area."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(surface.vertices)
    joined = surface.faces[:, [0, 1, 0, 2]].reshape(-1, 2).T
    graph = coo_array((np.ones(joined.shape[1], bool), joined), (count, count))
    part = connected_components(graph, directed=False)[1][surface.faces[:, 0]]
    return surface._replace(faces=surface.faces[part == np.bincount(part, areas(surface)).argmax()])


def points_on(surface: Surface, count: int, seed: int = 0) -> Float[np.ndarray, "count 3"]:
    """Points drawn uniformly over the area [mm]."""
    random = np.random.default_rng(seed)
    cumulated = np.cumsum(areas(surface))
    which = np.searchsorted(cumulated, random.random(count) * cumulated[-1], side="right")
    a, b, c = surface.vertices[surface.faces[which]].transpose(1, 0, 2)
    root, share = np.sqrt(random.random((count, 1))), random.random((count, 1))
    return (1 - root) * a + root * (1 - share) * b + root * share * c


def farthest_points(points: Float[np.ndarray, "n 3"], count: int) -> Int[np.ndarray, " count"]:
    """Which points are kept: the one farthest from the mean, then always the farthest from these.

    No choice of as many points leaves any point less than half as far from its nearest one.

    Source: Gonzalez, Theor. Comput. Sci. 38, 1985.
    """
    chosen = [int(np.square(points - points.mean(0)).sum(1).argmax())]
    nearest = np.full(len(points), np.inf)
    while len(chosen) < count:
        nearest = np.minimum(nearest, np.square(points - points[chosen[-1]]).sum(1))
        chosen.append(int(nearest.argmax()))
    return np.array(chosen)


def _field(volume: Volume, labels, above_hu: float | None) -> tuple[np.ndarray, float]:
    """Values and the level that bounds the structure."""
    if (labels is None) == (above_hu is None):
        found = "neither labels nor a threshold" if labels is None else "labels and a threshold"
        raise InputError("surface", found, "one of the two", "give labels or above_hu")
    if labels is None:
        mu = np.asarray(volume.mu)
        return (mu if mu.ndim == 3 else mu.sum(0)), float(mu_from_hu(np.array([above_hu]))[0])
    if labels.shape != volume.mu.shape[-3:]:
        found, expected = f"a shape of {labels.shape}", f"the volume's, {volume.mu.shape[-3:]}"
        raise InputError("labels", found, expected, "resample the labels")
    return (labels > 0).astype(np.float32), 0.5


def _around(field: np.ndarray, level: float) -> tuple[np.ndarray, list[int]]:
    """The part of a field that is inside, within a layer of outside, and the index of its first."""
    window, start = [], []
    inside = field > level
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        found = np.flatnonzero(inside.any(others))
        window.append(slice(max(found[0] - 1, 0), found[-1] + 2))
        start.append(int(window[-1].start) - 1)
    outside = min(float(field.min()), level - 1.0)
    return np.pad(field[tuple(window)], 1, constant_values=outside), start


def _triangles(
    field: np.ndarray, level: float
) -> tuple[Int[np.ndarray, "n 2"], Int[np.ndarray, "m 3"]]:
    """Edges of the grid that the surface crosses, each once, and which three make a triangle."""
    inside = field > level
    cubes = np.lib.stride_tricks.sliding_window_view(inside, (2, 2, 2)).reshape(
        *(n - 1 for n in field.shape), 8
    )
    mixed = cubes.any(-1) & ~cubes.all(-1)
    corner = np.ravel_multi_index(np.nonzero(mixed), field.shape)
    strides = np.array([field.shape[1] * field.shape[2], field.shape[2], 1])
    crossed = [
        _of_tetrahedra(corner[:, None] + np.cumsum([0, *strides[list(order)]]), inside.ravel())
        for order in itertools.permutations(range(3))
    ]
    ends = np.sort(np.concatenate(crossed).reshape(-1, 2), 1)
    edges, faces = np.unique(ends[:, 0] * field.size + ends[:, 1], return_inverse=True)
    return np.stack(np.divmod(edges, field.size), 1), faces.reshape(-1, 3)


def _of_tetrahedra(
    corners: Int[np.ndarray, "n 4"], inside: Shaped[np.ndarray, " voxels"]
) -> Int[np.ndarray, "m 3 2"]:
    """Triangles of tetrahedra: three edges each, from one voxel to another."""
    within = inside[corners]
    order = np.argsort(~within, 1, kind="stable")  # those inside first
    a, b, c, d = np.take_along_axis(corners, order, 1).T
    count = within.sum(1)
    cases = (
        (1, ((a, b), (a, c), (a, d))),
        (2, ((a, c), (a, d), (b, d))),
        (2, ((a, c), (b, d), (b, c))),
        (3, ((d, a), (d, b), (d, c))),
    )
    made = [np.array(case)[..., count == n].transpose(2, 0, 1) for n, case in cases]
    return np.concatenate(made)
