"""Training frames: contrast, weights, shapes and batches, against single renders."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jxreg
import jxreg.synthesis
from jxreg import augmentation, drr
from jxreg import pose as poses
from jxreg.errors import InputError
from jxreg.volume import MU_WATER

CAMERA = jxreg.Camera.from_sdd(sdd=1000.0, image_size=(24, 20), pixel_spacing=(10.0, 10.0))
DISTANCE = 700.0
BODY = (slice(9, 31),) * 3
"""What is left of the grid without the air."""
PLAIN = jxreg.synthesis.SynthesisConfig(contrast=(2.0, 2.0))
WIDE = jxreg.synthesis.SynthesisConfig(contrast=(1.0, 10.0))


@pytest.fixture(scope="module")
def ct():
    """A block of water of 120 mm with a bone of 48 mm off its middle."""
    mu = np.zeros((40, 40, 40), np.float32)
    mu[10:30, 10:30, 10:30] = MU_WATER
    mu[12:20, 12:20, 12:20] = 2.6 * MU_WATER
    return jxreg.Volume.from_array(mu, np.diag([6.0, 6.0, 6.0, 1.0]))


@pytest.fixture(scope="module")
def training(ct):
    return jxreg.synthesis.training_volume(ct, CAMERA, DISTANCE)


def view(volume, offset=(0.0, 0.0, 0.0)):
    return poses.from_carm(
        10.0, source_to_isocenter=DISTANCE, isocenter=volume.isocenter, offset=offset
    )


def batch(*items):
    return jax.tree.map(lambda *x: jnp.stack(x), *items)


FRAMES = jax.jit(jxreg.synthesis.frames, static_argnums=4)


def made(volume, many, config=PLAIN, key=0):
    return FRAMES(jax.random.key(key), volume, CAMERA, many, config)


def test_channels_add_up_to_the_volume_and_a_voxel_is_a_pixel(ct, training):
    assert training.mu.shape == (2, 22, 22, 22)  # 6 mm voxels, 7 mm pixels; air is cut off
    np.testing.assert_allclose(training.mu.sum(0), ct.mu[BODY], atol=1e-7)
    np.testing.assert_allclose(training.affine[:3, 3], 9 * 6.0)
    assert float(training.mu[1, 6, 6, 6]) == pytest.approx(2.6 * MU_WATER, rel=1e-5)
    assert float(training.mu[1, 16, 16, 16]) == 0
    coarse = jxreg.synthesis.training_volume(ct, CAMERA, DISTANCE, voxels_per_pixel=0.5)
    assert coarse.mu.shape == (2, 12, 12, 12)
    assert 8 * float(coarse.mu.sum()) == pytest.approx(float(training.mu.sum()), rel=1e-5)
    assert coarse.packed is not None
    np.testing.assert_array_equal(coarse.isocenter, ct.isocenter)
    single = jxreg.synthesis.training_volume(ct, CAMERA, DISTANCE, model=None)
    assert single.mu.shape == (1, 22, 22, 22)


def test_a_frame_is_soft_tissue_plus_bone_times_the_contrast(training):
    pose = view(training)

    @jax.jit
    def rendered(contrast):
        again = jxreg.synthesis.projected(training, CAMERA, pose, contrast)
        return drr.render(training, CAMERA, pose, drr.joseph()), again

    frame = jax.tree.map(lambda x: x[0], made(training, batch(pose, pose, pose)))
    (soft, bone), again = rendered(frame.contrast)
    np.testing.assert_allclose(frame.channels, jnp.stack([soft, bone]), atol=1e-5)
    np.testing.assert_allclose(frame.clean, soft + 2 * bone, atol=1e-5)
    np.testing.assert_allclose(frame.images, frame.clean / frame.clean.max(), atol=1e-6)
    np.testing.assert_allclose(again, frame.clean, atol=1e-5)


def test_every_image_draws_its_own_contrast_from_the_range(training):
    keys = jax.random.split(jax.random.key(0), 64)
    draw = jax.vmap(lambda key: jxreg.synthesis.drawn_contrast(key, 3, (1.0, 10.0)))
    soft, one, other = draw(keys).T
    assert (soft == 1).all()
    assert (one == other).all()
    assert 1 <= one.min() < 2 < 9 < one.max() <= 10
    assert np.unique(np.asarray(one)).size == 64
    frames = made(training, batch(*[view(training)] * 3), WIDE)
    assert np.unique(np.asarray(frames.contrast[:, 1])).size == 3
    np.testing.assert_allclose(frames.images.max((1, 2)), 1.0)
    other = made(training, batch(*[view(training)] * 3), WIDE, key=1)
    assert not np.allclose(frames.contrast, other.contrast)


def test_what_shows_too_little_has_no_weight_and_nothing_is_nan(training):
    aside = view(training, (2000.0, 0.0, 0.0))
    edge = view(training, (-140.0, 0.0, 0.0))  # the bone is out of view, some water is in it
    frames = made(training, batch(view(training), aside, edge))
    assert frames.weights.tolist() == [1.0, 0.0, 0.0]
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(frames))
    assert float(jnp.abs(frames.images[1]).max()) == 0
    lenient = replace(PLAIN, foreground=0.01, labelled=-1.0)
    assert made(training, batch(view(training), aside, edge), lenient).weights.tolist() == [1, 0, 1]


def test_a_batch_is_single_frames_and_one_compilation(training):
    many = batch(view(training), view(training, (5.0, 3.0, 9.0)), view(training))
    together = made(training, many, WIDE, key=3)
    function = jax.jit(jxreg.synthesis.frame, static_argnums=4)
    for index, one in enumerate(jax.random.split(jax.random.key(3), 3)[:2]):
        pose = jax.tree.map(lambda x, index=index: x[index], many)
        alone = function(one, training, CAMERA, pose, WIDE)
        jax.tree.map(
            lambda a, b, index=index: np.testing.assert_allclose(a, b[index], atol=2e-5),
            alone,
            together,
        )


def test_exposure_and_augmentation_change_what_the_network_sees_only(training):
    config = jxreg.synthesis.SynthesisConfig(
        (1.0, 1.5), augmentation.JXREG_EXPOSURE, augmentation.collimation
    )
    pose = view(training)
    both = made(training, batch(pose, pose), config)
    one, other = (jax.tree.map(lambda x, i=i: x[i], both) for i in (0, 1))
    for frame in (one, other):
        assert frame.weights == 1
        np.testing.assert_allclose(
            frame.clean, jnp.tensordot(frame.contrast, frame.channels, 1), atol=1e-5
        )
        assert np.isfinite(frame.images).all()
        assert 0 <= float(frame.images.min()) <= float(frame.images.max()) <= 1
    assert np.abs(np.corrcoef(one.images.ravel(), one.clean.ravel())[0, 1]) > 0.6
    assert float(jnp.abs(one.images - other.images).max()) > 0.05


def test_labels_become_channels_in_their_order(ct):
    labels = np.zeros((40, 40, 40), np.int32)
    labels[12:20, 12:20, 12:20], labels[22:26, 22:26, 22:26] = 7, 3
    volume = jxreg.synthesis.training_volume(ct, CAMERA, DISTANCE, labels=labels)
    assert volume.mu.shape[0] == 3
    np.testing.assert_allclose(volume.mu.sum(0), ct.mu[BODY], atol=1e-7)
    assert (np.asarray(volume.mu[1] > 0) == (labels == 3)[BODY]).all()
    assert (np.asarray(volume.mu[2] > 0) == (labels == 7)[BODY]).all()


def test_padding_adds_air_behind_the_axes(training):
    larger = jxreg.synthesis.padded(training, (30, 22, 25))
    assert larger.mu.shape == (2, 30, 22, 25)
    np.testing.assert_array_equal(larger.mu[:, :22, :, :22], training.mu)
    assert float(larger.mu.sum()) == pytest.approx(float(training.mu.sum()), rel=1e-5)
    np.testing.assert_array_equal(larger.affine, training.affine)
    assert larger.packed is not None


def test_wrong_volumes_and_labels_are_refused(ct, training):
    with pytest.raises(InputError, match="one channel"):
        jxreg.synthesis.training_volume(training, CAMERA, DISTANCE)
    for labels in (np.zeros((40, 40, 40), np.int32), np.ones((4, 4, 4), np.int32)):
        with pytest.raises(InputError, match="labels"):
            jxreg.synthesis.training_volume(ct, CAMERA, DISTANCE, labels=labels)
    with pytest.raises(InputError, match="at least"):
        jxreg.synthesis.padded(training, (10, 40, 40))


def test_the_scale_of_an_image_is_its_own_and_that_of_its_mask():
    image = jnp.array([[1.0, 3.0], [5.0, 9.0]])
    np.testing.assert_allclose(jxreg.synthesis.unit_range(image), [[0, 0.25], [0.5, 1]])
    mask = jnp.array([[1.0, 1.0], [1.0, 0.0]])
    np.testing.assert_allclose(jxreg.synthesis.unit_range(image, mask), [[0, 0.5], [1, 0]])
    assert (jxreg.synthesis.unit_range(jnp.full((2, 2), 7.0)) == 0).all()
