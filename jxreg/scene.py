"""A patient with implants and tools: what each material puts on every ray.

Objects replace tissue. Analytic ones do so by their exact intervals: the tissue on them is
integrated over these parts of the ray and taken off. Voxelised ones carry, on their own fine grid,
what they replace: the tissue's density, or an analytic object of higher rank, at each voxel. So a
thin wall is as thin as the object's own voxels, whatever those of the CT.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, no_type_check

import jax
import jax.numpy as jnp
import jaxlie
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float

from jxreg.camera import Camera, pixel_grid
from jxreg.drr.marching import trilinear_between
from jxreg.drr.rays import Span, VoxelRays, voxel_rays
from jxreg.drr.rendering import Integrate, render
from jxreg.physics.materials import Material
from jxreg.physics.meshes import VoxelSolid
from jxreg.physics.objects import (
    Crossings,
    Solid,
    checked_ranks,
    covered,
    crossings,
    inside,
    owned_lengths,
)
from jxreg.precision import full_precision
from jxreg.volume import Volume, index_from_world

_CM = 0.1
"""Centimetres in a millimetre: areas are in g/cm2, ways in mm."""


@no_type_check  # JAX rebuilds pytrees from tracers, None and batched leaves
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Implant:
    """A shape and what it is made of."""

    shape: Solid | VoxelSolid
    material: Material = jax.tree.static()
    """With its density."""


class Ways(NamedTuple):
    """Line integrals through a scene."""

    tissue: Float[Array, "channels rows columns"]
    """Of each channel of the volume [its unit times mm], without what objects replace."""
    objects: Float[Array, "objects rows columns"]
    """Way through each object [mm], without what others replace."""


class Areas(NamedTuple):
    """Mass on each ray, per area [g/cm2]."""

    tissue: Float[Array, "channels rows columns"]
    objects: Float[Array, "objects rows columns"]


def scene_areas(
    tissue: Volume,
    implants: Sequence[Implant],
    camera: Camera,
    pose: jaxlie.SE3,
    ranks: Sequence[int] | None = None,
    integrate: Integrate | None = None,
) -> Areas:
    """Mass of tissue and of each object on the ray to every pixel.

    Args:
        tissue: Density of each material [g/cm3], one channel each.
        implants: Objects in the world of the volume.
        camera: Geometry of the detector.
        pose: Extrinsic, `camera_from_world`.
        ranks: One for each object; where several are, the lowest is what is there, and equal ones
            share. By default a later object replaces those before it.
        integrate: Quadrature for the tissue.

    Raises:
        InputError: There are not as many ranks as objects.
    """
    ways = scene_ways(tissue, [one.shape for one in implants], camera, pose, ranks, integrate)
    density = jnp.array([one.material.density for one in implants], ways.objects.dtype)
    return Areas(_CM * ways.tissue, _CM * density[:, None, None] * ways.objects)


@full_precision
def scene_ways(
    tissue: Volume,
    shapes: Sequence[Solid | VoxelSolid],
    camera: Camera,
    pose: jaxlie.SE3,
    ranks: Sequence[int] | None = None,
    integrate: Integrate | None = None,
) -> Ways:
    """Line integrals of the tissue and of each object; arguments as in `scene_areas`."""
    ranks = checked_ranks(len(shapes), ranks)
    rest = render(tissue, camera, pose, integrate).reshape(-1, *camera.image_size)
    ways = [jnp.zeros(camera.image_size, rest.dtype)] * len(shapes)
    solids = {n: shape for n, shape in enumerate(shapes) if isinstance(shape, Solid)}
    if solids:
        crossed = crossings(list(solids.values()), camera, pose)
        owned = owned_lengths(crossed, [ranks[n] for n in solids])
        for n, way in zip(solids, owned, strict=True):
            ways[n] = way
        rest = rest - _on_parts(tissue, covered(crossed), camera, pose)
    for n, shape in enumerate(shapes):
        if isinstance(shape, VoxelSolid):
            own, taken, replaced = _voxel_parts(n, shape, shapes, ranks, tissue, camera, pose)
            ways[n] = own
            rest = rest - replaced
            for m, way in zip(solids, taken, strict=True):
                ways[m] = ways[m] - way
    stacked = jnp.stack(ways) if ways else jnp.zeros((0, *camera.image_size), rest.dtype)
    return Ways(rest, stacked)


def _on_parts(tissue: Volume, parts: Crossings, camera: Camera, pose: jaxlie.SE3) -> Array:
    """Line integral of the tissue over the parts of each ray that objects cover."""
    rays = voxel_rays(tissue, camera, pose, pixel_grid(camera))
    count = len(parts.enter)
    direction, length = jnp.tile(rays.direction, (1, count)), jnp.tile(rays.length, count)
    span = Span(parts.enter.reshape(-1), parts.leave.reshape(-1))
    values = trilinear_between(tissue, VoxelRays(rays.origin, direction, length), span)
    return values.reshape(-1, count, *camera.image_size).sum(1)


def _voxel_parts(number: int, shape: VoxelSolid, shapes, ranks, tissue: Volume, camera, pose):
    """Of a voxelised object: its own way, the ways it takes from solids, the tissue it replaces."""
    points = _voxel_centers(shape)
    there = {
        n: inside(other, points).astype(points.dtype)
        for n, other in enumerate(shapes)
        if isinstance(other, Solid)
    }
    share, beside = shape.occupancy.reshape(-1), 0.0
    for n, other in enumerate(shapes):
        if n == number or ranks[n] > ranks[number]:
            continue
        occupied = there[n] if n in there else _sampled(_occupied(other), points)[0]
        if ranks[n] < ranks[number]:
            share = share * (1 - occupied)
        else:
            beside = beside + occupied
    share = share / (1 + beside)
    owners = [_winner(n, there, ranks) for n in there]
    free = 1 - sum(owners, start=jnp.zeros_like(share))
    fields = [share, *(share * owner for owner in owners)]
    fields += list(share * free * _sampled(tissue, points))
    grid = _occupied(shape)
    stack = jnp.stack(fields).reshape(-1, *shape.occupancy.shape)
    ways = render(Volume(stack, grid.affine, grid.isocenter), camera, pose)
    return ways[0], ways[1 : 1 + len(there)], ways[1 + len(there) :]


def _winner(number: int, there: dict[int, Array], ranks: Sequence[int]) -> Array:
    """Where one of the solids is what is there, as a share."""
    mine, beside = there[number], 1.0
    for n, other in there.items():
        if n != number and ranks[n] < ranks[number]:
            mine = mine * (1 - other)
        elif n != number and ranks[n] == ranks[number]:
            beside = beside + other
    return mine / beside


def _occupied(shape: VoxelSolid) -> Volume:
    """A voxelised object as a volume of shares at its place in the world."""
    affine = shape.world_from_solid.as_matrix() @ shape.solid_from_index
    return Volume(shape.occupancy, affine, affine[:3, 3])


def _voxel_centers(shape: VoxelSolid) -> Float[Array, "n 3"]:
    size = shape.occupancy.shape
    axes = [jnp.arange(n, dtype=shape.occupancy.dtype) for n in size]
    index = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    affine = _occupied(shape).affine
    return index @ affine[:3, :3].T + affine[:3, 3]


def _sampled(volume: Volume, points: Float[Array, "n 3"]) -> Float[Array, "c n"]:
    """The channels of a volume at points of the world [mm], linear between voxels; air outside."""
    matrix = index_from_world(volume)
    index = matrix[:3, :3] @ points.T + matrix[:3, 3:]
    channels = volume.mu.reshape(-1, *volume.mu.shape[-3:])
    return jax.vmap(lambda field: map_coordinates(field, list(index), 1))(channels)
