"""EfficientNet-b0: the backbone of PSSS.

Source: Tan and Le, ICML 2019. Two things differ: GroupNorm stands in for BatchNorm, with as many
parameters, so that these are all the state; and no block is left out at random in training.
"""

import functools
from typing import NamedTuple

import jax
from flax import nnx
from jaxtyping import Array, Float

from jxreg.nets.depthwise import Depthwise
from jxreg.nets.layers import Backbone, GroupNorm, Norm, convolution


class Stage(NamedTuple):
    """Blocks of one width."""

    expansion: int
    """How many times wider a block is inside."""
    side: int
    """Side of the depthwise kernels [pixels]."""
    stride: int
    """Of the stage's first block."""
    features: int
    """Features that come out."""
    blocks: int
    """How many blocks."""


B0 = (
    Stage(1, 3, 1, 16, 1),
    Stage(6, 3, 2, 24, 2),
    Stage(6, 5, 2, 40, 2),
    Stage(6, 3, 2, 80, 3),
    Stage(6, 5, 1, 112, 3),
    Stage(6, 5, 2, 192, 4),
    Stage(6, 3, 1, 320, 1),
)
"""The stages of EfficientNet-b0."""


def efficientnet(
    *,
    stages: tuple[Stage, ...] = B0,
    stem: int = 32,
    features: int = 1280,
    norm: Norm = GroupNorm,
) -> Backbone:
    """EfficientNet-b0 without its classifier: 4.01 million parameters for three channels.

    Args:
        stages: Blocks; with those of b0 the maps are 1 / 32 of the image's size.
        stem: Features of the first convolution.
        features: Features of the last.
        norm: After each convolution.
    """
    return functools.partial(_EfficientNet, stages=stages, stem=stem, features=features, norm=norm)


class _EfficientNet(nnx.Module):
    def __init__(
        self,
        channels: int,
        rngs: nnx.Rngs,
        *,
        stages: tuple[Stage, ...],
        stem: int,
        features: int,
        norm: Norm,
    ):
        self.stem = _Activated(convolution(channels, stem, 3, rngs, stride=2), norm(stem))
        blocks, width = [], stem
        for stage in stages:
            for block in range(stage.blocks):
                stride = 1 if block else stage.stride
                blocks.append(_Block(width, stage, stride, norm, rngs))
                width = stage.features
        self.blocks = nnx.List(blocks)
        self.last = _Activated(convolution(width, features, 1, rngs), norm(features))

    def __call__(self, image: Float[Array, "rows columns c"]) -> Float[Array, "h w features"]:
        x = self.stem(image)
        for block in self.blocks:
            x = block(x)
        return self.last(x)


class _Activated(nnx.Module):
    """A convolution, a norm, and SiLU."""

    def __init__(self, convolution: nnx.Module, norm: nnx.Module):
        self.convolution, self.norm = convolution, norm

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h2 w2 features"]:
        return jax.nn.silu(self.norm(self.convolution(x)))


class _Block(nnx.Module):
    """Wider, depthwise, squeeze and excitation, narrower; beside the maps where shapes allow."""

    def __init__(self, channels: int, stage: Stage, stride: int, norm: Norm, rngs: nnx.Rngs):
        inside = channels * stage.expansion
        self.beside = stride == 1 and channels == stage.features
        widens = stage.expansion != 1
        self.expand = (
            _Activated(convolution(channels, inside, 1, rngs), norm(inside)) if widens else None
        )
        depthwise = Depthwise(inside, stage.side, rngs, stride=stride)
        self.depthwise = _Activated(depthwise, norm(inside))
        self.squeeze = convolution(inside, max(1, channels // 4), 1, rngs, bias=True)
        self.excite = convolution(max(1, channels // 4), inside, 1, rngs, bias=True)
        self.project = convolution(inside, stage.features, 1, rngs)
        self.norm = norm(stage.features)

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h2 w2 features"]:
        y = x if self.expand is None else self.expand(x)
        y = self.depthwise(y)
        squeezed = jax.nn.silu(self.squeeze(y.mean((0, 1), keepdims=True)))
        y = y * jax.nn.sigmoid(self.excite(squeezed))
        y = self.norm(self.project(y))
        return x + y if self.beside else y
