"""Attenuation as the fast marches read it: two neighbours in one 32-bit word.

A bilinear sample then takes two loads instead of four. Attenuation becomes 16-bit numbers of one
scale (an error of at most 8e-6 of the largest value), with two voxels of air on every side: what a
ray reads outside the grid has value 0 and slope 0 without being asked where it is.

The grid is laid out twice, so that the slices across either of its first two axes are contiguous
and the words of a slice pair voxels along the other one. Slices across the third axis are read from
the first layout, with longer strides. The channels of a voxel are neighbours: a sample finds them
in one place.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, UInt32

PAD = 2
"""Voxels of air on each side of the grid."""
LAYOUTS = ((1, 2, 0), (0, 2, 1))
"""Index axes from slowest to fastest."""
LARGEST = 65535


class Packed(NamedTuple):
    """A volume's attenuation in words: 8 bytes a voxel, besides the padding."""

    words: UInt32[Array, "words *channels"]
    """Both layouts, one after the other; each word holds a voxel and, above it, the next one."""
    scale: Float[Array, "*channels"]
    """Attenuation [1/mm] of one unit."""


def padded(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Size of the grid with its padding."""
    x, y, z = (n + 2 * PAD for n in shape)
    return x, y, z


def pack(mu: ArrayLike) -> Packed | None:
    """Packs attenuation; None for what words cannot hold, which the marches then read as it is.

    That is attenuation in double precision, below zero or not finite, and more than 10^9 voxels (an
    index has 32 bits).

    Args:
        mu: Attenuation, (x, y, z) or (channels, x, y, z).
    """
    mu = np.asarray(mu)
    x, y, z = padded(mu.shape[-3:])
    if mu.dtype != np.float32 or 2 * x * y * z >= 2**31:
        return None
    if not (mu.min() >= 0 and np.isfinite(mu.max())):
        return None
    channels = [_words(channel) for channel in mu.reshape(-1, *mu.shape[-3:])]
    words = np.stack([words for words, _ in channels], -1)
    scale = np.array([scale for _, scale in channels], np.float32)
    lead = mu.shape[:-3]
    return Packed(jnp.asarray(words.reshape(-1, *lead)), jnp.asarray(scale.reshape(lead)))


def _words(mu: Float[np.ndarray, "x y z"]) -> tuple[np.ndarray, float]:
    scale = max(float(mu.max()) / LARGEST, float(np.finfo(np.float32).tiny))
    units = np.pad(np.rint(mu / scale).astype(np.uint16), PAD)
    layouts = []
    for order in LAYOUTS:
        low = units.transpose(order).ravel()  # a row's last neighbour is the next row's air
        words = low.astype(np.uint32)
        words[:-1] |= low[1:].astype(np.uint32) << 16
        layouts.append(words)
    return np.concatenate(layouts), scale
