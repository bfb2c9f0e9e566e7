"""Joseph's line integral: bilinear samples on the slices that a ray crosses, the fast quadrature.

One image steps along the index axis that its central ray runs along most. On slice k a ray is at
(u, v) = p + q k; the sum of its bilinear samples, times the length between slices, is the integral
of the same trilinear field that `marching` samples, by the trapezoidal rule (Joseph, IEEE TMI 1,
1982). The axis, the strides and the sizes are data, so a batch may mix views and nothing
recompiles.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jxreg.drr.accumulate import Load, Sampled, Shape
from jxreg.drr.line import LineRays, channels, line_sum
from jxreg.drr.marching import Integrate
from jxreg.drr.quadrature import Quadrature, march
from jxreg.drr.rays import VoxelRays, nonzero
from jxreg.drr.words import bilinear, cell
from jxreg.packing import PAD, padded
from jxreg.volume import Volume

ORDER = ((0, 2, 1), (1, 2, 0), (2, 1, 0))
"""Axis of the slices, then v, then u: for each main axis, as the packed layouts have them."""


class _Slices(NamedTuple):
    """How the slices lie in memory, and where they go on; the numbers that all rays share."""

    count: Array
    """Slices across the main axis."""
    rows: Array
    """Voxels along v."""
    columns: Array
    """Voxels along u."""
    strides: tuple[Array, Array, Array]
    """Of the volume as it is: from slice to slice, along v, along u."""
    base: Array
    """First word of slice 0."""
    slice_stride: Array
    """Words from slice to slice."""
    row_stride: Array
    """Words from row to row, along v; along u they are neighbours."""
    extruded: tuple[tuple[Array, Array], tuple[Array, Array]]
    """For v and u: 1 for each end beyond which the last voxel goes on instead of air."""


def joseph(extruded: Bool[Array, "2 3"] | None = None) -> Integrate:
    """Bilinear interpolation on every slice across the main direction of the image.

    Against a fine march its error is about that of steps of one voxel. A ray that starts or ends
    inside the volume is cut at whole slices.

    Args:
        extruded: Faces of the grid (first, last; by axis) beyond which the volume goes on as the
            face itself rather than as air (see `coverage.cut_faces`); by default none. Faces
            across the main direction of the image stay air.
    """

    def integrate(volume: Volume, rays: VoxelRays) -> Float[Array, "c n"]:
        mu, packed = channels(volume)
        axis = jnp.abs(rays.direction.mean(1)).argmax()
        order = jnp.array(ORDER)[axis]
        origin, direction = rays.origin[order], rays.direction[order]
        along = nonzero(direction[0])
        q = direction[1:] / along
        p = origin[1:, None] - origin[0] * q
        shared = _shared(mu.shape[-3:], axis, extruded)
        extra = _between(origin[0], along, mu.shape[-3:], order)
        total = line_sum(_MARCH, mu, LineRays(p, q, extra, shared), packed)
        return total * (rays.length / jnp.abs(along))

    return integrate


def _shared(shape: Shape, axis, extruded) -> Int[Array, " numbers"]:
    """The numbers of `_Slices`, in its order."""
    order = jnp.array(ORDER)[axis]
    size = jnp.array(shape, jnp.int32)[order]
    stride = jnp.array([shape[1] * shape[2], shape[2], 1], jnp.int32)[order]
    x, y, z = padded(shape)
    slice_stride = jnp.array([y * z, z * x, x], jnp.int32)[axis]
    row_stride = jnp.array([y, x, z * x], jnp.int32)[axis]
    base = jnp.array([x * y * z, 0, 0], jnp.int32)[axis] + PAD * slice_stride
    faces = jnp.zeros((3, 2), jnp.int32)
    if extruded is not None:
        faces = extruded.astype(jnp.int32).T[order]
    words = jnp.stack([base, slice_stride, row_stride])
    return jnp.concatenate([size, stride, words, faces[1:].ravel()])


def _slices(shared) -> _Slices:
    count, rows, columns, a, b, c, base, slice_stride, row_stride, *faces = shared
    below_v, above_v, below_u, above_u = faces
    extruded = (below_v, above_v), (below_u, above_u)
    return _Slices(count, rows, columns, (a, b, c), base, slice_stride, row_stride, extruded)


def _between(origin, along, shape: Shape, order) -> Int[Array, "2 n"]:
    """First and last slice between source and detector."""
    count = jnp.array(shape, jnp.int32)[order[0]]
    ends = jnp.stack([jnp.broadcast_to(origin, along.shape), origin + along])
    ends = jax.lax.stop_gradient(jnp.where(jnp.isfinite(ends), ends, -1.0))
    first = jnp.clip(jnp.ceil(ends.min(0)), 0, count)
    last = jnp.clip(jnp.floor(ends.max(0)), -1, count - 1)
    return jnp.stack([first, last]).astype(jnp.int32)


def _packed(load: Load, shape: Shape, rays: LineRays, k) -> Sampled:
    slices = _slices(rays.shared)
    s, sizes = k.astype(rays.p[0].dtype), (slices.rows, slices.columns)
    v, u = (cell(rays.p[a] + s * rays.q[a], sizes[a], slices.extruded[a]) for a in (0, 1))
    live = (k >= rays.extra[0]) & (k <= rays.extra[1])
    index = slices.base + k * slices.slice_stride + v.index * slices.row_stride + u.index
    air = slices.base - PAD * slices.slice_stride  # the first row of the layout, and the next one
    index = jnp.where(live, index, air)
    value, along, across = bilinear(load, index, slices.row_stride, u, v)
    return Sampled(value, (across * v.moves, along * u.moves), s)


def _plain(load: Load, shape: Shape, rays: LineRays, k) -> Sampled:
    index, (wv, wu), (sv, su) = _located(rays, k)
    corner = [[load(n) for n in row] for row in index]
    low, high = (sum(wu[b] * v[b] for b in (0, 1)) for v in corner)
    low_u, high_u = (sum(su[b] * v[b] for b in (0, 1)) for v in corner)
    slope = sv[0] * low + sv[1] * high, wv[0] * low_u + wv[1] * high_u
    return Sampled(wv[0] * low + wv[1] * high, slope, k.astype(rays.p[0].dtype))


def _corners(shape: Shape, rays: LineRays, k):
    index, (wv, wu), _ = _located(rays, k)
    for a in (0, 1):
        for b in (0, 1):
            yield index[a][b], wv[a] * wu[b]


def _span(shape: Shape, rays: LineRays):
    return rays.extra[0], rays.extra[1] + 1


def _located(rays: LineRays, k):
    """Flat indices of the four neighbours on slice k, weights and slopes of both axes."""
    slices = _slices(rays.shared)
    s = k.astype(rays.p[0].dtype)
    v, u = (rays.p[a] + s * rays.q[a] for a in (0, 1))  # by row, or XLA stores both
    live = (k >= rays.extra[0]) & (k <= rays.extra[1])
    j, wv, sv = _cell(v, slices.rows, live, slices.extruded[0])
    i, wu, su = _cell(u, slices.columns, live, slices.extruded[1])
    across, along_v, along_u = slices.strides
    base = jnp.minimum(k, slices.count - 1) * across
    index = [[base + a * along_v + b * along_u for b in i] for a in j]
    return index, (wv, wu), (sv, su)


def _cell(x: Array, size: Int[Array, ""], live, extruded: tuple[Array, Array]):
    """Both neighbours on one axis: indices, weights and slopes, 0 where off the grid.

    Beyond an extruded face both neighbours are the face's voxel, so that the slopes cancel.
    """
    low = jnp.floor(x)
    fraction = x - low
    i = jnp.clip(low, -2, size.astype(x.dtype)).astype(jnp.int32)
    below, above = extruded[0] > 0, extruded[1] > 0
    on_low = (((i >= 0) | below) & ((i < size) | above) & live).astype(x.dtype)
    on_high = (((i >= -1) | below) & ((i < size - 1) | above) & live).astype(x.dtype)
    index = jnp.clip(i, 0, size - 1), jnp.clip(i + 1, 0, size - 1)
    return index, ((1 - fraction) * on_low, fraction * on_high), (-on_low, on_high)


JOSEPH = Quadrature(_plain, _packed, _corners, _span)
_MARCH = march(JOSEPH)
