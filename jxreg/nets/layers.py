"""Layers that several architectures share: norms without running statistics, plain convolutions.

A layer takes one image, `(rows, columns, channels)`. A norm is chosen by handing in its class: it
is made of a number of channels, and its parameters are all its state.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jxreg.errors import InputError

Norm: TypeAlias = Callable[[int], nnx.Module]
"""Makes the norm of a number of channels."""

Backbone: TypeAlias = Callable[[int, nnx.Rngs], nnx.Module]
"""Makes, for a number of channels, what turns an image into maps `(h, w, features)`."""

EPSILON = 1e-5
"""Added to a variance, as PyTorch does."""


class GroupNorm(nnx.Module):
    """Mean 0 and variance 1 in each group of channels, then a scale and a shift of each channel.

    It keeps what channels of a group are to each other, of which InstanceNorm leaves nothing.

    Source: Wu and He, ECCV 2018. It takes the place of BatchNorm with as many parameters.
    """

    def __init__(self, channels: int, groups: int = 32):
        self.groups = largest_divisor(channels, groups)
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        return _normalised(x, self.groups) * self.scale[...] + self.bias[...]


class InstanceNorm(nnx.Module):
    """Mean 0 and variance 1 in each channel, and no parameters (PyTorch's InstanceNorm2d)."""

    def __init__(self, channels: int):
        self.channels = channels

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        return _normalised(x, self.channels)


class NoNorm(nnx.Module):
    """The maps as they are."""

    def __init__(self, channels: int):
        pass

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        return x


class LayerNorm(nnx.Module):
    """Mean 0 and variance 1 over the channels of each pixel, then a scale and a shift."""

    def __init__(self, channels: int):
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: Float[Array, "*places c"]) -> Float[Array, "*places c"]:
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) * jax.lax.rsqrt(variance + EPSILON) * self.scale[...] + self.bias[...]


def largest_divisor(channels: int, groups: int) -> int:
    """The largest number of groups, not above the one asked for, that divides the channels."""
    return next(count for count in range(min(groups, channels), 0, -1) if channels % count == 0)


def convolution(
    channels: int,
    features: int,
    side: int,
    rngs: nnx.Rngs,
    *,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
) -> nnx.Conv:
    """A square convolution as PyTorch pads it: `side // 2` on each side, whatever the stride.

    Args:
        channels: Channels that go in.
        features: Channels that come out.
        side: Side of the kernel; odd.
        rngs: Random streams of the initial weights (He et al., ICCV 2015).
        stride: Steps between pixels that come out.
        groups: Groups of channels that do not mix.
        bias: Whether each feature gets a shift.
    """
    return nnx.Conv(
        channels,
        features,
        (side, side),
        strides=(stride, stride),
        padding=side // 2,
        feature_group_count=groups,
        use_bias=bias,
        kernel_init=nnx.initializers.he_normal(),
        rngs=rngs,
    )


def space_to_depth(x: Float[Array, "h w c"], side: int) -> Float[Array, "h2 w2 c2"]:
    """Square blocks of pixels as channels of one pixel each.

    Raises:
        InputError: The side does not divide the image.
    """
    rows, columns, channels = x.shape
    if rows % side or columns % side:
        raise InputError(
            "image of a network",
            f"{rows} x {columns} maps to divide into blocks of {side}",
            f"rows and columns that {side} divides",
            "resize the image, or make the network with fewer stages",
        )
    blocks = x.reshape(rows // side, side, columns // side, side, channels)
    return blocks.swapaxes(1, 2).reshape(rows // side, columns // side, side * side * channels)


def _normalised(x: Float[Array, "h w c"], groups: int) -> Float[Array, "h w c"]:
    grouped = x.reshape(-1, groups, x.shape[-1] // groups)
    mean = grouped.mean((0, 2), keepdims=True)
    variance = grouped.var((0, 2), keepdims=True)
    return ((grouped - mean) * jax.lax.rsqrt(variance + EPSILON)).reshape(x.shape)
