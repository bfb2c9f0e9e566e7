"""`jxreg evaluate`: results and truths in files, tables, figures, refusals; files of starts."""

import csv
import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from refusal import refused

from jxreg import metrics
from jxreg.camera import Camera
from jxreg.cli import main
from jxreg.descent import Trace
from jxreg.io import Landmarks, save_landmarks, save_pose, save_tfm
from jxreg.io.registration_file import load_registration
from jxreg.io.start_file import StartFile, load_starts, save_starts
from jxreg.pose import from_carm, perturb
from jxreg.register import Registration
from jxreg.report import registration_record
from jxreg.verdict import Status

ISOCENTER = np.zeros(3)
POINTS = np.random.default_rng(0).uniform(-60, 60, (12, 3))
CAMERA = Camera.from_sdd(1000.0, (64, 64), (4.0, 4.0))
TRUTH = from_carm(20.0, 5.0, source_to_isocenter=700.0, isocenter=ISOCENTER)
STARTS = Path(__file__).resolve().parents[1] / "benchmarks" / "starts"


def moved(*shift):
    return perturb(TRUTH, jnp.array([*shift, 0.0, 0.0, 0.0]), ISOCENTER)


def write_registration(folder: Path, pose, start, status: Status, similarity: float):
    one = jnp.float32(similarity)
    known = {field.name: one for field in dataclasses.fields(Registration)}
    trace = Trace(jnp.ones(1), jnp.ones(1), jnp.zeros(1, int), pose)
    known |= {"pose": pose, "status": jnp.int32(status), "trace": trace, "covariance": jnp.eye(6)}
    known |= {"views": None, "found": None, "signals": None}
    record = registration_record(
        Registration(**known), start, CAMERA, jnp.asarray(ISOCENTER, float)
    )
    folder.mkdir(parents=True)
    (folder / "registration.json").write_text(json.dumps(record))


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Four registrations: good, good but doubted, 30 mm off but called OK, and without a pose."""
    folder = tmp_path_factory.mktemp("results")
    near, far = moved(3.0, 4.0, 0.0), moved(0.0, 0.0, 15.0)
    write_registration(folder / "out/a", moved(0.5, 0, 0), near, Status.OK, 0.9)
    write_registration(folder / "out/b", moved(0, 0, 1.0), near, Status.SUSPECT, 0.6)
    write_registration(folder / "out/c", moved(30.0, 0, 0), far, Status.OK, 0.7)
    write_registration(folder / "out/d", moved(0, 0, np.nan), far, Status.NON_FINITE, 0.1)
    save_pose(folder / "truth.json", TRUTH)
    (folder / "truths/d").mkdir(parents=True)
    for name in "ab":
        save_pose(folder / f"truths/{name}.json", TRUTH)
    save_tfm(folder / "truths/c.tfm", TRUTH)
    save_pose(folder / "truths/d/pose.json", TRUTH)
    save_landmarks(folder / "points.mrk.json", Landmarks(POINTS, ("",) * 12))
    return folder


def evaluate(files: Path, *words: str) -> int:
    arguments = ["evaluate", *words, "--landmarks", str(files / "points.mrk.json")]
    return main(arguments)


def test_registrations_of_a_folder(files, tmp_path, capsys):
    out = tmp_path / "judged"
    truth = str(files / "truths")
    assert evaluate(files, str(files / "out"), "--truth", truth, "--out", str(out)) == 0
    assert {path.name for path in out.iterdir()} == {
        "evaluation.json", "runs.csv", "errors.svg", "success.svg"
    }  # fmt: skip
    found = json.loads((out / "evaluation.json").read_text())
    assert found["runs"] == 4
    assert found["success"]["rate"] == [0.5, 0.5, 0.5, 0.5]
    assert found["gross_failures"]["rate"] == 0.5
    assert found["bins"]["count"][:3] == [2, 2, 0]  # 5 mm and 15 mm
    assert found["capture_range"] == 10.0
    confusion = {k: v for k, v in found["verdict"].items() if isinstance(v, int)}
    assert confusion == {
        "accepted_good": 1, "accepted_bad": 1, "rejected_good": 1, "rejected_bad": 1
    }  # fmt: skip
    assert found["verdict"]["auc"] == pytest.approx(0.75)  # 0.9, 0.6 against 0.7, 0.1
    with open(out / "runs.csv") as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert float(rows["a"]["mtre_mm"]) == pytest.approx(0.5, abs=1e-3)
    assert float(rows["b"]["depth_mm"]) == pytest.approx(1.0, abs=1e-3)
    assert float(rows["c"]["initial_mtre_mm"]) == pytest.approx(15.0, abs=1e-3)
    assert [rows["d"][k] for k in ("status", "mtre_mm", "good")] == ["NON_FINITE", "", "0"]
    for name in ("errors.svg", "success.svg"):
        assert (out / name).read_bytes().startswith(b"<?xml")
    said = capsys.readouterr().out
    for words in ("4 runs, mrpd", "below 2 mm", "50.0%", "15.0% to 85.0%", "capture range (95%)"):
        assert words in said, said


def test_the_metric_and_the_threshold_are_options(files, tmp_path):
    for number, (metric, good_mm, rate) in enumerate(
        [("mrpd", "0.3", 1), ("mtre", "0.3", 0), ("mtre", "0.8", 1), ("mtre", "2", 2)]
    ):
        out = tmp_path / str(number)
        words = ["--truth", str(files / "truth.json"), "--out", str(out)]
        words += ["--metric", metric, "--good-mm", good_mm]
        assert evaluate(files, str(files / "out"), *words) == 0
        found = json.loads((out / "evaluation.json").read_text())
        good = found["verdict"]["accepted_good"] + found["verdict"]["rejected_good"]
        assert good == rate, metric  # b is off in depth alone, which mrpd hardly sees


def test_pose_files_have_errors_but_no_verdict(files, tmp_path):
    save_pose(tmp_path / "x.json", moved(0.5, 0, 0), CAMERA)
    save_tfm(tmp_path / "y.tfm", moved(4.0, 0, 0))
    out = tmp_path / "out"
    words = [
        str(tmp_path / "x.json"),
        str(tmp_path / "y.tfm"),
        "--truth",
        str(files / "truth.json"),
    ]
    assert evaluate(files, *words, "--out", str(out)) == 0
    found = json.loads((out / "evaluation.json").read_text())
    assert (found["verdict"], found["bins"], found["capture_range"]) == (None, None, None)
    assert found["success"]["rate"] == [0.5, 0.5, 1.0, 1.0]
    assert not (out / "success.svg").exists()
    with open(out / "runs.csv") as file:
        mpd = {row["run"]: row["mpd_mm"] for row in csv.DictReader(file)}
    assert 0.6 < float(mpd["x"]) < 0.8  # magnified by about 1000 / 700
    assert mpd["y"] == ""


@pytest.mark.parametrize(
    "words, said",
    [
        (["{}/out", "--truth", "{}/truths/d"], "no true pose for 'a'"),
        (["{}/out", "--truth", "{}/none.json"], "no such file"),
        (["{}/none", "--truth", "{}/truth.json"], "no such file"),
        (["{}/truths/d", "{}/out/a", "{}/out/a", "--truth", "{}/truth.json"], "second result"),
        (["--truth", "{}/truth.json"], "no result"),
        (["{}/out", "--truth", "{}/truth.json", "--bins", "0"], "--bins"),
        (["{}/truth.json", "--truth", "{}/truth.json", "--metric", "mpd"], "no mPD"),
    ],
)
def test_refusals(files, capsys, words, said):
    assert evaluate(files, *[word.format(files) for word in words]) == 3
    assert said in capsys.readouterr().err


def test_a_record_is_read_back(files, tmp_path):
    found = load_registration(files / "out/a/registration.json")
    assert found.pose is not None
    np.testing.assert_allclose(found.pose.wxyz_xyz, moved(0.5, 0, 0).wxyz_xyz, atol=1e-4)
    assert (found.status, found.camera.image_size) == ("OK", (64, 64))
    assert found.score == pytest.approx(0.9)
    assert load_registration(files / "out/d/registration.json").pose is None
    refused(load_registration, files / "truth.json", "another kind of file")
    entry = json.loads((files / "out/a/registration.json").read_text())
    (tmp_path / "new.json").write_text(json.dumps(entry | {"version": 2}))
    refused(load_registration, tmp_path / "new.json", "version = 2")
    (tmp_path / "both.json").write_text(json.dumps(entry | {"probability": 0.25}))
    assert load_registration(tmp_path / "both.json").score == 0.25


# Files of starts


@pytest.fixture
def starts() -> StartFile:
    views, twists = np.zeros((4, 6)), np.zeros((4, 6))
    mtre, edges = np.array([1.0, 9.0, 12.0, 13.0]), np.array([0.0, 10.0, 20.0])
    args = ("ct.nii.gz", "00", 7, ISOCENTER, 700.0, CAMERA, edges, POINTS, views, twists, mtre)
    return StartFile(*args)


def test_starts_survive_their_file(starts, tmp_path):
    save_starts(tmp_path / "s.json", starts)
    again = load_starts(tmp_path / "s.json")
    assert (again.ct, again.sha256, again.key) == ("ct.nii.gz", "00", 7)
    for name in ("isocenter", "edges", "landmarks", "views", "twists", "mtre"):
        np.testing.assert_array_equal(getattr(again, name), getattr(starts, name))
    np.testing.assert_allclose(again.camera.intrinsic, CAMERA.intrinsic)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"version": 2}, "version = 2"),
        ({"world": "LPS"}, "world = 'LPS'"),
        ({"key": "7"}, "key = 7"),
        ({"edges": [0.0, 20.0, 10.0]}, "do not rise"),
        ({"edges": [0.0, 5.0, 20.0]}, "bins with [1, 3] starts"),
        ({"edges": [0.0, 5.0, 10.0]}, "outside 0 to 10 mm"),
        ({"landmarks": [[1.0, 2.0]]}, "landmarks"),
        ({"more": 1}, "unknown keys ['more']"),
        ({"starts": [{"view": [0] * 6, "twist": [0] * 5, "mtre": 1.0}]}, "twist"),
        ({"starts": []}, "starts"),
    ],
)
def test_damaged_files_of_starts_are_refused(starts, tmp_path, change, words):
    path = tmp_path / "s.json"
    save_starts(path, starts)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refused(load_starts, path, words)


@pytest.mark.parametrize("name", ["chest", "chest-lidc", "head", "pelvis"])
def test_published_starts_are_what_they_say(name):
    starts = load_starts(STARTS / f"{name}.json")
    assert len(starts.mtre) == 80
    np.testing.assert_array_equal(starts.edges, np.arange(0, 81, 10))
    points, isocenter = jnp.asarray(starts.landmarks, float), jnp.asarray(starts.isocenter, float)
    for number in range(0, 80, 13):
        view = starts.views[number]
        truth = from_carm(*view[:3], source_to_isocenter=starts.source_to_isocenter,
                          isocenter=isocenter, offset=view[3:])  # fmt: skip
        start = perturb(truth, jnp.asarray(starts.twists[number], float), isocenter)
        error = float(metrics.mtre(start, truth, points))
        np.testing.assert_allclose(error, starts.mtre[number], atol=0.02)
