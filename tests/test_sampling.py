"""Random motions: their moments, what the numbers mean, and the range that widens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jxreg import convention
from jxreg import pose as poses
from jxreg.errors import InputError
from jxreg.lie import log
from jxreg.sampling import (
    GaussianOffset,
    GaussianTwist,
    Mixture,
    UniformEuler,
    centre,
    checked,
    deviation,
    sample,
)

SIX = (70.0, 50.0, 90.0, 0.2, 0.25, 0.1)
MEAN = (10.0, 5.0, -20.0, 0.05, -0.1, 0.02)
XVR = UniformEuler((-45, 45), (-30, 30), (-15, 15), (-75, 75), (-50, 60), (-150, 150))
COUNT = 4000
ISOCENTER = jnp.array([12.0, -30.0, 55.0])


@pytest.fixture(scope="module")
def keys():
    return jax.random.split(jax.random.key(0), COUNT)


def draw(keys, sampler, share=1.0):
    return jax.jit(jax.vmap(lambda key: sample(key, sampler, share)))(keys)


def six_of(sampler, motions):
    """The numbers that were drawn, recovered from the motions by other code than drew them."""
    if isinstance(sampler, GaussianTwist):
        return jax.vmap(log)(motions)
    rotations = jax.vmap(log)(type(motions).from_rotation(motions.rotation()))[:, 3:]
    return jnp.concatenate([motions.translation(), rotations], 1)


@pytest.mark.parametrize("kind", [GaussianTwist, GaussianOffset])
def test_normal_samplers_have_the_moments_they_say(keys, kind):
    sampler = kind(SIX, MEAN)
    drawn = np.asarray(six_of(sampler, draw(keys, sampler)))
    error = np.array(SIX) / np.sqrt(COUNT)  # of a mean; of a deviation it is 1 / sqrt(2) of it
    assert (np.abs(drawn.mean(0) - MEAN) < 4 * error).all()
    assert (np.abs(drawn.std(0) - SIX) < 4 * error).all()
    np.testing.assert_allclose(centre(sampler), MEAN)
    np.testing.assert_allclose(deviation(sampler), SIX)


def test_a_twist_bends_its_translation_and_an_offset_does_not(keys):
    scale = (0.0, 0.0, 0.0, 0.0, 0.0, 0.5)
    for kind, bends in ((GaussianTwist, True), (GaussianOffset, False)):
        sampler = kind(scale, (100.0, 0.0, 0.0, 0.0, 0.0, 0.0))
        spread = np.asarray(draw(keys[:500], sampler).translation()).std(0).max()
        assert (spread > 10) == bends


def test_uniform_angles_fill_their_intervals_and_turn_as_xvr_does(keys):
    motions = draw(keys, XVR)
    x, y, z = np.asarray(motions.translation()).T
    # The rotation of the pose is the transpose of DiffDRR's, in the axes of the camera.
    axes = jnp.array([[-1.0, 0, 0], [0, 0, -1.0], [0, -1.0, 0]])
    diffdrr = jnp.einsum("ab,ncb,dc->nad", axes, motions.rotation().as_matrix(), axes)
    orbit, tilt, roll = np.asarray(jax.vmap(convention.zxy_degrees)(diffdrr)).T
    for drawn, (low, high) in (
        (orbit, XVR.orbit_degrees),
        (tilt, XVR.tilt_degrees),
        (roll, XVR.roll_degrees),
        (x, XVR.across),
        (y, XVR.down),
        (z, XVR.depth),
    ):
        assert low - 1e-2 <= drawn.min()
        assert drawn.max() <= high + 1e-2
        assert drawn.std() == pytest.approx((high - low) / np.sqrt(12), rel=0.03)
        assert drawn.mean() == pytest.approx((low + high) / 2, abs=0.02 * (high - low))
    expected = np.radians([60, 90, 30]) / np.sqrt(12)
    np.testing.assert_allclose(deviation(XVR)[3:], expected)
    np.testing.assert_allclose(centre(XVR), [0, 5, 0, 0, 0, 0])


def test_a_pose_of_diffdrr_is_the_motion_of_its_numbers():
    """[R | R t] of xvr's angles and translation, by the conversion that has its own tests."""
    angles, translation = (25.0, -12.0, 7.0), jnp.array([30.0, 725.0, -40.0])

    def pose(angles, translation):
        matrix = convention.orbit_matrix(convention.zxy_rotation(angles), translation)
        return convention.from_diffdrr(matrix, reverse_x_axis=False, center=ISOCENTER).pose

    reference = pose((0.0, 0.0, 0.0), jnp.array([0.0, 700.0, 0.0]))
    r1, r2, r3 = ((a, a) for a in angles)
    sampler = UniformEuler(r1, r2, r3, (30.0, 30.0), (-40.0, -40.0), (25.0, 25.0))
    motion = sample(jax.random.key(1), sampler)
    made = poses.moved(reference, motion, ISOCENTER)
    np.testing.assert_allclose(made.as_matrix(), pose(angles, translation).as_matrix(), atol=2e-3)


def test_an_orbit_is_the_primary_angle_of_a_c_arm():
    def carm(primary, secondary, roll):
        return poses.from_carm(
            primary, secondary, roll, source_to_isocenter=700.0, isocenter=ISOCENTER
        )

    sampler = UniformEuler((20.0, 20.0), (-11.0, -11.0), (4.0, 4.0))
    motion = sample(jax.random.key(0), sampler)
    made = poses.moved(carm(30.0, 0.0, 0.0), motion, ISOCENTER)
    np.testing.assert_allclose(made.as_matrix(), carm(50.0, 11.0, 4.0).as_matrix(), atol=1e-3)


def test_numbers_that_move_the_arm_are_the_inverse_motion():
    sampler = UniformEuler((20.0, 20.0), across=(30.0, 30.0))
    arm = sample(jax.random.key(0), UniformEuler((20.0, 20.0), across=(30.0, 30.0), moves_arm=True))
    together = (arm @ sample(jax.random.key(0), sampler)).as_matrix()
    np.testing.assert_allclose(together, np.eye(4), atol=1e-5)


def test_a_mixture_draws_from_each_by_its_weight(keys):
    frontal = GaussianOffset((1.0,) * 3 + (0.01,) * 3)
    lateral = GaussianOffset((1.0,) * 3 + (0.01,) * 3, (0.0, 0.0, 0.0, 0.0, 1.5, 0.0))
    sampler = Mixture((frontal, lateral), (0.7, 0.3))
    about_y = np.asarray(six_of(sampler, draw(keys, sampler)))[:, 4]
    assert np.mean(about_y > 0.75) == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / COUNT))
    assert centre(sampler)[4] == pytest.approx(about_y.mean(), rel=0.1)
    assert deviation(sampler)[4] == pytest.approx(about_y.std(), rel=0.05)


def test_the_share_widens_about_the_mean_without_compiling_anew(keys):
    sampler = GaussianOffset(SIX, MEAN)
    made = jax.jit(jax.vmap(lambda key, share: sample(key, sampler, share), in_axes=(0, None)))
    narrow, wide = (six_of(sampler, made(keys[:500], share)) for share in (0.25, 1.0))
    np.testing.assert_allclose(narrow - jnp.array(MEAN), 0.25 * (wide - jnp.array(MEAN)), atol=2e-4)
    point = sample(keys[0], XVR, 0.0)
    np.testing.assert_allclose(point.translation(), [0.0, 5.0, 0.0], atol=1e-6)
    assert made._cache_size() == 1


def test_the_same_key_draws_the_same_motion_compiled_or_not(keys):
    for sampler in (XVR, GaussianTwist(SIX)):
        eager = jax.tree.map(lambda *x: jnp.stack(x), *(sample(key, sampler) for key in keys[:2]))
        compiled = draw(keys[:2], sampler)
        np.testing.assert_allclose(eager.wxyz_xyz, compiled.wxyz_xyz, atol=1e-4)


@pytest.mark.parametrize(
    "sampler",
    [
        GaussianTwist((-1.0,) + (1.0,) * 5),
        GaussianOffset((float("nan"),) * 6),
        UniformEuler((30.0, -30.0)),
        Mixture(()),
        Mixture((XVR,), (1.0, 2.0)),
        Mixture((XVR, UniformEuler((3.0, -3.0)))),
    ],
)
def test_numbers_that_make_no_sense_are_refused(sampler):
    with pytest.raises(InputError):
        checked(sampler)
    assert checked(XVR) is XVR
