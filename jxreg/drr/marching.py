"""Trilinear ray marching by the midpoint rule: the reference quadrature.

The field is trilinear between voxel centres and falls to zero (air) within one voxel outside the
grid. Each ray is cut to that support and divided into equal steps no longer than the wanted one.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jxreg.drr.accumulate import Load, Sampled, Shape
from jxreg.drr.line import LineRays, channels, line_sum
from jxreg.drr.quadrature import Quadrature, march
from jxreg.drr.rays import Span, VoxelRays, clip_to_box
from jxreg.drr.words import bilinear, inner_cell
from jxreg.errors import InputError
from jxreg.packing import padded
from jxreg.volume import Volume, spacing

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
        mu, packed = channels(volume)
        samples, sample_mm = _samples(mu.shape[-3:], rays, step)
        return line_sum(_MARCH, mu, samples, packed) * sample_mm

    return integrate


def trilinear_between(
    volume: Volume, rays: VoxelRays, part: Span, step_mm: float | None = None
) -> Float[Array, "c n"]:
    """Line integral of each channel over a part of each ray, by the same quadrature.

    Args:
        volume: The volume.
        rays: Rays from source to detector.
        part: Where it begins and ends, as fractions of each ray; differentiable.
        step_mm: As in `trilinear`.
    """
    step = spacing(volume.affine).min() if step_mm is None else step_mm
    mu, packed = channels(volume)
    samples, sample_mm = _samples(mu.shape[-3:], rays, step, part)
    return line_sum(_MARCH, mu, samples, packed) * sample_mm


def _samples(
    shape, rays: VoxelRays, step, part: Span | None = None
) -> tuple[LineRays, Float[Array, " n"]]:
    """First point and step of each ray [index], number of steps, and their length [mm]."""
    dtype = rays.direction.dtype
    span = clip_to_box(rays, -jnp.ones(3, dtype), jnp.array(shape, dtype))
    if part is not None:
        span = Span(jnp.maximum(span.enter, part.enter), jnp.minimum(span.leave, part.leave))
    inside = span.leave > span.enter
    enter = jnp.where(inside, span.enter, 0.0)
    width = jnp.where(inside, span.leave - span.enter, 0.0)
    wanted = jnp.ceil(jax.lax.stop_gradient(width * rays.length) / step)
    count = jnp.where(jnp.isfinite(wanted), wanted, 0.0).astype(jnp.int32)
    dt = width / jnp.maximum(count, 1)
    p = rays.origin[:, None] + enter * rays.direction
    nothing = jnp.zeros(1, jnp.int32)  # a kernel takes no empty array
    return LineRays(p, dt * rays.direction, count[None], nothing), dt * rays.length


def _packed(load: Load, shape: Shape, rays: LineRays, k) -> Sampled:
    width, _, height = padded(shape)
    # A live sample is at most one voxel off the grid, and there are two of padding.
    x, y, z = (inner_cell(point) for point in _point(rays, k))
    index = (y.index * height + z.index) * width + x.index
    index = jnp.where(k < rays.extra[0], index, 0)  # where all is air
    near = bilinear(load, index, width, x, z)
    far = bilinear(load, index + height * width, width, x, z)
    across = far.value - near.value
    along_x, along_z = (a + y.fraction * (b - a) for a, b in zip(near[1:], far[1:], strict=True))
    value = near.value + y.fraction * across
    return Sampled(value, (along_x, across, along_z), _coordinate(rays, k))


def _plain(load: Load, shape: Shape, rays: LineRays, k) -> Sampled:
    value, slope = _interpolate(load, shape, _point(rays, k), k < rays.extra[0])
    return Sampled(value, slope, _coordinate(rays, k))


def _corners(shape: Shape, rays: LineRays, k):
    """Flat index and weight of the eight voxels around each point."""
    live = k < rays.extra[0]
    (i, wx, _), (j, wy, _), (m, wz, _) = (
        _cell(x, n) for x, n in zip(_point(rays, k), shape, strict=True)
    )
    for a in (0, 1):
        for b in (0, 1):
            for c in (0, 1):
                index = (i[a] * shape[1] + j[b]) * shape[2] + m[c]
                yield index, wx[a] * wy[b] * wz[c] * live


def _span(shape: Shape, rays: LineRays):
    return jnp.zeros_like(rays.extra[0]), rays.extra[0]


def _coordinate(rays: LineRays, k):
    return k.astype(rays.p[0].dtype) + 0.5


def _point(rays: LineRays, k) -> list[Array]:
    """The k-th sample, axis by axis: as one array XLA would store it instead of fusing it."""
    s = _coordinate(rays, k)
    return [rays.p[a] + s * rays.q[a] for a in range(3)]


def _cell(x: Array, size: int):
    """Both neighbours on one axis: indices, weights, and slopes, 0 where they are off the grid."""
    low = jnp.floor(x)
    fraction = x - low
    i = jnp.clip(low, -2, size).astype(jnp.int32)  # far outside is as good as just outside
    on_low = ((i >= 0) & (i < size)).astype(x.dtype)
    on_high = ((i >= -1) & (i < size - 1)).astype(x.dtype)
    index = jnp.clip(i, 0, size - 1), jnp.clip(i + 1, 0, size - 1)
    return index, ((1 - fraction) * on_low, fraction * on_high), (-on_low, on_high)


def _interpolate(load: Load, shape: Shape, x, live) -> tuple[Array, tuple[Array, ...]]:
    (i, wx, sx), (j, wy, sy), (m, wz, sz) = (_cell(x[a], n) for a, n in enumerate(shape))
    wx, sx = (tuple(w * live for w in weights) for weights in (wx, sx))
    corner = [[[load((a * shape[1] + b) * shape[2] + c) for c in m] for b in j] for a in i]
    line = [[sum(wz[c] * v[c] for c in (0, 1)) for v in plane] for plane in corner]
    line_z = [[sum(sz[c] * v[c] for c in (0, 1)) for v in plane] for plane in corner]
    plane = [sum(wy[b] * v[b] for b in (0, 1)) for v in line]
    plane_y = [sum(sy[b] * v[b] for b in (0, 1)) for v in line]
    plane_z = [sum(wy[b] * v[b] for b in (0, 1)) for v in line_z]
    value, gx = (w[0] * plane[0] + w[1] * plane[1] for w in (wx, sx))
    gy, gz = (wx[0] * v[0] + wx[1] * v[1] for v in (plane_y, plane_z))
    return value, (gx, gy, gz)


TRILINEAR = Quadrature(_plain, _packed, _corners, _span)
_MARCH = march(TRILINEAR)
