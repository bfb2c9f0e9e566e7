"""Losses against the published numbers, closed forms and finite differences, and where they end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxlie import SE3, SO3

import jxreg
from jxreg import losses
from jxreg import pose as poses
from jxreg.metrics import mpd
from jxreg.similarity import ncc

CAMERA = jxreg.Camera.from_sdd(sdd=1020.0, image_size=(64, 48), pixel_spacing=(4.0, 4.0))
ISOCENTER = jnp.array([10.0, -20.0, 30.0])
POSE = poses.from_carm(30.0, -10.0, source_to_isocenter=700.0, isocenter=ISOCENTER)
TWIST = jnp.array([4.0, -3.0, 20.0, 0.05, -0.08, 0.03])
LANDMARKS = ISOCENTER + 15 * jax.random.normal(jax.random.key(0), (30, 3))


@jax.jit
def at(twist, start=POSE):
    return poses.perturb(start, twist, ISOCENTER)


@jax.jit
def away(twist, truth, lost):
    """Distance of the projections after a motion, and its gradient."""

    def loss(twist):
        return losses.projection_distance(at(twist), truth, LANDMARKS, CAMERA, lost=lost)

    return jax.value_and_grad(loss)(twist)


def test_the_values_of_the_published_geodesics():
    """0.1 rad at a radius of 510 mm, and a translation of (1, 1, 1) mm."""
    turn = SE3.from_rotation(SO3.from_x_radians(0.1))
    shift = SE3.from_translation(jnp.ones(3))
    both = SE3.from_rotation_and_translation(turn.rotation(), jnp.ones(3))
    here, origin = SE3.identity(), jnp.zeros(3)
    arc, _ = losses.geodesics(turn, here, origin, sdd=1020.0)
    _, apart = losses.geodesics(shift, here, origin, sdd=1020.0)
    assert float(arc) == pytest.approx(51.0, abs=1e-3)
    assert float(apart) == pytest.approx(1.7321, abs=1e-4)
    double = losses.double_geodesic(both, here, origin, sdd=1020.0)
    assert float(double) == pytest.approx(51.0294, abs=1e-3)
    # The twist, whose translation bends, against its own exponential.
    turned = poses.exp(jnp.array([1.0, 1.0, 1.0, 0.1, 0.0, 0.0]))
    assert float(poses.log_geodesic(turned, here)) == pytest.approx(np.sqrt(3 + 0.01), abs=1e-5)
    assert float(poses.log_geodesic(both, here)) == pytest.approx(1.7355, abs=1e-4)


def test_the_translation_is_where_the_camera_sees_the_isocenter():
    turned = at(jnp.array([0.0, 0.0, 0.0, 0.3, -0.2, 0.4]))
    assert float(losses.geodesics(turned, POSE, ISOCENTER, sdd=1020.0)[1]) < 1e-2
    moved = at(jnp.array([3.0, 4.0, 0.0, 0.0, 0.0, 0.0]))
    arc, shift = losses.geodesics(moved, POSE, ISOCENTER, sdd=1020.0)
    assert float(arc) < 1e-2
    assert float(shift) == pytest.approx(5.0, abs=1e-3)


def test_double_geodesic_is_smooth_at_the_truth():
    loss = jax.value_and_grad(
        lambda t: losses.double_geodesic(at(t), POSE, ISOCENTER, sdd=1020.0, eps=1e-4)
    )
    value, gradient = jax.jit(loss)(jnp.zeros(6))
    assert float(value) == pytest.approx(1e-2, rel=1e-2)
    assert np.abs(np.asarray(gradient)).max() < 1e-3


def test_euler_distance_adds_degrees_and_millimetres():
    truth = jnp.array([1.0, 2.0, 3.0, 0.1, 0.2, 0.3])
    estimate = truth + jnp.array([3.0, 4.0, 0.0, np.radians(2.0), 0.0, 0.0])
    assert float(losses.euler_distance(estimate, truth)) == pytest.approx(7.0, abs=1e-4)
    gradient = jax.grad(losses.euler_distance)(truth, truth)
    np.testing.assert_array_equal(gradient, 0)


def test_projection_distance_is_mpd_where_everything_is_in_view():
    expected = mpd(at(TWIST), POSE, LANDMARKS, CAMERA)
    made = losses.projection_distance(at(TWIST), POSE, LANDMARKS, CAMERA)
    assert float(made) == pytest.approx(float(expected), rel=1e-4)


def test_points_out_of_view_do_not_count_and_lost_ones_do():
    """One point stays in view, one leaves it, one was never in it."""
    points = jnp.stack(
        [ISOCENTER, *(POSE.inverse().apply(jnp.array([x, 0.0, 700.0])) for x in (60.0, 90.0))]
    )
    moved = at(jnp.array([10.0, 0.0, 0.0, 0.0, 0.0, 0.0]))  # the border is at 65.9 mm
    magnified = 10 * 1020 / 700
    sums = jax.jit(losses.projection_sums)
    total, weight = sums(moved, POSE, points, CAMERA, lost=0.0)
    np.testing.assert_allclose([total, weight], [magnified, 1], rtol=1e-3)
    total, weight = sums(moved, POSE, points, CAMERA, lost=0.5)
    np.testing.assert_allclose([total, weight], [1.5 * magnified, 1.5], rtol=1e-3)


@pytest.mark.parametrize("shift", [(400.0, 0.0, 0.0), (0.0, 0.0, -900.0), (0.0, 0.0, -700.0)])
def test_a_pose_that_shows_nothing_is_punished_and_pulled_back(shift):
    """Beside the image, behind the source, and at its depth, where x / z has no value."""
    twist = jnp.array([*shift, 0.0, 0.0, 0.0])
    value, gradient = away(twist, POSE, 1.0)
    assert float(value) > 400
    assert float(gradient[:3] @ twist[:3]) > 0
    assert np.isfinite(gradient).all()
    for start, truth, lost in ((twist, POSE, 0.0), (jnp.zeros(6), at(twist), 1.0)):
        nothing, flat = away(start, truth, lost)
        assert float(nothing) == 0
        np.testing.assert_array_equal(flat, 0)


def test_multiview_consistency_sees_relative_errors_only():
    truths = SE3(jnp.stack([at(t * TWIST).wxyz_xyz for t in (0.0, 1.0, -2.0)]))
    same = losses.multiview_consistency(truths, truths, ISOCENTER, sdd=1020.0)
    assert float(same) < 0.1  # float32: 510 mm times an angle of a quaternion
    shared = SE3.exp(jnp.array([5.0, 1.0, -4.0, 0.02, 0.05, 0.0]))
    common = jax.vmap(lambda p: (shared @ SE3(p)).wxyz_xyz)(truths.wxyz_xyz)
    assert float(losses.multiview_consistency(SE3(common), truths, ISOCENTER, sdd=1020.0)) < 0.1
    one = truths.wxyz_xyz.at[1].set(
        at(jnp.array([3.0, 0, 4.0, 0, 0, 0]), SE3(truths.wxyz_xyz[1])).wxyz_xyz
    )
    made = losses.multiview_consistency(SE3(one), truths, ISOCENTER, sdd=1020.0)
    assert float(made) == pytest.approx(2 / 3 * 5.0, abs=0.1)  # two of the three pairs


def shadows(offset):
    """Line integrals through two balls, whose chords are known, moved across by some pixels."""
    v, u = jnp.meshgrid(jnp.arange(30.0), jnp.arange(40.0), indexing="ij")
    chords = []
    for row, column, radius in ((14.0, 18.0, 8.0), (8.0, 30.0, 4.0)):
        inside = radius**2 - (v - row) ** 2 - (u - column - offset) ** 2
        chords.append(2 * jnp.sqrt(jnp.where(inside > 0, inside, 0.0) + 1e-6) * (inside > 0))
    return 0.02 * jnp.stack(chords)


def test_soft_dice_is_zero_at_the_truth_and_falls_towards_it():
    loss = jax.jit(lambda offset: losses.soft_dice(shadows(offset), shadows(0.0)))
    values = [float(loss(offset)) for offset in (0.0, 1.3, 2.6, 4.0)]
    assert values[0] == pytest.approx(0, abs=1e-6)
    assert values == sorted(values)
    slope = float(jax.jit(jax.grad(loss))(2.6))
    numeric = float(loss(2.7) - loss(2.5)) / 0.2
    assert slope > 0.05
    assert slope == pytest.approx(numeric, rel=0.2)  # the outlines of the balls are kinks


def test_soft_dice_of_hard_masks_is_dice_and_an_unseen_label_is_left_out():
    a, b = np.zeros((3, 10, 10), np.float32), np.zeros((3, 10, 10), np.float32)
    a[0, 2:6, 2:6], b[0, 4:8, 2:6] = 100, 100  # 2 * 8 / 32
    a[1, :2], b[1, 5:] = 100, 100  # apart
    a[2, :2] = 100  # the truth does not show it
    dice = jax.jit(jax.value_and_grad(losses.soft_dice))
    made, _ = dice(jnp.asarray(a), jnp.asarray(b))
    assert float(made) == pytest.approx((0.5 + 1.0) / 2, abs=1e-6)
    nothing, gradient = dice(jnp.asarray(a), jnp.zeros((3, 10, 10)))
    assert float(nothing) == 0
    assert np.isfinite(gradient).all()


def test_structure_is_zero_for_the_edges_and_blind_to_gain_and_offset():
    image = jax.random.uniform(jax.random.key(1), (20, 24))
    edges = jnp.pad(losses.edges(image), 1)
    structure = jax.jit(jax.value_and_grad(losses.structure, 1))
    assert float(structure(edges, image)[0]) == pytest.approx(0, abs=1e-5)
    assert float(structure(3 * edges + 7, 2 * image + 1)[0]) == pytest.approx(0, abs=1e-5)
    assert float(structure(-edges, image)[0]) == pytest.approx(2, abs=1e-5)
    ramp = jnp.broadcast_to(jnp.arange(24.0), (20, 24)) + 2 * jnp.arange(20.0)[:, None]
    np.testing.assert_allclose(losses.edges(ramp), np.sqrt(5), rtol=1e-5)
    assert np.isfinite(structure(edges, jnp.ones((20, 24)))[1]).all()


@pytest.mark.parametrize("similarity", [ncc, jxreg.similarity.multiscale_ncc])
def test_dissimilarity_is_one_without_an_image_and_zero_at_the_truth(similarity):
    image = jax.random.uniform(jax.random.key(2), (12, 14))
    loss = jax.jit(jax.value_and_grad(lambda x: losses.dissimilarity(x, image, similarity)))
    assert float(loss(2 * image + 1)[0]) < 0.01
    value, gradient = loss(jnp.zeros((12, 14)))
    assert float(value) == pytest.approx(1, abs=1e-5)
    assert np.isfinite(gradient).all()


def test_gradients_are_those_of_finite_differences():
    with jax.enable_x64(True):
        twist, pivot = jnp.asarray(TWIST, float), jnp.asarray(ISOCENTER, float)
        start = SE3(jnp.asarray(POSE.wxyz_xyz, float))
        camera = jax.tree.map(lambda x: jnp.asarray(x, float), CAMERA)
        landmarks = jnp.asarray(LANDMARKS, float)

        def double(t):
            return losses.double_geodesic(
                poses.perturb(start, t, pivot), start, pivot, sdd=camera.sdd
            )

        def projected(t):
            moved = poses.perturb(start, t, pivot)
            return losses.projection_distance(moved, start, landmarks, camera)

        for loss in (jax.jit(double), jax.jit(projected)):
            step = 1e-5
            numeric = [
                (loss(twist + step * e) - loss(twist - step * e)) / (2 * step) for e in jnp.eye(6)
            ]
            np.testing.assert_allclose(jax.jit(jax.grad(loss))(twist), numeric, rtol=1e-5)


def test_a_batch_is_a_loop():
    twists = jnp.stack([TWIST, -TWIST])
    loss = jax.jit(lambda t: losses.projection_distance(at(t), POSE, LANDMARKS, CAMERA))
    np.testing.assert_allclose(jax.vmap(loss)(twists), [loss(t) for t in twists], rtol=1e-5)
