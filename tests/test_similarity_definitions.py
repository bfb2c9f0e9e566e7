"""Every similarity and its features against their definitions in NumPy and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.interpolate import BSpline
from scipy.ndimage import gaussian_filter
from similarity_images import (
    COLUMNS,
    ROWS,
    all_patches,
    blobs,
    compiled,
    half_mask,
    jnp_pair,
    pair,
    quick_jit,
)

from jxreg import similarity
from jxreg.similarity import SIMILARITIES

FEATURES = {
    "ncc": similarity.ncc_features,
    "local_ncc": similarity.local_features,
    "gradient_ncc": similarity.gradient_features,
    "gradient_correlation": similarity.gradient_correlation_features,
}


# --- Features


@pytest.mark.parametrize("under_mask", [False, True])
@pytest.mark.parametrize("name", sorted(FEATURES))
def test_features_multiply_to_the_similarity(name, under_mask):
    moving, fixed = jnp_pair()
    mask = jnp.asarray(half_mask()) if under_mask else None
    features = quick_jit(FEATURES[name])
    first, second = features(moving, mask), features(fixed, mask)
    score = compiled(SIMILARITIES[name], moving, fixed, mask)
    np.testing.assert_allclose((first * second).sum(), score, atol=1e-6)
    np.testing.assert_allclose(((first - second) ** 2).sum(), 2 * (1 - score), atol=5e-6)
    np.testing.assert_allclose((first**2).sum(), 1, atol=1e-6)


def test_ncc_is_the_weighted_correlation():
    (moving, fixed), mask = pair(), half_mask()
    covariance = np.cov(moving.ravel(), fixed.ravel(), aweights=mask.ravel(), ddof=0)
    expected = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    score = similarity.ncc(jnp.asarray(moving), jnp.asarray(fixed), jnp.asarray(mask))
    np.testing.assert_allclose(score, expected, atol=1e-6)
    image = similarity.zero_normalised(jnp.asarray(1000 + 3 * moving), jnp.asarray(mask))
    np.testing.assert_allclose((mask * image).sum(), 0, atol=1e-5)
    np.testing.assert_allclose((mask * image**2).sum(), 1, atol=1e-6)


def test_gradients_of_a_plane_are_its_slopes():
    rows, columns = np.mgrid[:9, :7].astype(np.float32)
    across, down = similarity.image_gradients(jnp.asarray(3 * columns - 2 * rows + 100))
    np.testing.assert_allclose(across, np.full((7, 5), 3), rtol=1e-6)
    np.testing.assert_allclose(down, np.full((7, 5), -2), rtol=1e-6)


@pytest.mark.parametrize("name", ["gradient_ncc", "gradient_correlation"])
def test_gradient_similarities_ignore_a_linear_shading(name):
    moving, fixed = jnp_pair()
    shading = 0.1 * jnp.arange(ROWS)[:, None] - 0.2 * jnp.arange(COLUMNS)
    score = compiled(SIMILARITIES[name], moving + shading, fixed)
    np.testing.assert_allclose(score, compiled(SIMILARITIES[name], moving, fixed), atol=2e-6)


def test_gradient_correlation_normalises_directions_apart():
    rows, columns = np.mgrid[:ROWS, :COLUMNS] / 4
    # Strong by column and right, faint by row and wrong.
    moving = jnp.asarray(np.sin(columns) + 0.01 * np.sin(rows), jnp.float32)
    fixed = jnp.asarray(np.sin(columns) - 0.01 * np.sin(rows), jnp.float32)
    assert similarity.gradient_ncc(moving, fixed) > 0.99
    np.testing.assert_allclose(similarity.gradient_correlation(moving, fixed), 0, atol=1e-4)


# --- Windows


@pytest.mark.parametrize("sigma", [0.7, 2.5])
def test_gaussian_smooth_is_a_normalised_gaussian(sigma):
    image = blobs(5, dtype=np.float64)

    def scipy_blur(x):
        return gaussian_filter(x, sigma, mode="constant", truncate=12)

    with jax.enable_x64(True):
        smooth = compiled(similarity.gaussian_smooth, jnp.asarray(image), sigma)
    np.testing.assert_allclose(
        smooth, scipy_blur(image) / scipy_blur(np.ones_like(image)), atol=1e-12
    )


def test_gaussian_smooth_limits():
    image = jnp.asarray(blobs(5))
    np.testing.assert_array_equal(compiled(similarity.gaussian_smooth, image, 0.0), image)
    wide = compiled(similarity.gaussian_smooth, image, 1e6)
    np.testing.assert_allclose(wide, jnp.full_like(image, image.mean()), atol=1e-6)


def test_locally_normalised_is_a_masked_convolution():
    image, mask, floor = 50 + 4 * blobs(6, dtype=np.float64), half_mask(np.float64), 0.1

    def local_mean(x):
        blurred = (
            gaussian_filter(weighted, 0.1 * COLUMNS, mode="constant", truncate=20)
            for weighted in (mask * x, mask)
        )
        return np.divide(*blurred)

    mean = (mask * image).sum() / mask.sum()
    deviation = np.sqrt((mask * (image - mean) ** 2).sum() / mask.sum())
    local = image - local_mean(image)
    expected = local / np.sqrt(local_mean(local**2) + (floor * deviation) ** 2)
    with jax.enable_x64(True):
        result = compiled(
            similarity.locally_normalised,
            jnp.asarray(image),
            jnp.asarray(mask),
            sigma=0.1,
            floor=floor,
        )
    np.testing.assert_allclose(result, np.where(mask > 0, expected, 0), atol=1e-10)


def test_local_ncc_forgets_slow_contrast_and_shading():
    rows, columns = np.mgrid[:64, :64] / 64
    fine = blobs(8, 64, 64)
    changed = ((1 + rows) * fine + 20 * columns**2).astype(np.float32)
    assert similarity.ncc(jnp.asarray(fine), jnp.asarray(changed)) < 0.3
    assert similarity.local_ncc(jnp.asarray(fine), jnp.asarray(changed)) > 0.9


def brute_patch_ncc(moving, fixed, size, floor=0.0, inside=None):
    scores = []
    for x, y in zip(all_patches(moving, size), all_patches(fixed, size), strict=True):
        x, y = x - x.mean(), y - y.mean()
        product = ((x * x).mean() + floor**2) * ((y * y).mean() + floor**2)
        scores.append((x * y).mean() / np.sqrt(product) if product > 0 else 0.0)
    keep = np.ones(len(scores)) if inside is None else all_patches(inside, size).min(axis=1)
    return np.average(scores, weights=keep)


@pytest.mark.parametrize("size", [2, 8, 9, 13])
def test_patch_ncc_is_the_mean_over_all_patches(size):
    moving, fixed = pair(np.float64)
    moving[:12, :14] = 0.3
    expected = brute_patch_ncc(moving, fixed, size)
    with jax.enable_x64(True):
        score = compiled(
            similarity.patch_ncc, jnp.asarray(moving), jnp.asarray(fixed), patch=size, floor=0.0
        )
    np.testing.assert_allclose(score, expected, atol=1e-12)
    single = [jnp.asarray(image, jnp.float32) for image in (moving, fixed)]
    np.testing.assert_allclose(
        compiled(similarity.patch_ncc, *single, patch=size, floor=0.0), expected, atol=1e-5
    )


def test_patch_ncc_with_mask_and_floor():
    (moving, fixed), mask = pair(np.float64), half_mask(np.float64)

    def standard(image):
        image = image - np.average(image, weights=mask)
        return image / np.sqrt(np.average(image**2, weights=mask))

    expected = brute_patch_ncc(standard(moving), standard(fixed), 5, floor=0.2, inside=mask)
    with jax.enable_x64(True):
        images = [jnp.asarray(image) for image in (moving, fixed, mask)]
        score = compiled(similarity.patch_ncc, *images, patch=5, floor=0.2)
    np.testing.assert_allclose(score, expected, atol=1e-12)


def test_faint_patches_beside_bright_ones_in_float32():
    moving, fixed = (1e-3 * image for image in pair(np.float64))
    for image in (moving, fixed):
        image[:, :3] += 30
    single = [jnp.asarray(image, jnp.float32) for image in (moving, fixed)]
    expected = brute_patch_ncc(*(np.asarray(image, np.float64) for image in single), 7)
    # In float32, E[x^2] - E[x]^2 has an error of the size of these variances.
    score = compiled(similarity.patch_ncc, *single, patch=7, floor=0.0)
    np.testing.assert_allclose(score, expected, atol=1e-3)


def test_multiscale_ncc_is_the_weighted_sum():
    moving, fixed = jnp_pair()
    parts = similarity.ncc(moving, fixed), compiled(similarity.patch_ncc, moving, fixed, patch=5)
    score = compiled(
        similarity.multiscale_ncc, moving, fixed, patches=(None, 5), weights=(0.25, 0.75)
    )
    np.testing.assert_allclose(score, 0.25 * parts[0] + 0.75 * parts[1], atol=1e-6)


def test_gradient_orientation_against_its_definition():
    (moving, fixed), mask = pair(np.float64), half_mask(np.float64) > 0
    with jax.enable_x64(True):
        images = [jnp.asarray(image) for image in (moving, fixed)]
        score = compiled(similarity.gradient_orientation, *images, jnp.asarray(mask, float))
        a, b = (np.asarray(similarity.image_gradients(image)) for image in images)
    keep = all_patches(mask, 3).all(axis=1).reshape(ROWS - 2, COLUMNS - 2)
    lengths = [np.linalg.norm(g, axis=0) for g in (a, b)]
    strong = keep & np.all([n > np.median(n[keep]) for n in lengths], axis=0)
    cosine = ((a * b).sum(0) / (lengths[0] * lengths[1]))[strong]
    scores = (2 - np.log(np.arccos(cosine) + 1)) / 2
    np.testing.assert_allclose(score, scores.sum() / max(strong.sum(), keep.sum() / 2), rtol=1e-9)


# --- Information


def soft_joint_histogram(moving, fixed, bins, span=3.0):
    """The joint histogram, from SciPy's B-splines."""
    spline = BSpline.basis_element(np.arange(-2.0, 3.0), extrapolate=False)

    def spread(image):
        place = ((image - image.mean()) / image.std() / span + 1) / 2
        place = 1 + (bins - 3) * np.clip(place, 0, 1)
        return np.nan_to_num(spline(place.reshape(-1, 1) - np.arange(bins)))

    return spread(moving).T @ spread(fixed) / moving.size


def entropy(p):
    return -(p[p > 0] * np.log(p[p > 0])).sum()


def test_information_against_soft_entropies():
    moving, fixed = pair(np.float64)
    joint = soft_joint_histogram(moving, fixed, bins=20)
    parts = entropy(joint.sum(1)), entropy(joint.sum(0)), entropy(joint)
    information = parts[0] + parts[1] - parts[2]
    images = [jnp.asarray(image, jnp.float32) for image in (moving, fixed)]
    score = compiled(similarity.mutual_information, *images, bins=20)
    np.testing.assert_allclose(score, information, rtol=1e-5)
    score = compiled(similarity.normalised_mutual_information, *images, bins=20)
    np.testing.assert_allclose(score, 2 * information / (parts[0] + parts[1]), rtol=1e-5)
    score = compiled(similarity.local_mutual_information, *images, tiles=1, bins=20)
    np.testing.assert_allclose(score, information, rtol=1e-5)


def test_information_of_an_image_with_itself_is_its_entropy():
    rng = np.random.default_rng(9)
    labels = rng.choice(3, size=(ROWS, COLUMNS), p=[0.5, 0.3, 0.2])
    image = jnp.asarray(np.array([-1.0, 4.0, 9.0], np.float32)[labels])
    # The levels are more than four bins apart: no pixel of one spreads to the bins of another.
    score = compiled(similarity.mutual_information, image, image, bins=48)
    expected = entropy(np.bincount(labels.ravel()) / labels.size)
    np.testing.assert_allclose(score, expected, rtol=1e-5)


def test_information_of_independent_noise_is_near_zero():
    rng = np.random.default_rng(10)
    moving, fixed = (jnp.asarray(rng.normal(size=(160, 160)), jnp.float32) for _ in range(2))
    # Chance gives about (bins - 1)^2 / (2 pixels) = 0.019 with sharp bins, less with soft ones.
    assert 0 <= compiled(similarity.mutual_information, moving, fixed) < 0.019
    assert compiled(similarity.mutual_information, moving, moving) > 1


def test_local_information_is_weighted_by_the_tiles_entropy():
    rng = np.random.default_rng(11)
    moving, fixed = (rng.normal(size=(40, 30)) for _ in range(2))
    fixed[:20], moving[:20] = 0, rng.normal(size=(20, 30))
    moving[20:] = fixed[20:] ** 2
    images = [jnp.asarray(image, jnp.float32) for image in (moving, fixed)]
    score = compiled(similarity.local_mutual_information, *images, tiles=2)
    # Tiles without contrast in the fixed image still have the entropy of one spread-out pixel.
    upper = jnp.zeros((40, 30)).at[:20].set(1)
    without_upper = compiled(similarity.local_mutual_information, *images, 1 - upper, tiles=2)
    assert 0.4 * without_upper < score < without_upper


# --- Structure


def brute_ssim(moving, fixed, extent, inside=None):
    place = np.arange(11) - 5.0
    window = np.exp(-(place**2) / (2 * 1.5**2))
    window = np.outer(window, window).ravel() / window.sum() ** 2
    x, y = all_patches(moving, 11), all_patches(fixed, 11)
    x_mean, y_mean = x @ window, y @ window
    x_var, y_var = ((x - x_mean[:, None]) ** 2) @ window, ((y - y_mean[:, None]) ** 2) @ window
    covariance = ((x - x_mean[:, None]) * (y - y_mean[:, None])) @ window
    c1, c2 = (0.01 * extent) ** 2, (0.03 * extent) ** 2
    scores = (2 * x_mean * y_mean + c1) * (2 * covariance + c2)
    scores /= (x_mean**2 + y_mean**2 + c1) * (x_var + y_var + c2)
    keep = np.ones(len(scores)) if inside is None else all_patches(inside, 11).min(axis=1)
    return np.average(scores, weights=keep)


def test_ssim_against_its_definition():
    (moving, fixed), mask = pair(np.float64), half_mask(np.float64)
    moving = 1.2 * moving + 0.3
    visible = fixed[mask > 0]
    with jax.enable_x64(True):
        images = [jnp.asarray(image) for image in (moving, fixed)]
        plain = compiled(similarity.ssim, *images)
        fixed_range = compiled(similarity.ssim, *images, data_range=2.5)
        masked = compiled(similarity.ssim, *images, jnp.asarray(mask))
    np.testing.assert_allclose(plain, brute_ssim(moving, fixed, np.ptp(fixed)), atol=1e-12)
    np.testing.assert_allclose(fixed_range, brute_ssim(moving, fixed, 2.5), atol=1e-12)
    np.testing.assert_allclose(masked, brute_ssim(moving, fixed, np.ptp(visible), mask), atol=1e-12)


@pytest.mark.reference
def test_ssim_against_scikit_image():
    metrics = pytest.importorskip("skimage.metrics", reason="scikit-image is not installed")
    moving, fixed = pair()
    expected = metrics.structural_similarity(
        moving, fixed, gaussian_weights=True, use_sample_covariance=False, data_range=np.ptp(fixed)
    )
    score = compiled(similarity.ssim, jnp.asarray(moving), jnp.asarray(fixed))
    np.testing.assert_allclose(score, expected, atol=1e-5)
