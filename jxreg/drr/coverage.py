"""Which pixels a volume can explain: its shadow, and the rays that pass where the scan stops.

A CT ends where the scanner stopped, not where the patient ends. A ray that leaves through such a cut
face crosses anatomy that the volume does not have, so its pixel says nothing about the pose.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jxreg.drr.rays import VoxelRays, clip_to_box
from jxreg.volume import MU_WATER, Volume, spacing

TISSUE = 0.25 * MU_WATER
"""Attenuation that counts as tissue [1/mm]."""


def cut_faces(volume: Volume, fraction: float = 0.25) -> Bool[Array, "2 3"]:
    """Which faces of the grid (first, last; by axis) cut through the anatomy.

    A face is cut where its area of tissue is at least `fraction` of the largest section along the
    same axis. Sections are counted on the coarsest level, faces on the finest.
    """
    coarsest = volume.coarser[-1] if volume.coarser else volume
    tissue = _tissue(volume)
    sections = _tissue(coarsest)
    cut = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        largest = sections.mean(others).max()
        faces = jnp.stack([tissue.take(end, axis).mean() for end in (0, -1)])
        cut.append((faces >= fraction * largest) & (largest > 0))
    return jnp.stack(cut, 1)


def complete_rays(
    shape: tuple[int, ...], rays: VoxelRays, cut: Bool[Array, "2 3"], margin: Float[Array, "3"]
) -> Float[Array, " n"]:
    """1 for each ray that stays clear of what lies beyond the cut faces, else 0.

    The anatomy is taken to go on behind a cut face as the prism over that face.

    Args:
        shape: Voxels along each axis of the volume.
        rays: Rays in index coordinates.
        cut: From `cut_faces`.
        margin: Distance to keep from a cut face along each axis [voxels].
    """
    low = jnp.zeros(3) + jnp.where(cut[0], margin, 0.0)
    high = jnp.array(shape[-3:], float) - 1 - jnp.where(cut[1], margin, 0.0)
    far = 1e5
    beyond = clip_to_box(rays, jnp.where(cut[0], -far, low), jnp.where(cut[1], far, high))
    inside = clip_to_box(rays, low, high)
    missing = jnp.maximum(beyond.leave - beyond.enter, 0) - jnp.maximum(
        inside.leave - inside.enter, 0
    )
    return (missing * rays.length < 0.1).astype(rays.length.dtype)


def margin_voxels(volume: Volume, margin_mm: Float[Array, ""] | float) -> Float[Array, "3"]:
    """A margin in millimetres as voxels along each axis."""
    return margin_mm / spacing(volume.affine)


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
    window = 2 * margin + 1
    return jax.lax.reduce_window(shown, 0.0, jax.lax.max, (window, window), (1, 1), "SAME")


def _tissue(volume: Volume) -> Bool[Array, "x y z"]:
    mu = volume.mu.reshape(-1, *volume.mu.shape[-3:])
    return (mu.sum(0) if mu.shape[0] > 1 else mu[0]) > TISSUE
