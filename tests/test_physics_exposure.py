"""The detector side of the physics: closed forms, moments of many draws, finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jxreg.camera import Camera, pixel_spacing
from jxreg.physics import blur, exposure, field, noise, readout, response
from jxreg.physics.exposure import Setup
from jxreg.physics.materials import mass_attenuation, material
from jxreg.physics.scatter import Grid, Scatter, scattered
from jxreg.physics.signal import (
    Response,
    attenuation_of,
    mean_weights,
    quanta,
    reduced_quanta,
    signal_of,
)
from jxreg.physics.spectra import tube_spectrum

pytestmark = pytest.mark.usefixtures("float64")

ENERGIES = np.array([30.0, 45.0, 60.0, 80.0])
RESPONSE = Response(jnp.array([0.9, 0.7, 0.5, 0.3]), jnp.array(ENERGIES), 0.8)
PHOTONS = jnp.array([1000.0, 4000.0, 3000.0, 500.0])
KAPPA = jnp.array([[0.38, 0.25, 0.2, 0.18], [1.33, 0.52, 0.31, 0.22]])  # soft tissue and bone
SPACING = jnp.array([0.4, 0.5])


def camera_of(rows=24, columns=32, side=300.0):
    return Camera.from_sdd(1000.0, (rows, columns), (side / rows, side / columns))


def body(camera, thickness=20.0):
    """Areas of a lens of soft tissue with a bone in it [g/cm2]."""
    rows, columns = camera.image_size
    v, u = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    soft = thickness * np.sqrt(np.maximum(0, 0.7 - u**2 - v**2))
    bone = 2.0 * np.exp(-(((u - 0.2) / 0.15) ** 2) - (v / 0.3) ** 2)
    return jnp.array(np.stack([soft, bone]))


def impulse(n=65):
    return jnp.zeros((n, n)).at[n // 2, n // 2].set(1.0)


@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.6, 2.4])
def test_a_gaussian_keeps_the_sum_is_positive_and_as_wide_as_told(sigma):
    spread = blur.gaussian(sigma, 0.7 * sigma)
    image = blur.blurred(impulse(), SPACING, spread)
    assert float(image.sum()) == pytest.approx(1.0)
    assert float(image.min()) > -1e-14
    offsets = np.arange(65) - 32.0
    variance = [float(image.sum(1 - axis) @ offsets**2) for axis in (0, 1)]
    expected = (np.array([sigma, 0.7 * sigma]) / np.asarray(SPACING)) ** 2
    np.testing.assert_allclose(variance, expected, rtol=1e-6, atol=1e-13)


def test_modulation_transfer_is_what_the_blur_does_to_a_wave():
    spread = blur.with_tail(0.6, 0.3, 3.0)
    k = 9
    wave = jnp.cos(jnp.pi * k * (jnp.arange(128) + 0.5) / 128)[None] * jnp.ones((8, 1))
    after = blur.blurred(wave, jnp.array([0.5, 0.2]), spread)
    frequency = k / (2 * 128 * 0.2)  # 0.18 / mm
    expected = blur.modulation(spread, jnp.array([frequency]))[0]
    # the discrete Gaussian has sin(w / 2)^2 where the continuous one has (w / 2)^2
    np.testing.assert_allclose(after, expected * wave, rtol=5e-3, atol=1e-9)
    half = blur.of_half_frequency(1.3)
    assert float(blur.modulation(half, jnp.array([1.3]))[0]) == pytest.approx(0.5)


def test_focal_spot_is_magnified():
    spot = blur.focal_spot(0.6, 0.3, source_to_object=750.0, sdd=1000.0)
    fwhm = np.sqrt(8 * np.log(2)) * np.asarray(spot.sigmas[0])
    np.testing.assert_allclose(fwhm, [0.1, 0.2])  # 1000 / 750 - 1 = 1 / 3


def test_texture_keeps_the_variance_and_its_energy_is_that_of_the_kernel():
    spread = blur.with_tail(0.5, 0.2, 1.5)
    white = jax.random.normal(jax.random.key(0), (512, 512))
    rough = blur.correlated(white, SPACING, spread)
    assert float(rough.var()) == pytest.approx(float(white.var()), rel=0.02)
    kernel = blur.blurred(impulse(), SPACING, spread)
    energy = blur.energy(impulse(), SPACING, spread)
    assert float(energy) == pytest.approx(float((kernel**2).sum()), rel=1e-6)
    beside = float((rough * jnp.roll(rough, 1, 1)).mean() / rough.var())
    expected = float((kernel * jnp.roll(kernel, 1, 1)).sum() / (kernel**2).sum())
    assert beside == pytest.approx(expected, abs=0.01)


def test_photons_a_pixel_add_up_to_the_solid_angle():
    camera = camera_of(200, 160, 800.0)
    total = float(field.photons_per_pixel(camera).sum()) / 1e6
    a, d = 400.0, 1000.0
    solid_angle = 4 * np.arctan(a * a / (d * np.sqrt(2 * a * a + d * d)))
    assert total == pytest.approx(solid_angle, rel=1e-5)
    middle = Camera.from_sdd(1000.0, (3, 3), (0.5, 0.4))
    assert float(field.photons_per_pixel(middle)[1, 1]) == pytest.approx(0.2)


def test_heel_falls_towards_the_anode():
    camera = camera_of(3, 201, 800.0)
    factor = field.heel_factor(camera, field.Heel(12.0, 0.04))[1]
    assert float(factor[100]) == pytest.approx(1.0)
    angle = np.arctan(80 * 800 / 201 / 1000)
    for pixel, sign in ((180, 1), (20, -1)):
        alpha = np.radians(12)
        path = 1 / np.sin(alpha - sign * angle) - 1 / np.sin(alpha)
        expected = np.exp(-0.04 * path) if alpha > sign * angle else 0.0
        assert float(factor[pixel]) == pytest.approx(expected)
    assert float(factor[180]) == 0.0  # 17.7 degrees: in the shadow of the anode
    turned = field.heel_factor(camera, field.Heel(12.0, 0.04, anode_degrees=180.0))[1]
    np.testing.assert_allclose(turned, factor[::-1])


def test_the_shadow_of_the_anode_is_dark_and_finite():
    camera, setup = camera_of(4, 8, 800.0), Setup(heel=field.Heel(), electronic_noise=20.0)
    areas = jnp.ones((2, 4, 8))

    def image(photons):
        primary = exposure.primary_signal(areas, quanta(KAPPA, photons, RESPONSE), camera, setup)
        noisy = exposure.drawn(jax.random.key(0), primary, camera, setup)
        return jnp.stack([attenuation_of(x, primary.reference) for x in (primary.mean, noisy)])

    def with_slope(photons):
        return image(photons), jax.grad(lambda photons: image(photons).sum())(photons)

    shown, slope = jax.jit(with_slope)(PHOTONS)
    np.testing.assert_allclose(shown[:, :, -1], -np.log(1e-6), rtol=1e-6)
    assert float(shown[0, :, :5].max()) < 3
    assert bool(jnp.isfinite(shown).all() and jnp.isfinite(slope).all())


def test_collimator_opens_a_turned_rectangle_and_an_iris():
    camera = Camera.from_sdd(1000.0, (101, 101), (1.0, 1.0))
    blades = field.Collimator(half_width=20.0, half_height=10.0, penumbra=0.3, leak=0.01)
    factor = field.collimator_factor(camera, blades)
    assert float(factor[50, 50]) == pytest.approx(1.0)
    assert float(factor[50, 70]) == pytest.approx(0.01 + 0.99 / 2)  # on the edge
    assert float(factor[50, 75]) == pytest.approx(0.01)
    assert float(factor.sum()) == pytest.approx(0.01 * 101**2 + 0.99 * 40 * 20, rel=1e-4)
    turned = field.collimator_factor(camera, blades._replace(turn_degrees=90.0))
    np.testing.assert_allclose(turned, factor.T, atol=1e-12)
    iris = field.collimator_factor(camera, field.Collimator(radius=30.0, leak=0.0))
    assert float(iris.sum()) == pytest.approx(np.pi * 30**2, rel=1e-3)
    hard = field.collimator_factor(camera, blades._replace(penumbra=0.0, leak=0.0))
    assert [float(x) for x in hard[50, 69:72]] == [1.0, 0.5, 0.0]


def test_a_scintillator_absorbs_by_its_area_and_its_edges():
    made = response.scintillator(np.array([33.0, 36.5, 60.0]), 0.5, 0.8, escape_kev=4.0)
    kappa = mass_attenuation(material("CsI", 4.51), np.array([33.0, 36.5, 60.0]))
    np.testing.assert_allclose(made.absorbed, 1 - np.exp(-kappa * 4.51 * 0.05 * 0.8), rtol=1e-6)
    assert float(made.absorbed[1]) > 1.3 * float(made.absorbed[0])  # beyond both K-edges
    np.testing.assert_allclose(made.signal, [33.0, 32.5, 56.0])
    assert made.swank == 0.85
    every = response.ideal(np.array([33.0, 60.0]))
    np.testing.assert_array_equal(every.absorbed * every.signal, [33.0, 60.0])


def test_a_counting_detector_counts_what_is_above_its_threshold():
    made = response.counting(
        np.array([20.0, 30.0, 31.0, 50.0]), threshold_kev=30.0, resolution_kev=2.0
    )
    sigma = 0.6914624612740131  # the normal distribution at half a standard deviation
    np.testing.assert_allclose(made.absorbed, [0, 0.5, sigma, 1], atol=1e-6)
    np.testing.assert_array_equal(made.signal, 1.0)
    hard = response.counting(np.array([29.5, 30.5, 31.5]), threshold_kev=30.5, resolution_kev=0.0)
    np.testing.assert_array_equal(hard.absorbed, [0.0, 0.5, 1.0])
    signal = exposure.primary_signal(
        jnp.zeros((2, 4, 4)), quanta(KAPPA, PHOTONS, made), camera_of(4, 4)
    )
    np.testing.assert_allclose(signal.variance, signal.mean)  # Poisson
    thin = response.counting(np.array([60.0]), absorber=material("titanium"), thickness_mm=1.0)
    kappa = mass_attenuation(material("titanium"), np.array([60.0]))
    np.testing.assert_allclose(thin.absorbed, 1 - np.exp(-kappa * 0.451), rtol=5e-3)


def test_relative_noise_of_a_flat_panel_is_that_of_an_independent_computation():
    # not computed by this package: 100 kVp, 3 mm Al, 10^4 photons, 0.6 mm of CsI, 80 % packed
    spectrum = tube_spectrum(100.0)
    photons = jnp.asarray(1e4 * spectrum.photons / spectrum.photons.sum())
    tissues = material("soft"), material("bone")
    kappa = jnp.asarray(np.stack([mass_attenuation(one, spectrum.energies) for one in tissues]))
    areas = jnp.array([[0.0, 10.0, 20.0, 30.0], [0.0, 0.0, 2.0, 5.0]])[:, None]
    made = response.scintillator(spectrum.energies, 0.6, 0.8, swank=1.0)
    every = quanta(kappa, photons, made)
    signal = signal_of(areas, every, jnp.ones((1, 4)))
    relative = 100 * jnp.sqrt(signal.variance) / signal.mean
    few = signal_of(areas, reduced_quanta(every, (40.0, 12.0)), jnp.ones((1, 4)))
    np.testing.assert_allclose(few.mean, signal.mean, rtol=3e-4)
    np.testing.assert_allclose(few.variance, signal.variance, rtol=3e-4)
    np.testing.assert_allclose(relative[0], [1.14, 3.8, 15.9, 67.7], rtol=5e-3)  # rounded


def moments_of(image):
    return float(image.mean()), float(image.var())


@pytest.mark.parametrize("exact", [False, True])
def test_noise_has_mean_and_variance_of_the_compound_poisson_process(exact):
    # 4.1e5 draws: the variance of a sample is known to sqrt(2 / n) = 0.22 %
    side, soft, bone = 640, 10.0, 1.0
    camera = Camera.from_sdd(1e6, (side, side), (0.2, 0.2))  # far away: every pixel is alike
    areas = jnp.array([soft, bone])[:, None, None] * jnp.ones((2, side, side))
    photons = 2e6 * PHOTONS  # per mm2 at 1 m, 40 mm2 / 1e6 of it a pixel
    passed = np.asarray(photons) * 0.04e-6 * np.exp(-np.array([soft, bone]) @ np.asarray(KAPPA))
    signal, absorbed = np.asarray(RESPONSE.signal), np.asarray(RESPONSE.absorbed)
    mean = (passed * absorbed * signal).sum()
    variance = (passed * absorbed * signal**2).sum() / 0.8 + 30.0**2
    setup = Setup(electronic_noise=30.0)
    key = jax.random.key(3)
    if exact:
        image = exposure.sampled(key, areas, KAPPA, photons, RESPONSE, camera, setup)
    else:
        primary = exposure.primary_signal(areas, quanta(KAPPA, photons, RESPONSE), camera)
        image = exposure.drawn(key, exposure.exposed(primary, camera, setup), camera, setup)
    found = moments_of(image)
    assert found[0] == pytest.approx(mean, rel=5e-3)
    assert found[1] == pytest.approx(variance, rel=5e-3)


@pytest.mark.slow
def test_a_sampled_image_agrees_with_what_is_expected_of_it():
    camera = camera_of(16, 16)
    setup = Setup(
        field.Heel(),
        field.Collimator(half_width=120.0, penumbra=8.0),
        focal_spot=blur.gaussian(15.0),
        scatter=Scatter(),
        grid=Grid(),
        transfer=blur.gaussian(20.0),
    )
    areas, photons = body(camera, 5.0), PHOTONS / 200
    primary = exposure.primary_signal(areas, quanta(KAPPA, photons, RESPONSE), camera, setup)
    expected = exposure.exposed(primary, camera, setup)
    keys = jax.random.split(jax.random.key(1), 200)
    draw = functools.partial(
        exposure.sampled,
        areas=areas,
        kappa=KAPPA,
        photons=photons,
        response=RESPONSE,
        camera=camera,
        setup=setup,
    )
    images = jax.lax.map(draw, keys)
    error = (images.mean(0) - expected.mean) / jnp.sqrt(expected.variance / len(keys))
    assert float(jnp.abs(error).max()) < 5  # standard deviations, of 256 pixels
    inside = images.var(0)[4:-4, 4:-4].sum() / expected.variance[4:-4, 4:-4].sum()
    assert float(inside) == pytest.approx(1.0, abs=0.06)  # sqrt(2 / 200 / 64) = 1.3 %, and texture


def primary_of(thickness=20.0, photons=PHOTONS, camera=None):
    camera = camera_of() if camera is None else camera
    areas = body(camera, thickness) * (thickness > 0)
    return exposure.primary_signal(areas, quanta(KAPPA, photons, RESPONSE), camera)


def stray(signal, scatter=Scatter()):
    return scattered(signal, pixel_spacing(camera_of()), scatter)


def test_scatter_is_zero_in_air_linear_in_the_beam_and_grows_with_thickness():
    assert float(stray(primary_of(0.0)).max()) == 0.0
    assert float(stray(primary_of(0.0), Scatter(ratio=1.0)).max()) == 0.0
    once, thrice = stray(primary_of()), stray(primary_of(photons=3 * PHOTONS))
    np.testing.assert_allclose(thrice, 3 * once)
    assert float(once.min()) >= 0.0
    ratios = [
        float((stray(primary_of(t)) / primary_of(t).mean)[12, 16]) for t in (5.0, 10.0, 20.0, 30.0)
    ]
    assert (np.diff(ratios) > 0).all()


def test_scatter_has_the_amount_of_the_formula_and_the_ratio_that_is_asked_for():
    signal = primary_of()
    passed = np.asarray(signal.mean / signal.incident)
    depth = np.maximum(-np.log(passed), 0)
    source = 0.05 * np.asarray(signal.mean) * passed**-0.1 * depth**1.3 * (depth > 1e-3)
    scatter = Scatter(None, 0.05, -0.1, 1.3)
    np.testing.assert_allclose(stray(signal, scatter).sum(), source.sum(), rtol=1e-9)
    image = np.asarray(stray(signal, Scatter(ratio=0.7)))
    shadow = (1 - passed) * (passed < 0.999)
    assert (shadow * image).sum() / (shadow * signal.mean).sum() == pytest.approx(0.7)


def test_a_grid_cleans_the_image():
    camera, primary = camera_of(), primary_of()
    scatter = Setup(scatter=Scatter(ratio=2.0))
    without, behind = (
        exposure.exposed(primary, camera, setup)
        for setup in (scatter, scatter._replace(grid=Grid()))
    )
    added = [s.mean / s.reference - primary.mean / primary.reference for s in (without, behind)]
    np.testing.assert_allclose(added[1], 0.15 / 0.7 * added[0], rtol=1e-9)
    clear = attenuation_of(primary.mean, primary.reference)
    assert float(attenuation_of(without.mean, without.reference).max()) < float(clear.max())


def full_setup():
    return Setup(
        field.Heel(anode_degrees=20.0),
        field.Collimator(half_width=140.0, half_height=120.0, penumbra=5.0),
        blur.focal_spot(0.6, 0.4, 700.0, 1000.0),
        Scatter(ratio=1.2),
        Grid(),
        blur.with_tail(0.0, 0.1, 40.0),
        blur.of_half_frequency(0.05),
        electronic_noise=20.0,
    )


def image_of(areas, kappa, photons, response, setup, camera, key):
    primary = exposure.primary_signal(areas, quanta(kappa, photons, response), camera, setup)
    image = exposure.drawn(key, exposure.exposed(primary, camera, setup), camera, setup)
    return attenuation_of(image, primary.reference)


def test_gradients_agree_with_finite_differences():
    camera, key = camera_of(), jax.random.key(5)
    inputs = (body(camera), KAPPA, 50 * PHOTONS, RESPONSE, full_setup())
    flat, restore = ravel_pytree(jax.tree.map(lambda x: jnp.asarray(x, float), inputs))
    weights = jax.random.normal(jax.random.key(6), camera.image_size)

    @jax.jit
    @jax.value_and_grad
    def loss(flat):
        return jnp.sum(weights * image_of(*restore(flat), camera, key))

    gradient = loss(flat)[1]
    assert bool(jnp.isfinite(gradient).all())
    for seed in range(4):
        along = jax.random.normal(jax.random.key(seed), flat.shape) * (jnp.abs(flat) + 0.01) * 0.1
        along = along * (flat < 1e5)  # not the iris, which is wide open
        step = 1e-4
        difference = (loss(flat + step * along)[0] - loss(flat - step * along)[0]) / (2 * step)
        assert float(gradient @ along) == pytest.approx(float(difference), rel=1e-5)


def test_an_exposure_compiles_and_batches():
    camera, setup = camera_of(), Setup(scatter=Scatter(ratio=0.5), electronic_noise=20.0)
    keys = jax.random.split(jax.random.key(0), 2)
    areas = jnp.stack([body(camera), body(camera, 8.0)])

    def one(areas, key):
        return image_of(areas, KAPPA, PHOTONS, RESPONSE, setup, camera, key)

    each = jnp.stack([one(a, k) for a, k in zip(areas, keys, strict=True)])
    np.testing.assert_allclose(jax.jit(jax.vmap(one))(areas, keys), each, rtol=1e-9)


def test_nothing_asked_for_changes_nothing():
    camera, primary = camera_of(), primary_of()
    expected = exposure.exposed(primary, camera, Setup())
    for found, given in zip(expected, primary, strict=True):
        np.testing.assert_array_equal(found, given)
    np.testing.assert_array_equal(expected.incident, expected.reference)
    air = mean_weights(PHOTONS, RESPONSE).sum()
    np.testing.assert_allclose(expected.reference, air * field.photons_per_pixel(camera))


def test_noise_of_the_logarithm_to_first_order():
    mean, variance = jnp.full((300, 300), 4e4), jnp.full((300, 300), 1e4)
    key = jax.random.key(2)
    shortcut = noise.noisy_attenuation(key, jnp.zeros_like(mean), mean, variance)
    signal = mean + noise.quantum_noise(key, variance)
    assert float(shortcut.std()) == pytest.approx(0.0025, rel=5e-3)
    assert float(jnp.log(mean / signal).std()) == pytest.approx(0.0025, rel=5e-3)


def test_noise_of_the_logarithm_has_gradients_where_nothing_arrives():
    mean = jnp.array([[0.0, 9.0]])
    attenuation = jnp.zeros_like(mean)

    def total(mean):
        return noise.noisy_attenuation(jax.random.key(0), attenuation, mean, mean).sum()

    slope = jax.grad(total)(mean)
    assert float(slope[0, 0]) == 0.0
    assert bool(jnp.isfinite(slope).all())
    assert float(slope[0, 1]) != 0.0


def test_numbers_are_whole_saturate_and_pass_gradients_on():
    made = readout.Readout(gain=0.5, offset=10.0, top=255.0)
    signal = jnp.array([[0.0, 100.0, 101.3, 1000.0, -100.0]])
    np.testing.assert_array_equal(readout.digitised(signal, made), [[10, 60, 61, 255, 0]])
    slope = jax.grad(lambda s: readout.digitised(s, made).sum())(signal)
    np.testing.assert_array_equal(slope, [[0.5, 0.5, 0.5, 0, 0]])
    back = readout.undigitised(readout.digitised(signal, made), made)
    np.testing.assert_allclose(back[0, :3], signal[0, :3], atol=1.0)
    spread = jnp.linspace(0, 400, 100001)[None]
    error = readout.digitised(spread, made) - (0.5 * spread + 10)
    assert float(error.var()) == pytest.approx(1 / 12, rel=5e-3)
    reference = jnp.full((2, 2), 3e5)
    assert float(readout.digitised(reference, readout.full_scale(reference, 12)).max()) == 3276


def test_display_curves():
    image = jnp.array([[-10.0, 1.0, 2.0, 3.0, 10.0]])
    np.testing.assert_allclose(readout.linear_display(image, 2.0, 4.0), [[0, 0.25, 0.5, 0.75, 1]])
    shown = readout.sigmoid_display(image, 2.0, 4.0)
    np.testing.assert_allclose(shown[0, 1], 1 / (1 + np.exp(1.0)))
    table = readout.table_display(image, jnp.array([1.0, 2.0]), jnp.array([0.2, 0.8]))
    np.testing.assert_allclose(table, [[0.2, 0.2, 0.8, 0.8, 0.8]])
