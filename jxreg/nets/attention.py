"""Attention on feature maps: of channels and places (LXPose++), and between places (PSSS)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jxreg.errors import InputError
from jxreg.nets.layers import LayerNorm, convolution


class CBAM(nnx.Module):
    """Weights between 0 and 1 for the channels of an image, then for its places.

    Source: Woo et al., ECCV 2018. LXPose++ has it after the last block of ResNet-18.
    """

    def __init__(self, features: int, rngs: nnx.Rngs, reduction: int = 16):
        less = max(1, features // reduction)
        self.squeeze = nnx.Linear(features, less, use_bias=False, rngs=rngs)
        self.excite = nnx.Linear(less, features, use_bias=False, rngs=rngs)
        self.places = convolution(2, 1, 7, rngs)

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        pooled = jnp.stack([x.mean((0, 1)), _largest(x.reshape(-1, x.shape[-1]), 0)])
        x = x * jax.nn.sigmoid(self.excite(jax.nn.relu(self.squeeze(pooled))).sum(0))
        return x * jax.nn.sigmoid(self.places(jnp.stack([x.mean(-1), _largest(x, -1)], -1)))


def _largest(x: Float[Array, "*shape"], axis: int) -> Float[Array, "*less"]:
    """The largest value along an axis, with a gradient at its place alone.

    That of `jnp.max` looks for values equal to the largest; where the compiler computes them twice,
    and rounds differently, it finds none and is NaN.
    """
    place = jnp.expand_dims(jnp.argmax(x, axis), axis)
    return jnp.take_along_axis(x, place, axis).squeeze(axis)


class SelfAttention(nnx.Module):
    """Each place of the maps looks at all, by what is there and where it is.

    A learned vector for each row and each column is added first; else places could be shuffled and
    nothing of it would be seen. Then one transformer block, norms before each half of it.

    Source: the "multi-head self-attention block with 2D position embedding" of PSSS, whose sizes
    are not published: widths and heads are our reconstruction.
    """

    def __init__(
        self, shape: tuple[int, int, int], rngs: nnx.Rngs, *, width: int = 256, heads: int = 8
    ):
        rows, columns, features = shape
        if width % heads:
            raise InputError(
                "self-attention",
                f"{heads} heads for a width of {width}",
                "a width that the heads divide",
                "choose another number of heads",
            )
        self.width, self.heads = width, heads
        begin = nnx.initializers.normal(0.02)
        self.narrower = nnx.Linear(features, width, rngs=rngs)
        self.of_row = nnx.Param(begin(rngs.params(), (rows, 1, width)))
        self.of_column = nnx.Param(begin(rngs.params(), (1, columns, width)))
        self.norm, self.mlp_norm = LayerNorm(width), LayerNorm(width)
        self.queries = nnx.Linear(width, 3 * width, rngs=rngs)
        self.joined = nnx.Linear(width, width, rngs=rngs)
        self.wider = nnx.Linear(width, 2 * width, rngs=rngs)
        self.back = nnx.Linear(2 * width, width, rngs=rngs)

    def __call__(
        self, maps: Float[Array, "h w c"]
    ) -> tuple[Float[Array, "h w width"], Float[Array, "heads tokens tokens"]]:
        placed = self.narrower(maps) + self.of_row[...] + self.of_column[...]
        tokens = placed.reshape(-1, placed.shape[-1])
        change, attention = self._between_places(self.norm(tokens))
        tokens = tokens + change
        tokens = tokens + self.back(jax.nn.gelu(self.wider(self.mlp_norm(tokens))))
        return tokens.reshape(placed.shape), attention

    def _between_places(
        self, tokens: Float[Array, "tokens width"]
    ) -> tuple[Float[Array, "tokens width"], Float[Array, "heads tokens tokens"]]:
        count, width = tokens.shape
        split = self.queries(tokens).reshape(count, 3, self.heads, width // self.heads)
        query, key, value = jnp.moveaxis(split, (1, 2), (0, 1))
        likeness = query @ key.swapaxes(1, 2) / jnp.sqrt(width // self.heads)
        attention = jax.nn.softmax(likeness, -1)
        mixed = (attention @ value).swapaxes(0, 1).reshape(count, width)
        return self.joined(mixed), attention
