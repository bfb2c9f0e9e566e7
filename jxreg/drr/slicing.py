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

from jxreg.drr.line import LineRays, March, line_sum
from jxreg.drr.marching import Integrate
from jxreg.drr.rays import VoxelRays, nonzero
from jxreg.volume import Volume

UNROLL = 2  # slices a loop turn: fewer turns, and more work in each


class _Slices(NamedTuple):
    """How the slices lie in memory, and which of them are between source and detector."""

    size: Int[Array, "3"]
    """Number of slices, then of voxels along u and v."""
    stride: Int[Array, "3"]
    first: Int[Array, " n"]
    last: Int[Array, " n"]
    extruded: Int[Array, "2 3"]
    """1 for each face (first, last; slices, u, v) beyond which its voxels go on instead of air."""


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
        mu = volume.mu.reshape(-1, *volume.mu.shape[-3:])
        axis = jnp.abs(rays.direction.mean(1)).argmax()
        order = jnp.array([[0, 1, 2], [1, 0, 2], [2, 0, 1]])[axis]
        origin, direction = rays.origin[order], rays.direction[order]
        along = nonzero(direction[0])
        q = direction[1:] / along
        p = origin[1:, None] - origin[0] * q
        slices = _slices(mu.shape[-3:], order, origin[0], along, extruded)
        return line_sum(_JOSEPH, mu, LineRays(p, q, slices)) * (rays.length / jnp.abs(along))

    return integrate


def _slices(shape: tuple[int, ...], order, origin, along, extruded) -> _Slices:
    stride = jnp.array([shape[1] * shape[2], shape[2], 1], jnp.int32)[order]
    size = jnp.array(shape, jnp.int32)[order]
    ends = jnp.stack([jnp.broadcast_to(origin, along.shape), origin + along])
    ends = jax.lax.stop_gradient(jnp.where(jnp.isfinite(ends), ends, -1.0))
    ends = jnp.clip(ends, -1.0, size[0].astype(ends.dtype))
    first, last = jnp.ceil(ends.min(0)), jnp.floor(ends.max(0))
    faces = jnp.zeros((2, 3), jnp.int32)
    if extruded is not None:
        faces = extruded.astype(jnp.int32)[:, order]
    return _Slices(size, stride, first.astype(jnp.int32), last.astype(jnp.int32), faces)


def _value(mu: Float[Array, "c x y z"], rays: LineRays) -> Float[Array, "c n"]:
    def sample(k):
        corner, (wu, wv), _ = _gathered(mu, rays, k)
        return sum(wu[a] * sum(wv[b] * corner[a][b] for b in (0, 1)) for a in (0, 1))

    return _accumulate(mu, sample, jnp.zeros((mu.shape[0], rays.p.shape[1]), mu.dtype))


def _moments(mu: Float[Array, "c x y z"], rays: LineRays):
    """Value and moments, two moments in one complex number as in `marching`."""

    def sample(k):
        corner, (wu, wv), (su, sv) = _gathered(mu, rays, k)
        low, high = (sum(wv[b] * v[b] for b in (0, 1)) for v in corner)
        low_v, high_v = (sum(sv[b] * v[b] for b in (0, 1)) for v in corner)
        gu, gv = su[0] * low + su[1] * high, wu[0] * low_v + wu[1] * high_v
        s = k.astype(mu.dtype)
        value = wu[0] * low + wu[1] * high
        return value, jax.lax.complex(gu, s * gu), jax.lax.complex(gv, s * gv)

    zero = jnp.zeros((mu.shape[0], rays.p.shape[1]), mu.dtype)
    complex_zero = jax.lax.complex(zero, zero)
    total, *pairs = _accumulate(mu, sample, (zero, complex_zero, complex_zero))
    pairs = jnp.stack(pairs)
    return total, jnp.stack([pairs.real, pairs.imag])


def _transpose(cotangent: Float[Array, "c n"], rays: LineRays, shape: tuple[int, int, int]):
    def body(k, mu):
        index, (wu, wv), _ = _located(rays, k, cotangent.dtype)
        for a in (0, 1):
            for b in (0, 1):
                mu = mu.at[:, index[a][b]].add(wu[a] * wv[b] * cotangent)
        return mu

    start = jnp.zeros((cotangent.shape[0], shape[0] * shape[1] * shape[2]), cotangent.dtype)
    return jax.lax.fori_loop(0, max(shape), body, start).reshape(-1, *shape)


_JOSEPH = March(_value, _moments, _transpose)


def _accumulate(mu, sample, zero):
    """Sum over slices. The longest axis bounds the turns of any view; slices beyond are empty."""

    def body(turn, total):
        for j in range(UNROLL):
            total = jax.tree.map(jnp.add, total, sample(turn * UNROLL + j))
        return total

    return jax.lax.fori_loop(0, -(-max(mu.shape[-3:]) // UNROLL), body, zero)


def _located(rays: LineRays, k, dtype):
    """Flat indices of the four neighbours on slice k, weights and slopes of both axes."""
    slices = rays.extra
    k = jnp.asarray(k, jnp.int32)
    u, v = (rays.p[a] + k.astype(dtype) * rays.q[a] for a in (0, 1))  # by row, or XLA stores both
    live = (k >= slices.first) & (k <= slices.last) & (k < slices.size[0])
    i, wu, su = _cell(u, slices.size[1], live, slices.extruded[:, 1])
    j, wv, sv = _cell(v, slices.size[2], live, slices.extruded[:, 2])
    base = jnp.minimum(k, slices.size[0] - 1) * slices.stride[0]
    index = [[base + a * slices.stride[1] + b * slices.stride[2] for b in j] for a in i]
    return index, (wu, wv), (su, sv)


def _gathered(mu, rays: LineRays, k):
    index, weights, slopes = _located(rays, k, mu.dtype)
    flat = mu.reshape(mu.shape[0], -1)
    corner = [[flat.at[:, n].get(mode="promise_in_bounds") for n in row] for row in index]
    return corner, weights, slopes


def _cell(x: Float[Array, " n"], size: Int[Array, ""], live, extruded: Int[Array, "2"]):
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
