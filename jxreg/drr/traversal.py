"""Siddon's line integral: exact for a volume whose voxels are boxes of constant attenuation.

Every ray visits the voxels that it crosses, one a turn (Amanatides and Woo, 1987), and adds value
times length of chord (Siddon, Med Phys 12, 1985). A crossing with the plane at coordinate c of axis
a is at t = (c - origin_a) / direction_a, so the derivative of the integral is a sum over crossings
of the step in value times dt, of which the same march collects the moments.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

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


class _Walk:
    """What stays fixed in a walk through the grid: signs, where each ray enters and leaves."""

    def __init__(self, shape: tuple[int, ...], rays: LineRays):
        self.shape = shape
        self.origin, self.direction = rays.p, rays.q
        self.forward = (self.direction > 0).astype(jnp.int32)
        size = jnp.array(shape, self.origin.dtype)[:, None]
        planes = jnp.stack([jnp.full_like(size, -0.5), size - 0.5])
        crossing = (planes - self.origin) / self.direction
        near, far = crossing.min(0), crossing.max(0)
        self.enter = jnp.maximum(near.max(0), 0.0)
        self.leave = jnp.minimum(far.min(0), 1.0)
        entered = (near == self.enter) & (near > 0)
        self.entry_axis = jnp.where(entered.any(0), entered.argmax(0), 3)

    def first_voxel(self):
        """Voxel at the entry point; on the axis of entry it is the first or the last one."""
        point = self.origin + self.enter * self.direction
        last = jnp.array(self.shape, jnp.int32)[:, None] - 1
        voxel = jnp.clip(jnp.floor(point + 0.5).astype(jnp.int32), 0, last)
        border = jnp.where(self.forward == 1, 0, last)
        return jnp.where(jnp.arange(3)[:, None] == self.entry_axis, border, voxel)

    def exit_of(self, voxel):
        """Where and through which axis a ray leaves a voxel (axis 3: it ends inside)."""
        plane = voxel.astype(self.origin.dtype) + self.forward - 0.5
        crossing = (plane - self.origin) / self.direction
        t, axis = crossing.min(0), crossing.argmin(0)
        return jnp.minimum(t, self.leave), jnp.where(t > 1.0, 3, axis)

    def flat(self, voxel):
        x, y, z = voxel
        return (x * self.shape[1] + y) * self.shape[2] + z

    def march(self, visit, total):
        """Carries `total` through visit(total, live, index, t in, t out, axis in, axis out)."""

        def live(voxel, t):
            inside = ((voxel >= 0) & (voxel < jnp.array(self.shape, jnp.int32)[:, None])).all(0)
            return inside & (t < self.leave)

        def body(carry):
            voxel, t, axis, total = carry
            alive = live(voxel, t)
            t_out, axis_out = self.exit_of(voxel)
            t_out = jnp.maximum(t_out, t)
            index = jnp.where(alive, self.flat(voxel), 0)
            total = visit(total, alive, index, t, t_out, axis, axis_out)
            step = jnp.where(jnp.arange(3)[:, None] == axis_out, 2 * self.forward - 1, 0)
            voxel = jnp.where(alive, voxel + step, voxel)
            t = jnp.where(alive & (axis_out < 3), t_out, jnp.where(alive, self.leave, t))
            return voxel, t, axis_out, total

        start = (self.first_voxel(), self.enter, self.entry_axis, total)
        return jax.lax.while_loop(lambda c: live(c[0], c[1]).any(), body, start)[-1]


def _value(mu: Float[Array, "c x y z"], rays: LineRays) -> Float[Array, "c n"]:
    flat = mu.reshape(mu.shape[0], -1)

    def visit(total, alive, index, t_in, t_out, *_):
        return total + flat[:, index] * jnp.where(alive, t_out - t_in, 0.0)

    zero = jnp.zeros((mu.shape[0], rays.p.shape[1]), mu.dtype)
    return _Walk(mu.shape[-3:], rays).march(visit, zero)


def _moments(mu: Float[Array, "c x y z"], rays: LineRays):
    flat = mu.reshape(mu.shape[0], -1)
    walk = _Walk(mu.shape[-3:], rays)
    slope = (
        -1.0 / walk.direction
    )  # dt of a crossing on axis a: slope_a (d origin_a + t d direction_a)

    def visit(carry, alive, index, t_in, t_out, axis_in, axis_out):
        total, moments = carry
        value = jnp.where(alive, flat[:, index], 0.0)
        axes = jnp.arange(3)[:, None]
        gone_in, gone_out = (jnp.where(axes == a, slope, 0.0) for a in (axis_in, axis_out))
        change = jnp.stack([gone_out - gone_in, t_out * gone_out - t_in * gone_in])
        return total + value * (t_out - t_in), moments + change[:, :, None] * value

    zero = jnp.zeros((mu.shape[0], rays.p.shape[1]), mu.dtype)
    return walk.march(visit, (zero, jnp.zeros((2, 3, *zero.shape), mu.dtype)))


def _transpose(cotangent: Float[Array, "c n"], rays: LineRays, shape: tuple[int, int, int]):
    def visit(mu, alive, index, t_in, t_out, *_):
        return mu.at[:, index].add(cotangent * jnp.where(alive, t_out - t_in, 0.0))

    size = shape[0] * shape[1] * shape[2]
    mu = _Walk(shape, rays).march(visit, jnp.zeros((cotangent.shape[0], size), cotangent.dtype))
    return mu.reshape(-1, *shape)


_SIDDON = March(_value, _moments, _transpose)
