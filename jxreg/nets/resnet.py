"""ResNet of basic blocks: the backbone of DiffPose, xvr (GroupNorm) and LXPose (InstanceNorm).

Source: He et al., CVPR 2016. Strides and padding are those of torchvision's ResNet-18 and -34, with
another norm than BatchNorm; the classifier is left away.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jxreg.nets.layers import Backbone, GroupNorm, Norm, convolution


def resnet(
    blocks: Sequence[int],
    *,
    width: int = 64,
    norm: Norm = GroupNorm,
    last: Callable[[int, nnx.Rngs], nnx.Module] | None = None,
) -> Backbone:
    """A ResNet of basic blocks; the maps are 1 / 2^(1 + stages) of the image's size.

    Args:
        blocks: Blocks of each stage. A stage after the first halves the maps and doubles their
            number.
        width: Features of the first stage.
        norm: `layers.GroupNorm` or `layers.InstanceNorm`.
        last: Made of the number of features and the random streams, it works on the last maps:
            `attention.CBAM` is LXPose++'s.
    """
    return functools.partial(_ResNet, blocks=tuple(blocks), width=width, norm=norm, last=last)


def resnet18(
    *,
    norm: Norm = GroupNorm,
    width: int = 64,
    last: Callable[[int, nnx.Rngs], nnx.Module] | None = None,
) -> Backbone:
    """ResNet-18: with GroupNorm 11.18 million parameters for three channels, 11.17 for one."""
    return resnet((2, 2, 2, 2), width=width, norm=norm, last=last)


def resnet34(
    *,
    norm: Norm = GroupNorm,
    width: int = 64,
    last: Callable[[int, nnx.Rngs], nnx.Module] | None = None,
) -> Backbone:
    """ResNet-34: with GroupNorm 21.28 million parameters."""
    return resnet((3, 4, 6, 3), width=width, norm=norm, last=last)


class _ResNet(nnx.Module):
    def __init__(
        self,
        channels: int,
        rngs: nnx.Rngs,
        *,
        blocks: tuple[int, ...],
        width: int,
        norm: Norm,
        last: Callable | None,
    ):
        self.stem = convolution(channels, width, 7, rngs, stride=2)
        self.norm = norm(width)
        layers, features = [], width
        for stage, count in enumerate(blocks):
            for block in range(count):
                stride = 2 if stage and not block else 1
                wider = width * 2**stage
                layers.append(_Block(features, wider, stride, norm, rngs))
                features = wider
        self.blocks = nnx.List(layers)
        self.last = None if last is None else last(features, rngs)

    def __call__(self, image: Float[Array, "rows columns c"]) -> Float[Array, "h w features"]:
        x = jax.nn.relu(self.norm(self.stem(image)))
        x = _max_pool(x)
        for block in self.blocks:
            x = block(x)
        return x if self.last is None else self.last(x)


class _Block(nnx.Module):
    """Two convolutions beside the maps themselves, which a third one adapts if need be."""

    def __init__(self, channels: int, features: int, stride: int, norm: Norm, rngs: nnx.Rngs):
        self.first = convolution(channels, features, 3, rngs, stride=stride)
        self.first_norm = norm(features)
        self.second = convolution(features, features, 3, rngs)
        self.second_norm = norm(features)
        adapts = stride != 1 or channels != features
        self.short = convolution(channels, features, 1, rngs, stride=stride) if adapts else None
        self.short_norm = norm(features) if adapts else None

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h2 w2 features"]:
        y = jax.nn.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        if self.short is not None and self.short_norm is not None:
            x = self.short_norm(self.short(x))
        return jax.nn.relu(x + y)


def _max_pool(x: Float[Array, "h w c"]) -> Float[Array, "h2 w2 c"]:
    """Largest of 3 x 3 pixels at every second one, with a frame of one pixel that never is."""
    return jax.lax.reduce_window(
        x, -jnp.inf, jax.lax.max, (3, 3, 1), (2, 2, 1), ((1, 1), (1, 1), (0, 0))
    )
