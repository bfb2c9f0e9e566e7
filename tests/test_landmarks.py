"""Poses from landmarks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jxreg import Camera, metrics
from jxreg.camera import project_points
from jxreg.errors import InputError
from jxreg.landmarks import pose_from_landmarks
from jxreg.pose import from_carm

CAMERA = Camera.from_sdd(1020.0, (256, 200), (1.4, 1.2), mirrored=True)


def marked(seed: int, count: int):
    """Landmarks of a patient of 160 mm, where a C-arm anywhere sees them, and its pose."""
    random = np.random.default_rng(seed)
    points = random.uniform(-80, 80, (count, 3)) + [30.0, -200.0, 900.0]
    primary, secondary, roll = random.uniform(-1, 1, 3) * [180, 60, 30]
    pose = from_carm(
        primary,
        secondary,
        roll,
        source_to_isocenter=random.uniform(600, 800),
        isocenter=points.mean(0),
        offset=random.uniform(-40, 40, 3),
    )
    points = jnp.asarray(points, float)
    return points, np.array(project_points(CAMERA, pose, points)), pose


@pytest.mark.parametrize("seed", range(8))
def test_exact_landmarks_give_the_pose(seed):
    points, pixels, pose = marked(seed, 9)
    located = pose_from_landmarks(CAMERA, points, jnp.asarray(pixels))
    assert float(metrics.mtre(located.pose, pose, points)) < 0.1
    assert located.fits.all()


@pytest.mark.parametrize("seed", range(8))
def test_wrong_landmarks_are_told_and_do_not_count(seed):
    points, pixels, pose = marked(seed, 9)
    noisy = pixels + np.random.default_rng(seed).normal(0, 0.5, pixels.shape)
    noisy[:2] = noisy[1::-1]  # two labels mixed up
    noisy[2] += [40.0, -30.0]
    located = pose_from_landmarks(CAMERA, points, jnp.asarray(noisy))
    assert float(metrics.mrpd(located.pose, pose, points)) < 1.5
    wrong = np.linalg.norm((noisy - pixels) * [1.2, 1.4], axis=1) > 12
    np.testing.assert_array_equal(np.asarray(located.fits), ~wrong)


def test_a_landmark_that_is_not_seen_is_left_out():
    points, pixels, pose = marked(3, 9)
    pixels[4] = np.nan
    located = pose_from_landmarks(CAMERA, points, jnp.asarray(pixels))
    assert float(metrics.mtre(located.pose, pose, points)) < 0.1
    np.testing.assert_array_equal(np.asarray(located.fits), np.arange(9) != 4)
    assert np.isnan(located.error_mm[4])


def test_it_compiles_into_a_batch():
    points, pixels, pose = marked(5, 9)
    several = jnp.stack([pixels, pixels + 3.0])
    batch = jax.vmap(lambda p: pose_from_landmarks(CAMERA, points, p))(several)
    alone = pose_from_landmarks(CAMERA, points, several[1])
    # Not their quaternions: q and -q are one rotation.
    np.testing.assert_allclose(batch.pose.as_matrix()[1], alone.pose.as_matrix(), atol=1e-2)
    assert float(metrics.mtre(alone.pose, pose, points)) > 1


@pytest.mark.parametrize("count, pixels", [(3, 3), (6, 5)])
def test_too_few_landmarks_are_refused(count, pixels):
    points, seen, _ = marked(0, count)
    with pytest.raises(InputError, match="landmarks: .*mark more landmarks"):
        pose_from_landmarks(CAMERA, points, jnp.asarray(seen[:pixels]))
