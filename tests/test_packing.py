"""Packed volumes: what the words hold, when there are none, and that they never go stale."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drr_oracles import INTEGRATE, random_volume, rendered, view

from jxreg import drr
from jxreg.packing import LARGEST, LAYOUTS, PAD, pack, padded
from jxreg.pose import perturb
from jxreg.volume import Volume, crop, prepared

SHAPE = (5, 8, 6)


@jax.jit
def extended_and_slopes(volume, camera, pose, faces):
    """Joseph's DRR of a volume that goes on beyond `faces`, and its slopes by the pose."""

    def image(twist):
        return drr.render(volume, camera, perturb(pose, twist, jnp.zeros(3)), drr.joseph(faces))

    return image(jnp.zeros(6)), jax.jacfwd(image)(jnp.zeros(6))


def noise(*channels):
    return np.random.default_rng(0).uniform(0, 0.05, (*channels, *SHAPE)).astype(np.float32)


def test_both_layouts_hold_every_voxel_and_its_neighbour():
    mu = noise()
    packed = pack(mu)
    halves = np.asarray(packed.words).reshape(2, -1)
    air = np.pad(mu, PAD)
    for words, order in zip(halves, LAYOUTS, strict=True):
        expected = air.transpose(order)
        grid = words.reshape(expected.shape)
        low, high = (grid & 0xFFFF) * packed.scale, (grid >> 16) * packed.scale
        half_a_unit = 0.5001 * mu.max() / LARGEST
        np.testing.assert_allclose(low, expected, atol=half_a_unit)
        np.testing.assert_allclose(high[..., :-1], expected[..., 1:], atol=half_a_unit)
    assert halves[0].size == np.prod(padded(SHAPE))


def test_channels_have_their_own_unit():
    mu = noise(2) * np.array([1.0, 100.0], np.float32)[:, None, None, None]
    packed, second = pack(mu), pack(mu[1])
    assert packed.scale.shape == (2,)
    np.testing.assert_array_equal(packed.words[:, 1], second.words)


@pytest.mark.parametrize(
    "mu",
    [
        noise() - 0.01,
        noise().astype(np.float64),
        np.full(SHAPE, np.nan, np.float32),
        np.full(SHAPE, np.inf, np.float32),
    ],
)
def test_what_words_cannot_hold_is_not_packed(mu):
    assert pack(mu) is None


def test_air_alone_renders_as_nothing():
    air = np.zeros(random_volume().mu.shape, np.float32)
    volume = Volume.from_array(air, np.eye(4), pyramid_mm=())
    assert volume.packed is not None
    np.testing.assert_array_equal(rendered(volume, *view(), "joseph"), 0)


@pytest.mark.parametrize("kind", ["trilinear", "joseph"])
def test_packed_and_plain_render_alike(kind):
    volume = random_volume(channels=(2,))
    plain = replace(volume)
    assert plain.packed is None
    for primary in (0.0, 43.0, 90.0, 135.0):
        for secondary in (0.0, 60.0, 89.0):  # each axis is the main one of some views
            scene = view(primary=primary, secondary=secondary)
            a, b = (rendered(v, *scene, kind) for v in (volume, plain))
            # Half a unit in 65535 for each voxel, and the rounding of sums.
            np.testing.assert_allclose(a, b, atol=1.5e-5 * float(b.max()))


@pytest.mark.parametrize("extruded", [None, np.array([[0, 0, 1], [0, 1, 0]], bool)])
@pytest.mark.parametrize("view_degrees", [(0.0, 0.0), (80.0, 20.0), (10.0, 75.0)])
def test_packed_and_plain_joseph_have_the_same_slopes(extruded, view_degrees):
    volume = random_volume()
    primary, secondary = view_degrees
    camera, pose = view(primary=primary, secondary=secondary)
    faces = None if extruded is None else jnp.asarray(extruded)

    packed, plain = (extended_and_slopes(v, camera, pose, faces) for v in (volume, replace(volume)))
    for a, b in zip(packed, plain, strict=True):
        assert float(jnp.linalg.norm(a - b)) < 2e-4 * float(jnp.linalg.norm(b))


def test_packed_and_plain_trilinear_have_the_same_slopes():
    volume, (camera, pose) = random_volume(), view()

    def image(twist, volume):
        moved = perturb(pose, twist, jnp.zeros(3))
        return drr.render(volume, camera, moved, drr.trilinear(0.7))

    slopes = jax.jit(jax.jacfwd(image))
    packed, plain = (slopes(jnp.zeros(6), v) for v in (volume, replace(volume)))
    # A sample that rounding moves to the next cell has the slope of that one.
    assert float(jnp.linalg.norm(packed - plain)) < 2e-3 * float(jnp.linalg.norm(plain))


def test_slices_before_and_behind_a_ray_are_air_in_a_long_thin_volume():
    """The rays of one image need not begin at one slice; who has not begun must read air."""
    volume = random_volume((3, 167, 3))
    camera, pose = view(primary=90.0, secondary=0.0)
    packed, plain = (rendered(v, camera, pose, "joseph") for v in (volume, replace(volume)))
    np.testing.assert_allclose(packed, plain, atol=1.5e-5 * float(plain.max()))


@pytest.mark.parametrize("kind", ["trilinear", "joseph"])
def test_second_derivatives_of_a_packed_volume(kind):
    """Forward over reverse, although the kernel for GPUs has no derivative of its own."""
    volume, (camera, pose) = random_volume(), view((4, 5))

    def energy(twist, volume):
        moved = perturb(pose, twist, jnp.zeros(3))
        return (drr.render(volume, camera, moved, INTEGRATE[kind]) ** 2).sum()

    hessian = jax.jit(jax.jacfwd(jax.grad(energy)))
    packed, plain = (hessian(jnp.zeros(6), v) for v in (volume, replace(volume)))
    assert float(jnp.linalg.norm(packed - plain)) < 2e-2 * float(jnp.linalg.norm(plain))


def test_a_replaced_volume_is_not_read_from_old_words():
    volume = random_volume()
    doubled = replace(volume, mu=2 * volume.mu)
    once, twice = (rendered(v, *view(), "joseph") for v in (volume, doubled))
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-4)
    again = rendered(prepared(doubled), *view(), "joseph")
    np.testing.assert_allclose(again, twice, atol=1.5e-5 * float(twice.max()))


def test_words_travel_with_the_volume():
    volume = random_volume((12, 13, 14))
    leaves, tree = jax.tree.flatten(volume)
    assert jax.tree.unflatten(tree, leaves).packed.words is volume.packed.words
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(volume)]
    assert ".packed.words" in names
    assert crop(volume, (0, 0, 0), (6, 6, 6)).packed is not None
    assert crop(replace(volume), (0, 0, 0), (6, 6, 6)).packed is None


def test_a_batch_of_volumes_has_a_batch_of_words():
    volumes = [random_volume(seed=s) for s in range(3)]
    many = jax.tree.map(lambda *x: jnp.stack(x), *volumes)
    images = jax.vmap(lambda v: rendered(v, *view(), "joseph"))(many)
    for volume, image in zip(volumes, images, strict=True):
        alone = rendered(volume, *view(), "joseph")
        np.testing.assert_allclose(
            image, alone, atol=5e-6 * float(alone.max())
        )  # other order of sums


def test_the_volume_gradient_is_that_of_the_volume_itself():
    """Differentiated by `mu`, words are not read: they would have no derivative."""
    volume = random_volume()
    others = pack(3 * volume.mu)  # of another volume
    assert others is not None

    def total(mu, words):
        changed = replace(volume, mu=mu)
        object.__setattr__(changed, "packed", words)
        return (drr.render(changed, *view(), drr.joseph()) ** 2).sum()

    gradient = jax.jit(jax.grad(total))
    expected, found = (gradient(volume.mu, words) for words in (None, others))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * float(expected.max()))


def test_the_pyramid_is_packed_too_and_shares_what_it_does_not_pool():
    volume = Volume.from_array(noise(), np.diag([1.0, 1, 1, 1]), pyramid_mm=(1.0, 3.0))
    assert volume.coarser[0].packed is volume.packed
    assert volume.coarser[1].packed.words.size == 2 * np.prod(padded((2, 3, 2)))
    unprepared = Volume.from_array(noise(), np.eye(4), prepare=False)
    assert unprepared.packed is None
    assert all(level.packed is None for level in unprepared.coarser)
