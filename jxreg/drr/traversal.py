"""Siddon's line integral: exact for a volume whose voxels are boxes of constant attenuation.

Every ray visits the voxels that it crosses, one a step (Amanatides and Woo, 1987), and adds value
times length of chord (Siddon, Med Phys 12, 1985). A crossing with the plane at coordinate c of axis
a is at t = (c - origin_a) / direction_a, so the derivative of the integral is a sum over crossings
of the step in value times dt, of which the same walk collects the moments.

All that a ray carries from voxel to voxel is the voxel, in one integer, and the sums: on a CPU each
array that a loop writes costs a pass over all rays. The planes that bound a voxel say where and
through which axes the ray enters and leaves it. Axes count along the ray, so that the index of the
voxel never falls.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jxreg.drr.accumulate import flat_load, range_of
from jxreg.drr.line import LineRays, March, line_sum
from jxreg.drr.marching import Integrate
from jxreg.drr.rays import VoxelRays, nonzero
from jxreg.volume import Volume

UNROLL_VALUE, UNROLL_MOMENTS = 4, 2  # voxels a turn; each moment finds them again, so fewer
_DONE = -(2**31)  # sign bit of a ray that has left


def siddon() -> Integrate:
    """Exact chords through constant voxels."""

    def integrate(volume: Volume, rays: VoxelRays) -> Float[Array, "c n"]:
        mu = volume.mu.reshape(-1, *volume.mu.shape[-3:])
        direction = nonzero(rays.direction)
        origin = jnp.broadcast_to(rays.origin[:, None], direction.shape)
        return line_sum(_SIDDON, mu, LineRays(origin, direction)) * rays.length

    return integrate


class _Walk(NamedTuple):
    """What stays fixed in a walk through the grid; tuples by axis, or XLA stores what it fuses."""

    shape: tuple[int, ...]
    forward: tuple[Bool[Array, " n"], ...]
    """Whether the ray runs along the axis or against it; against it, the axis is mirrored."""
    origin: tuple[Float[Array, " n"], ...]
    """Source, in voxels from the face that the ray would enter through."""
    pace: tuple[Float[Array, " n"], ...]
    """Change of t from plane to plane."""
    leave: Float[Array, " n"]
    """Where the ray leaves the grid, or 1 where it ends inside."""
    first: Int[Array, " n"]
    """Voxel where the ray enters the grid, packed."""
    inside: tuple[Int[Array, " n"], Int[Array, " n"]]
    """Packed voxels of the source and of the end; negative where they are outside."""
    steps: Int[Array, ""]
    """Voxels that a ray may cross at most."""


class _Visit(NamedTuple):
    """One step of every ray."""

    index: Int[Array, " n"]
    """Flat index of the voxel."""
    going: Bool[Array, " n"]
    """Whether the ray is still in the grid."""
    t_in: Float[Array, " n"]
    t_out: Float[Array, " n"]
    entered: tuple[Bool[Array, " n"], ...]
    """By axis, whether the ray enters the voxel through it: through one, or none at the source."""
    left: tuple[Bool[Array, " n"], ...]
    """The same where the ray leaves it."""


def _walk(shape: tuple[int, ...], rays: LineRays) -> _Walk:
    forward = tuple(rays.q[a] > 0 for a in range(3))
    low = [rays.p[a] + 0.5 for a in range(3)]
    origin = tuple(jnp.where(f, x, n - x) for f, x, n in zip(forward, low, shape, strict=True))
    speed = [jnp.abs(rays.q[a]) for a in range(3)]
    pace = tuple(1.0 / v for v in speed)
    enter, leave = jnp.zeros_like(pace[0]), jnp.ones_like(pace[0])
    for n, o, dt in zip(shape, origin, pace, strict=True):
        enter, leave = jnp.maximum(enter, (0 - o) * dt), jnp.minimum(leave, (n - o) * dt)
    hit = enter < leave

    def voxel(t):
        point = [jnp.floor(o + t * v) for o, v in zip(origin, speed, strict=True)]
        return [jnp.clip(x, 0, n - 1).astype(jnp.int32) for x, n in zip(point, shape, strict=True)]

    first, last = voxel(enter), voxel(leave)
    count = functools.reduce(jnp.add, [b - a for a, b in zip(first, last, strict=True)])
    count = jnp.where(hit, count + 3, 0)  # rounding may have cut a corner on two axes
    first, last = _pack(shape, first), _pack(shape, last)
    source = jnp.where(hit & (enter == 0), first, _DONE)
    end = jnp.where(hit & (leave == 1), last, _DONE)
    first = jnp.where(hit, first, first | _DONE)
    steps = range_of(jnp.zeros_like(count), count).stop
    return _Walk(shape, forward, origin, pace, leave, first, (source, end), steps)


def _weights(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Places of x, y and z in a packed voxel: whole bits, where 31 are enough."""
    _, y, z = (1 << (n - 1).bit_length() for n in shape)
    if shape[0] * y * z > 2**31:
        _, y, z = shape
    return y * z, z, 1


def _pack(shape: tuple[int, ...], voxel) -> Int[Array, " n"]:
    (x, y, z), (weight_x, weight_y, _) = voxel, _weights(shape)
    return x * weight_x + y * weight_y + z


def _unpack(shape: tuple[int, ...], packed: Int[Array, " n"]) -> list[Int[Array, " n"]]:
    rest, voxel = (packed & ~_DONE).astype(jnp.uint32), []
    for weight in _weights(shape):
        voxel.append((rest // weight).astype(jnp.int32))
        rest = rest % weight
    return voxel


def _index(walk: _Walk, voxel: list[Int[Array, " n"]]) -> Int[Array, " n"]:
    """Flat index in the volume."""
    mirrored = zip(walk.forward, voxel, walk.shape, strict=True)
    x, y, z = (jnp.where(f, i, n - 1 - i) for f, i, n in mirrored)
    return (x * walk.shape[1] + y) * walk.shape[2] + z


def _visit(walk: _Walk, packed: Int[Array, " n"]) -> tuple[_Visit, Int[Array, " n"]]:
    """A voxel, and the next one.

    Where planes cross on the ray, the first axis is crossed first. Where rounding began a walk
    one voxel early, that one has no chord.
    """
    voxel = _unpack(walk.shape, packed)
    planes = [
        (i.astype(o.dtype), o, dt) for i, o, dt in zip(voxel, walk.origin, walk.pace, strict=True)
    ]
    entry = [(x - o) * dt for x, o, dt in planes]
    exit_ = [(x + 1 - o) * dt for x, o, dt in planes]
    t_in = functools.reduce(_larger, [*entry, jnp.zeros_like(walk.leave)])
    crossed = functools.reduce(_smaller, exit_)
    t_out = _smaller(crossed, walk.leave)
    out_x = exit_[0] == crossed
    out_y = ~out_x & (exit_[1] == crossed)
    in_z = entry[2] == t_in
    in_y = ~in_z & (entry[1] == t_in)
    in_x = ~in_z & ~in_y & (entry[0] == t_in)
    ends = crossed > walk.leave
    left = out_x & ~ends, out_y & ~ends, ~(out_x | out_y | ends)
    x, y, z = _weights(walk.shape)
    step = jnp.where(out_x, x, jnp.where(out_y, y, z))
    # `leave` comes from the same formula: who is before it has a next voxel.
    following = jnp.where(crossed < walk.leave, packed + step, packed | _DONE)
    entered = in_x, in_y, in_z
    return _Visit(_index(walk, voxel), packed >= 0, t_in, t_out, entered, left), following


def _larger(a, b):
    """Without the care for NaN that makes `jnp.maximum` four instructions."""
    return jnp.where(a > b, a, b)


def _smaller(a, b):
    return jnp.where(a < b, a, b)


def _sums(mu: Float[Array, "c x y z"], walk: _Walk, part, zero, unroll: int):
    """Sums part(value, value before, visit): real numbers, then as many complex as there are.

    Voxel and first sum ride in one complex number, so that one pass makes both. Returns the sums
    and the last voxel.
    """
    load = flat_load(mu)

    def turn(carry):
        k, value, (state, *sums) = carry
        packed, parts = _bare(state.real[0]), []
        for _ in range(unroll):
            visit, packed = _visit(walk, packed)
            before, value = value, load(visit.index)
            parts.append(part(value, before, visit))
        added = [functools.reduce(jnp.add, p) for p in zip(*parts, strict=True)]
        first, *sums = [a + b for a, b in zip((state.imag, *sums), added, strict=True)]
        return k + unroll, value, (_hidden(packed, first), *sums)

    start = jnp.int32(0), jnp.zeros_like(zero[0]), (_hidden(walk.first, zero[0]), *zero[1:])
    state, *sums = jax.lax.while_loop(lambda carry: carry[0] < walk.steps, turn, start)[-1]
    return (state.imag, *sums), _bare(state.real[0])


def _hidden(packed: Int[Array, " n"], total: Float[Array, "c n"]):
    """An integer beside a sum, in one complex number; its bits where a float is too short."""
    if total.dtype.itemsize == 4:
        number = jax.lax.bitcast_convert_type(packed, total.dtype)
    else:
        number = packed.astype(total.dtype)
    return jax.lax.complex(jnp.broadcast_to(number, total.shape), total)


def _bare(number: Float[Array, " n"]) -> Int[Array, " n"]:
    if number.dtype.itemsize == 4:
        return jax.lax.bitcast_convert_type(number, jnp.int32)
    return number.astype(jnp.int32)


def _chord(visit: _Visit):
    return jnp.where(visit.going & (visit.t_in < visit.t_out), visit.t_out - visit.t_in, 0.0)


def _value(mu: Float[Array, "c x y z"], rays: LineRays) -> Float[Array, "c n"]:
    def part(value, before, visit):
        return (value * _chord(visit),)

    zero = jnp.zeros((mu.shape[0], rays.p.shape[1]), mu.dtype)
    return _sums(mu, _walk(mu.shape[-3:], rays), part, (zero,), UNROLL_VALUE)[0][0]


def _moments(mu: Float[Array, "c x y z"], rays: LineRays):
    """Value and moments: of two axes by the walk, of the steepest from all of them together.

    The steps in value over all crossings telescope to zero, and times t to minus the value, but
    for what is inside the volume at the ends.
    """
    walk = _walk(mu.shape[-3:], rays)
    x, y, z = walk.pace
    steep_x, steep_z = (x <= y) & (x <= z), (z < x) & (z < y)

    def others(of):
        return jnp.where(steep_x, of[1], of[0]), jnp.where(steep_z, of[1], of[2])

    def crossing(change, t, axes):
        """Moments of a step in value."""
        return (jnp.where(a, jax.lax.complex(change, change * t), 0.0) for a in others(axes))

    def part(value, before, visit):
        change = jnp.where(visit.going, before - value, 0.0)
        return value * _chord(visit), *crossing(change, visit.t_in, visit.entered)

    zero = jnp.zeros((mu.shape[0], rays.p.shape[1]), mu.dtype)
    pair = jax.lax.complex(zero, zero)
    (total, u, v), last = _sums(mu, walk, part, (zero, pair, pair), UNROLL_MOMENTS)
    visit, _ = _visit(walk, last)
    change = jnp.where(walk.first >= 0, flat_load(mu)(visit.index), 0.0)
    last_u, last_v = crossing(change, visit.t_out, visit.left)
    u, v = u + last_u, v + last_v
    source, end = (_value_at(mu, walk, packed) for packed in walk.inside)
    w = jax.lax.complex(source - end, total - end) - u - v
    pairs = (
        jnp.where(steep_x, w, u),
        jnp.where(steep_x, u, jnp.where(steep_z, v, w)),
        jnp.where(steep_z, w, v),
    )
    # A crossing on axis a moves by dt = -(d origin_a + t d direction_a) / direction_a.
    pairs = jnp.stack([pair / -rays.q[a] for a, pair in enumerate(pairs)])
    return total, jnp.stack([pairs.real, pairs.imag])


def _value_at(mu: Float[Array, "c x y z"], walk: _Walk, packed: Int[Array, " n"]):
    """What is in a packed voxel; 0 where it is negative."""
    index = _index(walk, _unpack(walk.shape, packed))
    return jnp.where(packed >= 0, flat_load(mu)(index), 0.0)


def _transpose(cotangent: Float[Array, "c n"], rays: LineRays, shape: tuple[int, int, int]):
    walk = _walk(shape, rays)

    def turn(carry):
        k, packed, mu = carry
        visit, packed = _visit(walk, packed)
        return k + 1, packed, mu.at[:, visit.index].add(cotangent * _chord(visit))

    zero = jnp.zeros((cotangent.shape[0], math.prod(shape)), cotangent.dtype)
    start = jnp.int32(0), walk.first, zero
    mu = jax.lax.while_loop(lambda carry: carry[0] < walk.steps, turn, start)[-1]
    return mu.reshape(-1, *shape)


_SIDDON = March(_value, _moments, _transpose)
