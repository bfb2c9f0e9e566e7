"""Where a line is inside a convex solid: the closed forms behind phantoms and implants.

A line is u + t e in the solid's own axes. A result is (near, far) in units of t, with near == far
where a round solid is missed and near > far where a flat one is.

Source: the slab method (Kay and Kajiya, 1986) for flat faces.
"""

import jax.numpy as jnp
import jaxlie
from jaxtyping import Array, Float

PARALLEL = 1e-9
"""Ray components below this (of a segment, in units of the solid's size) count as parallel."""


def dot(vector, other):
    """The product vector @ other, spelled out: with millions of them XLA is six times as fast."""
    return sum((vector[i] * other[i] for i in range(1, len(vector))), start=vector[0] * other[0])


def round_interval(u, e):
    """Where |u + t e| <= 1, as (near, far); near == far where the ray misses."""
    alpha = jnp.maximum(dot(e, e), PARALLEL**2)
    closest = -dot(e, u) / alpha
    # Not the discriminant: from 1000 mm away, a small shape would drown in its rounding.
    nearest = u + closest * e
    depth = 1 - dot(nearest, nearest)
    half = jnp.where(depth > 0, jnp.sqrt(jnp.where(depth > 0, depth, 1) / alpha), 0)
    return closest - half, closest + half


def slab_interval(u, e):
    """Where every |u_i + t e_i| <= 1, as (near, far)."""
    e = jnp.where(jnp.abs(e) < PARALLEL, PARALLEL, e)
    first, second = (-1 - u) / e, (1 - u) / e
    return jnp.minimum(first, second).max(), jnp.maximum(first, second).min()


def cylinder_interval(u, e):
    """Where a line is in the unit cylinder about z, from z = -1 to 1, as (near, far)."""
    side, caps = round_interval(u[:2], e[:2]), slab_interval(u[2:], e[2:])
    return jnp.maximum(side[0], caps[0]), jnp.minimum(side[1], caps[1])


def frame_between(
    start: Float[Array, "3"], end: Float[Array, "3"]
) -> tuple[jaxlie.SE3, Float[Array, ""]]:
    """Frame in the middle of two points with its z axis from one to the other, and the distance.

    Which of the two is the start does not matter: the axis never points down.
    """
    length = jnp.linalg.norm(end - start)
    axis = (end - start) / length
    axis = jnp.where(axis[2] < 0, -axis, axis)  # the ends may be swapped: no turn by 180 degrees
    wxyz = jnp.stack([1 + axis[2], -axis[1], axis[0], jnp.zeros_like(length)])
    rotation = jaxlie.SO3(wxyz / jnp.linalg.norm(wxyz))
    return jaxlie.SE3.from_rotation_and_translation(rotation, (start + end) / 2), length
