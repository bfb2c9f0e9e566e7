"""Implants and tools as convex solids: entry, exit, path length and mask in closed form.

A solid has one entry and one exit on each ray, so what several of them replace in each other is
settled by sorting the ends of a few intervals, without a march. At a point that several claim, the
one of the lowest rank has it, and equal ranks share it. Tissue comes last: where there is an
object, there is no tissue. A hollow is a solid of air.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, no_type_check

import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool, Float

from jxreg.camera import Camera, detector_points, pixel_grid
from jxreg.chords import cylinder_interval, frame_between, round_interval, slab_interval
from jxreg.errors import InputError
from jxreg.precision import full_precision

Numbers = ArrayLike | Sequence[ArrayLike]
"""A vector as an array or a tuple."""


class Kind(NamedTuple):
    """What makes a solid, in its own axes [mm]."""

    interval: Callable[[Array, Array, Array], tuple[Array, Array]]
    """Where the line u + t e is inside, from u, e and the size, as (near, far)."""
    inside: Callable[[Array, Array], Array]
    """Whether a point is inside, from the point and the size."""


@no_type_check  # JAX rebuilds pytrees from tracers, None and batched leaves
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Solid:
    """A solid of some size at its place in the world."""

    world_from_solid: jaxlie.SE3
    """Centre [mm] and orientation in the patient's RAS frame."""
    size: Float[Array, "3"]
    """Radii or half sides along its own axes [mm]."""
    kind: Kind = jax.tree.static()
    """Ellipsoid, box, cylinder or capsule."""


class Crossings(NamedTuple):
    """Where each ray is inside each object, as fractions of its way from source to pixel."""

    enter: Float[Array, "objects rows columns"]
    leave: Float[Array, "objects rows columns"]
    """Not less than `enter`; equal where the ray misses."""
    length: Float[Array, "rows columns"]
    """From the source to the pixel [mm]."""


def sphere(center: Numbers, radius: ArrayLike) -> Solid:
    """Ball with its centre [mm, world] and radius [mm]."""
    return _solid(_ELLIPSOID, center, jnp.asarray(radius, float) * jnp.ones(3), None)


def ellipsoid(center: Numbers, semi_axes: Numbers, rotation: jaxlie.SO3 | None = None) -> Solid:
    """Ellipsoid with its centre [mm, world], semi-axes [mm] and orientation (world from solid)."""
    return _solid(_ELLIPSOID, center, semi_axes, rotation)


def box(center: Numbers, half_sides: Numbers, rotation: jaxlie.SO3 | None = None) -> Solid:
    """Cuboid with its centre [mm, world], half sides [mm] and orientation (world from solid)."""
    return _solid(_BOX, center, half_sides, rotation)


def cylinder(start: Numbers, end: Numbers, radius: ArrayLike) -> Solid:
    """Round cylinder with flat ends, between two points in the world [mm]: a wire, a screw."""
    return _between(_CYLINDER, start, end, radius)


def capsule(start: Numbers, end: Numbers, radius: ArrayLike) -> Solid:
    """Cylinder between two points in the world [mm] with a half ball on each end."""
    return _between(_CAPSULE, start, end, radius)


def moved(solid: Solid, motion: jaxlie.SE3) -> Solid:
    """The solid after a rigid motion of the world."""
    return Solid(motion @ solid.world_from_solid, solid.size, solid.kind)


@jax.jit
@full_precision
def crossings(solids: Sequence[Solid], camera: Camera, pose: jaxlie.SE3) -> Crossings:
    """Where every ray of a camera is inside each solid.

    Differentiable in pose, place and size, except where a ray touches a solid without entering.

    Args:
        solids: One or more.
        camera: Geometry of the detector.
        pose: Extrinsic, `camera_from_world`.
    """
    points = detector_points(camera, pixel_grid(camera))
    spans = [_span(solid, pose, points) for solid in solids]
    size = camera.image_size
    enter, leave = (jnp.stack(ends).reshape(-1, *size) for ends in zip(*spans, strict=True))
    return Crossings(enter, leave, jnp.linalg.norm(points, axis=-1).reshape(size))


def path_lengths(crossed: Crossings) -> Float[Array, "objects rows columns"]:
    """Way through each object by itself [mm], whatever else is there."""
    return (crossed.leave - crossed.enter) * crossed.length


def masks(crossed: Crossings) -> Bool[Array, "objects rows columns"]:
    """Which pixels each object is seen in."""
    return crossed.leave > crossed.enter


def entry_and_exit(
    crossed: Crossings,
) -> tuple[Float[Array, "objects rows columns"], Float[Array, "objects rows columns"]]:
    """Distance from the source to entry and exit [mm]; NaN where the ray misses."""
    seen = masks(crossed)
    enter, leave = (
        jnp.where(seen, ends * crossed.length, jnp.nan) for ends in (crossed.enter, crossed.leave)
    )
    return enter, leave


def owned_lengths(
    crossed: Crossings, ranks: Sequence[int] | None = None
) -> Float[Array, "objects rows columns"]:
    """Way on which each object is what is there [mm].

    Args:
        crossed: From `crossings`.
        ranks: One for each object; the lowest has the point, equal ones share it. By default a
            later object replaces those before it.

    Raises:
        InputError: There are not as many ranks as objects.
    """
    ranks = checked_ranks(len(crossed.enter), ranks)
    ends = jnp.sort(jnp.concatenate([crossed.enter, crossed.leave]), axis=0)
    rank = jnp.array(ranks)[:, None, None]

    def add(owned, pair):
        low, high = pair
        middle = (low + high) / 2
        there = (crossed.enter < middle) & (middle < crossed.leave)
        first = jnp.min(jnp.where(there, rank, jnp.iinfo(jnp.int32).max), axis=0)
        winner = there & (rank == first)
        share = winner / jnp.maximum(winner.sum(0), 1)
        return owned + share.astype(owned.dtype) * (high - low), None

    owned = jax.lax.scan(add, jnp.zeros_like(crossed.enter), (ends[:-1], ends[1:]))[0]
    return owned * crossed.length


@jax.jit
def covered(crossed: Crossings) -> Crossings:
    """The union of all objects on each ray, as intervals that do not overlap.

    As many as there are objects, some of them empty: on these, tissue is replaced.
    """
    order = jnp.argsort(crossed.enter, axis=0)
    enter, leave = (jnp.take_along_axis(x, order, 0) for x in (crossed.enter, crossed.leave))
    seen = jax.lax.cummax(leave, axis=0)
    before = jnp.concatenate([jnp.zeros_like(seen[:1]), seen[:-1]])
    enter = jnp.maximum(enter, before)
    return Crossings(enter, jnp.maximum(leave, enter), crossed.length)


@full_precision
def inside(solid: Solid, points_world: Float[Array, "n 3"]) -> Bool[Array, " n"]:
    """Whether points in the world [mm] are inside a solid."""
    local = solid.world_from_solid.inverse().apply(points_world)
    return jax.vmap(lambda point: solid.kind.inside(point, solid.size))(local)


def checked_ranks(count: int, ranks: Sequence[int] | None) -> tuple[int, ...]:
    """The ranks of some objects, by default falling in their order.

    Raises:
        InputError: There are not as many ranks as objects.
    """
    if ranks is None:
        return tuple(range(count, 0, -1))
    if len(ranks) != count:
        fix = "give one whole number for each object, the lowest for what replaces all others"
        raise InputError("ranks", f"{len(ranks)}", f"{count}, as many as objects", fix)
    return tuple(int(rank) for rank in ranks)


def _span(solid: Solid, pose: jaxlie.SE3, points: Float[Array, "n 3"]):
    """Entry and exit of each ray, within the way from source to pixel."""
    solid_from_camera = (pose @ solid.world_from_solid).inverse()
    turn = solid_from_camera.rotation().as_matrix()
    source = solid_from_camera.translation()

    def one(point):
        near, far = solid.kind.interval(source, turn @ point, solid.size)
        near = jnp.clip(near, 0.0, 1.0)
        return near, jnp.maximum(jnp.clip(far, 0.0, 1.0), near)

    return jax.vmap(one)(points)


def _solid(kind: Kind, center, size, rotation) -> Solid:
    center, size = jnp.asarray(center, float), jnp.asarray(size, float)
    _check_size(size)
    rotation = jaxlie.SO3.identity() if rotation is None else rotation
    return Solid(jaxlie.SE3.from_rotation_and_translation(rotation, center), size, kind)


def _between(kind: Kind, start, end, radius) -> Solid:
    pose, length = frame_between(jnp.asarray(start, float), jnp.asarray(end, float))
    radius = jnp.asarray(radius, float)
    size = jnp.stack([radius, radius, length / 2])
    _check_size(size)
    return Solid(pose, size, kind)


def _check_size(size: Array) -> None:
    if not isinstance(size, Tracer) and not (np.asarray(size) > 0).all():
        raise InputError("size", f"{size.tolist()} mm", "positive lengths", "correct it")


def _capsule_interval(u, e, size):
    radius, half = size[0], size[2]
    end = jnp.array([0.0, 0.0, 1.0], u.dtype) * half
    parts = [
        cylinder_interval(u / size, e / size),
        round_interval((u - end) / radius, e / radius),
        round_interval((u + end) / radius, e / radius),
    ]
    near, far = (jnp.stack(ends) for ends in zip(*parts, strict=True))
    hit = far > near
    enter, leave = jnp.where(hit, near, jnp.inf).min(), jnp.where(hit, far, -jnp.inf).max()
    return jnp.where(hit.any(), enter, 0.0), jnp.where(hit.any(), leave, 0.0)


def _capsule_inside(x, size):
    off_axis = jnp.maximum(jnp.abs(x[2]) - size[2], 0.0)
    return x[0] ** 2 + x[1] ** 2 + off_axis**2 <= size[0] ** 2


_ELLIPSOID = Kind(
    lambda u, e, size: round_interval(u / size, e / size),
    lambda x, size: ((x / size) ** 2).sum() <= 1,
)
_BOX = Kind(
    lambda u, e, size: slab_interval(u / size, e / size),
    lambda x, size: (jnp.abs(x / size) <= 1).all(),
)
_CYLINDER = Kind(
    lambda u, e, size: cylinder_interval(u / size, e / size),
    lambda x, size: (((x / size)[:2] ** 2).sum() <= 1) & (jnp.abs(x[2]) <= size[2]),
)
_CAPSULE = Kind(_capsule_interval, _capsule_inside)
