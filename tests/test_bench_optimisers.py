"""The benchmark of optimisers: its table, what it writes down, when it goes on; CMA-ES itself."""

import json
import sys
from argparse import Namespace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from jaxlie import SE3

import jxreg
from jxreg import phantoms
from jxreg.alignment import Level
from jxreg.io.start_file import StartFile, load_starts
from jxreg.pose import perturb

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
import accuracy
import bench_optimisers
import optimisers

CAMERA = jxreg.Camera.from_sdd(1020.0, (32, 32), (11.0, 11.0))


@pytest.fixture(scope="module")
def case():
    """A pelvis, the file of its two starts, and the first X-ray."""
    phantom = phantoms.total(phantoms.pelvis_and_spine())
    ct = phantoms.voxelise(phantom, *phantoms.grid_around(phantom, 8.0))
    views = np.array([[15.0, 5.0, 0.0, 4.0, 0.0, 0.0], [-20.0, 0.0, 5.0, 0.0, 8.0, 0.0]])
    twists = np.array([[5.0, -6.0, 9.0, 0.04, -0.03, 0.04], [-6.0, 5.0, 9.0, 0.03, 0.03, 0.04]])
    points = np.array([[0.0, 0, 60], [60, 0, -40], [-60, 0, -40], [0, 60, 20]])
    center, edges = np.asarray(ct.isocenter, float), np.array([0.0, 10.0, 20.0])
    mtre = np.array([9.0, 12.0])
    starts = StartFile("", "", 0, center, 700.0, CAMERA, edges, points, views, twists, mtre)
    return ct, starts


def found(path: list[SE3], spent: list[int]) -> optimisers.Found:
    return optimisers.Found(None, SE3(jnp.stack([p.wxyz_xyz for p in path])), np.array(spent))


def test_effort_counts_until_the_first_pose_below_a_millimetre(case):
    _, starts = case
    truth, start = accuracy.pose_and_start(starts, 0)
    landmarks = jnp.asarray(starts.landmarks, float)
    near = perturb(truth, jnp.array([0.5, 0.0, 0.0, 0.0, 0.0, 0.0]), starts.isocenter)
    way = found([start, near, start, truth], [10, 20, 30, 40])
    expected = {"steps": 40, "steps_to_1mm": 20}
    assert bench_optimisers.effort(way, truth, landmarks) == expected
    never = found([start, start], [1, 2])
    assert bench_optimisers.effort(never, truth, landmarks)["steps_to_1mm"] is None
    nothing = optimisers.Found(None, SE3(jnp.zeros((0, 7))), np.arange(0))
    assert bench_optimisers.effort(nothing, truth, landmarks)["steps"] == 0


def row(method: str, mrpd: float, steps_to_1mm: int | None) -> dict:
    return {
        "method": method,
        "ct": "head",
        "case": 0,
        "mrpd_mm": mrpd,
        "mtre_mm": 2 * mrpd,
        "status": "OK",
        "error_in_sigmas": 1.0,
        "seconds": mrpd,
        "steps": 9,
        "steps_to_1mm": steps_to_1mm,
    }


def test_a_line_for_each_method():
    rows = [row("A", 0.2, 4), row("B", 5.0, None), row("A", 0.4, 8), row("A", 7.0, None)]
    first, second = bench_optimisers.summaries(rows)
    assert (first["method"], second["method"]) == ("A", "B")
    assert first["success_mrpd_1mm"] == pytest.approx(2 / 3)
    assert (first["median_mrpd_mm"], first["median_seconds"]) == (0.4, 0.4)
    assert (first["median_steps_to_1mm"], second["median_steps_to_1mm"]) == (6.0, None)
    json.dumps([first, second], allow_nan=False)
    shown = bench_optimisers.table([first, second])
    assert list(shown.columns[1].cells) == ["2 of 3", "0 of 1"]
    assert list(shown.columns[-1].cells) == ["6", "-"]
    untimed = bench_optimisers.summaries([each | {"seconds": None} for each in rows])
    assert untimed[0]["median_seconds"] is None
    assert list(bench_optimisers.table(untimed).columns[4].cells) == ["-", "-"]


def test_a_report_with_other_settings_is_not_gone_on_with(tmp_path):
    files = {"head": load_starts(accuracy.STARTS / "head.json")}
    options = Namespace(out=tmp_path / "report.json", starts=accuracy.STARTS, methods=["xvr"])
    report = bench_optimisers.begin(options, files)
    assert list(report["methods"]) == ["xvr"]
    options.out.write_text(json.dumps(report))
    options.methods = ["L-BFGS"]
    assert list(bench_optimisers.begin(options, files)["methods"]) == ["xvr", "L-BFGS"]
    report["methods"]["L-BFGS"] = "other"
    options.out.write_text(json.dumps(report))
    with pytest.raises(SystemExit, match="other settings of L-BFGS"):
        bench_optimisers.begin(options, files)


def test_every_way_that_is_compared_is_there():
    from jxreg.parametrisation import PARAMETRISATIONS

    assert len(PARAMETRISATIONS) == 8
    for name in PARAMETRISATIONS:
        assert name == "so3_log" or f"Adam, {name}" in optimisers.METHODS
    for method in ("Levenberg-Marquardt", "L-BFGS", "Adam, plateaus", "xvr", "CMA-ES"):
        assert method in optimisers.SETTINGS
    scales = optimisers.xvr().levels
    assert [level.pixels for level in scales] == [64, 128, 256]
    assert [level.climb.shift for level in scales] == [1.0, 0.5, 0.125]


@pytest.mark.slow
def test_rows_of_a_small_run(monkeypatch, case):
    ct, starts = case
    small = jxreg.RegisterConfig((Level(32, 0, steps=6),), truncated=False)
    stages = (optimisers.Stage(Level(32, 0), 12, 25, (5.0, 5.0, 8.0, 0.05, 0.05, 0.05)),)
    methods = {"LM": lambda *args: optimisers.registered(small, *args)}
    if pytest.importorskip("cmaes", reason="the extra `bench` has it"):
        methods["CMA-ES"] = lambda *args: optimisers.evolved(stages, *args)
    monkeypatch.setattr(optimisers, "METHODS", methods)
    rows = list(bench_optimisers.run("pelvis", starts, ct, {name: [0, 1] for name in methods}))
    assert [(each["method"], each["case"]) for each in rows] == [
        (name, number) for name in methods for number in (0, 1)
    ]
    for each in rows:
        assert each["mrpd_mm"] < 3  # pixels of 11 mm, 7.5 mm at the patient
        assert each["mrpd_mm"] < 0.5 * each["start_mtre_mm"]
        assert each["seconds"] > 0
    (untimed,) = bench_optimisers.run("pelvis", starts, ct, {"LM": [0]}, timed=False)
    assert untimed == rows[0] | {"seconds": None}
    assert 0 < rows[0]["steps"] <= 6
    assert rows[2]["steps"] % 12 == 0
    json.dumps(rows)
