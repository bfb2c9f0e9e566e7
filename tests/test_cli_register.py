"""`jxreg register`: exit codes, files and names."""

import json
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from cli_inputs import FILES, REGISTER, RESULT, SMALL
from jaxlie import SE3

from jxreg.ascent import Climb
from jxreg.camera import project_points
from jxreg.candidates import Found
from jxreg.cli import main
from jxreg.cli.config_file import read_config
from jxreg.cli.provenance import safe_name
from jxreg.errors import InputError
from jxreg.global_search import AROUND, PART
from jxreg.io import (
    load_camera,
    load_frames,
    load_pose,
    load_tfm,
    save_camera,
    write_npy,
)
from jxreg.io.checksum import sha256

pytest_plugins = ["cli_inputs"]


def _register(inputs, out, *xrays, pose="start.json"):
    words = [str(inputs / "ct.nii.gz"), *(str(inputs / x) for x in xrays)]
    return main(["register", *words, "--pose", str(inputs / pose), "--out", str(out)])


@pytest.mark.slow
def test_register_for_real_and_twice_at_once(inputs, tmp_path, capsys):
    words = ["--config", str(inputs / "small.json"), "--pose", str(inputs / "start.json")]
    xrays = [str(inputs / "a.npy"), str(inputs / "b.npy")]
    main(["register", str(inputs / "ct.nii.gz"), *xrays, *words, "--out", str(tmp_path)])
    records = [json.loads((tmp_path / n / "registration.json").read_text()) for n in "ab"]
    for name, record in zip("ab", records, strict=True):
        assert record["similarity"] > record["initial_similarity"]
        assert record["config"]["levels"][0]["pixels"] == 16
        assert {i["name"] for i in record["inputs"]} == {"ct.nii.gz", f"{name}.npy"}
        assert record["inputs"][0]["sha256"] == sha256(inputs / "ct.nii.gz")
        matrix = load_pose(tmp_path / name / "pose.json").as_matrix()
        np.testing.assert_allclose(matrix, record["camera_from_world"], atol=1e-3)  # float32
        np.testing.assert_allclose(
            load_tfm(tmp_path / name / "pose.tfm").as_matrix(), matrix, atol=1e-3
        )
        drr = load_frames(tmp_path / name / "drr.png", camera=inputs / "a.json").image[0]
        exact = np.load(tmp_path / name / "drr.npy")
        np.testing.assert_allclose(drr, exact, atol=np.ptp(exact) / 65535)
        assert np.corrcoef(np.ravel(drr), np.load(inputs / "a.npy").ravel())[0, 1] > 0.99
    # the same image in two lanes of one vmap
    assert records[0]["camera_from_world"] == records[1]["camera_from_world"]
    assert (tmp_path / "index.html").read_text().count("report.html") == 2
    assert "of 2 passed" in capsys.readouterr().out


@pytest.mark.parametrize(
    "statuses, code",
    [((0,), 0), ((1,), 4), ((5,), 4), ((6,), 4), ((2,), 4), ((0, 0), 0), ((0, 1), 5), ((2, 3), 4)],
)
def test_exit_code_tells_the_verdict(statuses, code, inputs, tmp_path, fake_register):
    fake_register(*statuses)
    xrays = ["a.npy", "b.npy"][: len(statuses)]
    assert _register(inputs, tmp_path, *xrays) == code
    for name, status in zip("ab", statuses, strict=False):
        folder = tmp_path if len(statuses) == 1 else tmp_path / name
        found = {p.name for p in folder.iterdir()}
        assert found == (FILES | RESULT if status in (0, 1, 5, 6) else FILES)


def _start_of(folder):
    return json.loads((folder / "registration.json").read_text())["start"]


def test_landmarks_are_a_start(inputs, tmp_path, fake_register):
    fake_register(0)
    random, truth = np.random.default_rng(0), load_pose(inputs / "truth.json")
    points = random.uniform(-50, 50, (6, 3))
    pixels = np.array(project_points(load_camera(inputs / "a.json"), truth, jnp.asarray(points)))
    rows = zip("abcdef", points.tolist(), strict=True)
    lines = [",".join([label, *map(str, xyz)]) for label, xyz in rows]
    (tmp_path / "points.csv").write_text("\n".join(["label,x,y,z", *lines]))
    rows = list(zip("abcdef", pixels.tolist(), strict=True))[::-1]  # paired by label
    lines = [",".join([label, *map(str, uv)]) for label, uv in rows]
    (tmp_path / "pixels.csv").write_text("\n".join(["label,u,v", *lines]))
    words = ["--landmarks", str(tmp_path / "points.csv")]
    words += ["--landmarks-2d", str(tmp_path / "pixels.csv"), "--out", str(tmp_path / "out")]
    assert main(["register", str(inputs / "ct.nii.gz"), str(inputs / "a.npy"), *words]) == 0
    start = _start_of(tmp_path / "out")
    assert start["source"] == "6 of 6 landmarks of pixels.csv"
    matrix = np.array(start["camera_from_world"])
    np.testing.assert_allclose(matrix, truth.as_matrix(), atol=0.1)
    (tmp_path / "pixels.csv").write_text("\n".join(["label,u,v", *lines[:3], "d,999,3", "e,5,-80"]))
    assert main(["register", str(inputs / "ct.nii.gz"), str(inputs / "a.npy"), *words]) == 3


def test_without_a_start_the_image_is_searched(inputs, tmp_path, fake_register, monkeypatch):
    asked, prepared = [], []

    def make_library(volume, camera, config):
        prepared.append(config.truncated)

    def search(volume, frame, config, library):
        asked.append(config.truncated)
        return load_pose(inputs / "truth.json")

    fake_register(0, 6)
    monkeypatch.setattr("jxreg.global_search.make_library", make_library)
    monkeypatch.setattr("jxreg.global_search.search", search)
    words = [str(inputs / name) for name in ("ct.nii.gz", "a.npy", "b.npy")]
    assert main(["register", *words, "--out", str(tmp_path)]) == 5
    assert asked == [True, True]
    assert prepared == [True]  # once: both frames have one camera
    assert _start_of(tmp_path / "a")["source"] == "search"
    assert RESULT <= {path.name for path in (tmp_path / "b").iterdir()}  # ambiguous, yet a pose


AROUND_POSE = "around pose file start.json"


@pytest.mark.parametrize(
    ("option", "given", "asks", "source"),
    [
        ("--part", True, PART, f"search for a part {AROUND_POSE}"),
        ("--part", False, PART, "search"),
        ("--far", True, AROUND, f"search {AROUND_POSE}"),
    ],
)
def test_a_part_or_what_is_far_is_searched_around_the_start(
    inputs, tmp_path, fake_register, monkeypatch, option, given, asks, source
):
    asked, score = [], jnp.zeros(1)

    def search(volume, frame, around=None, *, config, library=None):
        asked.append((around, config))
        found = SE3(load_pose(inputs / "truth.json").wxyz_xyz[None])
        return Found(found, score, score, score, jnp.int32(1), score[0], jnp.int32(1))

    fake_register(0, 0)
    monkeypatch.setattr("jxreg.global_search.make_library", lambda *_, config: config)
    monkeypatch.setattr("jxreg.global_search.search", search)
    (tmp_path / "config.json").write_text('{"truncated": false}')
    words = ["--pose", str(inputs / "start.json")] if given else []
    words += ["--config", str(tmp_path / "config.json"), option]
    files = [str(inputs / name) for name in ("ct.nii.gz", "a.npy", "b.npy")]
    assert main(["register", *files, *words, "--out", str(tmp_path)]) == 0
    for (around, config), folder in zip(asked, ("a", "b"), strict=True):
        assert config == replace(asks, truncated=False)
        assert (around is None) != given
        if given:
            expected = load_pose(inputs / "start.json").as_matrix()
            np.testing.assert_allclose(around.as_matrix(), expected, atol=1e-5)
        record = json.loads((tmp_path / folder / "registration.json").read_text())
        assert record["start"]["source"] == source
        assert record["config"]["search"]["directions"] == asks.directions


def test_a_failed_run_removes_the_pose_of_an_earlier_one(inputs, tmp_path, fake_register):
    fake_register(0, 2)
    assert _register(inputs, tmp_path, "a.npy") == 0
    assert (tmp_path / "pose.json").exists()
    assert _register(inputs, tmp_path, "a.npy") == 4
    assert not RESULT & {p.name for p in tmp_path.iterdir()}


def test_file_names_cannot_leave_the_folder(inputs, tmp_path, fake_register, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    names = ["..npy", "<b>[red]x.npy", "same name.npy", "same_name.npy"]
    for name in names:
        (folder / name).write_bytes((inputs / "a.npy").read_bytes())
    fake_register(0, 0, 0, 0)
    out = tmp_path / "out"
    words = [str(inputs / "ct.nii.gz"), *(str(folder / n) for n in names), "--out", str(out)]
    words += ["--camera", str(inputs / "a.json"), "--pose", str(inputs / "start.json")]
    assert main(["register", *words]) == 0
    made = sorted(p.name for p in out.iterdir())
    assert made == ["b_red_x", "frame", "index.html", "same_name", "same_name_2"]
    assert {p.name for p in tmp_path.iterdir()} == {"in", "out"}
    assert "<b>" not in (out / "b_red_x" / "report.html").read_text()
    assert "<b>[red]x.npy" in capsys.readouterr().out


def test_results_name_no_folder(inputs, tmp_path, fake_register):
    fake_register(0)
    _register(inputs, tmp_path, "a.npy")
    for path in tmp_path.glob("*.*"):
        assert str(inputs).encode() not in path.read_bytes()


def test_multi_frame_file_gets_a_folder_a_frame(inputs, tmp_path, fake_register):
    stack = np.stack([np.load(inputs / "a.npy")] * 3)
    write_npy(tmp_path / "run.npy", stack)
    save_camera(tmp_path / "run.json", load_camera(inputs / "a.json"))
    fake_register(0, 0, 0)
    words = [str(inputs / "ct.nii.gz"), str(tmp_path / "run.npy")]
    words += ["--pose", str(inputs / "start.json"), "--out", str(tmp_path / "out")]
    assert main(["register", *words]) == 0
    folders = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert folders == ["index.html", "run-001", "run-002", "run-003"]


def test_what_a_reader_notices_is_told_and_reported(inputs, tmp_path, fake_register, monkeypatch):
    import warnings

    from jxreg import io

    def load(*args, **kwargs):
        warnings.warn("a.npy: the field <b>is</b> odd", io.InputWarning, stacklevel=2)
        return load_frames(*args, **kwargs)

    monkeypatch.setattr(io, "load_frames", load)
    fake_register(0)
    assert _register(inputs, tmp_path, "a.npy") == 0
    record = json.loads((tmp_path / "registration.json").read_text())
    assert record["notes"] == ["a.npy: the field <b>is</b> odd"]
    assert "&lt;b&gt;is" in (tmp_path / "report.html").read_text()


def test_infinity_in_a_configuration_is_refused(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"levels": [{"tolerance": 1e999}]}')
    with pytest.raises(InputError, match="1e999 is not a number"):
        read_config(path)


def test_configuration_round_trips(tmp_path):
    from jxreg.cli.outputs import config_entries

    default = REGISTER.RegisterConfig()
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config_entries(default)))
    assert read_config(path) == default
    path.write_text(json.dumps({"format": "jxreg-registration", "config": SMALL}))
    assert read_config(path).levels[0].pixels == 16
    path.write_text('{"levels": [{"climb": {"steps": 7}}, {"climb": null}]}')
    climbs = [level.climb for level in read_config(path).levels]
    assert climbs == [Climb(steps=7), None]
    path.write_text(json.dumps(config_entries(read_config(path))))
    assert [level.climb for level in read_config(path).levels] == climbs
    for wrong in ('{"levels": 3}', '{"thresholds": {"kept": "x"}}', "[1]", "{", '{"prior": null}'):
        path.write_text(wrong)
        with pytest.raises(InputError):
            read_config(path)


def test_one_similarity_for_all_levels_comes_from_a_file(tmp_path):
    from jxreg.cli.outputs import config_entries, level_names

    path = tmp_path / "config.json"
    path.write_text('{"similarity": "ncc"}')
    config = read_config(path)
    assert config == REGISTER.RegisterConfig(similarity="ncc")
    assert all(name.endswith(" px, ncc") for name in level_names(config))
    path.write_text(json.dumps(config_entries(config)))
    assert read_config(path) == config


@pytest.mark.parametrize(
    "entries, told",
    [
        ({"similarity": "nonsense"}, "nonsense"),
        ({"similarity": 3}, "similarity = 3"),
        ({"levels": []}, "one level or more"),
        ({"levels": [3]}, "unknown"),
        ({"levels": [{"similarity": "nonsense"}]}, "gradient_correlation"),
        ({"levels": [{"similarity": None}]}, "similarity = None"),
        ({"levels": [{"pixels": 48}, {"pixels": 128}]}, "divisor"),
        ({"levels": [{"pixels": 0}]}, "pixels = 0"),
        ({"levels": [{"pixels": 32.0}]}, "pixels = 32.0"),
        ({"levels": [{"steps": 0}]}, "steps = 0"),
        ({"levels": [{"climb": {"optimizer": "sgd"}}]}, "optimizer = 'sgd'"),
        ({"levels": [{"climb": {"repeats": 0}}]}, "repeats = 0"),
        ({"levels": [{"climb": 3}]}, "climb = 3"),
        ({"levels": {}}, "levels = {}"),
        ({"levels": [{"tolerance": float("nan")}]}, "cannot be read"),
        ({"search": {"primary_centers_degrees": []}}, "primary_centers_degrees = []"),
        ({"search": {"primary_centers_degrees": ["AP"]}}, "AP"),
        ({"format": "jxreg-registration"}, "unknown"),
    ],
)
def test_configurations_that_cannot_run_are_refused(
    entries, told, inputs, tmp_path, fake_register, capsys
):
    fake_register()
    path = tmp_path / "config.json"
    path.write_text(json.dumps(entries))
    words = [str(inputs / "ct.nii.gz"), str(inputs / "a.npy"), "--pose", str(inputs / "start.json")]
    words += ["--config", str(path), "--out", str(tmp_path / "out")]
    assert main(["register", *words]) == 3
    shown = capsys.readouterr().err
    assert shown.count("error:") == 1
    assert str(path) in shown
    assert told in shown


def test_names():
    assert safe_name("../../etc/passwd") == "etc_passwd"
    assert safe_name("..") == "frame"
    assert len(safe_name("x" * 300)) == 80


def test_checksum_of_a_folder_sees_names_and_contents(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    first = sha256(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert sha256(tmp_path) != first
