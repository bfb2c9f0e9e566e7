"""Trilinear ray marching by the midpoint rule: the reference quadrature.

The field is trilinear between voxel centres and falls to zero (air) within one voxel outside the
grid. Each ray is cut to that support and divided into equal steps no longer than the wanted one.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jxreg.drr.line import LineRays, March, line_sum
from jxreg.drr.rays import VoxelRays, clip_to_box
from jxreg.errors import InputError
from jxreg.volume import Volume, spacing

UNROLL = 4  # samples a loop turn: fewer turns, and enough work in each for XLA to use all cores
Integrate = Callable[[Volume, VoxelRays], Float[Array, "c n"]]
"""A quadrature: line integral of each channel of a volume along each ray."""


def trilinear(step_mm: float | None = None) -> Integrate:
    """Ray marching with steps of at most `step_mm`; by default the smallest voxel spacing.

    The error of the midpoint rule falls with the square of the step.

    Raises:
        InputError: The step is not positive and finite.
    """
    if step_mm is not None and not 0 < step_mm < math.inf:
        found = f"a step of {step_mm:g} mm"
        raise InputError("step_mm", found, "a positive length", "leave it out for one voxel")

    def integrate(volume: Volume, rays: VoxelRays) -> Float[Array, "c n"]:
        step = spacing(volume.affine).min() if step_mm is None else step_mm
        mu = volume.mu.reshape(-1, *volume.mu.shape[-3:])
        samples, sample_mm = _samples(mu.shape[-3:], rays, step)
        return line_sum(_TRILINEAR, mu, samples) * sample_mm

    return integrate


def _samples(shape, rays: VoxelRays, step) -> tuple[LineRays, Float[Array, " n"]]:
    """First point and step of each ray [index], number of steps, and their length [mm]."""
    dtype = rays.direction.dtype
    span = clip_to_box(rays, -jnp.ones(3, dtype), jnp.array(shape, dtype))
    inside = span.leave > span.enter
    enter = jnp.where(inside, span.enter, 0.0)
    width = jnp.where(inside, span.leave - span.enter, 0.0)
    wanted = jnp.ceil(jax.lax.stop_gradient(width * rays.length) / step)
    count = jnp.where(jnp.isfinite(wanted), wanted, 0.0).astype(jnp.int32)
    dt = width / jnp.maximum(count, 1)
    p = rays.origin[:, None] + enter * rays.direction
    return LineRays(p, dt * rays.direction, count), dt * rays.length


def _value(mu: Float[Array, "c x y z"], rays: LineRays) -> Float[Array, "c n"]:
    def sample(k):
        return _interpolate(mu, _point(rays, k), k < rays.extra)

    zero = jnp.zeros((mu.shape[0], rays.p.shape[1]), mu.dtype)
    return _accumulate(sample, rays, zero)


def _moments(mu: Float[Array, "c x y z"], rays: LineRays):
    """Value and moments.

    The pair (s g, g) rides in one complex number: XLA:CPU writes one array a loop.
    """

    def sample(k):
        value, gradient = _interpolate_with_gradient(mu, _point(rays, k), k < rays.extra)
        s = k.astype(mu.dtype) + 0.5
        return value, *(jax.lax.complex(g, s * g) for g in gradient)

    zero = jnp.zeros((mu.shape[0], rays.p.shape[1]), mu.dtype)
    complex_zero = jax.lax.complex(zero, zero)
    total, *pairs = _accumulate(sample, rays, (zero, *[complex_zero] * 3))
    pairs = jnp.stack(pairs)
    return total, jnp.stack([pairs.real, pairs.imag])


def _transpose(cotangent: Float[Array, "c n"], rays: LineRays, shape: tuple[int, int, int]):
    """Scatters what each ray carries back to the voxels that it sampled."""

    def body(carry):
        k, mu = carry
        for index, weight in _corners(_point(rays, k), shape, k < rays.extra):
            mu = mu.at[:, index].add(weight * cotangent)
        return k + 1, mu

    size = shape[0] * shape[1] * shape[2]
    start = (jnp.int32(0), jnp.zeros((cotangent.shape[0], size), cotangent.dtype))
    last = _largest(rays.extra)
    _, mu = jax.lax.while_loop(lambda carry: carry[0] < last, body, start)
    return mu.reshape(-1, *shape)


_TRILINEAR = March(_value, _moments, _transpose)


def _accumulate(sample, rays: LineRays, zero):
    """Sum of sample(k) over k; the number of turns is data, so no change of step recompiles."""
    last = _largest(rays.extra)

    def body(carry):
        k, total = carry
        for j in range(UNROLL):
            total = jax.tree.map(jnp.add, total, sample(k + j))
        return k + UNROLL, total

    start = (jnp.int32(0), zero)
    return jax.lax.while_loop(lambda carry: carry[0] < last, body, start)[1]


def _largest(count: Int[Array, " n"]) -> Int[Array, ""]:
    return count.max(initial=0)


def _point(rays: LineRays, k: Int[Array, ""]) -> list[Float[Array, " n"]]:
    """The k-th sample, axis by axis: as one array XLA would store it instead of fusing it."""
    s = k.astype(rays.p.dtype) + 0.5
    return [rays.p[a] + s * rays.q[a] for a in range(3)]


def _cell(x: Float[Array, " n"], size: int):
    """Both neighbours of a coordinate on one axis: indices, and 1 where they are on the grid."""
    low = jnp.floor(x)
    fraction = x - low
    i = jnp.clip(low, -2, size).astype(jnp.int32)  # far outside is as good as just outside
    on_low = ((i >= 0) & (i < size)).astype(x.dtype)
    on_high = ((i >= -1) & (i < size - 1)).astype(x.dtype)
    index = jnp.clip(i, 0, size - 1), jnp.clip(i + 1, 0, size - 1)
    return index, (on_low, on_high), fraction


def _gathered(mu, x, live):
    """The eight corner values, and on each axis the weights and their slopes."""
    nx, ny, nz = mu.shape[-3:]
    (i, on_i, f), (j, on_j, g), (k, on_k, h) = (_cell(x[a], n) for a, n in enumerate((nx, ny, nz)))
    flat = mu.reshape(mu.shape[0], -1)
    live = live.astype(mu.dtype)
    corner = [
        [[flat.at[:, (a * ny + b) * nz + c].get(mode="promise_in_bounds") for c in k] for b in j]
        for a in i
    ]
    weights = tuple(((1 - t) * on[0], t * on[1]) for t, on in ((f, on_i), (g, on_j), (h, on_k)))
    slopes = tuple((-on[0], on[1]) for on in (on_i, on_j, on_k))
    weights = (tuple(w * live for w in weights[0]), *weights[1:])
    slopes = (tuple(s * live for s in slopes[0]), *slopes[1:])
    return corner, weights, slopes


def _interpolate(mu, x, live):
    corner, (wx, wy, wz), _ = _gathered(mu, x, live)
    return sum(
        wx[a] * sum(wy[b] * sum(wz[c] * corner[a][b][c] for c in (0, 1)) for b in (0, 1))
        for a in (0, 1)
    )


def _interpolate_with_gradient(mu, x, live):
    corner, (wx, wy, wz), (sx, sy, sz) = _gathered(mu, x, live)
    line = [[sum(wz[c] * v[c] for c in (0, 1)) for v in plane] for plane in corner]
    line_z = [[sum(sz[c] * v[c] for c in (0, 1)) for v in plane] for plane in corner]
    plane = [sum(wy[b] * v[b] for b in (0, 1)) for v in line]
    plane_y = [sum(sy[b] * v[b] for b in (0, 1)) for v in line]
    plane_z = [sum(wy[b] * v[b] for b in (0, 1)) for v in line_z]
    value, gx = (sum(w[a] * plane[a] for a in (0, 1)) for w in (wx, sx))
    gy, gz = (sum(wx[a] * v[a] for a in (0, 1)) for v in (plane_y, plane_z))
    return value, (gx, gy, gz)


def _corners(x, shape, live):
    """Flat index and weight of the eight voxels around each point."""
    (i, on_i, f), (j, on_j, g), (k, on_k, h) = (_cell(x[a], n) for a, n in enumerate(shape))
    for a, wa in zip(i, ((1 - f) * on_i[0], f * on_i[1]), strict=True):
        for b, wb in zip(j, ((1 - g) * on_j[0], g * on_j[1]), strict=True):
            for c, wc in zip(k, ((1 - h) * on_k[0], h * on_k[1]), strict=True):
                yield (a * shape[1] + b) * shape[2] + c, wa * wb * wc * live
