"""A line integral as one differentiable primitive, whatever its quadrature.

A quadrature sums a field along rays that two vectors each describe, `p` and `q` (say, first point
and step). All derivatives with respect to the ray come from the same march as the value: the
moments

    dS/dp = sum of grad f   and   dS/dq = sum of s grad f,   s the coordinate along the ray,

and everything around them (pose, intrinsics, SDD, clipping) is ordinary autodiff on a few numbers a
ray. So forward and reverse mode both need memory in proportion to the rays, never to their samples.
The sum is linear in the volume, whose cotangent is the transposed march (a scatter).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float, Int

from jxreg.drr.linear import linear
from jxreg.packing import Packed
from jxreg.volume import Volume


class LineRays(NamedTuple):
    """Rays in index coordinates, as a quadrature wants them: arrays, or tuples of their rows."""

    p: Float[Array, "axes n"]
    q: Float[Array, "axes n"]
    extra: Int[Array, "numbers n"] = ()  # type: ignore
    """Integers of each ray that the quadrature needs besides; they have no derivatives."""
    shared: Int[Array, " numbers"] = ()  # type: ignore
    """Integers that all rays share."""


class Words(NamedTuple):
    """A field in words, and the size of its grid."""

    packed: Packed
    shape: tuple[int, ...]


Field = Float[Array, "c x y z"] | Words
"""Where a march reads: the volume itself, or its words."""


class March(NamedTuple):
    """One quadrature: the sum, its moments, and its transpose."""

    value: Callable[[Any, LineRays], Float[Array, "c n"]]
    """Sum over a `Field`; words only where the caller of `line_sum` gave some."""
    moments: Callable[[Any, LineRays], tuple[Float[Array, "c n"], Array]]
    """The sum and its derivative with respect to p and q, stacked: (2, axes, c, n)."""
    transpose: Callable[[Float[Array, "c n"], LineRays, Any], Array]


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def line_sum(
    march: March, mu: Float[Array, "c x y z"], rays: LineRays, packed: Packed | None = None
) -> Float[Array, "c n"]:
    """Sum of the volume along each ray by one quadrature; differentiable in volume and rays.

    Args:
        march: The quadrature.
        mu: The volume; where it is differentiated, it is read too.
        rays: The rays.
        packed: The same volume in words, read instead.
    """
    return march.value(_field(mu, packed), rays)


def _line_sum_jvp(march: March, primals, tangents):
    mu, rays, packed = primals
    mu_dot, rays_dot, _ = tangents
    field = _field(mu, packed if _is_zero(mu_dot) else None)
    moving = [(i, d) for i, d in enumerate((rays_dot.p, rays_dot.q)) if not _is_zero(d)]
    if moving:
        total, moments = march.moments(field, rays)
        change = sum(jnp.einsum("acn,an->cn", moments[i], d) for i, d in moving)
    else:
        total = march.value(field, rays)
        change = jnp.zeros_like(total)
    if not _is_zero(mu_dot):
        change = change + _linear_sum(march, mu_dot, rays)
    return total, change


line_sum.defjvp(_line_sum_jvp, symbolic_zeros=True)


def channels(volume: Volume) -> tuple[Float[Array, "c x y z"], Packed | None]:
    """A volume's attenuation and words, both with an axis of channels."""
    mu, packed = volume.mu.reshape(-1, *volume.mu.shape[-3:]), volume.packed
    if packed is None or mu.dtype != packed.scale.dtype:
        return mu, None
    return mu, Packed(packed.words.reshape(-1, mu.shape[0]), packed.scale.reshape(-1))


def _field(mu: Float[Array, "c x y z"], packed: Packed | None):
    _, x, y, z = mu.shape
    return mu if packed is None else Words(packed, (x, y, z))


def _linear_sum(march: March, mu_dot: Float[Array, "c x y z"], rays: LineRays):
    """The sum as a linear function of the volume, with its transpose spelled out."""
    _, nx, ny, nz = mu_dot.shape

    def forward(rays, mu_dot):
        return march.value(mu_dot, rays)

    def transposed(rays, cotangent):
        return march.transpose(cotangent, rays, (nx, ny, nz))

    return linear(forward, transposed, rays, mu_dot)


def _is_zero(tangent) -> bool:
    return isinstance(tangent, SymbolicZero)
