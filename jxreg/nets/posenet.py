"""A network that looks at an image and says how the patient moved: a pair of pure functions.

The modules of this package are Flax NNX, and NNX ends here: outside there are a nested dict of
arrays and two functions, for plain `jax.jit`, `jax.grad`, `jax.vmap` and optax.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
from flax import nnx
from jaxlie import SE3
from jaxtyping import Array, Float, PRNGKeyArray

from jxreg.errors import InputError
from jxreg.nets.attention import SelfAttention
from jxreg.nets.conditioning import Modulation
from jxreg.nets.decoder import Decoder
from jxreg.nets.head import Head, HeadConfig, units
from jxreg.nets.layers import Backbone
from jxreg.parametrisation import PARAMETRISATIONS

Params: TypeAlias = dict[str, Any]
"""Nested dict of arrays, with strings for keys: all the state of a network."""


class Prediction(NamedTuple):
    """What a network says of one image."""

    numbers: Float[Array, " size"]
    """Numbers of the motion in the head's parametrisation, in mm and rad."""
    motion: SE3
    """Rigid motion from the reference pose, about the isocenter in camera axes
    (`pose.moved(reference, motion, isocenter)` is the pose)."""
    structure: Float[Array, "rows columns"] | None
    """Image that the decoder makes of the features, if the network has one."""
    activation: Float[Array, "h w"]
    """Feature maps of the backbone, summed: where it looked."""
    attention: Float[Array, "heads tokens tokens"] | None
    """How much each place (second axis) looks at each (third), if the network has attention."""


class PoseNet(NamedTuple):
    """A network: how its parameters begin, and what it says of one image."""

    init: Callable[[PRNGKeyArray], Params]
    """Parameters from a random key."""
    apply: Callable[..., Prediction]
    """Prediction from `(params, image, conditioning=None)`, of an image `(channels, rows, columns)`
    that the recipe has normalised. Conditioning is a vector (`conditioning.intrinsics`), for
    networks that were made for one."""


def pose_net(
    backbone: Backbone,
    image_size: tuple[int, int],
    *,
    channels: int = 1,
    head: HeadConfig = HeadConfig(),
    attention: Callable[..., SelfAttention] | None = None,
    decoder: Callable[..., Decoder] | None = None,
    conditioning: int = 0,
) -> PoseNet:
    """Network of a backbone and a head, and of what else is asked for.

    Args:
        backbone: What makes features of an image, such as `resnet18()`.
        image_size: Rows and columns of its images.
        channels: Channels of its images; 2 for an X-ray and a DRR.
        head: Units and parametrisation of what it says.
        attention: Between the backbone and the head: `attention.SelfAttention`, or with sizes of
            its own by `functools.partial`.
        decoder: Makes `Prediction.structure` of the backbone's maps: `decoder.Decoder`, likewise.
        conditioning: Length of the vector that it is told beside the image
            (`conditioning.INTRINSICS` for a camera); 0 for none.

    Raises:
        InputError: There is no such parametrisation, the backbone does not divide the image, or a
            part's sizes do not fit.
    """
    at_rest, scale = units(head)
    motion_of = PARAMETRISATIONS[head.parametrisation].motion
    shape, told = (*image_size, channels), conditioning
    maps = maps_shape(backbone, shape)

    def build(rngs: nnx.Rngs) -> _Regressor:
        return _Regressor(backbone, shape, maps, head, attention, decoder, told, rngs)

    graph = nnx.graphdef(nnx.eval_shape(lambda: build(nnx.Rngs(0))))

    def init(key: PRNGKeyArray) -> Params:
        return _with_names(nnx.to_pure_dict(nnx.state(build(nnx.Rngs(key)))))

    def apply(
        params: Params,
        image: Float[Array, "*shape"],
        conditioning: Float[Array, "*told"] | None = None,
    ) -> Prediction:
        _check("image", image.shape, (channels, *image_size))
        given = () if conditioning is None else conditioning.shape
        _check("conditioning", given, (told,) if told else ())
        module = nnx.merge(graph, nnx.restore_int_paths(params))
        seen = module(jnp.moveaxis(image, 0, -1), conditioning)
        numbers = at_rest + scale * seen.outputs
        activation = seen.maps.sum(-1)
        return Prediction(numbers, motion_of(numbers), seen.structure, activation, seen.attention)

    return PoseNet(init, apply)


class _Seen(NamedTuple):
    """What the modules make of an image; `outputs` are those of the head, without units."""

    outputs: Float[Array, " size"]
    maps: Float[Array, "h w features"]
    structure: Float[Array, "rows columns"] | None
    attention: Float[Array, "heads tokens tokens"] | None


class _Regressor(nnx.Module):
    def __init__(
        self,
        backbone: Backbone,
        shape: tuple[int, int, int],
        maps: tuple[int, int, int],
        head: HeadConfig,
        attention: Callable[..., SelfAttention] | None,
        decoder: Callable[..., Decoder] | None,
        told: int,
        rngs: nnx.Rngs,
    ):
        self.backbone = backbone(shape[-1], rngs)
        self.modulation = Modulation(told, maps[-1], rngs) if told else None
        self.decoder = decoder(maps, shape[:2], rngs) if decoder else None
        self.attention = attention(maps, rngs) if attention else None
        width = self.attention.width if self.attention else maps[-1]
        self.head = Head((*maps[:2], width), head, rngs)

    def __call__(
        self, image: Float[Array, "rows columns c"], conditioning: Float[Array, " n"] | None
    ) -> _Seen:
        maps = self.backbone(image)
        structure = self.decoder(maps) if self.decoder else None
        x, attention = maps, None
        if self.modulation is not None and conditioning is not None:
            x = self.modulation(x, conditioning)
        if self.attention is not None:
            x, attention = self.attention(x)
        return _Seen(self.head(x), maps, structure, attention)


def maps_shape(backbone: Backbone, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Rows, columns and features of what a backbone makes of an image `(rows, columns, c)`."""
    maps = nnx.eval_shape(lambda: backbone(shape[-1], nnx.Rngs(0))(jnp.zeros(shape)))
    return maps.shape


def _with_names(state: Any) -> Any:
    """The same dict with strings for keys, as files of weights have them."""
    if not isinstance(state, dict):
        return state
    return {str(key): _with_names(value) for key, value in state.items()}


def _check(subject: str, found: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if found != expected:
        raise InputError(
            f"{subject} of a network",
            f"shape {found}",
            f"shape {expected}, of one item",
            "give one item of the shape that the network was made for; `jax.vmap` makes a batch",
        )
