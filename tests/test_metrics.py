"""Metrics: closed forms, what they must not see, the published traps, rates and percentiles."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxlie import SE3

from jxreg import metrics
from jxreg.camera import Camera
from jxreg.pose import from_carm, perturb

DISTANCE, SDD = 750.0, 1020.0
ISOCENTER = np.array([10.0, -20.0, 30.0])
with jax.enable_x64(True):
    LANDMARKS = jnp.asarray(ISOCENTER + np.random.default_rng(0).uniform(-80, 80, (14, 3)))
TIGHT = 1e-9  # mm; coordinates of about 1e3 in float64

carm = jax.jit(partial(from_carm, source_to_isocenter=DISTANCE, isocenter=ISOCENTER))
examples = settings(max_examples=25, deadline=None)
twists = st.tuples(*[st.floats(-1, 1, allow_subnormal=False)] * 6).map(
    lambda numbers: np.array(numbers) * [30, 30, 60, 0.3, 0.3, 0.3]
)


pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(scope="module")
def camera(float64):
    return Camera.from_sdd(SDD, (256, 256), (1.2, 1.2))


def alone(point):
    """As many landmarks as elsewhere, so that nothing compiles anew; the mean is that of one."""
    return jnp.tile(jnp.asarray(point, float), (len(LANDMARKS), 1))


def moved(pose, *twist):
    return perturb(pose, jnp.array(twist, float), ISOCENTER)


@jax.jit
def all_metrics(estimate, truth, landmarks, camera):
    return {
        "mtre": metrics.mtre(estimate, truth, landmarks),
        "mrpd": metrics.mrpd(estimate, truth, landmarks),
        "mpd": metrics.mpd(estimate, truth, landmarks, camera),
        "mrpe": metrics.mrpe(estimate, truth, landmarks, camera),
        "xvr_mtre": metrics.xvr_mtre(estimate, truth, landmarks, center=ISOCENTER),
    }


@jax.jit
def all_gradients(twist, truth, landmarks, camera):
    def of(twist):
        return all_metrics(perturb(truth, twist, ISOCENTER), truth, landmarks, camera)

    return jax.jacrev(of)(twist)


# Closed forms


def test_an_error_in_the_plane_counts_as_far_as_it_is(camera):
    truth = carm(30.0, 20.0)
    isocenter = alone(ISOCENTER)
    found = all_metrics(moved(truth, 3.0, 4.0, 0, 0, 0, 0), truth, isocenter, camera)
    np.testing.assert_allclose(found["mtre"], 5.0, atol=TIGHT)
    np.testing.assert_allclose(found["mrpd"], 5.0, atol=TIGHT)  # the ray is the optical axis
    np.testing.assert_allclose(found["mpd"], 5.0 * SDD / DISTANCE, atol=TIGHT)
    # In the world the detector moves back by 5 while the projection moves forward by more.
    np.testing.assert_allclose(found["mrpe"], 5.0 * (SDD / DISTANCE - 1), atol=TIGHT)
    np.testing.assert_allclose(found["xvr_mtre"], 5.0, atol=TIGHT)


def test_an_error_in_depth_is_seen_by_mtre_only(camera):
    truth = carm(30.0, 20.0)
    estimate = moved(truth, 0, 0, 25.0, 0, 0, 0)
    on_axis = all_metrics(estimate, truth, alone(ISOCENTER), camera)
    np.testing.assert_allclose(on_axis["mtre"], 25.0, atol=TIGHT)
    np.testing.assert_allclose(on_axis["mrpd"], 0.0, atol=TIGHT)
    np.testing.assert_allclose(on_axis["mpd"], 0.0, atol=TIGHT)

    aside = alone(truth.inverse().apply(jnp.array([75.0, 0.0, DISTANCE])))
    off_axis = all_metrics(estimate, truth, aside, camera)
    sine = 75 / np.hypot(75, DISTANCE)
    np.testing.assert_allclose(off_axis["mrpd"], 25 * sine, atol=TIGHT)
    expected = 75 * SDD * (1 / DISTANCE - 1 / (DISTANCE + 25))
    np.testing.assert_allclose(off_axis["mpd"], expected, atol=TIGHT)


@examples
@given(twists)
def test_metrics_equal_their_definitions_point_by_point(twist):
    truth = carm(160.0, 10.0, 5.0)
    estimate = moved(truth, *twist)
    camera = Camera.from_sdd(SDD, (256, 256), (1.2, 1.2))
    found = all_metrics(estimate, truth, LANDMARKS, camera)
    a, b = (np.asarray(pose.apply(LANDMARKS)) for pose in (estimate, truth))

    def length(vectors):
        return np.linalg.norm(vectors, axis=1).mean()

    ray = b / np.linalg.norm(b, axis=1, keepdims=True)
    on_detector = [SDD * points / points[:, 2:] for points in (a, b)]
    in_world = [
        np.asarray(pose.inverse().apply(jnp.asarray(points)))
        for pose, points in zip((estimate, truth), on_detector, strict=True)
    ]
    np.testing.assert_allclose(found["mtre"], length(a - b), atol=TIGHT)
    np.testing.assert_allclose(found["mrpd"], length(np.cross(a, ray)), atol=TIGHT)
    np.testing.assert_allclose(found["mpd"], length(on_detector[0] - on_detector[1]), atol=TIGHT)
    np.testing.assert_allclose(found["mrpe"], length(in_world[0] - in_world[1]), atol=TIGHT)
    assert found["mrpd"] <= found["mtre"] + TIGHT


@examples
@given(twists, twists)
def test_moving_patient_and_landmarks_together_changes_nothing(twist, motion):
    truth = carm(160.0, 10.0, 5.0)
    estimate = moved(truth, *twist)
    camera = Camera.from_sdd(SDD, (256, 256), (1.2, 1.2))
    patient = moved(SE3.identity(), *motion)  # new world from old world
    there = all_metrics(estimate, truth, LANDMARKS, camera)
    here = all_metrics(
        estimate @ patient.inverse(), truth @ patient.inverse(), patient.apply(LANDMARKS), camera
    )
    for name in ("mtre", "mrpd", "mpd", "mrpe"):
        np.testing.assert_allclose(here[name], there[name], atol=TIGHT, err_msg=name)


@examples
@given(twists, st.floats(-np.pi, np.pi))
def test_turning_the_camera_about_its_axis_changes_nothing(twist, roll):
    truth = carm(160.0, 10.0, 5.0)
    estimate = moved(truth, *twist)
    camera = Camera.from_sdd(SDD, (256, 256), (1.2, 1.2))
    turn = perturb(SE3.identity(), jnp.array([0, 0, 0, 0, 0, roll]), jnp.zeros(3))
    there = all_metrics(estimate, truth, LANDMARKS, camera)
    here = all_metrics(turn @ estimate, turn @ truth, LANDMARKS, camera)
    for name in ("mtre", "mrpd", "mpd", "mrpe"):
        np.testing.assert_allclose(here[name], there[name], atol=TIGHT, err_msg=name)


def test_pixels_and_mirrors_do_not_change_distances_on_the_detector(camera):
    truth = carm(30.0, 20.0)
    estimate = moved(truth, 3.0, 4.0, 5.0, 0.01, 0.02, 0.03)
    other = Camera.from_sdd(SDD, (100, 50), (0.3, 0.4), principal_point=(3.0, 9.0), mirrored=True)
    for metric in (metrics.mpd, metrics.mrpe):
        found = metric(estimate, truth, LANDMARKS, other)
        np.testing.assert_allclose(found, metric(estimate, truth, LANDMARKS, camera), atol=TIGHT)


# The trap in the name mTRE


def test_the_published_mtre_of_xvr_differs_from_the_standard_by_this_much(camera):
    """14 points within 100 mm of an isocenter that is 750 mm from the source."""
    rng = np.random.default_rng(1)
    points = jnp.asarray(ISOCENTER + rng.uniform(-100, 100, (600, 14, 3)))
    axes, directions = (
        v / np.linalg.norm(v, axis=1, keepdims=True) for v in rng.normal(size=(2, 600, 3))
    )
    truth = carm(180.0)

    @jax.jit
    @partial(jax.vmap, in_axes=(0, 0))
    def means(twist, points):
        found = all_metrics(perturb(truth, twist, ISOCENTER), truth, points, camera)
        return found["mtre"], found["xvr_mtre"]

    def errors(degrees, millimeters):
        twist = np.c_[directions * millimeters, axes * np.deg2rad(degrees)]
        return [float(m.mean()) for m in means(twist, points)]

    np.testing.assert_allclose(errors(0.5, 0.0), [0.66, 5.2], rtol=0.05)
    np.testing.assert_allclose(errors(0.5, 2.0), [2.1, 5.5], rtol=0.05)
    np.testing.assert_allclose(errors(0.0, 2.0), [2.0, 2.0], rtol=1e-9)


# Points without a projection, and gradients


def test_a_landmark_behind_the_source_has_no_projection_and_no_nan(camera):
    truth = carm()
    behind = truth.inverse().apply(jnp.array([[5.0, 4.0, -100.0], [5.0, 4.0, 0.0], [0.0, 0, 0]]))
    in_front = moved(truth, 1.0, 2.0, 3.0, 0.1, 0.1, 0.1)
    for points in behind:
        for pair in ((in_front, truth), (truth, in_front), (truth, truth)):
            found = all_metrics(*pair, alone(points), camera)
            assert np.isfinite(found["mtre"])
            assert np.isfinite(found["mrpd"])
            assert not np.isnan(found["mpd"])
            assert not np.isnan(found["mrpe"])
    mixed = LANDMARKS.at[:3].set(behind)
    found = all_metrics(truth, truth, mixed, camera)
    assert found["mpd"] == np.inf
    assert found["mrpe"] == np.inf
    slopes = all_gradients(1e-3 * jnp.ones(6), truth, mixed, camera)
    for name, slope in slopes.items():
        assert np.isfinite(slope).all(), name


def test_a_point_on_the_other_side_of_the_source_is_not_near_the_ray():
    truth = carm()
    point = truth.inverse().apply(jnp.array([[0.0, 0.0, 100.0]]))
    estimate = moved(
        truth, 0, 0, -250.0, 0, 0, 0
    )  # the point is seen at z = -150, on the same line
    np.testing.assert_allclose(metrics.mrpd(estimate, truth, point), 150.0, atol=TIGHT)


def test_a_perfect_estimate_has_no_error_and_a_finite_gradient(camera):
    truth = carm(30.0, 20.0, 10.0)
    for name, value in all_metrics(truth, truth, LANDMARKS, camera).items():
        assert value < 1e-12, name
    for name, slope in all_gradients(jnp.zeros(6), SE3.identity(), LANDMARKS, camera).items():
        assert np.isfinite(slope).all(), name


@pytest.mark.parametrize("size", [1e-7, 1e-3, 1.0])
def test_gradients_equal_central_differences(size, camera):
    truth = carm(160.0, 10.0, 5.0)
    twist = size * jnp.array([5.0, -8.0, 20.0, 0.1, -0.2, 0.3])
    slopes = all_gradients(twist, truth, LANDMARKS, camera)
    step = 1e-3 * size

    def at(twist):
        return all_metrics(perturb(truth, twist, ISOCENTER), truth, LANDMARKS, camera)

    for i, unit in enumerate(np.eye(6)):
        above, below = at(twist + step * unit), at(twist - step * unit)
        for name, slope in slopes.items():
            expected = (above[name] - below[name]) / (2 * step)
            # rounding of 1e3 mm coordinates over the step, and the curvature of a distance
            tolerance = 1e-4 + 3e-12 / step
            np.testing.assert_allclose(slope[i], expected, rtol=1e-3, atol=tolerance, err_msg=name)


# Per axis


def test_axis_errors_are_those_put_in():
    truth = carm(160.0, 10.0, 5.0)
    errors = metrics.axis_errors(moved(truth, 1.0, -2.0, 3.0, 0, 0, 0), truth, ISOCENTER)
    np.testing.assert_allclose(errors.translation, [1, -2, 3], atol=TIGHT)
    np.testing.assert_allclose(errors.rotation_degrees, np.zeros(3), atol=TIGHT)
    turn = np.deg2rad([0.5, -1.0, 2.0])
    errors = metrics.axis_errors(moved(truth, 0, 0, 0, *turn), truth, ISOCENTER)
    np.testing.assert_allclose(errors.translation, np.zeros(3), atol=TIGHT)
    np.testing.assert_allclose(errors.rotation_degrees, [0.5, -1, 2], atol=TIGHT)


# Rates and percentiles


@pytest.mark.parametrize(
    ("count", "total"), [(0, 10), (10, 10), (5, 10), (1, 200), (199, 200), (0, 1)]
)
def test_wilson_intervals_are_scipys(count, total):
    expected = scipy.stats.binomtest(count, total).proportion_ci(method="wilson")
    found = metrics.wilson_interval(count, total)
    np.testing.assert_allclose(found.rate, count / total, rtol=1e-15)
    np.testing.assert_allclose(found.low, expected.low, atol=1e-12)
    np.testing.assert_allclose(found.high, expected.high, atol=1e-12)


def test_no_trials_say_nothing():
    found = metrics.wilson_interval(0, 0)
    assert np.isnan(found.rate)
    assert (found.low, found.high) == (0, 1)
    assert np.isnan(metrics.smsr(jnp.zeros(0)).rate)


def test_what_is_not_a_number_is_a_failure():
    errors = jnp.array([0.5, 0.9, 1.0, 2.0, 10.0, 10.1, jnp.inf, jnp.nan])
    np.testing.assert_allclose(metrics.smsr(errors).rate, 2 / 8)
    np.testing.assert_allclose(metrics.success_rate(errors, 5.0).rate, 4 / 8)
    np.testing.assert_allclose(metrics.gfr(errors).rate, 3 / 8)


def test_percentiles_are_numpys_and_failures_come_last():
    errors = np.random.default_rng(2).exponential(2.0, 37)
    percents = (0.0, 5.0, 50.0, 95.0, 100.0)
    found = metrics.percentiles(jnp.asarray(errors), percents)
    np.testing.assert_allclose(found, np.percentile(errors, percents), rtol=1e-12)

    found = metrics.percentiles(jnp.array([3.0, jnp.nan, 1.0, 2.0, jnp.inf]), (50.0, 75.0, 100.0))
    np.testing.assert_array_equal(found, [3.0, np.inf, np.inf])


# Every public function compiles and maps


def test_jit_equals_eager_and_vmap_equals_a_loop(camera):
    def everything(twist, errors):
        truth = carm(160.0, 10.0, 5.0)
        estimate = perturb(truth, twist, ISOCENTER)
        return (
            metrics.mtre(estimate, truth, LANDMARKS),
            metrics.mrpd(estimate, truth, LANDMARKS),
            metrics.mpd(estimate, truth, LANDMARKS, camera),
            metrics.mrpe(estimate, truth, LANDMARKS, camera),
            metrics.xvr_mtre(estimate, truth, LANDMARKS, center=ISOCENTER),
            metrics.axis_errors(estimate, truth, ISOCENTER),
            metrics.success_rate(errors, 0.5),
            metrics.smsr(errors),
            metrics.gfr(errors, 1.5),
            metrics.percentiles(errors),
        )

    rng = np.random.default_rng(3)
    twist, errors = (
        jnp.asarray(rng.normal(size=(2, 6)) / 9),
        jnp.asarray(rng.exponential(size=(2, 9))),
    )
    batch = jax.vmap(jax.jit(everything))(twist, errors)
    for i in range(2):
        eager = everything(twist[i], errors[i])
        for mapped, one in zip(jax.tree.leaves(batch), jax.tree.leaves(eager), strict=True):
            np.testing.assert_allclose(mapped[i], one, atol=TIGHT)


def test_float32_resolves_a_thousandth_of_a_millimeter():
    with jax.enable_x64(False):
        isocenter = ISOCENTER.tolist()
        truth = from_carm(160.0, 10.0, source_to_isocenter=DISTANCE, isocenter=isocenter)
        estimate = perturb(truth, jnp.array([0.01, 0, 0, 0, 0, 0]), isocenter)
        landmarks = jnp.asarray(np.asarray(LANDMARKS), jnp.float32)
        found = metrics.mtre(estimate, truth, landmarks)
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, 0.01, atol=3e-4)
