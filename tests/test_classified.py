"""Classified samples of a ray: mass by closed form, agreement with classified voxels, gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import jxreg
from jxreg import simulation
from jxreg.classified import classified_areas
from jxreg.physics import material
from jxreg.physics.intensity import ct
from jxreg.physics.tissue import Thresholds, densities, fractions
from jxreg.volume import Volume, mu_from_hu

CAMERA = jxreg.Camera.from_sdd(sdd=1000.0, image_size=(9, 7), pixel_spacing=(4.0, 4.0))
SOFT_BONE = material("soft"), material("bone")
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def patient() -> Volume:
    """Soft tissue with a block of spongy bone, both thick along the beam."""
    hu = np.full((40, 44, 36), -1000.0, np.float32)
    hu[4:-4, 4:-4, 4:-4] = 40.0
    hu[8:-8, 10:34, 8:-8] = 700.0
    return Volume.from_array(mu_from_hu(hu), AFFINE, pyramid_mm=())


def pose(volume: Volume):
    return jxreg.pose.from_carm(source_to_isocenter=700.0, isocenter=volume.isocenter)


def test_interiors_agree_with_classified_voxels_and_the_closed_form():
    volume = patient()
    seen = jax.jit(functools.partial(classified_areas, per_voxel=8.0))(volume, CAMERA, pose(volume))
    made = simulation.polychromatic(volume, jxreg.physics.tube_spectrum(90.0))
    before = simulation.areas(made, SOFT_BONE, CAMERA, pose(volume))
    hu = jnp.array([40.0, 700.0])
    tissue, bone = np.asarray(densities(hu, fractions(hu), SOFT_BONE)).T
    truth = 0.1 * (24 * 2.0 * bone + (36 - 24) * 2.0 * tissue)  # 24 of 36 voxels, 2 mm each
    # Across a border the values in between mean something else: one voxel's worth at each of four.
    border = 0.1 * 4 * 2.0 * 0.5
    np.testing.assert_allclose(seen[:, 4, 3], truth, atol=border)
    np.testing.assert_allclose(before[:, 4, 3], truth, rtol=2e-3)
    np.testing.assert_allclose(seen, before, atol=border)
    assert float(seen[1].min()) > 2


def test_homogeneous_matter_is_the_same_either_way():
    """Below the bone's ramp density is linear in the value: nothing depends on the order."""
    hu = np.random.default_rng(0).uniform(-1000, 100, (20, 22, 24)).astype(np.float32)
    volume = Volume.from_array(mu_from_hu(hu), AFFINE, pyramid_mm=())
    seen = classified_areas(volume, CAMERA, pose(volume), per_voxel=30.0)
    made = simulation.polychromatic(volume, jxreg.physics.tube_spectrum(90.0))
    before = simulation.areas(made, SOFT_BONE, CAMERA, pose(volume))
    np.testing.assert_allclose(seen[0], before[0], rtol=3e-3)
    np.testing.assert_array_equal(seen[1], 0.0)


def test_gradients_by_thresholds_and_values_are_those_of_finite_differences():
    with jax.enable_x64(True):
        volume = patient()
        mu = jnp.asarray(volume.mu, jnp.float64)
        volume = Volume(mu, jnp.asarray(AFFINE), jnp.asarray(volume.isocenter, jnp.float64))
        weights = jnp.asarray(np.random.default_rng(1).normal(size=(2, 9, 7)))

        @jax.jit
        def total(start, gain):
            model = functools.partial(ct, thresholds=Thresholds(bone_from=start))
            shown = Volume(gain * mu, volume.affine, volume.isocenter)
            return (weights * classified_areas(shown, CAMERA, pose(volume), model)).sum()

        at = jnp.array(150.0), jnp.array(1.0)
        slopes = jax.grad(total, (0, 1))(*at)
        for slope, step in zip(slopes, ((0.1, 0.0), (0.0, 1e-5)), strict=True):
            up, down = (total(at[0] + s * step[0], at[1] + s * step[1]) for s in (1, -1))
            np.testing.assert_allclose(slope, (up - down) / (2 * max(step)), rtol=1e-5)


def test_memory_of_the_gradient_grows_with_the_rays():
    volume = patient()

    def largest(per_voxel):
        def total(mu):
            shown = Volume(mu, volume.affine, volume.isocenter)
            return classified_areas(shown, CAMERA, pose(volume), per_voxel=per_voxel).sum()

        compiled = jax.jit(jax.grad(total)).lower(volume.mu).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    few, many = largest(1.0), largest(64.0)
    samples = 64 * 70 * 9 * 7 * 4  # bytes of one number for every sample
    assert many - few < samples / 4
