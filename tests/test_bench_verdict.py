"""The benchmark of the verdict and the fit of its model count and fit rightly."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
import bench_verdict as bench
import fit_verdict as fitting

from jxreg.confidence import Signals


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


def test_features_follow_the_signals():
    one, other = fitting.features([a_run(), a_run(fine_motion=1.0)])
    assert (one != other).sum() == 1
