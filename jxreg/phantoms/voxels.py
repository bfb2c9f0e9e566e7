"""Phantoms on a grid: voxelisation with anti-aliased edges."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float

from jxreg.errors import InputError
from jxreg.phantoms.shapes import Phantom, Shape
from jxreg.volume import Volume

_CHUNK = 1 << 21
"""Voxels that are sampled at once; keeps the work arrays in a few tens of megabytes."""


def voxelise(
    phantom: Phantom, shape: tuple[int, int, int], affine: ArrayLike, *, supersampling: int = 2
) -> Volume:
    """Volume of a phantom: each voxel holds the mean of n^3 samples spread evenly over it.

    A shape is sampled inside its bounding box only, so that small shapes are cheap.

    Args:
        phantom: Shapes in the world frame.
        shape: Voxels along x, y, z.
        affine: World (RAS+ [mm]) from index; any orientation, oblique or sheared.
        supersampling: n, samples along each side of a voxel.

    Returns:
        Volume with one channel a material, or none where mu is a scalar.

    Raises:
        InputError: `supersampling` is less than 1, or the grid is refused by `Volume.from_array`.
    """
    if supersampling < 1:
        raise InputError("supersampling", f"{supersampling}", "1 or more", "2 is a good value")
    affine = np.asarray(affine, np.float64)
    materials = np.shape(phantom[0].mu)
    mu = np.zeros((*materials, *shape), jnp.zeros(0).dtype)
    for part in phantom:
        _add(mu, part, affine, supersampling)
    return Volume.from_array(mu, affine)


def grid_around(
    phantom: Phantom, spacing_mm: float, margin_mm: float = 0.0
) -> tuple[tuple[int, int, int], Float[np.ndarray, "4 4"]]:
    """Shape and affine of the axis-aligned grid that holds all of a phantom, plus a margin.

    Voxels are cubes of `spacing_mm`; half a voxel is added so that no edge is cut.
    """
    corners = []
    for part in phantom:
        pose = np.asarray(part.world_from_shape.as_matrix(), np.float64)
        half = np.abs(pose[:3, :3]) @ (part.primitive.extent * np.asarray(part.size, np.float64))
        corners += [pose[:3, 3] - half, pose[:3, 3] + half]
    low, high = np.min(corners, 0) - margin_mm, np.max(corners, 0) + margin_mm
    x, y, z = (int(n) for n in np.ceil((high - low) / spacing_mm) + 1)
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = (low + high) / 2 - spacing_mm * (np.array([x, y, z]) - 1) / 2
    return (x, y, z), affine


def _add(mu: np.ndarray, part: Shape, affine: np.ndarray, n: int) -> None:
    """Add one shape to the array, chunk by chunk along x."""
    from_index = _shape_from_index(part, affine)
    start, stop = _bounding_box(from_index, part.primitive.extent, mu.shape[-3:])
    if (stop <= start).any():
        return
    rows = max(1, _CHUNK // int(np.prod((stop - start)[1:])))
    for x in range(start[0], stop[0], rows):
        low, high = (x, *start[1:]), (min(x + rows, stop[0]), *stop[1:])
        window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        density = _mean_density(part, from_index, low, high, n, mu.dtype)
        mu[(..., *window)] += np.multiply.outer(np.asarray(part.mu, mu.dtype), density)


def _shape_from_index(part: Shape, affine: np.ndarray) -> np.ndarray:
    pose = np.asarray(part.world_from_shape.as_matrix(), np.float64)
    matrix = np.linalg.inv(pose) @ affine
    return matrix[:3] / np.asarray(part.size, np.float64)[:, None]


def _bounding_box(from_index: np.ndarray, extent: float, shape: tuple[int, ...]):
    """First index and one past the last, of the voxels that the shape may touch."""
    inverse = np.linalg.inv(from_index[:, :3])
    center, half = -inverse @ from_index[:, 3], extent * np.abs(inverse).sum(1)
    start = np.floor(center - half - 0.5).astype(int)
    stop = np.ceil(center + half + 0.5).astype(int) + 1
    return np.clip(start, 0, shape), np.clip(stop, 0, shape)


def _mean_density(part: Shape, from_index: np.ndarray, low, high, n: int, dtype) -> np.ndarray:
    """Mean over n^3 samples of the primitive's density, in the voxels low <= index < high."""
    mean = np.zeros([b - a for a, b in zip(low, high, strict=True)], dtype)
    offsets = (np.arange(n) + 0.5) / n - 0.5
    for offset in np.stack(np.meshgrid(offsets, offsets, offsets), -1).reshape(-1, 3):
        index = [np.arange(a, b) + o for a, b, o in zip(low, high, offset, strict=True)]
        x, y, z = (_coordinate(row, index, dtype) for row in from_index)
        mean += part.primitive.density(x, y, z)
    return mean / n**3


def _coordinate(row: np.ndarray, index: list[np.ndarray], dtype) -> np.ndarray:
    """One coordinate on the grid; an axis that it does not depend on keeps the length 1."""
    grid = np.full((1, 1, 1), row[3], dtype)
    for axis in range(3):
        if row[axis] != 0:
            along = (row[axis] * index[axis]).astype(dtype)
            grid = grid + np.expand_dims(along, tuple(a for a in range(3) if a != axis))
    return grid
