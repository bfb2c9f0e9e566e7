"""Both refinement loops on a problem whose answer is known: points seen from an unknown pose."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jxreg.pose import from_carm, perturb, twist_between
from jxreg.refinement import LeastSquares, least_squares, levenberg_marquardt, refine

PIVOT = jnp.array([10.0, -20.0, 30.0])
TRUTH = from_carm(20.0, -10.0, 5.0, source_to_isocenter=700.0, isocenter=PIVOT)
POINTS = PIVOT + 60 * jax.random.normal(jax.random.key(0), (30, 3))
SEEN = TRUTH.apply(POINTS)
START = perturb(TRUTH, jnp.array([12.0, -7.0, 25.0, 0.1, -0.15, 0.08]), PIVOT)


ADAM = optax.adam(0.1)


def residuals(pose):
    return {"points": (pose.apply(POINTS) - SEEN) / 10}


def similarity(pose):
    return -jnp.mean((pose.apply(POINTS) - SEEN) ** 2)


def distance(pose):
    twist = twist_between(pose, TRUTH, PIVOT) * jnp.array([1, 1, 1, 50, 50, 50])
    return float(jnp.abs(twist).max())


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


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_gradient_ascent_keeps_the_best(name):
    optimizer = {
        "adam": optax.adam(optax.cosine_decay_schedule(2.0, 150, 0.01)),
        "sgd": optax.sgd(0.4),
    }[name]
    run = jax.jit(lambda pose: refine(similarity, pose, optimizer, pivot=PIVOT, steps=150))
    found = run(START)
    assert distance(found.pose) < 0.5
    best = float(found.trace.value.max())
    assert float(found.value) == pytest.approx(best, abs=1e-6)


def test_patience_stops_a_loop_that_gains_nothing():
    found = refine(
        lambda pose: 0.0 * similarity(pose),
        START,
        optax.sgd(1.0),
        pivot=PIVOT,
        steps=50,
        patience=3,
    )
    assert int(found.steps) == 3


def test_groups_have_their_own_step():
    found = refine(similarity, START, optax.adam(1.0), pivot=PIVOT, steps=3, rotation_scale=1e-9)
    twist = np.asarray(twist_between(START, found.pose, PIVOT))
    assert abs(twist[3:]).max() < 1e-5
    assert abs(twist[:3]).max() > 0.5


@pytest.mark.parametrize("solver", ["least_squares", "gradient"])
def test_a_lane_of_nan_stops_and_leaves_the_others_alone(solver):
    def run(pose, scale):
        if solver == "least_squares":
            return levenberg_marquardt(
                lambda p: scale * residuals(p)["points"], pose, pivot=PIVOT, steps=6
            )
        return refine(lambda p: scale * similarity(p), pose, optax.adam(1.0), pivot=PIVOT, steps=6)

    starts = jax.tree.map(lambda x: jnp.stack([x] * 3), START)
    batch = jax.jit(jax.vmap(run))
    clean = batch(starts, jnp.array([1.0, 1.0, 0.5]))
    broken = batch(starts, jnp.array([1.0, jnp.nan, 0.5]))
    for lane in (0, 2):
        assert np.array_equal(clean.pose.wxyz_xyz[lane], broken.pose.wxyz_xyz[lane])
    assert np.array_equal(broken.pose.wxyz_xyz[1], START.wxyz_xyz)
    assert not np.isfinite(broken.value[1])


@pytest.mark.parametrize("start", [TRUTH, jax.tree.map(lambda x: x * jnp.nan, TRUTH)])
def test_a_search_that_takes_no_step_traces_its_start(start):
    """At the answer, or at no place at all: the value is the start's, not zero."""
    found = levenberg_marquardt(residuals, start, pivot=PIVOT, steps=3, tolerance=jnp.inf)
    at_start = 0.5 * jnp.sum(residuals(start)["points"] ** 2)
    np.testing.assert_allclose(found.trace.value, at_start, atol=1e-9)
    assert int(found.steps) == 0
    np.testing.assert_array_equal(found.trace.step_length, 0)


def test_a_similarity_that_is_not_finite_ends_the_climb():
    found = refine(lambda pose: jnp.nan * similarity(pose), START, ADAM, pivot=PIVOT, steps=5)
    assert int(found.steps) == 0


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
