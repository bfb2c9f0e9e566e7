"""X-rays of a volume of materials: one energy, the full sum, gradients through all of it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jxreg
from jxreg import drr, simulation
from jxreg.alignment import Level
from jxreg.physics import attenuate, beam_of, intensity, material, monochromatic, tube_spectrum
from jxreg.physics.tissue import at_energy
from jxreg.pose import perturb
from jxreg.volume import MU_WATER, Volume, mu_from_hu, prepared

CAMERA = jxreg.Camera.from_sdd(sdd=1020.0, image_size=(24, 24), pixel_spacing=(13.0, 13.0))
SOFT_BONE = material("soft"), material("bone")
SPECTRUM = tube_spectrum(90.0)


@functools.cache
def patient() -> Volume:
    hu = np.full((24, 22, 26), -1000.0, np.float32)
    hu[3:-3, 3:-3, 3:-3] = 40
    hu[8:12, 8:14, 6:20] = 900
    hu[14:16, 12:15, 5:22] = 1800
    affine = np.diag([8.0, 8.0, 8.0, 1.0])
    return Volume.from_array(mu_from_hu(hu), affine, pyramid_mm=(16.0,))


@functools.cache
def in_a_beam() -> Volume:
    return simulation.polychromatic(patient(), SPECTRUM)


def pose(volume: Volume):
    return jxreg.pose.from_carm(20.0, 5.0, source_to_isocenter=700.0, isocenter=volume.isocenter)


@jax.jit
def project(volume, pose):
    return simulation.project(volume, CAMERA, pose, drr.joseph())


@jax.jit
def lengths_of(volume, pose):
    return drr.render(volume, CAMERA, pose, drr.joseph())


def lengths(volume, pose):
    """Line integrals of both channels, compiled once whatever the beam."""
    return lengths_of(prepared(dataclasses.replace(volume, beam=None, coarser=())), pose)


def test_channels_add_up_to_the_ct():
    volume, made = patient(), in_a_beam()
    np.testing.assert_allclose(made.mu.sum(0), volume.mu, rtol=2e-6)
    np.testing.assert_allclose(made.coarser[0].mu.sum(0), volume.coarser[0].mu, rtol=2e-6)
    assert made.coarser[0].beam is not None
    assert made.packed is not None
    other = simulation.polychromatic(volume, SPECTRUM, model=intensity.model("ct", energy_ct=60.0))
    np.testing.assert_allclose(other.mu.sum(0), volume.mu, rtol=2e-6)


def test_a_volume_of_labels_is_made_of_their_materials():
    ids = np.zeros((8, 8, 8), np.float32)
    ids[2:6, 2:6, 2:6], ids[3:5, 3:5, 3:5] = 3, 117
    volume = Volume.from_array(mu_from_hu(ids), np.diag([2.0, 2.0, 2.0, 1.0]), pyramid_mm=())
    model = intensity.model("labels", of={3: "soft", 117: "bone"})
    made = simulation.polychromatic(volume, SPECTRUM, model=model)
    grams = 10 * made.mu.sum((1, 2, 3)) * simulation.area_scales(SOFT_BONE)
    np.testing.assert_allclose(grams, [56 * 1.06, 8 * 1.92], rtol=1e-5)


def test_one_energy_gives_the_plain_image():
    """At the energy of the CT, to the rounding of single precision."""
    volume = patient()
    mixture = intensity.ct(simulation.hounsfield(volume.mu))
    made = simulation.material_volume(volume, mixture, monochromatic(SOFT_BONE, 70.0))
    water = 0.1 * at_energy(material("water"), 70.0)
    shown = attenuate(made.beam, lengths(made, pose(volume)))
    plain = project(volume, pose(volume)) * water / MU_WATER
    np.testing.assert_allclose(shown, plain, rtol=5e-5, atol=5e-5)


def test_is_the_spectrum_over_the_areas_of_the_materials():
    volume, made = patient(), in_a_beam()
    through = lengths(made, pose(volume))
    areas = through * simulation.area_scales(SOFT_BONE)[:, None, None]
    full = attenuate(beam_of(SPECTRUM, SOFT_BONE), areas)
    image = project(made, pose(volume))
    assert float(jnp.abs(image - full).max()) < 2e-4
    whole = simulation.polychromatic(volume, SPECTRUM, bound=None)
    np.testing.assert_allclose(attenuate(whole.beam, through), full, atol=2e-5)
    assert float(image.max()) > 2


def test_areas_are_the_mass_in_the_way():
    """32 mm of 40 HU and nothing else, nearly straight through: density times path."""
    hu = np.full((24, 22, 26), -1000.0, np.float32)
    hu[:, 9:13] = 40.0
    volume = Volume.from_array(mu_from_hu(hu), np.diag([8.0, 8.0, 8.0, 1.0]), pyramid_mm=(16.0,))
    made = simulation.polychromatic(volume, SPECTRUM)
    front = jxreg.pose.from_carm(0.0, 0.0, source_to_isocenter=700.0, isocenter=volume.isocenter)
    soft, bone = lengths(made, front)[:, 12, 12] * simulation.area_scales(SOFT_BONE)
    density = 1.04 * at_energy(material("water"), 70.0) / at_energy(material("soft"), 70.0)
    assert float(soft) == pytest.approx(3.2 * density, rel=2e-4)
    assert float(bone) == 0.0


@pytest.mark.slow
def test_pose_and_volume_have_gradients():
    with jax.enable_x64(True):
        volume = simulation.polychromatic(
            Volume.from_array(
                np.asarray(patient().mu, np.float64), patient().affine, pyramid_mm=()
            ),
            SPECTRUM,
        )
        start = pose(volume)
        weight = jnp.asarray(np.random.default_rng(0).normal(size=CAMERA.image_size))
        camera = jax.tree.map(lambda x: jnp.asarray(x, float), CAMERA)

        def total(twist, mu):
            moved = dataclasses.replace(volume, mu=mu)
            image = simulation.project(moved, camera, perturb(start, twist, volume.isocenter))
            return (weight * image).sum()

        total = jax.jit(total)
        by_twist, by_mu = jax.jit(jax.grad(total, (0, 1)))(jnp.zeros(6), volume.mu)
        random = np.random.default_rng(1)
        twist = jnp.asarray(random.normal(size=6) * [1, 1, 1, 0.01, 0.01, 0.01])
        change = jnp.asarray(random.normal(size=volume.mu.shape)) * volume.mu
        step = 1e-5
        up, down = (total(s * twist, volume.mu) for s in (step, -step))
        assert float(by_twist @ twist) == pytest.approx(float(up - down) / (2 * step), rel=1e-5)
        up, down = (total(jnp.zeros(6), volume.mu + s * change) for s in (step, -step))
        along = float((by_mu * change).sum())
        assert along == pytest.approx(float(up - down) / (2 * step), rel=1e-5)


@pytest.mark.slow
def test_pixels_alone_are_those_of_the_image():
    made = in_a_beam()
    pixels = jnp.array([[3.0, 4.0], [12.0, 11.0]])
    some = simulation.project_rays(made, CAMERA, pose(made), pixels, drr.joseph())
    image = project(made, pose(made))
    np.testing.assert_allclose(some, [image[4, 3], image[11, 12]], rtol=1e-5)


def test_batches_of_poses():
    made = in_a_beam()
    poses = jax.tree.map(lambda *x: jnp.stack(x), pose(made), pose(made))
    both = jax.vmap(project, (None, 0))(made, poses)
    np.testing.assert_allclose(both[1], project(made, pose(made)), rtol=1e-6)


@pytest.mark.slow
def test_register_refines_through_the_spectrum():
    """One level, from some 6 mm off; the plain volume explains the hardened image less well."""
    made, volume = in_a_beam(), patient()
    camera = jxreg.Camera.from_sdd(sdd=1020.0, image_size=(64, 64), pixel_spacing=(5.0, 5.0))
    truth = pose(made)
    frame = jxreg.Frame(simulation.project(made, camera, truth, drr.joseph()), camera)
    start = perturb(truth, jnp.array([4.0, -3.0, 3.0, 0.03, -0.02, 0.02]), made.isocenter)
    level = Level(64, 0, similarity="ncc", tolerance=1e-4, steps=30)
    config = jxreg.RegisterConfig(levels=(level,), truncated=False)
    poly, plain = (jxreg.register(v, frame, start, config=config) for v in (made, volume))
    away = poly.pose.apply(made.isocenter) - truth.apply(made.isocenter)
    assert float(jnp.abs(away).max()) < 0.05
    assert float(poly.similarity) > 0.99999
    assert float(plain.similarity) < float(poly.similarity)


def test_few_terms_are_checked_as_far_as_the_volume_goes():
    """60 mm of contrast agent are 0.6 g/cm2 of iodine, four times the default."""
    hu = np.full((24, 22, 26), 0.0, np.float32)
    hu[4:-4, 4:-4, 4:-4] = 3000.0
    volume = Volume.from_array(mu_from_hu(hu), np.diag([4.0, 4.0, 4.0, 1.0]), pyramid_mm=())
    model = intensity.model("cta")
    mixture = model(jnp.asarray(hu))
    made = simulation.polychromatic(volume, SPECTRUM, model=model)
    assert float(mixture.densities[1].max()) * 0.1 * 4.0 * 14 > 0.2
    full = simulation.polychromatic(volume, SPECTRUM, model=model, bound=None)
    along = made.mu.sum(3)[:, 12, 11] * 4.0
    difference = attenuate(made.beam, along) - attenuate(full.beam, along)
    assert abs(float(difference)) < 2e-4
