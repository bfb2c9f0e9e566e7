"""Siddon's line integral: exact for a volume whose voxels are boxes of constant attenuation.

Every ray visits the voxels that it crosses, one a turn (Amanatides and Woo, 1987), and adds value
times length of chord (Siddon, Med Phys 12, 1985). A crossing with the plane at coordinate c of axis
a is at t = (c - origin_a) / direction_a, so the derivative of the integral is a sum over crossings
of the step in value times dt, of which the same march collects the moments.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jxreg.drr.line import LineRays, March, line_sum
from jxreg.drr.marching import Integrate
from jxreg.drr.rays import VoxelRays, nonzero
from jxreg.volume import Volume


def siddon() -> Integrate:
    """Exact chords through constant voxels."""

    def integrate(volume: Volume, rays: VoxelRays) -> Float[Array, "c n"]:
        mu = volume.mu.reshape(-1, *volume.mu.shape[-3:])
        direction = nonzero(rays.direction)
        origin = jnp.broadcast_to(rays.origin[:, None], direction.shape)
        return line_sum(_SIDDON, mu, LineRays(origin, direction)) * rays.length

    return integrate


class _Walk(NamedTuple):
    """What stays fixed in a walk through the grid: signs, where each ray enters and leaves."""

    size: Int[Array, "3 1"]
    origin: Float[Array, "3 n"]
    direction: Float[Array, "3 n"]
    forward: Int[Array, "3 n"]
    """1 where the index grows along the ray, else 0."""
    enter: Float[Array, " n"]
    leave: Float[Array, " n"]
    entry_axis: Int[Array, " n"]
    """Axis of the face that a ray enters through; 3 if it starts inside."""


def _walk(shape: tuple[int, ...], rays: LineRays) -> _Walk:
    size = jnp.array(shape, jnp.int32)[:, None]
    low = jnp.full(size.shape, -0.5, rays.p.dtype)
    planes = jnp.stack([low, size.astype(rays.p.dtype) - 0.5])
    crossing = (planes - rays.p) / rays.q
    near, far = crossing.min(0), crossing.max(0)
    enter, leave = jnp.maximum(near.max(0), 0.0), jnp.minimum(far.min(0), 1.0)
    entered = (near == enter) & (near > 0)
    entry_axis = jnp.where(entered.any(0), entered.argmax(0), 3)
    forward = (rays.q > 0).astype(jnp.int32)
    return _Walk(size, rays.p, rays.q, forward, enter, leave, entry_axis)


def _first_voxel(walk: _Walk) -> Int[Array, "3 n"]:
    """Voxel at the entry point; on the axis of entry it is the first or the last one."""
    point = walk.origin + walk.enter * walk.direction
    last = walk.size - 1
    voxel = jnp.clip(jnp.floor(point + 0.5).astype(jnp.int32), 0, last)
    border = jnp.where(walk.forward == 1, 0, last)
    return jnp.where(jnp.arange(3)[:, None] == walk.entry_axis, border, voxel)


def _exit_of(walk: _Walk, voxel: Int[Array, "3 n"]):
    """Where and through which axis a ray leaves a voxel (axis 3: it ends inside)."""
    plane = voxel.astype(walk.origin.dtype) + walk.forward - 0.5
    crossing = (plane - walk.origin) / walk.direction
    t, axis = crossing.min(0), crossing.argmin(0)
    return jnp.minimum(t, walk.leave), jnp.where(t > 1.0, 3, axis)


def _flat(walk: _Walk, voxel: Int[Array, "3 n"]) -> Int[Array, " n"]:
    x, y, z = voxel
    return (x * walk.size[1] + y) * walk.size[2] + z


def _march(walk: _Walk, visit, total):
    """Carries `total` through visit(total, live, index, t in, t out, axis in, axis out)."""

    def live(voxel, t):
        return ((voxel >= 0) & (voxel < walk.size)).all(0) & (t < walk.leave)

    def body(carry):
        voxel, t, axis, total = carry
        alive = live(voxel, t)
        t_out, axis_out = _exit_of(walk, voxel)
        t_out = jnp.maximum(t_out, t)
        index = jnp.where(alive, _flat(walk, voxel), 0)
        total = visit(total, alive, index, t, t_out, axis, axis_out)
        step = jnp.where(jnp.arange(3)[:, None] == axis_out, 2 * walk.forward - 1, 0)
        voxel = jnp.where(alive, voxel + step, voxel)
        t = jnp.where(alive & (axis_out < 3), t_out, jnp.where(alive, walk.leave, t))
        return voxel, t, axis_out, total

    start = (_first_voxel(walk), walk.enter, walk.entry_axis, total)
    return jax.lax.while_loop(lambda c: live(c[0], c[1]).any(), body, start)[-1]


def _value(mu: Float[Array, "c x y z"], rays: LineRays) -> Float[Array, "c n"]:
    flat = mu.reshape(mu.shape[0], -1)

    def visit(total, alive, index, t_in, t_out, *_):
        return total + flat[:, index] * jnp.where(alive, t_out - t_in, 0.0)

    zero = jnp.zeros((mu.shape[0], rays.p.shape[1]), mu.dtype)
    return _march(_walk(mu.shape[-3:], rays), visit, zero)


def _moments(mu: Float[Array, "c x y z"], rays: LineRays):
    flat = mu.reshape(mu.shape[0], -1)
    walk = _walk(mu.shape[-3:], rays)
    # A crossing on axis a moves by dt = slope_a (d origin_a + t d direction_a).
    slope = -1.0 / walk.direction

    def visit(carry, alive, index, t_in, t_out, axis_in, axis_out):
        total, moments = carry
        value = jnp.where(alive, flat[:, index], 0.0)
        axes = jnp.arange(3)[:, None]
        gone_in, gone_out = (jnp.where(axes == a, slope, 0.0) for a in (axis_in, axis_out))
        change = jnp.stack([gone_out - gone_in, t_out * gone_out - t_in * gone_in])
        return total + value * (t_out - t_in), moments + change[:, :, None] * value

    zero = jnp.zeros((mu.shape[0], rays.p.shape[1]), mu.dtype)
    return _march(walk, visit, (zero, jnp.zeros((2, 3, *zero.shape), mu.dtype)))


def _transpose(cotangent: Float[Array, "c n"], rays: LineRays, shape: tuple[int, int, int]):
    def visit(mu, alive, index, t_in, t_out, *_):
        return mu.at[:, index].add(cotangent * jnp.where(alive, t_out - t_in, 0.0))

    size = shape[0] * shape[1] * shape[2]
    zero = jnp.zeros((cotangent.shape[0], size), cotangent.dtype)
    mu = _march(_walk(shape, rays), visit, zero)
    return mu.reshape(-1, *shape)


_SIDDON = March(_value, _moments, _transpose)
