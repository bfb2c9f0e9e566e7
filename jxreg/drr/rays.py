"""From a camera and a pose to rays in the index coordinates of a volume."""

from typing import NamedTuple

import jax.numpy as jnp
import jaxlie
from jaxtyping import Array, Float

from jxreg.camera import Camera, detector_points
from jxreg.volume import Volume, index_from_world


class VoxelRays(NamedTuple):
    """Segments from the source (t = 0) to the detector (t = 1) in index coordinates."""

    origin: Float[Array, "3"]
    """The source."""
    direction: Float[Array, "3 n"]
    """From the source to each point on the detector."""
    length: Float[Array, " n"]
    """Length of each segment [mm]."""


def voxel_rays(
    volume: Volume, camera: Camera, pose: jaxlie.SE3, pixels: Float[Array, "n 2"]
) -> VoxelRays:
    """Rays from the source to pixels (u, v) of the detector."""
    points = detector_points(camera, pixels)
    index_world = index_from_world(volume)
    linear = index_world[:3, :3] @ pose.rotation().as_matrix().T
    origin = index_world[:3, 3] - linear @ pose.translation()
    return VoxelRays(origin, linear @ points.T, jnp.linalg.norm(points, axis=-1))


class Span(NamedTuple):
    """Where each ray is inside a box, as fractions of its segment; empty where leave <= enter."""

    enter: Float[Array, " n"]
    leave: Float[Array, " n"]


def clip_to_box(rays: VoxelRays, low: Float[Array, "3"], high: Float[Array, "3"]) -> Span:
    """Entry and exit of a box with sides along the index axes (slab method)."""
    t_low, t_high = slab_crossings(rays, low, high)
    enter = jnp.maximum(jnp.minimum(t_low, t_high).max(0), 0.0)
    leave = jnp.minimum(jnp.maximum(t_low, t_high).min(0), 1.0)
    return Span(enter, leave)


def slab_crossings(
    rays: VoxelRays, low: Float[Array, "3"], high: Float[Array, "3"]
) -> tuple[Float[Array, "3 n"], Float[Array, "3 n"]]:
    """Where each ray crosses the lower and the upper plane of each axis."""
    direction = nonzero(rays.direction)
    origin = rays.origin[:, None]
    return (low[:, None] - origin) / direction, (high[:, None] - origin) / direction


def nonzero(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x, with zeros replaced by a tiny number: a ray within a slab crosses it far away."""
    tiny = 1e-12
    return jnp.where(jnp.abs(x) < tiny, tiny, x)
