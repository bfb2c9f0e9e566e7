"""Similarity of a few random patches of an image, which need no more rays than they have pixels.

Source: DiffPose (Gopalakrishnan et al., CVPR 2024) compares random patches, drawn anew in every
step, instead of whole images. There a network says where; here the weights of the pixels do.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jxreg.errors import InputError
from jxreg.similarity import ncc
from jxreg.similarity.correlation import weighted_mean


def draw_patches(
    key: PRNGKeyArray, weights: Float[Array, "rows columns"], count: int, side: int
) -> Int[Array, "count side side 2"]:
    """Pixels (u, v) of random square patches that lie inside an image; they may overlap.

    Args:
        key: Random key.
        weights: How likely each pixel is the middle of a patch, in proportion.
        count: How many patches.
        side: Their side [pixels]; 1 draws single pixels.

    Raises:
        InputError: A patch is larger than the image, or there is none.
    """
    rows, columns = weights.shape
    if not 1 <= side <= min(rows, columns) or count < 1:
        raise InputError(
            "patches",
            f"{count} patches of {side} x {side} pixels for an image of {rows} x {columns}",
            "one patch or more that fits into the image",
            "choose smaller patches, or a finer level",
        )
    half, (down, across) = side // 2, (rows - side + 1, columns - side + 1)
    middles = weights[half : half + down, half : half + across].ravel()
    corner = jax.random.choice(key, middles.size, (count,), p=middles)
    v, u = corner // across, corner % across
    steps = jnp.stack(jnp.meshgrid(jnp.arange(side), jnp.arange(side), indexing="xy"), -1)
    return jnp.stack([u, v], -1)[:, None, None] + steps


def sparse_similarity(
    measure: Callable,
    moving: Float[Array, "count side side"],
    fixed: Float[Array, "count side side"],
    mask: Float[Array, "count side side"],
) -> Float[Array, ""]:
    """Mean of the patches' similarities, and NCC of all their pixels at once; half of each.

    Of single pixels it is NCC alone.

    Args:
        measure: Similarity of one patch, `(moving, fixed, mask) -> scalar`.
        moving: Rendered patches.
        fixed: The same patches of the acquired image.
        mask: Weights of their pixels; a patch counts by its mean weight.
    """
    side = moving.shape[-1]
    together = ncc(*(patches.reshape(-1, side) for patches in (moving, fixed, mask)))
    if side == 1:
        return together
    each = jax.vmap(measure)(moving, fixed, mask)
    return (weighted_mean(each, mask.mean((1, 2))) + together) / 2
