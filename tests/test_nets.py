"""Networks: published sizes, what a head's outputs mean, and that they are pure functions."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.spatial.transform import Rotation
from similarity_images import quick_jit

from jxreg import nets
from jxreg.camera import Camera
from jxreg.errors import InputError
from jxreg.nets.head import HeadConfig, units
from jxreg.nets.layers import largest_divisor, space_to_depth
from jxreg.parametrisation import PARAMETRISATIONS

SIZE = (16, 16)


@functools.cache
def tiny(**options):
    """A compact network for images of 16 x 16 pixels."""
    return nets.pose_net(nets.compact(width=8, blocks=(1, 1), patch=4), SIZE, **options)


def images(count: int, channels: int = 1):
    return jax.random.normal(jax.random.key(7), (count, channels, *SIZE))


def backbone_count(backbone, channels: int) -> int:
    state = nnx.eval_shape(lambda: nnx.state(backbone(channels, nnx.Rngs(0))))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state))


# torchvision: 11 689 512 and 21 797 672, of which the classifier has 512 * 1000 + 1000.
RESNETS = [
    (nets.resnet18, 11_689_512 - 513_000, 9_600),
    (nets.resnet34, 21_797_672 - 513_000, None),
]


@pytest.mark.parametrize("resnet, published, of_norms", RESNETS)
def test_resnets_have_the_published_number_of_parameters(resnet, published, of_norms):
    """GroupNorm has BatchNorm's two for each feature; a colour less is a 7 x 7 kernel less."""
    assert backbone_count(resnet(), 3) == published
    assert backbone_count(resnet(), 1) == published - 2 * 64 * 49
    if of_norms is not None:
        without = resnet(norm=nets.InstanceNorm)
        assert backbone_count(without, 3) == published - of_norms


def test_resnet_halves_the_image_five_times():
    for width, features in ((64, 512), (8, 64)):
        net = nets.pose_net(nets.resnet18(width=width), (96, 64))
        params = jax.eval_shape(net.init, jax.random.key(0))
        assert params["head"]["last"]["kernel"].shape == (features, 13)
        seen = jax.eval_shape(net.apply, params, jnp.zeros((1, 96, 64)))
        assert seen.activation.shape == (3, 2)


@pytest.mark.parametrize("norm", [nets.GroupNorm, nets.InstanceNorm])
def test_a_resnet_sees_no_change_of_contrast(norm):
    """Its first norm takes away a factor and, of one channel, what a shift adds in the middle."""
    net = nets.pose_net(nets.resnet((1, 1), width=8, norm=norm), SIZE)
    apply = quick_jit(net.apply)
    params, image = quick_jit(net.init)(jax.random.key(1)), images(1)[0]
    once, brighter, other = (apply(params, x).numbers for x in (image, 3 * image, image[:, ::-1]))
    np.testing.assert_allclose(brighter, once, atol=1e-3 * np.abs(once[:3]).max())
    assert np.abs(other - once).max() > 0.01


def test_norms_are_those_of_their_definition():
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(2.0, 3.0, (5, 4, 12)), jnp.float32)
    grouped = np.asarray(x, float).reshape(20, 3, 4)
    expected = (grouped - grouped.mean((0, 2), keepdims=True)) / grouped.std((0, 2), keepdims=True)
    np.testing.assert_allclose(
        nets.GroupNorm(12, groups=3)(x), expected.reshape(x.shape), atol=1e-5
    )
    expected = (x - x.mean((0, 1))) / x.std((0, 1))
    np.testing.assert_allclose(nets.InstanceNorm(12)(x), expected, atol=1e-5)
    assert [largest_divisor(n, 32) for n in (64, 48, 40, 7)] == [32, 24, 20, 7]


def test_space_to_depth_keeps_blocks_together():
    x = jnp.arange(24.0).reshape(4, 6, 1)
    blocks = space_to_depth(x, 2)
    assert blocks.shape == (2, 3, 4)
    np.testing.assert_array_equal(blocks[1, 2], [16, 17, 22, 23])


@pytest.mark.parametrize("name", PARAMETRISATIONS)
def test_an_output_of_zero_is_no_motion_and_of_one_is_the_unit(name):
    """Of a translation 100 mm; of a rotation about 10 degrees, to first order."""
    config = HeadConfig(name, translation_mm=(100.0, 50.0, 200.0), rotation_degrees=10.0)
    at_rest, scale = units(config)
    outputs = np.concatenate([np.zeros((1, len(scale))), np.eye(len(scale))])
    matrices = quick_jit(jax.vmap(lambda n: PARAMETRISATIONS[name].motion(n).as_matrix()))(
        jnp.asarray(at_rest + scale * outputs, jnp.float32)
    )
    np.testing.assert_allclose(matrices[0], np.eye(4), atol=1e-6)
    np.testing.assert_allclose(matrices[1:4, :3, 3], np.diag(config.translation_mm), rtol=1e-6)
    angles = np.rad2deg(Rotation.from_matrix(matrices[4:, :3, :3]).magnitude())
    assert np.max(angles) == pytest.approx(10.0, rel=0.1)


@pytest.mark.parametrize("name", ["se3_log", "euler", "quaternion_adjugate"])
def test_motion_is_that_of_the_numbers(name):
    net = tiny(head=HeadConfig(name))
    seen = quick_jit(net.apply)(quick_jit(net.init)(jax.random.key(0)), images(1)[0])
    assert seen.numbers.shape == (PARAMETRISATIONS[name].size,)
    expected = PARAMETRISATIONS[name].motion(seen.numbers)
    np.testing.assert_allclose(seen.motion.as_matrix(), expected.as_matrix(), atol=1e-4)
    # A network begins near no motion, not at it: the unit is 100 mm.
    assert 0.1 < np.abs(seen.motion.translation()).max() < 60


def test_compiled_equals_eager_and_a_batch_equals_a_loop():
    net = tiny(channels=2, conditioning=3, head=HeadConfig("euler", places=True, hidden=(9,)))
    params, told = quick_jit(net.init)(jax.random.key(0)), jnp.array([0.5, -1.0, 2.0])
    batch = images(3, channels=2)
    found = quick_jit(jax.vmap(net.apply, (None, 0, None)))(params, batch, told)
    apply = quick_jit(net.apply)
    for one, i in ((net.apply, 0), (apply, 0), (apply, 1), (apply, 2)):
        seen = one(params, batch[i], told)
        np.testing.assert_allclose(found.numbers[i], seen.numbers, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(found.activation[i], seen.activation, rtol=1e-4, atol=1e-4)


def test_every_parameter_has_a_gradient_and_a_name():
    """Once the gains of the residual branches have left zero."""
    net = tiny(head=HeadConfig(places=True, hidden=(8,)))
    params = quick_jit(net.init)(jax.random.key(3))
    away = jax.tree.map(lambda leaf: leaf + 0.1, params)
    loss = quick_jit(
        jax.grad(lambda p: (jax.vmap(net.apply, (None, 0))(p, images(4)).numbers ** 2).sum())
    )
    for path, leaf in jax.tree_util.tree_leaves_with_path(loss(away)):
        assert np.isfinite(leaf).all()
        assert np.abs(leaf).max() > 0, jax.tree_util.keystr(path)
        assert all(isinstance(step.key, str) for step in path)


def test_gradients_are_those_of_differences():
    with jax.enable_x64(True):
        net = nets.pose_net(nets.resnet((1,), width=4), SIZE, head=HeadConfig("se3_log"))
        params = jax.tree.map(
            lambda leaf: leaf.astype(float), quick_jit(net.init)(jax.random.key(2))
        )
        image = images(1)[0].astype(float)
        steps = jax.tree.map(
            lambda leaf: np.cos(np.arange(1.0, leaf.size + 1)).reshape(leaf.shape), params
        )

        @quick_jit
        def numbers_and_slope(t):
            def numbers(t):
                moved = jax.tree.map(lambda leaf, step: leaf + t * step, params, steps)
                return net.apply(moved, image).numbers

            return jax.jvp(numbers, (t,), (1.0,))

        ahead, behind = (numbers_and_slope(t)[0] for t in (1e-6, -1e-6))
        # Curvature times the square of the step, and rounding over it.
        np.testing.assert_allclose(
            numbers_and_slope(0.0)[1], (ahead - behind) / 2e-6, rtol=1e-5, atol=1e-4
        )


def test_a_key_makes_the_same_parameters_again():
    net = tiny()
    one, again, other = (net.init(jax.random.key(seed)) for seed in (4, 4, 5))
    assert all(jax.tree.leaves(jax.tree.map(jnp.array_equal, one, again)))
    assert not jnp.array_equal(
        one["backbone"]["stem"]["kernel"], other["backbone"]["stem"]["kernel"]
    )


def test_one_camera_in_five_numbers():
    camera = Camera.from_sdd(1024.0, (64, 128), (4.0, 2.0), (63.5 + 12.8, 31.5 - 6.4))
    np.testing.assert_allclose(nets.intrinsics(camera), [0, 0, 0.1, -0.1, 0], atol=1e-6)
    twice = Camera.from_sdd(2048.0, (64, 128), (4.0, 2.0), mirrored=True)
    np.testing.assert_allclose(nets.intrinsics(twice), [1, 1, 0, 0, 1], atol=1e-6)
    larger = Camera.from_sdd(2048.0, (64, 128), (8.0, 4.0), (76.3, 25.1))  # the same image
    np.testing.assert_allclose(nets.intrinsics(larger), nets.intrinsics(camera), atol=1e-6)


def test_what_is_told_changes_nothing_until_it_is_learned():
    net = tiny(conditioning=nets.INTRINSICS)
    apply, params, image = quick_jit(net.apply), net.init(jax.random.key(0)), images(1)[0]
    one, other = jnp.zeros(nets.INTRINSICS), jnp.ones(nets.INTRINSICS)
    np.testing.assert_array_equal(
        apply(params, image, one).numbers, apply(params, image, other).numbers
    )
    params["modulation"]["second"]["kernel"] += 0.1
    assert (
        np.abs(apply(params, image, one).numbers - apply(params, image, other).numbers).max() > 0.1
    )


def refused(start: str):
    return pytest.raises(InputError, match="^" + re.escape(start))


def test_wrong_shapes_and_names_are_refused():
    net = tiny(conditioning=nets.INTRINSICS)
    params = jax.eval_shape(net.init, jax.random.key(0))
    camera = jnp.zeros(nets.INTRINSICS)
    with refused("image of a network: shape (2, 1, 16, 16)"):
        net.apply(params, images(2), camera)
    with refused("conditioning of a network: shape ()"):
        net.apply(params, images(1)[0])
    with refused("conditioning of a network: shape (5,)"):
        tiny().apply(params, images(1)[0], camera)
    with refused("parametrisation: 'euclid'"):
        tiny(head=HeadConfig("euclid"))
    with refused("image of a network: 18 x 16"):
        nets.pose_net(nets.compact(blocks=(1,), patch=4), (18, 16))
