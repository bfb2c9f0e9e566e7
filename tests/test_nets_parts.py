"""Parts of networks against their definitions: attention, decoder, other backbones, maps."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import erf
from similarity_images import quick_jit

from jxreg import nets
from jxreg.errors import InputError
from jxreg.nets.convnext import _ResponseNorm
from jxreg.nets.depthwise import Depthwise, _convolved, _shifted
from jxreg.nets.efficientnet import Stage
from jxreg.sparse import draw_patches


def made(build):
    """A module, made in one compilation."""
    module = nnx.eval_shape(build)
    graph = nnx.graphdef(module)
    return nnx.merge(graph, quick_jit(lambda: nnx.state(build()))())


def random(*shape) -> jax.Array:
    return jnp.asarray(np.random.default_rng(3).normal(size=shape), jnp.float32)


def array(parameter) -> np.ndarray:
    return np.asarray(parameter[...], float)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def backbone_count(backbone, channels: int) -> int:
    state = nnx.eval_shape(lambda: nnx.state(backbone(channels, nnx.Rngs(0))))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state))


def test_efficientnet_has_the_published_number_of_parameters():
    """5 288 548 in torchvision, with a classifier of 1280 * 1000 + 1000."""
    assert backbone_count(nets.efficientnet(), 3) == 5_288_548 - 1_281_000


def test_convnext_has_the_published_number_of_parameters():
    """5.23 million of timm's femto: 5 233 240, with a classifier of 384 * 1000 + 1000."""
    assert backbone_count(nets.convnext_femto(), 3) == 5_233_240 - 385_000


def test_cbam_has_the_published_number_of_parameters():
    with_, without = (backbone_count(nets.resnet18(last=last), 1) for last in (nets.CBAM, None))
    assert with_ - without == 2 * 512 * 32 + 98


TINY = {
    "efficientnet": nets.efficientnet(
        stages=(Stage(1, 3, 1, 8, 1), Stage(2, 5, 2, 8, 1)), stem=8, features=12
    ),
    "convnext": nets.convnext((0, 1), width=8, patch=4),
    "resnet with CBAM": nets.resnet((1,), width=16, last=nets.CBAM),
}
SHAPES = {"efficientnet": (4, 6), "convnext": (2, 3), "resnet with CBAM": (4, 6)}


@pytest.mark.parametrize("name", TINY)
def test_other_backbones_in_one_network(name):
    """Maps of the size that strides give, every parameter learns."""
    net = nets.pose_net(TINY[name], (16, 24))
    params, images = quick_jit(net.init)(jax.random.key(0)), random(2, 1, 16, 24)
    params = jax.tree.map(lambda leaf: leaf + 0.05, params)

    def loss(params, images):
        seen = jax.vmap(net.apply, (None, 0))(params, images)
        return (seen.numbers**2).mean(), seen

    (_, seen), gradients = quick_jit(jax.value_and_grad(loss, has_aux=True))(params, images)
    assert seen.activation.shape == (2, *SHAPES[name])
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(leaf).all()
        assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)


@pytest.mark.parametrize("side, stride", [(3, 1), (5, 2)])
def test_shifted_maps_are_the_convolution_of_each_channel(side, stride):
    framed, kernel = random(13, 10, 6), random(side, side, 1, 6)
    expected = _convolved(framed, kernel, stride)
    np.testing.assert_allclose(_shifted(framed, kernel, stride), expected, atol=1e-5)


def test_a_depthwise_layer_keeps_the_middle_in_the_middle():
    layer = Depthwise(2, 3, nnx.Rngs(0), bias=True)
    layer.kernel[...] = jnp.zeros((3, 3, 1, 2)).at[1, 1].set(2.0).at[1, 2, 0, 1].set(1.0)
    layer.bias[...] = jnp.array([0.0, 5.0])
    x = random(4, 5, 2)
    right = np.pad(x[..., 1], ((0, 0), (0, 1)))[:, 1:]
    np.testing.assert_allclose(layer(x)[..., 0], 2 * x[..., 0], atol=1e-6)
    np.testing.assert_allclose(layer(x)[..., 1], 2 * x[..., 1] + right + 5, atol=1e-5)


def test_response_norm_is_that_of_its_definition():
    layer, x = _ResponseNorm(4), random(3, 5, 4)
    np.testing.assert_array_equal(layer(x), x)
    layer.scale[...], layer.bias[...] = jnp.arange(4.0), jnp.ones(4)
    strength = np.sqrt((np.asarray(x, float) ** 2).sum((0, 1)))
    expected = x + np.arange(4) * x * (strength / strength.mean()) + 1
    np.testing.assert_allclose(layer(x), expected, rtol=1e-4, atol=1e-5)
    zeros = quick_jit(jax.grad(lambda x: layer(x).sum()))(jnp.zeros((3, 5, 4)))
    assert np.isfinite(zeros).all()


def test_cbam_is_that_of_its_definition():
    layer, x = made(lambda: nets.CBAM(32, nnx.Rngs(1))), random(5, 4, 32)
    squeeze, excite = array(layer.squeeze.kernel), array(layer.excite.kernel)
    assert squeeze.shape == (32, 2)
    y = np.asarray(x, float)
    scores = sum(np.maximum(p @ squeeze, 0) @ excite for p in (y.mean((0, 1)), y.max((0, 1))))
    y = y * sigmoid(scores)
    both = np.pad(np.stack([y.mean(-1), y.max(-1)], -1), ((3, 3), (3, 3), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(both, (7, 7), (0, 1))
    places = np.einsum("hwcij,ijc->hw", windows, array(layer.places.kernel)[..., 0])
    expected = y * sigmoid(places)[..., None]
    np.testing.assert_allclose(quick_jit(lambda x: layer(x))(x), expected, atol=1e-4)


@functools.cache
def attention():
    """Of maps of 3 x 4 places with 10 features; width 16, 2 heads."""
    return made(lambda: nets.SelfAttention((3, 4, 10), nnx.Rngs(2), width=16, heads=2))


def linear(layer, x):
    return x @ array(layer.kernel) + array(layer.bias)


def layer_norm(layer, x):
    scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return scaled * array(layer.scale) + array(layer.bias)


def test_attention_is_that_of_its_definition():
    layer, x = attention(), random(3, 4, 10)
    found, maps = quick_jit(lambda x: layer(x))(x)
    tokens = linear(layer.narrower, np.asarray(x, float))
    tokens = (tokens + array(layer.of_row) + array(layer.of_column)).reshape(12, 16)
    query, key, value = np.split(linear(layer.queries, layer_norm(layer.norm, tokens)), 3, 1)
    mixed = []
    for head in range(2):
        part = slice(8 * head, 8 * head + 8)
        likeness = np.exp(query[:, part] @ key[:, part].T / np.sqrt(8))
        weights = likeness / likeness.sum(1, keepdims=True)
        np.testing.assert_allclose(maps[head], weights, atol=1e-5)
        mixed.append(weights @ value[:, part])
    tokens = tokens + linear(layer.joined, np.concatenate(mixed, 1))
    wider = linear(layer.wider, layer_norm(layer.mlp_norm, tokens))
    gelu = wider * (1 + erf(wider / np.sqrt(2))) / 2
    expected = (tokens + linear(layer.back, gelu)).reshape(3, 4, 16)
    np.testing.assert_allclose(found, expected, atol=5e-3)  # GELU's usual approximation
    np.testing.assert_allclose(np.asarray(maps).sum(-1), 1, atol=1e-5)


def test_attention_knows_where_by_its_position_embedding_only():
    layer, x = nnx.clone(attention()), random(3, 4, 10)
    shuffled = np.random.default_rng(0).permutation(12)

    def outputs(layer):
        run = quick_jit(lambda x: layer(x)[0].reshape(12, 16))
        return run(x)[shuffled], run(x.reshape(12, 10)[shuffled].reshape(3, 4, 10))

    assert np.abs(np.subtract(*outputs(layer))).max() > 1e-3
    layer.of_row[...], layer.of_column[...] = jnp.zeros((3, 1, 16)), jnp.zeros((1, 4, 16))
    np.testing.assert_allclose(*outputs(layer), atol=1e-5)


@functools.cache
def looking():
    """A network with attention and a decoder, and what it says of an image of 16 x 32."""
    small = functools.partial(nets.SelfAttention, width=16, heads=2)
    net = nets.pose_net(
        nets.compact(width=8, blocks=(0, 0), patch=4),
        (16, 32),
        head=nets.HeadConfig("euler", places=True),
        attention=small,
        decoder=functools.partial(nets.Decoder, width=16),
    )
    params = quick_jit(net.init)(jax.random.key(1))
    return net, params, quick_jit(net.apply)(params, random(1, 16, 32))


def test_a_network_with_attention_and_a_decoder():
    _, params, seen = looking()
    assert seen.structure.shape == (16, 32)
    assert seen.attention.shape == (2, 8, 8)
    assert seen.activation.shape == (2, 4)
    assert params["head"]["last"]["kernel"].shape == (2 * 4 * 16, 6)


def test_the_decoder_sees_features_alone_and_moves_nothing():
    """Its loss reaches the backbone; the pose does not depend on it."""
    net, params, _ = looking()
    image = random(1, 16, 32)
    gradients = quick_jit(jax.grad(lambda p: (net.apply(p, image).structure ** 2).sum()))(params)
    largest = jax.tree.map(lambda leaf: float(jnp.abs(leaf).max()), gradients)
    assert largest["backbone"]["stem"]["kernel"] > 0
    assert max(jax.tree.leaves([largest["head"], largest["attention"]])) == 0


@pytest.mark.parametrize("of", [nets.activation_map, nets.attention_map])
def test_maps_of_where_it_looked_are_probabilities(of):
    _, _, seen = looking()
    image = of(seen, (16, 32))
    assert image.shape == (16, 32)
    assert image.min() >= 0
    assert float(image.sum()) == pytest.approx(1.0, abs=1e-5)
    patches = draw_patches(jax.random.key(0), image, 5, 3)
    assert patches.shape == (5, 3, 3, 2)


def test_maps_are_large_where_the_network_looked():
    _, _, seen = looking()
    spot = jnp.zeros((2, 4)).at[1, 2].set(3.0)
    activation = nets.activation_map(seen._replace(activation=spot), (16, 32))
    assert np.unravel_index(np.argmax(activation), (16, 32)) in [
        (r, c) for r in (11, 12, 13, 14, 15) for c in (19, 20)
    ]
    looks_at = jnp.zeros((2, 8, 8)).at[:, :, 6].set(1.0)
    attended = nets.attention_map(seen._replace(attention=looks_at), (16, 32))
    assert float(attended[8:, 16:24].sum()) > 0.5
    flat = nets.activation_map(seen._replace(activation=jnp.ones((2, 4))), (16, 32))
    np.testing.assert_allclose(flat, 1 / 512, rtol=1e-4)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="^decoder: maps of 3 x 4"):
        nets.pose_net(
            nets.compact(width=4, blocks=(0, 0), patch=4),
            (24, 32),
            decoder=lambda *shapes: nets.Decoder(shapes[0], (30, 40), shapes[2]),
        )
    with pytest.raises(InputError, match="^self-attention: 3 heads"):
        nets.SelfAttention((3, 4, 10), nnx.Rngs(0), width=16, heads=3)
    without = looking()[2]._replace(attention=None)
    with pytest.raises(InputError, match="^attention map: "):
        nets.attention_map(without, (16, 32))
