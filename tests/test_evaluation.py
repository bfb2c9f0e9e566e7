"""The protocol of evaluation: starts, errors of a run, rates over many, trust in the verdict."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jaxlie import SE3

import jxreg
from jxreg import evaluation, metrics
from jxreg.camera import Camera
from jxreg.errors import InputError
from jxreg.evaluation import Outcome, Protocol, Start
from jxreg.pose import from_carm, perturb
from jxreg.register import Registration
from jxreg.verdict import Status

ISOCENTER = np.array([10.0, -20.0, 30.0])
LANDMARKS = jnp.asarray(ISOCENTER + np.random.default_rng(0).uniform(-80, 80, (20, 3)), jnp.float32)
EDGES = (0.0, 5.0, 20.0, 40.0, 80.0)


@pytest.fixture(scope="module")
def truth():
    return from_carm(30.0, 10.0, source_to_isocenter=700.0, isocenter=ISOCENTER)


@pytest.fixture(scope="module")
def camera():
    return Camera.from_sdd(1020.0, (64, 64), (4.0, 4.0))


@pytest.fixture(scope="module")
def starts(truth) -> Start:
    return draw(jax.random.key(3), truth)


@jax.jit
def draw(key, truth):
    return evaluation.binned_starts(
        key, truth, LANDMARKS, pivot=ISOCENTER, per_bin=40, edges_mm=EDGES
    )


@jax.jit
def moved(truth, twists):
    return jax.vmap(lambda twist: perturb(truth, twist, ISOCENTER))(twists)


def outcomes_of(errors) -> Outcome:
    """Runs whose three errors are the same."""
    errors = jnp.asarray(errors, float)
    return Outcome(errors, errors, errors, errors, jnp.zeros((errors.size, 3)))


# Starts


def test_each_bin_holds_its_starts_and_their_mtre_is_the_true_one(truth, starts):
    poses = moved(truth, starts.twist.reshape(-1, 6))
    mtre = jax.vmap(metrics.mtre, (0, None, None))(poses, truth, LANDMARKS).reshape(4, 40)
    np.testing.assert_allclose(mtre, starts.mtre, atol=2e-3)  # float32 at 700 mm
    for number, (low, high) in enumerate(zip(EDGES[:-1], EDGES[1:], strict=True)):
        assert (mtre[number] > low - 2e-3).all()
        assert (mtre[number] < high + 2e-3).all()
        spread = mtre[number].max() - mtre[number].min()
        assert spread > 0.7 * (high - low)  # uniform; less has a chance below 1e-4


def test_offsets_turn_and_shift_in_all_directions(starts):
    twist = np.asarray(starts.twist.reshape(-1, 6))
    signs = (twist > 0).mean(0)
    np.testing.assert_allclose(signs, 0.5, atol=0.2)  # five standard deviations of 160 draws
    far = np.asarray(starts.twist[-1])  # 40 to 80 mm: about half by the shift, half by the turn
    assert 15 < np.median(np.linalg.norm(far[:, :3], axis=1)) < 80
    assert np.radians(8) < np.median(np.linalg.norm(far[:, 3:], axis=1)) < np.radians(60)


def test_a_key_gives_the_same_starts_and_another_key_others(truth, starts):
    again, other = draw(jax.random.key(3), truth), draw(jax.random.key(4), truth)
    np.testing.assert_array_equal(again.twist, starts.twist)
    assert not np.isclose(other.twist, starts.twist).any(-1).all()


def test_a_start_is_the_same_alone_as_in_a_batch(truth):
    keys = jax.random.split(jax.random.key(0), 3)
    one = jax.jit(partial(evaluation.random_start, pivot=ISOCENTER))
    arguments = (truth, LANDMARKS)
    many = jax.vmap(lambda key: one(key, *arguments, mtre_range=(30.0, 31.0)))(keys)
    alone = one(keys[1], *arguments, mtre_range=(30.0, 31.0))
    np.testing.assert_allclose(many.twist[1], alone.twist, rtol=1e-4, atol=1e-4)


def test_the_share_of_the_rotation_can_be_chosen(truth):
    one = jax.jit(partial(evaluation.random_start, pivot=ISOCENTER, mtre_range=(40.0, 50.0)))
    arguments = jax.random.key(5), truth, LANDMARKS
    turns = [float(jnp.linalg.norm(one(*arguments, rotation=r).twist[3:])) for r in (0.0, 0.3, 1.0)]
    assert turns[0] < 1e-6
    assert turns[0] < turns[1] < turns[2]


def test_small_bodies_can_start_far_away(truth):
    """80 mm off, with landmarks that no rotation can move by more than 4 mm."""
    bone = ISOCENTER + (LANDMARKS - ISOCENTER) / 70
    one = jax.jit(partial(evaluation.random_start, pivot=ISOCENTER))
    start = one(jax.random.key(1), truth, bone, mtre_range=(79.0, 80.0))
    assert 79 - 2e-3 < start.mtre < 80 + 2e-3


# Errors of a run


def test_errors_of_a_known_motion(truth, camera):
    centre = LANDMARKS.mean(0)
    twist = jnp.array([3.0, -4.0, 12.0, 0.0, 0.0, 0.0])
    shifted = evaluation.outcome(perturb(truth, twist, centre), truth, LANDMARKS, camera)
    np.testing.assert_allclose(shifted.translation, [3, -4, 12], atol=1e-3)
    np.testing.assert_allclose(shifted.mtre, 13.0, atol=1e-3)
    np.testing.assert_allclose(shifted.rotation_degrees, 0.0, atol=1e-3)
    assert 4 < shifted.mrpd < 6.5  # 5 mm in the plane, and depth seen from aside
    assert shifted.mpd > shifted.mrpd  # magnified
    turn = jnp.array([0.0, 0, 0, 0, np.radians(6.0), 0])
    turned = evaluation.outcome(perturb(truth, turn, centre), truth, LANDMARKS, camera)
    np.testing.assert_allclose(turned.rotation_degrees, 6.0, atol=1e-3)
    np.testing.assert_allclose(turned.translation, 0.0, atol=1e-3)


def test_no_pose_has_no_errors(truth, camera):
    nothing = SE3(jnp.full(7, jnp.nan))
    errors = evaluation.outcome(nothing, truth, LANDMARKS, camera)
    assert all(np.isnan(leaf).all() for leaf in errors)


# Many runs


def test_rates_and_percentiles_of_known_errors():
    errors = np.r_[np.linspace(0.01, 0.9, 90), 1.5, 3.0, 4.0, 7.0, 11.0, 50.0, [np.nan] * 4]
    found = evaluation.summarize(outcomes_of(errors))
    np.testing.assert_allclose(found.success.rate, [0.90, 0.91, 0.93, 0.94], atol=1e-6)
    np.testing.assert_allclose(found.gross_failures.rate, 0.06, atol=1e-6)  # two, and four NaN
    low, high = scipy.stats.binomtest(90, 100).proportion_ci(method="wilson")
    np.testing.assert_allclose(
        [found.success.low[0], found.success.high[0]], [low, high], atol=1e-5
    )
    good = errors[errors < 2]
    np.testing.assert_allclose(found.mean_of_successes, good.mean(), rtol=1e-5)
    np.testing.assert_allclose(found.p95_of_successes, np.percentile(good, 95), rtol=1e-5)
    known = np.nan_to_num(errors, nan=1e6)
    np.testing.assert_allclose(
        found.percentiles.mrpd[:95], np.percentile(known, np.arange(95)), rtol=1e-4
    )
    assert np.isinf(found.percentiles.mtre[-1])


def test_the_metric_of_the_protocol_decides():
    outcomes = outcomes_of([0.5] * 10)._replace(mtre=jnp.full(10, 3.0))
    single = evaluation.summarize(outcomes, Protocol())
    several = evaluation.summarize(outcomes, Protocol(metric="mtre"))
    np.testing.assert_allclose(single.success.rate, [1, 1, 1, 1])
    np.testing.assert_allclose(several.success.rate, [0, 0, 1, 1])


def test_nothing_good_has_no_mean():
    found = evaluation.summarize(outcomes_of([30.0, np.nan]))
    assert np.isnan(found.mean_of_successes)
    assert np.isnan(found.p95_of_successes)


@pytest.mark.parametrize(
    "counts, goods, expected",
    [
        ((20, 20, 20), (20, 19, 18), 20.0),  # 95 % is enough, 90 % is not
        ((20, 20, 20), (20, 20, 20), 30.0),  # all of the bins
        ((20, 20, 20), (0, 20, 20), 0.0),
        ((0, 20, 20), (0, 20, 10), 20.0),  # nothing began near by
        ((20, 0, 20), (20, 0, 20), 10.0),  # a gap shows nothing
        ((0, 0, 0), (0, 0, 0), np.nan),
    ],
)
def test_capture_range_ends_at_the_first_bin_that_falls_short(counts, goods, expected):
    initial = np.repeat([5.0, 10.0, 25.0], counts)  # 10 mm: a lower edge belongs to its bin
    good = np.concatenate([np.arange(n) < g for n, g in zip(counts, goods, strict=True)])
    edges = jnp.array([0.0, 10.0, 20.0, 30.0])
    bins = evaluation.bin_success(jnp.asarray(initial), jnp.asarray(good, bool), edges)
    np.testing.assert_array_equal(bins.count, counts)
    np.testing.assert_array_equal(evaluation.capture_range(bins), expected)


def test_starts_outside_all_bins_are_left_out():
    initial = jnp.array([-1.0, 5.0, 10.0, 300.0, jnp.nan])
    bins = evaluation.bin_success(initial, jnp.ones(5, bool), jnp.array([0.0, 10.0]))
    np.testing.assert_array_equal(bins.count, [1])


def test_confusion_of_the_verdict():
    accepted = jnp.array([1, 1, 1, 1, 0, 0, 0], bool)
    good = jnp.array([1, 1, 1, 0, 1, 0, 0], bool)
    found = evaluation.verdict_rates(accepted, good, accepted.astype(float))
    assert [int(n) for n in found[:4]] == [3, 1, 1, 2]
    np.testing.assert_allclose(found.false_accept.rate, 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(found.true_accept.rate, 3 / 4, rtol=1e-6)


def test_area_under_the_curve_is_that_of_the_rank_test():
    random = np.random.default_rng(0)
    good = random.random(200) < 0.7
    score = np.round(good + random.normal(0, 0.8, 200), 1)  # many ties
    area = evaluation.auc(jnp.asarray(score, float), jnp.asarray(good))
    known = scipy.stats.mannwhitneyu(score[good], score[~good]).statistic
    np.testing.assert_allclose(area, known / (good.sum() * (~good).sum()), rtol=1e-5)
    assert float(evaluation.auc(jnp.array([2.0, jnp.nan]), jnp.array([True, False]))) == 1.0
    assert np.isnan(evaluation.auc(jnp.arange(3.0), jnp.ones(3, bool)))
    assert np.isnan(evaluation.auc(jnp.full(2, jnp.nan), jnp.array([True, False])))


# All in one


@pytest.fixture(scope="module")
def runs(truth, starts):
    """40 good runs from near by, 120 that stay where they began; the last start is lost."""
    true = jax.tree.map(lambda leaf: jnp.tile(leaf, (160, 1)), truth)
    began = moved(truth, starts.twist.reshape(-1, 6))
    poses = SE3(jnp.where((jnp.arange(160) < 40)[:, None], true.wxyz_xyz, began.wxyz_xyz))
    poses = SE3(poses.wxyz_xyz.at[-1].set(jnp.nan))
    return poses, true, began


def test_evaluate_puts_it_together(runs, camera):
    poses, true, began = runs
    status = jnp.where(jnp.arange(160) < 30, Status.OK, Status.SUSPECT)
    score = 1.0 - jnp.arange(160.0) / 160
    nothing = {field.name: jnp.zeros(160) for field in dataclasses.fields(Registration)}
    known = {"pose": poses, "status": status, "probability": score}
    results = Registration(**(nothing | known))
    protocol = Protocol(metric="mtre", edges_mm=EDGES)
    evaluate = partial(jxreg.evaluate, camera=camera, starts=began, protocol=protocol)
    found = evaluate(results, true, LANDMARKS)
    np.testing.assert_allclose(found.summary.bins.success.rate, [1, 0, 0, 0])
    assert float(found.summary.capture_range) == 5.0
    assert [int(n) for n in found.summary.verdict[:4]] == [30, 0, 10, 120]
    assert float(found.summary.verdict.auc) == 1.0
    assert np.isnan(found.outcomes.mtre[-1])
    compiled = jax.jit(evaluate)(results, true, LANDMARKS)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-3), found, compiled)


def test_poses_alone_have_no_verdict_and_no_capture_range(runs, camera):
    poses, true, _ = runs
    summary = jxreg.evaluate(poses, true, LANDMARKS, camera=camera).summary
    assert (summary.verdict, summary.bins, summary.capture_range) == (None, None, None)
    record = evaluation.as_record(summary, Protocol())
    assert record["success"]["rate"][0] == pytest.approx(40 / 160, rel=1e-5)
    assert record["percentiles"]["mtre"][100] is None  # infinity is no number in JSON
    assert record["protocol"]["metric"] == "mrpd"


@pytest.mark.parametrize(
    "change, words",
    [
        ({"metric": "mre"}, "metric: 'mre'; expected one of mtre, mpd, mrpd"),
        ({"edges_mm": (0.0, 10.0, 5.0)}, "edges: [0.0, 10.0, 5.0]"),
        ({"edges_mm": (3.0,)}, "two or more"),
    ],
)
def test_impossible_protocols_are_refused(change, words):
    with pytest.raises(InputError) as caught:
        evaluation.summarize(outcomes_of([1.0]), Protocol(**change))
    assert words in str(caught.value)


def test_runs_must_pair_with_truths(runs, camera):
    poses, true, began = runs
    with pytest.raises(InputError, match="leading axis of 160 runs"):
        jxreg.evaluate(SE3(poses.wxyz_xyz[:3]), true, LANDMARKS, camera=camera)
    with pytest.raises(InputError, match="starts"):
        jxreg.evaluate(poses, true, LANDMARKS, camera=camera, starts=SE3(began.wxyz_xyz[0]))
    with pytest.raises(InputError, match="no runs"):
        evaluation.summarize(outcomes_of(np.zeros(0)))
