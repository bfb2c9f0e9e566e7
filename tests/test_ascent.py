"""Gradient ascent on a problem whose answer is known: points seen from an unknown pose."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from seen_points import (
    PIVOT,
    POINTS,
    SEEN,
    START,
    TRUTH,
    assert_lanes_are_apart,
    distance,
    similarity,
)
from similarity_images import quick_jit

from jxreg.ascent import (
    Climb,
    ascend,
    check_climb,
    climb,
    frontal_view,
    parametrised_motion,
    pose_motion,
    refine,
)
from jxreg.errors import InputError
from jxreg.parametrisation import PARAMETRISATIONS
from jxreg.pose import antipodal, from_carm, perturb, rotation_angle, twist_between
from jxreg.refinement import rigid_motion

MOTION = rigid_motion(PIVOT, jnp.float32)
NAMES = [name for name in PARAMETRISATIONS if name != "so3_log"]  # the same map as axis_angle


def quickly(function, *args):
    """Its value, compiled with little optimization."""
    return quick_jit(function)(*args)


def alike(pose):
    """Between 0 and 1, as a similarity of images."""
    return jnp.exp(similarity(pose) / 2000)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_gradient_ascent_keeps_the_best(name):
    optimizer = {
        "adam": optax.adam(optax.cosine_decay_schedule(2.0, 150, 0.01)),
        "sgd": optax.sgd(0.4),
    }[name]
    found = quickly(lambda pose: refine(similarity, pose, optimizer, pivot=PIVOT, steps=150), START)
    assert distance(found.pose) < 0.5
    best = float(found.trace.value.max())
    assert float(found.value) == pytest.approx(best, abs=1e-6)


def test_patience_stops_a_loop_that_gains_nothing():
    def level(pose):
        return 0.0 * similarity(pose)

    sgd = optax.sgd(1.0)
    found = quickly(lambda p: refine(level, p, sgd, pivot=PIVOT, steps=50, patience=3), START)
    assert int(found.steps) == 3


def test_groups_have_their_own_step():
    adam = optax.adam(1.0)
    found = quickly(
        lambda pose: refine(similarity, pose, adam, pivot=PIVOT, steps=3, rotation_scale=1e-9),
        START,
    )
    twist = np.asarray(twist_between(START, found.pose, PIVOT))
    assert abs(twist[3:]).max() < 1e-5
    assert abs(twist[:3]).max() > 0.5


def test_a_lane_of_nan_stops_and_leaves_the_others_alone():
    assert_lanes_are_apart(
        lambda pose, scale: refine(
            lambda p: scale * similarity(p), pose, optax.adam(1.0), pivot=PIVOT, steps=6
        )
    )


def test_a_similarity_that_is_not_finite_ends_the_climb():
    def nowhere(pose):
        return jnp.nan * similarity(pose)

    adam = optax.adam(0.1)
    found = quickly(lambda pose: refine(nowhere, pose, adam, pivot=PIVOT, steps=5), START)
    assert int(found.steps) == 0
    assert np.isnan(found.trace.value).all()


def test_trace_is_of_the_poses_after_each_step():
    adam = optax.adam(1.0)
    found = quickly(lambda pose: refine(similarity, pose, adam, pivot=PIVOT, steps=4), START)
    values = jax.vmap(similarity)(found.trace.pose)
    np.testing.assert_allclose(found.trace.value, values, rtol=1e-4)
    assert float(values[0]) > float(similarity(START))
    first = jax.tree.map(lambda x: x[0], found.trace.pose)
    moved = twist_between(START, first, PIVOT) / MOTION.scale
    np.testing.assert_allclose(found.trace.step_length[0], jnp.linalg.norm(moved), rtol=1e-3)


def test_lbfgs_needs_few_steps():
    lbfgs = Climb("lbfgs", steps=40, patience=3, gain=1e-6)
    found = quickly(lambda pose: climb(alike, pose, lbfgs, MOTION), START)
    assert distance(found.pose) < 0.05
    assert int(found.steps) < 25


def test_steps_shrink_on_each_plateau_and_the_last_one_ends_the_climb():
    def slope_without_gain(pose):
        return alike(pose) - jax.lax.stop_gradient(alike(pose))

    how = {"steps": 50, "patience": 3, "plateaus": 3}
    sgd = optax.sgd(1.0)
    found = quickly(lambda pose: ascend(slope_without_gain, pose, sgd, MOTION, **how), START)
    assert int(found.steps) == 9
    lengths = np.asarray(found.trace.step_length[:9]).reshape(3, 3)
    np.testing.assert_allclose(lengths[1:] / lengths[:-1], 0.1, rtol=0.2)  # slopes differ a little


@pytest.mark.parametrize(
    "name",
    [
        each
        if each in ("euler", "quaternion_adjugate")
        else pytest.param(each, marks=pytest.mark.slow)
        for each in NAMES
    ],
)
def test_adam_climbs_in_every_parametrisation(name):
    how = Climb(steps=200, last=0.005, parametrisation=name)
    found = quickly(lambda pose: climb(alike, pose, how, pose_motion(how, pose, PIVOT)), START)
    assert distance(found.pose) < 0.5


@pytest.mark.parametrize("name", NAMES)
def test_numbers_that_do_not_change_leave_the_pose(name):
    motion = parametrised_motion(name, frontal_view(START, PIVOT), PIVOT)
    move = quick_jit(lambda change: motion.move(START, change))
    stayed = move(jnp.zeros_like(motion.scale))
    # Quaternions of float32, 700 mm from the source.
    np.testing.assert_allclose(twist_between(START, stayed, PIVOT), np.zeros(6), atol=3e-4)
    shifted = move(jnp.zeros_like(motion.scale).at[0].set(2.0))
    if name != "se3_log":
        seen = shifted.apply(PIVOT) - START.apply(PIVOT)
        np.testing.assert_allclose(seen, [2.0, 0.0, 0.0], atol=3e-4)


def test_the_nearer_one_of_two_frontal_views():
    for angle in (-70.0, 30.0, 110.0, 190.0):
        pose = from_carm(angle, 10.0, source_to_isocenter=640.0, isocenter=PIVOT)
        view = frontal_view(pose, PIVOT)
        assert float(rotation_angle(view, pose)) < np.radians(75)
        np.testing.assert_allclose(view.apply(PIVOT), [0.0, 0.0, 640.0], atol=1e-3)
    front = from_carm(source_to_isocenter=640.0, isocenter=PIVOT)
    assert float(rotation_angle(frontal_view(front, PIVOT), front)) < 1e-3
    back = antipodal(front, PIVOT)
    assert float(rotation_angle(frontal_view(back, PIVOT), back)) < 1e-3


def some_points(pose, key):
    """Of a third of the points, others each time."""
    chosen = jax.random.choice(key, len(POINTS), (10,), replace=False)
    return jnp.exp(-jnp.mean((pose.apply(POINTS[chosen]) - SEEN[chosen]) ** 2) / 2000)


def test_a_stochastic_climb_ends_at_its_last_pose_and_hangs_on_its_key():
    how = Climb(steps=150)
    run = quick_jit(lambda key: climb(some_points, START, how, MOTION, key=key))
    found, again, other = (run(jax.random.key(k)) for k in (1, 1, 2))
    assert distance(found.pose) < 1
    last = jax.tree.map(lambda x: x[-1], found.trace.pose)
    np.testing.assert_array_equal(found.pose.wxyz_xyz, last.wxyz_xyz)
    np.testing.assert_array_equal(found.pose.wxyz_xyz, again.pose.wxyz_xyz)
    assert np.abs(np.asarray(found.trace.value - other.trace.value)).max() > 1e-3
    # Each step sees other points: where nothing moves the values still differ.
    sgd = optax.sgd(0.0)
    still = quickly(
        lambda key: ascend(some_points, START, sgd, MOTION, steps=5, key=key), jax.random.key(0)
    )
    assert np.ptp(np.asarray(still.trace.value)) > 1e-3


def test_names_that_nobody_knows_are_refused():
    for wrong in (Climb("sgd"), Climb(schedule="step"), Climb(parametrisation="rotation_9d")):
        with pytest.raises(InputError, match="expected one of"):
            check_climb(wrong)
    with pytest.raises(InputError, match="rotation_9d"):
        pose_motion(Climb(parametrisation="rotation_9d"), START, PIVOT)


@pytest.mark.slow
def test_in_float64_the_answer_has_more_digits():
    with jax.enable_x64(True):
        truth = perturb(TRUTH, jnp.zeros(6, jnp.float64), np.asarray(PIVOT, np.float64))
        points = np.asarray(POINTS, np.float64)
        seen = truth.apply(points)
        start = perturb(truth, jnp.array([3.0, -2.0, 5.0, 0.02, 0.01, 0.03]), PIVOT)

        def score(pose):
            return -jnp.mean((pose.apply(points) - seen) ** 2)

        how = Climb("lbfgs", steps=40)
        motion = rigid_motion(jnp.asarray(PIVOT, jnp.float64), jnp.float64)
        found = quickly(lambda pose: climb(score, pose, how, motion), start)
        assert found.pose.wxyz_xyz.dtype == jnp.float64
        assert float(-score(found.pose)) < 1e-12
