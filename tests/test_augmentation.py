"""Augmentations against closed forms, SciPy and plain loops; their ranges and their keys."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

import jxreg
from jxreg import augmentation as augment
from jxreg.physics.beam import attenuate, beam_of
from jxreg.physics.materials import material
from jxreg.physics.spectra import tube_spectrum
from jxreg.simulation import area_scales

SHAPE = (24, 32)
KEY = jax.random.key(0)
ALL = {
    name: getattr(augment, name)
    for name in (
        "LXPOSE XVR JXREG box_blur clahe collimation erasing gamma gaussian_blur gaussian_noise "
        "plasma_brightness plasma_contrast plasma_shadow salt_and_pepper sharpness"
    ).split()
}


@pytest.fixture(scope="module")
def image():
    smooth = scipy.ndimage.gaussian_filter(np.random.default_rng(1).random(SHAPE), 2.0)
    return jnp.asarray((smooth - smooth.min()) / np.ptp(smooth), jnp.float32)


@pytest.mark.parametrize("name", ALL)
def test_an_image_stays_in_its_range_and_its_draw_is_its_own(image, name):
    function = ALL[name]
    keys = jax.random.split(KEY, 8)
    many = jax.jit(jax.vmap(function, (0, None)))(keys, image)
    assert many.shape == (8, *SHAPE)
    assert float(many.min()) >= 0
    assert float(many.max()) <= 1 + 1e-6
    assert np.isfinite(many).all()
    if name != "box_blur":  # the only one without a draw
        assert np.unique(np.asarray(many[:, :, 1:-1]).reshape(8, -1), axis=0).shape[0] > 1
    if not name.isupper():  # a preset is made of the others
        np.testing.assert_allclose(function(keys[3], image), many[3], atol=1e-5)


def test_gamma_is_the_power(image):
    made = augment.gamma(KEY, image, (1.5, 1.5))
    np.testing.assert_allclose(made, np.asarray(image) ** 1.5, atol=1e-6)


def test_noise_has_its_deviation_and_salt_and_pepper_their_shares():
    grey = jnp.full((200, 200), 0.5)
    noise = augment.gaussian_noise(KEY, grey, (0.05, 0.05)) - 0.5
    assert float(noise.std()) == pytest.approx(0.05, rel=0.02)
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.001)
    struck = augment.salt_and_pepper(KEY, grey, (0.2, 0.2), (0.25, 0.25))
    assert float((struck == 1).mean()) == pytest.approx(0.05, rel=0.1)
    assert float((struck == 0).mean()) == pytest.approx(0.15, rel=0.1)
    assert float((struck == 0.5).mean()) == pytest.approx(0.8, rel=0.02)


def test_blurs_and_sharpening_are_scipys(image):
    x = np.asarray(image, np.float64)
    box = scipy.ndimage.uniform_filter(x, 3, mode="mirror")
    np.testing.assert_allclose(augment.box_blur(KEY, image), box, atol=1e-6)
    side = np.exp(-0.5 / 0.7**2)
    kernel = np.array([side, 1.0, side]) / (1 + 2 * side)
    gauss = scipy.ndimage.convolve(x, np.outer(kernel, kernel), mode="mirror")
    np.testing.assert_allclose(augment.gaussian_blur(KEY, image, (0.7, 0.7)), gauss, atol=1e-6)
    weights = np.full((3, 3), 1 / 13)
    weights[1, 1] = 5 / 13
    smooth = scipy.ndimage.convolve(x, weights)
    smooth[[0, -1]], smooth[:, [0, -1]] = x[[0, -1]], x[:, [0, -1]]
    for factor in (0.0, 0.3, 1.0, 2.5):
        expected = np.clip(smooth + factor * (x - smooth), 0, 1)
        made = augment.sharpness(KEY, image, (factor, factor))
        np.testing.assert_allclose(made, expected, atol=1e-6)


def test_a_plasma_field_has_the_spectrum_of_its_roughness():
    """A power law of exponent 2 - 2 log2(roughness), in a window since fields are not periodic."""
    side, roughness = 96, 0.5
    keys = jax.random.split(KEY, 40)
    fields = jax.jit(jax.vmap(lambda key: augment.plasma(key, (side, side), roughness)))(keys)
    np.testing.assert_allclose(fields.min((1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(fields.max((1, 2)), 1, atol=1e-6)
    window = np.hanning(side)
    fields = np.asarray(fields - fields.mean((1, 2), keepdims=True)) * np.outer(window, window)
    power = (np.abs(np.fft.fft2(fields)) ** 2).mean(0)
    axis = np.fft.fftfreq(side) * side
    radius = np.hypot(*np.meshgrid(axis, axis))
    inside = (radius >= 3) & (radius <= 12)
    slope = np.polyfit(np.log(radius[inside]), np.log(power[inside]), 1)[0]
    assert -slope == pytest.approx(4.0, abs=0.5)


def test_a_plasma_of_no_roughness_is_one_bilinear_patch():
    field = np.asarray(augment.plasma(KEY, SHAPE, 0.0), np.float64)
    rows, columns = (np.linspace(0, 1, n) for n in SHAPE)
    corners = field[[[0, 0], [-1, -1]], [[0, -1], [0, -1]]]
    patch = (
        np.outer(1 - rows, 1 - columns) * corners[0, 0] + np.outer(rows, columns) * corners[1, 1]
    )
    patch += (
        np.outer(1 - rows, columns) * corners[0, 1] + np.outer(rows, 1 - columns) * corners[1, 0]
    )
    np.testing.assert_allclose(field, patch, atol=1e-5)


def test_plasma_changes_contrast_brightness_and_shadow(image):
    grey = jnp.full(SHAPE, 0.5)
    np.testing.assert_allclose(augment.plasma_contrast(KEY, grey), 0.5, atol=1e-6)
    bright = augment.plasma_brightness(KEY, grey, intensity=(0.3, 0.3))
    assert float(bright.min()) == pytest.approx(0.2, abs=1e-5)
    assert float(bright.max()) == pytest.approx(0.8, abs=1e-5)
    shaded = augment.plasma_shadow(KEY, grey, intensity=(0.2, 0.2), quantity=(0.4, 0.4))
    np.testing.assert_allclose(np.unique(shaded), [0.5, 0.7], atol=1e-6)
    none = augment.plasma_shadow(KEY, image, quantity=(0.0, 0.0))
    np.testing.assert_allclose(none, image, atol=1e-6)


def test_a_rectangle_of_the_given_area_is_erased():
    square = jnp.full((40, 40), 0.25)
    for key in jax.random.split(KEY, 4):
        gone = np.asarray(augment.erasing(key, square, (0.1, 0.1), (0.5, 0.5), (1.0, 1.0)) == 1)
        rows, columns = np.flatnonzero(gone.any(1)), np.flatnonzero(gone.any(0))
        assert gone[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert rows.size == pytest.approx(np.sqrt(160 / 2), abs=1)
        assert columns.size == pytest.approx(np.sqrt(160 * 2), abs=1)


def test_a_collimator_covers_what_it_says():
    made = np.asarray(augment.collimation(KEY, jnp.ones((40, 20)), (0.25, 0.25), (0.5, 0.5)))
    expected = np.full((40, 20), 0.5)
    expected[10:30, 5:15] = 1
    np.testing.assert_array_equal(made, expected)
    widths = [
        np.flatnonzero(np.asarray(augment.collimation(key, jnp.ones((40, 20)), (0.0, 0.4))).any(1))
        for key in jax.random.split(KEY, 6)
    ]
    assert len({(int(w[0]), int(w[-1])) for w in widths}) > 1


def test_clahe_is_the_interpolated_histograms_of_its_tiles(image):
    """Against plain loops: 8 x 8 tiles, 128 bins, curves interpolated between tiles' middles."""
    from jxreg.augmentation.equalisation import BINS, TILES

    limit = 2.5
    x = np.asarray(image)
    level = np.clip((x * BINS).astype(int), 0, BINS - 1)
    height, width = (n // TILES for n in SHAPE)
    curves = np.empty((TILES, TILES, BINS))
    for i, j in np.ndindex(TILES, TILES):
        tile = level[i * height : (i + 1) * height, j * width : (j + 1) * width]
        count = np.bincount(tile.ravel(), minlength=BINS).astype(float)
        top = limit * tile.size / BINS
        excess = np.maximum(count - top, 0).sum()
        curves[i, j] = np.cumsum(np.minimum(count, top) + excess / BINS) / tile.size
    rows, columns = (np.arange(n) * TILES / n + 0.5 * TILES / n - 0.5 for n in SHAPE)
    expected = np.empty(SHAPE)
    for r, c in np.ndindex(SHAPE):
        at = [[rows[r]], [columns[c]]]
        expected[r, c] = scipy.ndimage.map_coordinates(
            curves[..., level[r, c]], at, order=1, mode="nearest"
        )[0]
    np.testing.assert_allclose(augment.equalised(image, limit), expected, atol=1e-5)


def test_clahe_spreads_grey_values_that_are_close_together(image):
    faint = 0.4 + 0.1 * image
    spread = [float(augment.equalised(faint, limit).std()) for limit in (1.0, 4.0, 40.0)]
    assert spread[0] < 1.5 * float(faint.std())
    assert spread[0] < spread[1] < spread[2]


def test_steps_happen_in_order_and_as_often_as_they_say(image):
    half = augment.Step(lambda key, x: 0.5 * x, 1.0)
    more = augment.Step(lambda key, x: x + 0.1, 1.0)
    np.testing.assert_allclose(
        augment.compose(half, more)(KEY, image), 0.5 * image + 0.1, atol=1e-6
    )
    never = augment.compose(half._replace(probability=0.0))
    np.testing.assert_array_equal(never(KEY, image), image)
    at_times = augment.compose(half._replace(probability=0.3), more._replace(probability=0.6))
    keys = jax.random.split(KEY, 2000)
    values = np.asarray(jax.vmap(at_times, (0, None))(keys, jnp.ones((1, 1)))).ravel()
    for value, share in ((1.0, 0.28), (0.5, 0.12), (1.1, 0.42), (0.6, 0.18)):
        assert np.isclose(values, value).mean() == pytest.approx(share, abs=0.045)  # 4 sigma


CAMERA = jxreg.Camera.from_sdd(sdd=1000.0, image_size=(32, 32), pixel_spacing=(8.0, 8.0))


def test_an_exposure_without_noise_and_scatter_is_the_polychromatic_attenuation():
    """Against the sum over all bins of the spectrum; channels are line integrals at the CT's."""
    x, y = jnp.meshgrid(jnp.linspace(0, 4, 32), jnp.linspace(0, 3, 32))
    lengths = jnp.stack([x, y])
    clean = augment.Exposure((80.0,), photons=(1e12, 1e12), scatter=(0.0, 0.0))
    made = augment.exposed(KEY, lengths, CAMERA, clean)
    materials = (material("soft"), material("bone"))
    areas = lengths * jnp.asarray(area_scales(materials), jnp.float32)[:, None, None]
    full = beam_of(tube_spectrum(80.0, (("aluminium", 3.0),)), materials)
    np.testing.assert_allclose(made, attenuate(full, areas), atol=3e-3)
    split = jnp.stack([x, 0.25 * y, 0.75 * y])  # bone in two labels
    np.testing.assert_allclose(augment.exposed(KEY, split, CAMERA, clean), made, atol=1e-4)


def test_a_higher_voltage_shows_less_of_bone():
    lengths = jnp.zeros((2, 32, 32)).at[0, :, :16].set(1.0).at[1, :, 16:].set(1.0)
    ratios = []
    for kilovolts in (60.0, 110.0):
        clean = augment.Exposure((kilovolts,), photons=(1e12, 1e12), scatter=(0.0, 0.0))
        image = augment.exposed(KEY, lengths, CAMERA, clean)
        ratios.append(float(image[0, -1] / image[0, 0]))
    assert ratios[0] > 1.1 * ratios[1] > 1.1


def test_noise_follows_the_photons_and_scatter_lifts_the_dark():
    lengths = jnp.full((2, 32, 32), 0.5)
    expose = partial(augment.exposed, KEY, lengths, CAMERA)
    quiet = expose(augment.Exposure((80.0,), photons=(1e12, 1e12), scatter=(0.0, 0.0)))
    noisy = expose(augment.Exposure((80.0,), photons=(1e4, 1e4), scatter=(0.0, 0.0)))
    expected = jnp.sqrt(jnp.exp(quiet.mean()) / 1e4)  # relative noise of what arrives
    assert float((noisy - quiet).std()) == pytest.approx(float(expected), rel=0.1)
    hazy = expose(augment.Exposure((80.0,), photons=(1e12, 1e12), scatter=(1.0, 1.0)))
    assert float((quiet - hazy).mean()) == pytest.approx(np.log(2), rel=0.02)
