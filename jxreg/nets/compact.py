"""A small network for images of 64 to 128 pixels, made to train from scratch on a laptop's CPU.

What costs time there was measured: convolutions with few channels on many pixels, depthwise ones
(operation for operation a hundred times slower than dense ones) and norms (up to half as much as
all the rest). So blocks of pixels become channels at once, all convolutions are dense, and no norm
is needed: each residual branch starts at zero (De and Smith, NeurIPS 2020), and its gain is
learned. Where things are is what it has to tell, so its head should see each place:
`HeadConfig(places=True, hidden=(256,))`.

Of those tried with the same computing time (one run of a minute of one core each; chest CT at 64
pixels, +-45, 30 and 15 degrees, +-75 mm and 150 mm of depth; rendering not counted) the default was
the nearest on average. Close behind came wide layers without any block; then a block before the
last stage, finer patches, GroupNorm, more blocks, more features. With more time, or where rendering
takes most of it, these may pay.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jxreg.nets.layers import Backbone, NoNorm, Norm, convolution, space_to_depth


def compact(
    *,
    width: int = 64,
    blocks: Sequence[int] = (0, 1),
    patch: int = 8,
    norm: Norm = NoNorm,
) -> Backbone:
    """The small network; its maps are 1 / (patch * 2^(stages - 1)) of the image's size.

    Args:
        width: Features of the first stage; each later stage has twice those of the one before.
        blocks: Residual blocks of each stage.
        patch: Side of the blocks of pixels that the first layer takes; it divides the image.
        norm: Before each convolution; none by default.
    """
    return functools.partial(_Compact, width=width, blocks=tuple(blocks), patch=patch, norm=norm)


class _Compact(nnx.Module):
    def __init__(
        self,
        channels: int,
        rngs: nnx.Rngs,
        *,
        width: int,
        blocks: tuple[int, ...],
        patch: int,
        norm: Norm,
    ):
        self.patch = patch
        self.stem = convolution(patch * patch * channels, width, 3, rngs, bias=True)
        self.downs = nnx.List(
            convolution(4 * width * 2**stage, width * 2 ** (stage + 1), 1, rngs, bias=True)
            for stage in range(len(blocks) - 1)
        )
        self.stages = nnx.List(
            nnx.List(_Block(width * 2**stage, norm, rngs) for _ in range(count))
            for stage, count in enumerate(blocks)
        )
        self.norm = norm(width * 2 ** (len(blocks) - 1))

    def __call__(self, image: Float[Array, "rows columns c"]) -> Float[Array, "h w features"]:
        x = self.stem(space_to_depth(image, self.patch))
        for stage, blocks in enumerate(self.stages):
            if stage:
                x = self.downs[stage - 1](space_to_depth(jax.nn.relu(x), 2))
            for block in blocks:
                x = block(x)
        return jax.nn.relu(self.norm(x))


class _Block(nnx.Module):
    """Two convolutions on activated maps, with a gain that starts at zero."""

    def __init__(self, features: int, norm: Norm, rngs: nnx.Rngs):
        self.first_norm, self.second_norm = norm(features), norm(features)
        self.first = convolution(features, features, 3, rngs, bias=True)
        self.second = convolution(features, features, 3, rngs, bias=True)
        self.gain = nnx.Param(jnp.zeros(()))

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        y = self.first(jax.nn.relu(self.first_norm(x)))
        y = self.second(jax.nn.relu(self.second_norm(y)))
        return x + self.gain[...] * y
