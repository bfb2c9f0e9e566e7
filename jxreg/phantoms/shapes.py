"""Shapes with closed-form line integrals: the exact DRR of a phantom.

A phantom is a tuple of shapes, and shapes add (the Shepp-Logan convention): where two overlap,
their attenuations sum. A shape that replaces what is around it carries the difference, and a hole
has a negative mu. So a shell is an outer ellipsoid minus an inner one, and a bone in soft tissue
takes the tissue's mu away and adds its own.

With several materials, mu has one entry a material, and a result one leading channel a material.

Source: Kak and Slaney, Principles of Computerized Tomographic Imaging, 1988, section 3.1, for the
ellipsoid; the slab method (Kay and Kajiya, 1986) for flat faces; the Gaussian by completing the
square.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, no_type_check

import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Float

from jxreg.camera import Camera, detector_points, pixel_grid
from jxreg.chords import (
    PARALLEL,
    cylinder_interval,
    dot,
    frame_between,
    round_interval,
    slab_interval,
)
from jxreg.errors import InputError


class Primitive(NamedTuple):
    """A solid of unit size in its own axes, as what is needed to integrate and to sample it."""

    line_integral: Callable[[Float[Array, "3"], Float[Array, "3"]], Float[Array, ""]]
    """Integral of the density over t from 0 to 1 along u + t e."""
    density: Callable[..., Array | np.ndarray]
    """Density from coordinates x, y, z (NumPy or JAX arrays): 1 inside, 0 outside, if sharp."""
    extent: float
    """The density is zero (or less than 1e-8) outside the cube from -extent to extent."""


@no_type_check  # JAX rebuilds pytrees from tracers, None and batched leaves
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Shape:
    """A primitive, scaled to its size, at its place in the world."""

    world_from_shape: jaxlie.SE3
    """Centre [mm] and orientation in the patient's RAS frame."""
    size: Float[Array, "3"]
    """What one unit of the primitive measures along its axes [mm]: semi-axis or half side."""
    mu: Float[Array, "*materials"]
    """Linear attenuation [1/mm], what the shape adds to what is there; one entry a material."""
    primitive: Primitive = jax.tree.static()
    """Ellipsoid, box, cylinder or Gaussian."""


Phantom = tuple[Shape, ...]
Numbers = ArrayLike | Sequence[ArrayLike]
"""A vector as an array or a tuple; for `mu` also a scalar."""


def ellipsoid(
    center: Numbers, semi_axes: Numbers, mu: Numbers, rotation: jaxlie.SO3 | None = None
) -> Shape:
    """Ellipsoid with its centre [mm, world], semi-axes [mm] and orientation (world from shape)."""
    return _shape(_ELLIPSOID, center, semi_axes, mu, rotation)


def box(
    center: Numbers, half_sides: Numbers, mu: Numbers, rotation: jaxlie.SO3 | None = None
) -> Shape:
    """Cuboid with its centre [mm, world], half sides [mm] and orientation (world from shape)."""
    return _shape(_BOX, center, half_sides, mu, rotation)


def cylinder(
    center: Numbers, size: Numbers, mu: Numbers, rotation: jaxlie.SO3 | None = None
) -> Shape:
    """Finite elliptic cylinder along its own z axis; `size`: two radii and half the length [mm]."""
    return _shape(_CYLINDER, center, size, mu, rotation)


def gaussian(
    center: Numbers, sigma: Numbers, mu: Numbers, rotation: jaxlie.SO3 | None = None
) -> Shape:
    """Gaussian blob with the peak `mu`; infinitely smooth, to measure orders of convergence."""
    return _shape(_GAUSSIAN, center, sigma, mu, rotation)


def rod(start: Numbers, end: Numbers, radius: ArrayLike, mu: Numbers) -> Shape:
    """Round cylinder between two points in the world [mm]."""
    start, end = jnp.asarray(start, float), jnp.asarray(end, float)
    pose, length = frame_between(start, end)
    radius = jnp.asarray(radius, float)
    size = jnp.stack([radius, radius, length / 2])
    return cylinder(pose.translation(), size, mu, pose.rotation())


def shell(
    center: Numbers,
    semi_axes: Numbers,
    thickness: ArrayLike,
    mu: Numbers,
    rotation: jaxlie.SO3 | None = None,
) -> Phantom:
    """Ellipsoidal shell: an ellipsoid minus one whose semi-axes are shorter by `thickness` [mm]."""
    inner = jnp.asarray(semi_axes, float) - jnp.asarray(thickness, float)
    return (
        ellipsoid(center, semi_axes, mu, rotation),
        ellipsoid(center, inner, -jnp.asarray(mu, float), rotation),
    )


def total(phantom: Phantom) -> Phantom:
    """The same phantom with its materials summed to one attenuation."""
    return tuple(replace(shape, mu=shape.mu.sum()) for shape in phantom)


@jax.jit
def line_integral(
    phantom: Phantom, start: Float[Array, "3"], end: Float[Array, "3"]
) -> Float[Array, "*materials"]:
    """Integral of mu along the segment between two points in the world [mm], in closed form.

    Differentiable in everything, except where the ray touches a sharp surface without entering, or
    passes through an edge: there the integral itself has a kink, and the gradient is one-sided.
    """
    length = jnp.linalg.norm(end - start)

    def chord(shape):
        world_from_shape = shape.world_from_shape
        unit_axes = world_from_shape.rotation().as_matrix() / shape.size
        origin = dot(start - world_from_shape.translation(), unit_axes)
        direction = dot(end - start, unit_axes)
        return length * shape.primitive.line_integral(origin, direction)

    return _sum_over_shapes(phantom, chord)


@jax.jit
def mu_at(phantom: Phantom, point: Float[Array, "3"]) -> Float[Array, "*materials"]:
    """Attenuation [1/mm] at a point in the world [mm]."""

    def density(shape):
        local = shape.world_from_shape.inverse().apply(point) / shape.size
        return shape.primitive.density(*local) * 1.0

    return _sum_over_shapes(phantom, density)


@jax.jit
def exact_drr(
    phantom: Phantom, camera: Camera, pose: jaxlie.SE3
) -> Float[Array, "*materials rows columns"]:
    """DRR without any discretisation: what a renderer of the voxelised phantom converges to.

    Args:
        phantom: Shapes in the world frame.
        camera: Camera of the image.
        pose: Pose, `camera_from_world`.

    Returns:
        Line integral from the source to each pixel's centre (dimensionless).
    """
    rows, columns = camera.image_size
    world_from_camera = pose.inverse()
    source = world_from_camera.translation()
    ends = world_from_camera.apply(detector_points(camera, pixel_grid(camera)))
    row = jax.vmap(lambda end: line_integral(phantom, source, end), out_axes=-1)
    image = jax.lax.map(row, ends.reshape(rows, columns, 3))
    return jnp.moveaxis(image, 0, -2)


def _shape(primitive, center, size, mu, rotation) -> Shape:
    size, mu = jnp.asarray(size, float), jnp.asarray(mu, float)
    if not isinstance(size, Tracer) and not (np.asarray(size) > 0).all():
        raise InputError("size", f"{size.tolist()} mm", "three positive lengths", "correct it")
    rotation = jaxlie.SO3(jnp.array([1.0, 0.0, 0.0, 0.0])) if rotation is None else rotation
    center = jnp.asarray(center, float)
    pose = jaxlie.SE3.from_rotation_and_translation(rotation, center)
    return Shape(pose, size, mu, primitive)


def _sum_over_shapes(phantom: Phantom, function) -> Array:
    """Sum of mu * function(shape); one vectorised call for all shapes of one primitive."""
    kinds = dict.fromkeys(shape.primitive for shape in phantom)
    parts = []
    for kind in kinds:
        same = [shape for shape in phantom if shape.primitive == kind]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *same)
        parts.append(jnp.tensordot(jax.vmap(function)(stacked), stacked.mu, 1))
    return sum(parts[1:], start=parts[0])


def _clipped(near, far):
    """Length of the interval from `near` to `far` within 0..1; empty intervals count zero."""
    return jnp.maximum(jnp.clip(far, 0, 1) - jnp.clip(near, 0, 1), 0)


def _ellipsoid_integral(u, e):
    return _clipped(*round_interval(u, e))


def _ellipsoid_density(x, y, z):
    return x * x + y * y + z * z <= 1


def _box_integral(u, e):
    return _clipped(*slab_interval(u, e))


def _box_density(x, y, z):
    return (abs(x) <= 1) & (abs(y) <= 1) & (abs(z) <= 1)


def _cylinder_integral(u, e):
    return _clipped(*cylinder_interval(u, e))


def _cylinder_density(x, y, z):
    return (x * x + y * y <= 1) & (abs(z) <= 1)


def _gaussian_integral(u, e):
    norm = jnp.sqrt(jnp.maximum(dot(e, e), PARALLEL**2))
    along = dot(e, u) / norm
    across = u - along * e / norm
    erf = jax.scipy.special.erf
    inside = erf((norm + along) / np.sqrt(2.0)) - erf(along / np.sqrt(2.0))
    return np.sqrt(np.pi / 2) / norm * jnp.exp(-0.5 * dot(across, across)) * inside


def _gaussian_density(x, y, z):
    xp = jnp if isinstance(x, jax.Array) else np
    return xp.exp(-0.5 * (x * x + y * y + z * z))


_ELLIPSOID = Primitive(_ellipsoid_integral, _ellipsoid_density, 1.0)
_BOX = Primitive(_box_integral, _box_density, 1.0)
_CYLINDER = Primitive(_cylinder_integral, _cylinder_density, 1.0)
_GAUSSIAN = Primitive(_gaussian_integral, _gaussian_density, 6.1)
