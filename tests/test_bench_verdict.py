"""The benchmark of the verdict and the fit of its model count and fit rightly."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
import bench_verdict as bench
import fit_verdict as fitting
import verdict_cases

from jxreg import phantoms
from jxreg.confidence import Signals
from jxreg.pose import rotation_angle


def a_run(kind="right", mrpd=0.5, probability=0.9, status="OK", sigmas=1.0, ct="head", **signals):
    measured = dict.fromkeys(Signals._fields, 0.1) | signals
    return {
        "ct": ct,
        "kind": kind,
        "mrpd_mm": mrpd,
        "probability": probability,
        "status": status,
        "error_in_sigmas": sigmas,
        "signals": measured,
    }


def test_area_is_the_share_of_pairs_in_order():
    right = np.array([True, True, False, False])
    assert bench.area(np.array([0.9, 0.8, 0.2, 0.1]), right) == 1.0
    assert bench.area(np.array([0.9, 0.2, 0.8, 0.1]), right) == 0.75
    assert bench.area(np.array([0.5, 0.5, 0.5, 0.5]), right) == 0.5


def test_summary_counts():
    runs = [
        a_run(sigmas=1.0),  # 6 squares of six errors: inside the ellipsoid
        a_run(probability=0.8, sigmas=2.0, status="SUSPECT"),  # 24: outside
        a_run(mrpd=3.0, probability=0.85),  # its pose is wrong, yet accepted
        a_run(kind="sdd", probability=0.1, status="SUSPECT"),
    ]
    found = bench.summary(runs)
    assert (found["right"], found["ok_and_right"], found["ok_and_wrong"]) == (2, 1, 1)
    assert found["ellipsoid_holds"] == 0.5
    assert found["area"] == 0.75
    assert found["false_at_true_95"] == 0.5


def test_fit_finds_the_model_that_made_the_runs():
    random = np.random.default_rng(0)
    x = random.normal(size=(4000, 2)) * [1.0, 3.0] + [0.0, 5.0]
    truth = np.array([1.5, -0.4, 1.0])
    right = random.random(4000) < 1 / (1 + np.exp(-(x @ truth[:-1] + truth[-1])))
    model = fitting.fit(x, right)
    np.testing.assert_allclose(model, truth, atol=0.3)
    said = fitting.probability(model, x, np.ones(4000, bool))
    assert said[said > 0.8].mean() == pytest.approx(right[said > 0.8].mean(), abs=0.03)
    assert (fitting.probability(model, x, np.zeros(4000, bool)) == 0).all()


def test_both_chests_leave_together():
    runs = [a_run(ct=name) for name in ("chest", "chest-lidc", "head")]
    assert list(fitting.left_out(runs)) == ["chest", "chest", "head"]


def test_fresh_runs_are_judged_by_what_is_known_of_other_patients():
    """The head's own runs say the opposite of the others', and have no say."""
    random, rest = np.random.default_rng(0), Signals._fields[1:]

    def known(ct, good):
        rows = [
            a_run(
                "right" if n % 2 else "part",
                ct=ct,
                similarity=good if n % 2 else 1 - good,
                **dict(zip(rest, random.uniform(0.1, 0.11, 5), strict=True)),
            )
            for n in range(20)
        ]
        return fitting.Runs(
            rows,
            fitting.features(rows),
            np.array([bench.is_right(row) for row in rows]),
            np.ones(20, bool),
            fitting.left_out(rows),
            np.full(20, 6.0),
        )

    both = [known("head", 0.1), known("pelvis", 0.9)]
    rows = [row for runs in both for row in runs.rows]
    arrays = [np.concatenate(pair) for pair in zip(*(runs[1:] for runs in both), strict=True)]
    unseen, holds = fitting.of_others(fitting.Runs(rows, *arrays), known("head", 0.9))
    assert (unseen[1::2] > 0.5).all()
    assert (unseen[::2] < 0.5).all()
    assert list(holds) == ["head"]


def test_features_follow_the_signals():
    one, other = fitting.features([a_run(), a_run(fine_motion=1.0)])
    assert (one != other).sum() == 1


@pytest.fixture(scope="module")
def two_cts():
    """Stand-ins for the head and what is shown instead of it."""
    phantom = phantoms.total(phantoms.pelvis_and_spine())
    volume = phantoms.voxelise(phantom, *phantoms.grid_around(phantom, 8.0))
    return {"head": volume, "pelvis": replace(volume, mu=volume.mu[::-1])}


def cases_of(cts, views, **counts):
    return list(verdict_cases.cases("head", cts, 0.0, 3, set(), counts, views))


def test_a_second_view_is_beside_the_first_one(two_cts):
    one, two = (cases_of(two_cts, views, right=1)[0] for views in (1, 2))
    assert (len(one.frames), len(two.frames)) == (1, 2)
    np.testing.assert_array_equal(one.frames[0].image, two.frames[0].image)
    np.testing.assert_array_equal(one.start.wxyz_xyz, two.start.wxyz_xyz)
    turn = rotation_angle(*two.cameras)
    assert float(jnp.rad2deg(turn)) == pytest.approx(90.0, abs=0.1)
    apart = jnp.abs(two.frames[0].image - two.frames[1].image).mean()
    assert float(apart) > 0.1 * float(two.frames[0].image.mean())


def test_both_views_are_spoilt(two_cts):
    (wrong,) = cases_of(two_cts, 2, sdd=1)
    for frame in wrong.frames:
        assert abs(float(frame.camera.sdd) / 1020.0 - 1) == pytest.approx(0.1, rel=1e-3)


def test_signals_of_several_views_are_those_of_the_worst():
    signals = Signals(*(jnp.array([0.1 * n, 0.2 * n]) for n in range(1, 7)))
    views = SimpleNamespace(probability=jnp.array([0.9, 0.2]), signals=signals)
    found = bench.signals_of(SimpleNamespace(views=views, signals=None))
    np.testing.assert_allclose(np.array(found), 0.2 * np.arange(1, 7), rtol=1e-6)
    alone = SimpleNamespace(views=None, signals="its own")
    assert bench.signals_of(alone) == "its own"
