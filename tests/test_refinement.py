"""Levenberg-Marquardt on a problem whose answer is known: points seen from an unknown pose."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from seen_points import PIVOT, POINTS, SEEN, START, TRUTH, assert_lanes_are_apart, distance

from jxreg.pose import perturb, twist_between
from jxreg.refinement import LeastSquares, least_squares, levenberg_marquardt


def residuals(pose):
    return {"points": (pose.apply(POINTS) - SEEN) / 10}


@pytest.mark.parametrize("damping", [0.0, 1e-2])
def test_least_squares_finds_the_pose_in_a_few_steps(damping):
    found = levenberg_marquardt(residuals, START, pivot=PIVOT, steps=12, damping=damping)
    assert distance(found.pose) < 2e-3  # float32 at 700 mm resolves 6e-5 mm
    assert int(found.steps) < 12  # it stopped by itself
    assert float(found.value) < 1e-6


def test_trace_is_full_monotone_and_ends_at_the_best():
    found = levenberg_marquardt(residuals, START, pivot=PIVOT, steps=20)
    values = np.asarray(found.trace.value)
    assert (np.diff(values) <= 0).all()
    assert values[-1] == float(found.value)
    assert (np.asarray(found.trace.step_length)[int(found.steps) :] == 0).all()
    last = jax.tree.map(lambda x: x[-1], found.trace.pose)
    assert np.array_equal(last.wxyz_xyz, found.pose.wxyz_xyz)


def test_hessian_is_that_of_the_residuals():
    found = levenberg_marquardt(residuals, START, pivot=PIVOT, steps=12)

    def at(twist):
        return residuals(perturb(found.pose, twist, PIVOT))["points"].ravel()

    jacobian = jax.jacfwd(at)(jnp.zeros(6))
    expected = np.asarray(jacobian.T @ jacobian)
    np.testing.assert_allclose(found.hessian, expected, atol=1e-5 * expected.max())


def test_a_direction_that_nothing_depends_on_stays():
    """Residuals that see only x: no step may blow up along y, z."""

    def only_x(pose):
        return pose.apply(PIVOT)[:1] - TRUTH.apply(PIVOT)[:1]

    found = levenberg_marquardt(only_x, START, pivot=PIVOT, steps=5)
    moved = np.asarray(twist_between(START, found.pose, PIVOT))
    assert abs(float(only_x(START)[0])) > 5
    assert abs(float(only_x(found.pose)[0])) < 1e-2
    assert abs(moved[1:3]).max() < 0.1


def test_a_lane_of_nan_stops_and_leaves_the_others_alone():
    assert_lanes_are_apart(
        lambda pose, scale: levenberg_marquardt(
            lambda p: scale * residuals(p)["points"], pose, pivot=PIVOT, steps=6
        )
    )


@pytest.mark.parametrize("start", [TRUTH, jax.tree.map(lambda x: x * jnp.nan, TRUTH)])
def test_a_search_that_takes_no_step_traces_its_start(start):
    """At the answer, or at no place at all: the value is the start's, not zero."""
    found = levenberg_marquardt(residuals, start, pivot=PIVOT, steps=3, tolerance=jnp.inf)
    at_start = 0.5 * jnp.sum(residuals(start)["points"] ** 2)
    np.testing.assert_allclose(found.trace.value, at_start, atol=1e-9)
    assert int(found.steps) == 0
    np.testing.assert_array_equal(found.trace.step_length, 0)


def test_terms_follow_the_pose_and_a_step_is_judged_under_its_own():
    """Points count only within reach of where they are seen: the nearer, the more take part."""

    def settle(pose, points):
        return (jnp.linalg.norm(points - SEEN, axis=1) < 30).astype(points.dtype)

    problem = LeastSquares(
        observe=lambda pose: pose.apply(POINTS),
        settle=settle,
        residuals=lambda pose, points, near: near[:, None] * (points - SEEN) / 10,
        value=lambda half_squares, near: near.sum(),
    )
    at_start = settle(START, START.apply(POINTS))
    assert 3 < float(at_start.sum()) < len(POINTS)
    run = jax.jit(lambda pose: least_squares(problem, pose, pivot=PIVOT, steps=20))
    found, near = run(START)
    assert distance(found.pose) < 2e-3
    assert float(near.sum()) == len(POINTS)
    assert float(found.trace.value[-1]) == len(POINTS)
    values = np.asarray(found.trace.value)
    assert values[0] > float(at_start.sum())  # the first step brought others within reach
