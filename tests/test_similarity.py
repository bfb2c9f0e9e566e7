"""What must hold for every similarity in the table."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from similarity_images import (
    COLUMNS,
    ROWS,
    blobs,
    half_mask,
    jnp_pair,
    pair,
    quick_jit,
)

from jxreg.errors import InputError
from jxreg.similarity import SIMILARITIES

ALL = sorted(SIMILARITIES)
# SSIM compares brightness. Its range, and the weights of local information, are the fixed image's.
AFFINE = sorted(set(ALL) - {"ssim"})
SYMMETRIC = sorted(set(ALL) - {"ssim", "local_mutual_information"})
EAGER = {"ncc", "patch_ncc", "gradient_ncc"}  # of few operations, each compiled for itself
ONE_AT_IDENTITY = sorted(name for name in ALL if "information" not in name)


@functools.cache
def plain(name):
    """The similarity of two images without a mask, compiled."""
    return quick_jit(lambda moving, fixed: SIMILARITIES[name](moving, fixed))


@functools.cache
def lanes(name):
    """The similarities of a batch of pairs under one mask, and their gradients, compiled."""
    value_and_grad = jax.value_and_grad(SIMILARITIES[name], argnums=(0, 1))
    return quick_jit(jax.vmap(value_and_grad, in_axes=(0, 0, None)))


def masked(name):
    """The similarity of one pair under a mask, and its gradients: a batch of twice the same."""

    def value_and_grad(moving, fixed, mask):
        batch = lanes(name)(jnp.stack([moving] * 2), jnp.stack([fixed] * 2), mask)
        return jax.tree.map(lambda lane: lane[0], batch)

    return value_and_grad


@pytest.mark.parametrize("name", AFFINE)
def test_gain_and_offset_change_nothing(name):
    moving, fixed = jnp_pair()
    score = plain(name)
    # 2e-5: rounding of the scaled float32 images.
    np.testing.assert_allclose(score(2 * moving + 3, fixed), score(moving, fixed), atol=2e-5)
    np.testing.assert_allclose(score(moving, 0.1 * fixed - 7), score(moving, fixed), atol=2e-5)


@pytest.mark.parametrize("name", sorted(set(AFFINE) & set(ONE_AT_IDENTITY)))
def test_same_up_to_gain_and_offset_is_one(name):
    image = jnp.asarray(blobs(3))
    # 1e-4 for the floors that keep flat patches from counting.
    np.testing.assert_allclose(plain(name)(image, 2 * image + 3), 1, atol=1e-4)


@pytest.mark.parametrize("name", ["ncc", "local_ncc", "gradient_ncc", "gradient_correlation"])
def test_negative_is_minus_one(name):
    image = jnp.asarray(blobs(3))
    np.testing.assert_allclose(plain(name)(image, 5 - image), -1, atol=1e-5)


@pytest.mark.parametrize("name", ["mutual_information", "normalised_mutual_information"])
def test_information_is_blind_to_inverted_contrast(name):
    moving, fixed = jnp_pair()
    np.testing.assert_allclose(plain(name)(-moving, fixed), plain(name)(moving, fixed), atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_maximum_at_identity(name):
    image = blobs(4, ROWS + 8, COLUMNS)
    fixed = jnp.asarray(image[4:-4])
    rows = [slice(4 + shift, 4 + shift + ROWS) for shift in (-3, -1, 0, 1, 3)]
    scores = [plain(name)(jnp.asarray(image[part]), fixed) for part in rows]
    assert np.argmax(scores) == 2
    assert scores[1] > scores[0]
    assert scores[3] > scores[4]


@pytest.mark.parametrize("name", SYMMETRIC)
def test_moving_and_fixed_exchange(name):
    moving, fixed = jnp_pair()
    mask = jnp.asarray(half_mask())
    score, exchanged = masked(name)(moving, fixed, mask)[0], masked(name)(fixed, moving, mask)[0]
    np.testing.assert_allclose(score, exchanged, atol=2e-6)


@pytest.mark.parametrize("name", ALL)
def test_masked_pixels_do_not_exist(name):
    moving, fixed = jnp_pair()
    mask = jnp.asarray(half_mask())
    score, gradients = masked(name)(moving, fixed, mask)
    for junk in (1e6, np.nan):
        spoilt = [jnp.where(mask > 0, image, junk) for image in (moving, fixed)]
        other, other_gradients = masked(name)(*spoilt, mask)
        assert other == score
        np.testing.assert_array_equal(other_gradients, gradients)
    assert jnp.all(gradients[0][mask == 0] == 0)


@pytest.mark.parametrize("name", ALL)
def test_mask_of_ones_is_no_mask(name):
    moving, fixed = jnp_pair()
    # Only ratios of weights matter.
    for mask in (jnp.ones_like(moving), jnp.full_like(moving, 0.25)):
        score, _ = masked(name)(moving, fixed, mask)
        np.testing.assert_allclose(score, plain(name)(moving, fixed), atol=5e-6)


@pytest.mark.parametrize("name", ALL)
def test_nothing_to_see_is_zero_with_zero_gradient(name):
    _, fixed = jnp_pair()
    # 1000.1 is not a float32 number, so means of it are rounded.
    zero, flat = jnp.zeros_like(fixed), jnp.full_like(fixed, 1000.1)
    ones = jnp.ones_like(fixed)
    cases = [(flat, flat, ones), (zero, zero, ones), (fixed, flat, ones), (fixed, fixed, zero)]
    # SSIM of a constant moving image is what its constants make of it: small, not 0.
    cases += [] if name == "ssim" else [(flat, fixed, ones), (zero, fixed, ones)]
    for moving, other, mask in cases:
        score, gradients = masked(name)(moving, other, mask)
        # 2e-6: entropies of a flat image cancel up to rounding.
        np.testing.assert_allclose(score, 0, atol=2e-6)
        assert jnp.isfinite(jnp.stack(gradients)).all()
        if name != "ssim":
            np.testing.assert_allclose(gradients[0], 0, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_compiled_batch_is_a_loop_of_single_calls(name):
    moving, fixed = jnp_pair()
    pairs, mask = [(moving, fixed), (fixed, moving[::-1])], jnp.asarray(half_mask())
    # Small patches, which take fewer operations to compile one by one.
    small = {
        "patch_ncc": {"patch": 3},
        "multiscale_ncc": {"patches": (None, 3)},
        "gradient_multiscale_ncc": {"patch": 3, "gradient_patch": 3},
    }.get(name, {})
    score = functools.partial(SIMILARITIES[name], mask=mask, **small)
    batch = quick_jit(jax.vmap(score))(*(jnp.stack(images) for images in zip(*pairs, strict=True)))
    if name not in EAGER:
        score = quick_jit(score)
    loop = [score(*images) for images in pairs]
    assert loop[0].dtype == jnp.float32
    np.testing.assert_allclose(batch, loop, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_nan_is_seen_and_stays_in_its_lane(name):
    moving, fixed = jnp_pair()
    mask = jnp.asarray(half_mask())
    images, other = jnp.stack([moving, moving[::-1]]), jnp.stack([fixed, fixed])
    scores, gradients = lanes(name)(images, other, mask)
    spoilt, spoilt_gradients = lanes(name)(images.at[1, 10, 11].set(jnp.nan), other, mask)
    assert np.isnan(spoilt[1])
    assert spoilt[0] == scores[0]
    for clean, beside in zip(gradients, spoilt_gradients, strict=True):
        np.testing.assert_array_equal(beside[0], clean[0])


@pytest.mark.parametrize("name", ALL)
def test_large_offset_in_float32(name):
    images = [jnp.asarray(image + np.float32(1000)) for image in pair()] + [half_mask()]
    single, _ = masked(name)(*(jnp.asarray(image) for image in images))
    with jax.enable_x64(True):
        double, _ = masked(name)(*(jnp.asarray(image, float) for image in images))
        assert double.dtype == jnp.float64
    # The images are the same numbers in both, so the difference is the arithmetic's.
    np.testing.assert_allclose(single, double, atol=5e-6)


@pytest.mark.parametrize("name", ALL)
def test_gradient_against_central_differences(name):
    rng = np.random.default_rng(7)
    with jax.enable_x64(True):
        moving, fixed = (jnp.asarray(image) for image in pair(np.float64))
        mask = jnp.asarray(half_mask(np.float64))
        along = [jnp.asarray(rng.normal(size=moving.shape)) for _ in range(2)]
        _, gradients = masked(name)(moving, fixed, mask)
        slope = sum((g * a).sum() for g, a in zip(gradients, along, strict=True))
        # Rounding 1e-16 / step and curvature step^2 are both below 1e-9; no edge of a bin or of
        # the selection of strong gradients is crossed.
        step = 1e-6
        forward, _ = masked(name)(moving + step * along[0], fixed + step * along[1], mask)
        backward, _ = masked(name)(moving - step * along[0], fixed - step * along[1], mask)
        np.testing.assert_allclose(slope, (forward - backward) / (2 * step), rtol=1e-5)


@pytest.mark.parametrize("name", ["patch_ncc", "multiscale_ncc", "gradient_multiscale_ncc", "ssim"])
def test_window_larger_than_image_is_refused(name):
    with pytest.raises(InputError, match="window: .* 5 x 40"):
        SIMILARITIES[name](jnp.ones((5, 40)), jnp.ones((5, 40)))
