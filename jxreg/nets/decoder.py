"""The decoder of PSSS: an image of structure from the features, needed in training only."""

import jax
from flax import nnx
from jaxtyping import Array, Float

from jxreg.errors import InputError
from jxreg.nets.layers import GroupNorm, convolution


class Decoder(nnx.Module):
    """From feature maps to an image, doubled in size until it is as large as the input.

    Nothing passes beside the features: they alone have to keep what the image shows. The loss
    compares the result with the gradient of the input, so that they keep edges and not intensity.

    Source: the "regularised autoencoder" of PSSS, whose sizes are not published: stages of 256 to
    16 features are our reconstruction.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        image_size: tuple[int, int],
        rngs: nnx.Rngs,
        *,
        width: int = 256,
    ):
        stages = _doublings(shape[:2], image_size)
        widths = [max(width // 2**stage, 8) for stage in range(stages + 1)]
        self.first = convolution(shape[-1], width, 1, rngs, bias=True)
        self.stages = nnx.List(
            convolution(before, after, 3, rngs)
            for before, after in zip(widths[:-1], widths[1:], strict=True)
        )
        self.norms = nnx.List(GroupNorm(after, groups=8) for after in widths[1:])
        self.last = convolution(widths[-1], 1, 3, rngs, bias=True)

    def __call__(self, maps: Float[Array, "h w c"]) -> Float[Array, "rows columns"]:
        x = self.first(maps)
        for stage, norm in zip(self.stages, self.norms, strict=True):
            x = jax.nn.relu(norm(stage(x.repeat(2, 0).repeat(2, 1))))
        return self.last(x)[..., 0]


def _doublings(maps: tuple[int, ...], image: tuple[int, int]) -> int:
    """How often the maps have to be doubled to be as large as the image."""
    for count in range(16):
        if tuple(size * 2**count for size in maps) == tuple(image):
            return count
    raise InputError(
        "decoder",
        f"maps of {maps[0]} x {maps[1]} for an image of {image[0]} x {image[1]}",
        "an image that is a power of two times as large",
        "choose an image size that the backbone divides evenly",
    )
