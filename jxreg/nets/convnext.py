"""ConvNeXt V2, of which xvr's newest recipes use the size "femto".

Source: Woo et al., CVPR 2023; femto is the smallest but one of its sizes. Blocks are not left out
at random in training.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jxreg.nets.depthwise import Depthwise
from jxreg.nets.layers import Backbone, LayerNorm, convolution, space_to_depth


def convnext_femto() -> Backbone:
    """ConvNeXtV2-femto without its classifier: 4.85 million parameters for three channels."""
    return convnext((2, 2, 6, 2), width=48)


def convnext(blocks: Sequence[int], *, width: int = 48, patch: int = 4) -> Backbone:
    """A ConvNeXt V2; its maps are 1 / (patch * 2^(stages - 1)) of the image's size.

    Args:
        blocks: Blocks of each stage. A stage after the first halves the maps and doubles their
            number.
        width: Features of the first stage.
        patch: Side of the blocks of pixels that the first layer takes; it divides the image.
    """
    return functools.partial(_ConvNeXt, blocks=tuple(blocks), width=width, patch=patch)


class _ConvNeXt(nnx.Module):
    def __init__(
        self, channels: int, rngs: nnx.Rngs, *, blocks: tuple[int, ...], width: int, patch: int
    ):
        self.patch = patch
        widths = [width * 2**stage for stage in range(len(blocks))]
        self.stem = convolution(patch * patch * channels, width, 1, rngs, bias=True)
        self.stem_norm = LayerNorm(width)
        self.down_norms = nnx.List(LayerNorm(each) for each in widths[:-1])
        self.downs = nnx.List(
            convolution(4 * each, 2 * each, 1, rngs, bias=True) for each in widths[:-1]
        )
        self.stages = nnx.List(
            nnx.List(_Block(each, rngs) for _ in range(count))
            for each, count in zip(widths, blocks, strict=True)
        )
        self.norm = LayerNorm(widths[-1])

    def __call__(self, image: Float[Array, "rows columns c"]) -> Float[Array, "h w features"]:
        x = self.stem_norm(self.stem(space_to_depth(image, self.patch)))
        for stage, blocks in enumerate(self.stages):
            if stage:
                x = self.down_norms[stage - 1](x)
                x = self.downs[stage - 1](space_to_depth(x, 2))
            for block in blocks:
                x = block(x)
        return self.norm(x)


class _Block(nnx.Module):
    """Depthwise 7 x 7, LayerNorm, four times wider with GELU and response normalisation, back."""

    def __init__(self, features: int, rngs: nnx.Rngs):
        self.depthwise = Depthwise(features, 7, rngs, bias=True)
        self.norm = LayerNorm(features)
        self.wider = nnx.Linear(features, 4 * features, rngs=rngs)
        self.response = _ResponseNorm(4 * features)
        self.narrower = nnx.Linear(4 * features, features, rngs=rngs)

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        y = jax.nn.gelu(self.wider(self.norm(self.depthwise(x))), approximate=False)
        return x + self.narrower(self.response(y))


class _ResponseNorm(nnx.Module):
    """Each channel's strength over the image against the mean of all; at first it adds nothing."""

    def __init__(self, channels: int):
        self.scale = nnx.Param(jnp.zeros(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        squared = (x * x).sum((0, 1))
        strength = jnp.sqrt(jnp.where(squared > 0, squared, 1.0)) * (squared > 0)
        relative = strength / (strength.mean() + 1e-6)
        return x + self.scale[...] * (x * relative) + self.bias[...]
