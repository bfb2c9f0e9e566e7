"""Reading a packed volume: two loads a bilinear cell, and no question where the grid ends."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from jxreg.drr.accumulate import Load
from jxreg.packing import PAD

MARGIN = PAD + 0.5
"""How far beyond the last voxel a coordinate is held: in the padding, where all is air."""


class Cell(NamedTuple):
    """Where coordinates lie between two voxels of the padded grid."""

    index: Array
    """The lower one."""
    fraction: Array
    moves: Array
    """Whether the fraction follows the coordinate; it does not where that is held at an end."""


def cell(x: Array, size, extruded: tuple[int | Array, int | Array] = (0, 0)) -> Cell:
    """The cell of a coordinate on an axis of some size.

    Args:
        x: Coordinate; whole numbers are voxel centres, 0 the first one.
        size: Voxels on this axis.
        extruded: For both ends, 1 where the last voxel goes on beyond it, 0 for air.
    """
    low = jnp.asarray(PAD * extruded[0], x.dtype)
    high = jnp.asarray(size + MARGIN - (MARGIN - PAD + 1) * extruded[1], x.dtype)
    padded = x + PAD
    held = jnp.clip(padded, low, high)
    index = held.astype(jnp.int32)
    at_face = (held == high) & (jnp.asarray(extruded[1]) > 0)  # no slope towards the padding
    return Cell(index, held - index.astype(x.dtype), (held == padded) & ~at_face)


def inner_cell(x: Array) -> Cell:
    """The cell of a coordinate that is known to be on the padded grid: nothing has to be held."""
    padded = x + PAD
    index = padded.astype(jnp.int32)
    return Cell(index, padded - index.astype(x.dtype), jnp.ones((), bool))


def halves(word: Array, dtype) -> tuple[Array, Array]:
    """Both voxels of a word. By way of int32: vector units convert signed numbers only."""
    return (word & 0xFFFF).astype(jnp.int32).astype(dtype), (word >> 16).astype(jnp.int32).astype(
        dtype
    )


class Bilinear(NamedTuple):
    """A value between four voxels, and its slopes."""

    value: Array
    along: Array
    """Along the words' axis."""
    across: Array


def bilinear(load: Load, index: Array, stride, along: Cell, across: Cell) -> Bilinear:
    """Interpolates between the words at an index and one row further."""
    f, h = along.fraction, across.fraction
    near, near_next = halves(load(index), f.dtype)
    far, far_next = halves(load(index + stride), f.dtype)
    near_slope, far_slope = near_next - near, far_next - far
    value = near + f * near_slope
    slope = far + f * far_slope - value
    return Bilinear(value + h * slope, near_slope + h * (far_slope - near_slope), slope)
