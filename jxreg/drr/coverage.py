"""Which pixels a volume can explain: its shadow, and the rays that pass where the scan stops.

A CT ends where the scanner stopped, not where the patient ends. A ray that leaves through such a
cut face crosses anatomy that the volume does not have, and its pixel says little about the pose.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jxreg.drr.accumulate import UNROLL
from jxreg.drr.rays import VoxelRays, clip_to_box
from jxreg.volume import MU_WATER, Volume, coarsest, spacing

TISSUE = 0.25 * MU_WATER
"""Attenuation that counts as tissue [1/mm]."""
SAMPLES = 64  # points on each ray, a multiple of those of a turn


def cut_faces(volume: Volume, fraction: float = 0.25) -> Bool[Array, "2 3"]:
    """Which faces of the grid (first, last; by axis) cut through the anatomy.

    Only the two faces along the patient's length are asked: there a scan stops on purpose. At the
    sides tissue at the border is a table, a head rest or an arm. Such a face is cut if its area of
    tissue is at least `fraction` of the largest section along the same axis. Sections are counted
    on the coarsest level, faces on the finest of the coarser ones, whose slices are nearly as thin.
    """
    tissue = tissue_mask(volume.coarser[0] if volume.coarser else volume)
    sections = tissue_mask(coarsest(volume))
    cut = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        largest = sections.mean(others).max()
        faces = jnp.stack([tissue.take(end, axis).mean() for end in (0, -1)])
        cut.append((faces >= fraction * largest) & (largest > 0))
    lengthwise = jnp.arange(3) == jnp.abs(volume.affine[2, :3] / spacing(volume.affine)).argmax()
    return jnp.stack(cut, 1) & lengthwise


def missing_share(volume: Volume, rays: VoxelRays, cut: Bool[Array, "2 3"]) -> Float[Array, " n"]:
    """Share of each ray's way through tissue that lies beyond the cut faces, from 0 to 1.

    Behind a cut face the anatomy is taken to go on as the face itself: the tissue seen there is
    extruded along the axis, as far as the ray stays over the face.

    Args:
        volume: The volume, or a coarser level of it; a few millimetres are fine enough.
        rays: Rays in index coordinates of the same volume.
        cut: From `cut_faces`.
    """
    tissue = tissue_mask(volume)
    shape, stored = tissue.shape, tissue.ravel().astype(rays.length.dtype)
    last = jnp.array(shape, rays.length.dtype) - 1
    far = 1e5
    span = clip_to_box(rays, jnp.where(cut[0], -far, 0.0), jnp.where(cut[1], last + far, last))
    width = jnp.maximum(span.leave - span.enter, 0.0)

    def sample(number):
        t = span.enter + (number + 0.5) / SAMPLES * width
        point = [rays.origin[a] + t * rays.direction[a] for a in range(3)]
        inside = [jnp.clip(x, 0, last[a]) for a, x in enumerate(point)]
        outside = functools.reduce(jnp.logical_or, map(jnp.not_equal, point, inside))
        i, j, k = ((x + 0.5).astype(jnp.int32) for x in inside)
        voxel = (i * shape[1] + j) * shape[2] + k
        here = stored.at[voxel].get(mode="promise_in_bounds", wrap_negative_indices=False)
        return jax.lax.complex(jnp.where(outside, here, 0.0), here)  # one array: one pass

    def body(turn, lengths):
        return lengths + functools.reduce(
            jnp.add, [sample(turn * UNROLL + k) for k in range(UNROLL)]
        )

    zero = jnp.zeros_like(width)
    lengths = jax.lax.fori_loop(0, SAMPLES // UNROLL, body, jax.lax.complex(zero, zero))
    return lengths.real / jnp.maximum(lengths.imag, 1.0)


def silhouette(
    image: Float[Array, "rows columns"], margin: int, threshold: float = 0.02
) -> Float[Array, "rows columns"]:
    """1 where a DRR shows something or is within `margin` pixels of it, else 0.

    Args:
        image: DRR.
        margin: Pixels on each side.
        threshold: Attenuation that counts; the default is a millimetre of water.
    """
    shown = (image > threshold).astype(image.dtype)
    for window in ((2 * margin + 1, 1), (1, 2 * margin + 1)):
        shown = jax.lax.reduce_window(shown, 0.0, jax.lax.max, window, (1, 1), "SAME")
    return shown


def tissue_mask(volume: Volume) -> Bool[Array, "x y z"]:
    """Which voxels count as tissue, all channels together."""
    mu = volume.mu.reshape(-1, *volume.mu.shape[-3:])
    return (mu.sum(0) if mu.shape[0] > 1 else mu[0]) > TISSUE
