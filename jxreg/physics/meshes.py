"""Closed triangle meshes as voxels: how much of each voxel is inside.

Along z the share is exact for each sampled column; across, n x n columns a voxel are averaged. At a
crossing into the mesh everything above it is inside, at one out of it no longer, so the sum of the
signed parts is the share, and no crossing needs its partner (Gauss's theorem on a column).
"""

from dataclasses import dataclass
from typing import no_type_check

import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
from jaxtyping import Array, Float, Int

from jxreg.errors import InputError

_PAIRS = 1 << 22
"""Pairs of triangle and column that are looked at together."""
_OFF_EDGES = (0.000317, 0.000531)
"""Moves the columns off the edges of triangles on round coordinates [voxels]."""


@no_type_check  # JAX rebuilds pytrees from tracers, None and batched leaves
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class VoxelSolid:
    """An object of any shape on a grid of its own, at its place in the world."""

    occupancy: Float[Array, "x y z"]
    """Share of each voxel that is inside, 0 to 1."""
    solid_from_index: Float[Array, "4 4"]
    """The object's own axes [mm] from voxel centres."""
    world_from_solid: jaxlie.SE3
    """Where the object's own axes are in the patient's RAS frame."""


def voxelise_mesh(
    vertices: Float[np.ndarray, "n 3"],
    faces: Int[np.ndarray, "m 3"],
    spacing_mm: float,
    world_from_solid: jaxlie.SE3 | None = None,
    supersampling: int = 3,
) -> VoxelSolid:
    """A mesh on a grid that holds it and a layer of empty voxels.

    Args:
        vertices: In the object's own axes [mm].
        faces: Vertices of each triangle, in one sense of rotation as seen from outside.
        spacing_mm: Side of a voxel.
        world_from_solid: Where the object is; by default its axes are those of the world.
        supersampling: Columns a voxel, along x and along y.

    Raises:
        InputError: The mesh is empty, not finite, or not closed, or a number is not positive.
    """
    vertices, faces = np.asarray(vertices, np.float64), np.asarray(faces)
    if not 0 < spacing_mm < np.inf or supersampling < 1:
        found = f"{spacing_mm:g} mm, {supersampling} columns"
        raise InputError("spacing_mm", found, "a positive length and 1 or more", "correct it")
    _check_closed(vertices, faces)
    low = vertices.min(0) - 1.5 * spacing_mm
    shape = np.ceil((vertices.max(0) + 1.5 * spacing_mm - low) / spacing_mm).astype(int)
    corners = ((vertices - low) / spacing_mm)[faces]  # in voxels from the corner of the grid
    occupancy = np.zeros(shape)
    steps = (np.arange(supersampling) + 0.5) / supersampling
    for x in steps:
        for y in steps:
            _add_columns(occupancy, corners, x + _OFF_EDGES[0], y + _OFF_EDGES[1])
    occupancy = np.cumsum(occupancy, axis=2) / supersampling**2
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = low + spacing_mm / 2
    pose = jaxlie.SE3.identity() if world_from_solid is None else world_from_solid
    if occupancy.sum() < 0:  # triangles turn the other way
        occupancy = -occupancy
    inside = jnp.asarray(np.clip(occupancy, 0, 1), float)
    return VoxelSolid(inside, jnp.asarray(affine, float), pose)


def _add_columns(ends: np.ndarray, corners: Float[np.ndarray, "m 3 3"], x: float, y: float) -> None:
    """Adds, at the crossings of the columns (i + x, j + y), what they change along z."""
    first = np.ceil(corners[..., :2].min(1) - (x, y)).astype(int)
    count = np.maximum(np.floor(corners[..., :2].max(1) - (x, y)).astype(int) - first + 1, 0)
    pairs = count.prod(1)
    start = 0
    while start < len(corners):
        stop = start + max(1, int(np.searchsorted(np.cumsum(pairs[start:]), _PAIRS)))
        part = slice(start, stop)
        which = np.repeat(np.arange(len(corners))[part], pairs[part])
        number = np.arange(len(which)) - np.repeat(
            np.cumsum(pairs[part]) - pairs[part], pairs[part]
        )
        i = first[which, 0] + number // np.maximum(count[which, 1], 1)
        j = first[which, 1] + number % np.maximum(count[which, 1], 1)
        _add_crossings(ends, corners[which], i, j, i + x, j + y)
        start = stop


def _add_crossings(ends, corners, i, j, x, y) -> None:
    """Adds the crossings of one column with one triangle each, where there is one."""
    a, b, c = np.moveaxis(corners, 1, 0)

    def side(p, q):
        return (q[:, 0] - p[:, 0]) * (y - p[:, 1]) - (q[:, 1] - p[:, 1]) * (x - p[:, 0])

    weights = np.stack([side(b, c), side(c, a), side(a, b)])
    hit = (weights > 0).all(0) | (weights < 0).all(0)
    weights, i, j = weights[:, hit], i[hit], j[hit]
    area = weights.sum(0)
    z = (weights * np.stack([a, b, c])[:, hit, 2]).sum(0) / area
    k = np.floor(z).astype(int)
    into = -np.sign(area)  # a face that looks down is where a column enters
    np.add.at(ends, (i, j, k), into * (k + 1 - z))
    np.add.at(ends, (i, j, k + 1), into * (z - k))


def _check_closed(vertices: np.ndarray, faces: np.ndarray) -> None:
    good = vertices.ndim == 2 and faces.ndim == 2 and len(faces) > 0 and np.isfinite(vertices).all()
    good = bool(good and faces.min() >= 0 and faces.max() < len(vertices))
    if good:
        edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
        there, once = np.unique(edges, axis=0, return_counts=True)
        back = np.unique(edges[:, ::-1], axis=0)
        good = (once == 1).all() and there.shape == back.shape and (there == back).all()
    if not good:
        raise InputError(
            "mesh",
            f"{len(faces)} triangles, edges open or doubled, or numbers not finite or of no vertex",
            "a closed surface, each edge in two triangles that turn the same way",
            "close and orient it first",
        )
