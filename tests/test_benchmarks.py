"""The benchmarks of speed run, and what they report is what was measured; no times are asserted."""

import json
import sys
from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import nibabel
import numpy as np
import pytest
import tiny_recipe

import jxreg
from jxreg import recipes
from jxreg.pose import twist_between
from jxreg.volume import MU_WATER

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
import bench_convergence
import bench_render
import bench_train
import compare
import figures
import measuring
import peers
import scene
import timing

WHAT = ["forward", "gradient", "jacobian", "volume"]


@pytest.fixture(scope="module")
def ct():
    """A ball of water off centre, 240 mm a side."""
    axes = np.meshgrid(*[np.arange(n) for n in (24, 20, 30)], indexing="ij")
    near = sum((x - c) ** 2 for x, c in zip(axes, (11.0, 9.0, 16.0), strict=True))
    mu = (MU_WATER * np.clip(4.0 - np.sqrt(near) / 2, 0, 1)).astype(np.float32)
    affine = np.diag([10.0, 12.0, 8.0, 1.0])
    return jxreg.Volume.from_array(mu, affine)


def plain(samples: int):
    """A march through a field of its own, in proportion to the volume, that compiles at once."""

    def integrate(volume, rays):
        t = (jnp.arange(samples) + 0.5) / samples
        points = rays.origin[:, None, None] + t * rays.direction[..., None]
        centre = jnp.array([11.0, 9.0, 16.0])[:, None, None]
        field = volume.mu.mean() * jnp.exp(-(((points - centre) / 4.0) ** 2).sum(0))
        return (field.sum(-1) * rays.length / samples)[None]

    return integrate


@pytest.fixture(scope="module")
def small(ct):
    return scene.make_scene(ct, 12)


@pytest.fixture(scope="module")
def truth(small):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scene, "marcher", lambda scene, samples: plain(samples))
        return measuring.make_truth(small, 300)


@pytest.fixture(scope="module")
def measured(ct, truth):
    """A case of ours alone."""
    options = Namespace(
        what=WHAT,
        renderers=["joseph"],
        samples=60,
        vector_width=None,
        peers=[],
        peer_memory_gb=1.0,
        rounds=2,
        reference_samples=300,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "make_truth", lambda scene, samples: truth)
        patch.setattr(measuring, "quadrature", lambda name, scene, samples: plain(samples))
        return bench_render.run(ct, measuring.Case(pixels=12, batch=2, samples=60), options, True)


def test_orbits_are_poses_and_back(ct):
    orbit = scene.ORBIT + np.arange(6)
    with jax.enable_x64(True):  # an offset of 1 mm, 850 mm away, to a ten-thousandth
        isocenter = jnp.asarray(ct.isocenter, float)
        pose = scene.pose_of(orbit, isocenter)
        np.testing.assert_allclose(scene.orbit_of(pose, isocenter), orbit, rtol=1e-4)
        assert float(pose.apply(isocenter)[2]) == pytest.approx(orbit[4], rel=1e-5)


def test_chords_are_where_the_field_is():
    """Of an axial ray through the middle, and of one that misses."""
    ones = jxreg.Volume.from_array(np.ones((10, 8, 6)), np.diag([10.0, 12.0, 8.0, 1.0]))
    axial = scene.make_scene(ones, 1)._replace(orbits=np.array([[0, 0, 0, 0, 850.0, 0]]))
    assert scene.chords(axial) == pytest.approx([(8 + 1) * 12.0], rel=1e-5)
    aside = axial._replace(orbits=np.array([[0, 0, 0, 500.0, 850.0, 0]]))
    assert scene.chords(aside).size == 0


def test_rows_hold_all_that_was_asked_for(measured):
    rows = measured["rows"]
    assert [(row["renderer"], row["what"]) for row in rows] == [("joseph", what) for what in WHAT]
    for row in rows:
        assert 0 < row["minimum_ms"] <= row["median_ms"]
        assert row["calls"] == 6
        assert 0 < row["rms_error"] <= row["max_error"] < 0.05
        assert row["memory_mb"] > 0
        assert (row["gradient_error"] is not None) == (row["what"] == "gradient")
    json.dumps(measured)


def test_gradient_is_that_of_the_reference(measured):
    errors = [row["gradient_error"] for row in measured["rows"] if row["what"] == "gradient"]
    assert max(errors) < 0.1


def test_reference_gradient_in_the_coordinates_of_the_peers(small, truth):
    """The chain rule from twists to angles and translations, against a difference quotient."""
    isocenter = small.volume.isocenter
    start = scene.pose_of(small.orbits[0], isocenter)
    for axis, step in enumerate([0.05] * 3 + [0.5] * 3):
        moved = scene.pose_of(small.orbits[0] + step * np.eye(6)[axis], isocenter)
        twist = np.asarray(twist_between(start, moved, isocenter)) / step
        expected = truth.gradient @ twist
        scale = np.abs(truth.orbit_gradient * measuring.ORBIT_UNITS).max()
        assert truth.orbit_gradient[axis] * measuring.ORBIT_UNITS[axis] == pytest.approx(
            expected * measuring.ORBIT_UNITS[axis], abs=0.02 * scale
        )


def test_sizes_and_batches_vary_one_at_a_time():
    options = Namespace(pixels=[200, 64], batch=[1, 8], samples=500, scaling=True)
    cases = bench_render.cases(options)
    assert cases[0] == measuring.Case()
    assert len(cases) == len(set(cases)) == 9
    default = vars(measuring.Case())
    for case in cases:
        assert sum(vars(case)[key] != value for key, value in default.items()) <= 1


def rows(*entries):
    keys = ("package", "renderer", "what", "median_ms", "vector_width", "samples", "memory_mb")
    extra = {"equal_error": False}
    return [dict(zip(keys, entry, strict=True)) | extra for entry in entries]


def test_ratios_are_of_equal_work():
    case = {"pixels": 200, "batch": 1, "samples": 500, "pooled": 1}
    case["rows"] = rows(
        ("jxreg", "trilinear", "forward", 100.0, None, 500, 30.0),
        ("jxreg", "trilinear", "forward", 50.0, 512, 500, 1.0),
        ("nanodrr", "torch", "forward", 900.0, None, 500, 1.0),
        ("nanodrr", "torch", "gradient", 2000.0, None, 500, 1.0),
    )
    assert [each["times_faster"] for each in compare.ratios(case)] == [9.0, 18.0]
    (line,) = compare.asked(case, "cpu")
    assert (line["ratio"], line["least"], line["verdict"]) == (9.0, 8.0, "pass")
    assert compare.asked(case | {"pixels": 64}, "cpu") == []
    assert "30.0 MB" in compare.memory_asked(case | {"batch": 8})[0]
    assert compare.memory_asked(case) == []


def test_memory_of_a_call_is_seen():
    first = timing.first(timing.Call(lambda: np.ones(8_000_000), lambda result: None))
    if Path("/proc/self/status").exists():
        assert first.grown >= 60e6
    assert first.seconds > 0


class Found(NamedTuple):
    """What the benchmark looks at of a registration."""

    pose: object
    status: object
    trace: object


class Steps(NamedTuple):
    step_mm: object


def stay(volume, camera, images, starts, config):
    """Registration that stays at the start after three of four steps."""
    count = images.shape[0]
    steps = jnp.tile(jnp.array([1.0, 0.5, 0.1, 0.0]), (count, 1))
    return Found(starts, jnp.zeros(count, int), Steps(steps))


def convergence(monkeypatch, path: Path, out: Path, *words: str) -> dict:
    command = ["bench", str(path), "--pixels", "8", "--peers", "--out", str(out), *words]
    monkeypatch.setattr(sys, "argv", command)
    bench_convergence.main()
    return json.loads(out.read_text())


def keys(runs: list[dict]) -> set[tuple]:
    return {(run["method"], run["frames"], run["case"]) for run in runs}


def test_convergence_is_written_row_by_row_and_taken_up_again(monkeypatch, capsys, tmp_path, ct):
    monkeypatch.setattr(bench_convergence, "register_all", stay)
    monkeypatch.setattr(scene, "marcher", lambda scene, samples: plain(300))
    path, out = tmp_path / "ct.nii.gz", tmp_path / "out.json"
    hu = (1000 * (np.asarray(ct.mu) / MU_WATER - 1)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(hu, np.asarray(ct.affine, float)), path)
    report = convergence(monkeypatch, path, out, "--starts", "2", "--batch", "2")
    assert keys(report["runs"]) == {
        (method, frames, case)
        for method in bench_convergence.CONFIGS
        for frames, case in [(1, 0), (1, 1), (2, 0)]
    }
    for run in report["runs"]:
        assert run["iterations"] == 3
        assert run["converged"] == 0
        assert all(0.1 < mm < 18 for mm in run["mm"])
    again = convergence(monkeypatch, path, out, "--starts", "3", "--batch", "2")
    before = len(report["runs"])
    assert again["runs"][:before] == report["runs"]
    added = keys(again["runs"][before:])
    assert added == {(method, 1, 2) for method in bench_convergence.CONFIGS}
    with pytest.raises(SystemExit, match="other options"):
        convergence(monkeypatch, path, out, "--seed", "1")
    figures.plot_convergence(again, tmp_path / "time.png")
    assert (tmp_path / "time.png").read_bytes().startswith(b"\x89PNG")
    assert "0 of 3" in figures.convergence_table(again)
    capsys.readouterr()


def test_error_of_the_truth_is_zero(monkeypatch, ct):
    monkeypatch.setattr(scene, "marcher", lambda scene, samples: plain(samples))
    (case,) = bench_convergence.make_cases(scene.make_scene(ct, 8), 1, 0, samples=40)
    assert bench_convergence.errors(case.truth, case.truth, ct.isocenter) == pytest.approx((0, 0))
    mm, degrees = bench_convergence.errors(case.truth, case.start, ct.isocenter)
    assert 0.1 < mm < 18
    assert 0.1 < degrees < 9


def test_tables_and_plots_of_the_report(measured, tmp_path):
    report = {"runs": [measured], "cpu": "a processor", "accelerator": None}
    figures.plot_cost(report, tmp_path / "cost.png")
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")
    lines = figures.render_table(measured).splitlines()
    assert len(lines) == 3
    assert lines[2].startswith("| jxreg joseph | ")
    assert compare.table(measured).row_count == 4


def test_peers_see_the_same_view(ct):
    reason = peers.missing()
    if reason:
        pytest.skip(reason)
    small = scene.make_scene(ct, 12, batch=2)
    truth = measuring.make_truth(small, 2000)
    for make in peers.makers(2000, peers.NAMES):
        peer = make(small)
        rows = list(measuring.theirs(small, truth, peer, ["forward", "gradient"]))
        if "siddon" in peer.name:  # of constant voxels, 10 mm large
            assert rows[0].row["max_error"] < 0.2
        else:
            assert max(rows[0].row["max_error"], rows[1].row["gradient_error"]) < 0.01


def training(monkeypatch, out: Path, *words: str) -> dict:
    monkeypatch.setattr(sys, "argv", ["bench", "ct.nii.gz", "--out", str(out), *words])
    bench_train.main()
    return json.loads(out.read_text())


def test_speed_of_training_is_written_row_by_row_and_taken_up_again(
    monkeypatch, capsys, tmp_path, ct
):
    """The latency is that of a recipe that needs no time; the others run at once."""
    monkeypatch.setitem(recipes.RECIPES, "tiny", "tiny")
    monkeypatch.setattr(recipes, "_file", lambda name: tiny_recipe)
    monkeypatch.setattr(jxreg, "load_volume", lambda path: ct)
    monkeypatch.setattr(jxreg, "render", lambda volume, camera, pose: jnp.ones(camera.image_size))
    for name in ("synthesis", "training"):
        monkeypatch.setattr(bench_train, name, lambda *_: lambda: None)
    words = ["--recipes", "tiny", "--batches", "2", "--pixels", "16"]
    report = training(monkeypatch, tmp_path / "o.json", *words, "--calls", "3")
    rows = {(row["what"], row["name"]): row for row in report["runs"]}
    assert len(rows) == 5
    latency = rows["latency", "tiny"]
    assert (latency["pixels"], latency["batch"], len(latency["ms"])) == (16, 1, 3)
    assert 0 < latency["median_ms"] <= latency["p95_ms"]
    assert latency["device"] == "cpu"
    again = training(monkeypatch, tmp_path / "o.json", *words, "--calls", "5")
    for before, after in zip(report["runs"], again["runs"], strict=True):
        assert after["ms"][: len(before["ms"])] == before["ms"]
        assert len(after["ms"]) == (5 if after["what"] == "latency" else 2)
        assert after["first_call_s"] == before["first_call_s"]
    assert bench_train.table(again).row_count == 5
    capsys.readouterr()
