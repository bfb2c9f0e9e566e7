"""The benchmark of accuracy: which cases it takes, what it says of them, when it goes on."""

import json
import sys
from argparse import Namespace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
import accuracy
import bench_accuracy

import jxreg
from jxreg import metrics
from jxreg.io.start_file import load_starts


def row(ct: str, case: int, start_mm: float, error_mm: float, status: str = "OK") -> dict:
    numbers = dict.fromkeys(("mtre_mm", "mpd_mm", "mrpd_mm"), error_mm)
    return numbers | {
        "ct": ct,
        "crop_mm": 0.0,
        "case": case,
        "start_mtre_mm": start_mm,
        "rotation_degrees": 0.0,
        "translation_mm": [0.0, 0.0, 0.0],
        "probability": 1.0 - error_mm / 100,
        "status": status,
        "seconds": 1.0,
        "compiled": case == 0,
    }


def test_a_short_run_takes_as_many_of_each_bin():
    starts = load_starts(accuracy.STARTS / "head.json")
    assert bench_accuracy.cases(starts, 10) == list(range(80))
    chosen = bench_accuracy.cases(starts, 2)
    assert np.histogram(starts.mtre[chosen], starts.edges)[0].tolist() == [2] * 8


def test_a_case_begins_where_its_file_says():
    starts = load_starts(accuracy.STARTS / "pelvis.json")
    truth, start = accuracy.pose_and_start(starts, 41)
    found = metrics.mtre(start, truth, jnp.asarray(starts.landmarks, float))
    np.testing.assert_allclose(found, starts.mtre[41], atol=0.02)


def test_each_ct_and_all_of_them_are_told():
    runs = [row("head", i, 5.0 + 10 * i, 0.5) for i in range(7)]
    runs += [row("chest", i, 5.0 + 10 * i, 0.5 if i < 3 else 30.0) for i in range(7)]
    lines = {line["ct"]: line for line in bench_accuracy.summaries(runs)}
    assert list(lines) == ["head", "chest", "all"]
    assert lines["head"]["capture_range"] == 70.0
    assert lines["head"]["passed"]
    assert lines["chest"]["capture_range"] == lines["all"]["capture_range"] == 30.0
    assert not lines["chest"]["passed"]
    assert lines["all"]["runs"] == 14
    assert lines["all"]["verdict"]["accepted_bad"] == 4
    json.dumps(list(lines.values()), allow_nan=False)


def test_a_report_of_something_else_is_not_gone_on_with(tmp_path):
    options = Namespace(out=tmp_path / "report.json", starts=accuracy.STARTS)
    files = {"head": load_starts(accuracy.STARTS / "head.json")}
    report = bench_accuracy.begin(options, files)
    report["runs"] = [row("head", 0, 5.0, 0.5)]
    options.out.write_text(json.dumps(report))
    assert bench_accuracy.begin(options, files)["runs"] == report["runs"]
    for change in ({"config": "another"}, {"starts": {"head": "00"}}):
        options.out.write_text(json.dumps(report | change))
        with pytest.raises(SystemExit, match="another configuration or other starts"):
            bench_accuracy.begin(options, files)
    options.out.write_text(json.dumps(report))
    tried = jxreg.RegisterConfig(nearby=bench_accuracy.NEARBY)
    for how in ((tried, False), (jxreg.RegisterConfig(), True)):
        with pytest.raises(SystemExit, match="another configuration or other starts"):
            bench_accuracy.begin(options, files, *how)
