"""`jxreg track`: the file of poses, exit codes, and that a network starts it and finds it again."""

import json

import jax
import numpy as np
import pytest
import tiny_recipe
from cli_inputs import SMALL, a_registration

from jxreg import recipes
from jxreg.cli import main
from jxreg.cli.config_file import read_track_config
from jxreg.io import load_camera, load_frames, load_pose, load_volume, save_camera, write_npy
from jxreg.io.checksum import sha256
from jxreg.recipes.model import load_model as load
from jxreg.recipes.model import locate, save_model

pytest_plugins = ["cli_inputs"]


@pytest.fixture
def net(inputs, tmp_path, monkeypatch):
    """A network that needs no training: it looks where the middle of the absorption is."""
    monkeypatch.setitem(recipes.RECIPES, "tiny", "tiny")
    monkeypatch.setattr(recipes, "_file", lambda name: tiny_recipe)
    params = tiny_recipe.build(tiny_recipe.CONFIG).task.init(jax.random.key(0))
    path = tmp_path / "m.safetensors"
    save_model(path, "tiny", tiny_recipe.CONFIG, params, {})
    return path


@pytest.fixture
def run(inputs, tmp_path):
    """A run of three frames; the one in the middle is black."""
    image = np.load(inputs / "a.npy")
    write_npy(tmp_path / "run.npy", np.stack([image, 0 * image, image]))
    save_camera(tmp_path / "run.json", load_camera(inputs / "a.json"))
    return tmp_path / "run.npy"


@pytest.fixture
def fake_follow(monkeypatch):
    """Replaces `follow` by one that gives these statuses, each at its start; what it was told."""
    told = []

    def use(*statuses):
        def follow(volume, frames, pose, *, config, search):
            told.append((config, search))
            for frame, status in zip(frames, statuses, strict=True):
                found = pose(volume, frame) if callable(pose) else pose
                yield a_registration(status, found)

        monkeypatch.setattr("jxreg.tracking.follow", follow)
        return told

    return use


def track(inputs, out, *words):
    return main(["track", str(inputs / "ct.nii.gz"), *map(str, words), "--out", str(out)])


def test_poses_of_a_run_that_a_network_starts(inputs, run, net, tmp_path, fake_follow, capsys):
    told = fake_follow(0, 2, 1)
    out = tmp_path / "new" / "poses.json"
    assert track(inputs, out, run, "--net", net) == 5
    ((config, search),) = told
    assert config.searches == 3
    record = json.loads(out.read_text())
    assert (record["format"], record["start"]) == ("jxreg-track", "network m.safetensors")
    assert [i["sha256"] for i in record["inputs"]] == [sha256(inputs / "ct.nii.gz"), sha256(run)]
    frames = record["frames"]
    assert [each["status"] for each in frames] == ["OK", "NO_SIGNAL", "SUSPECT"]
    assert [each["camera_from_world"] is None for each in frames] == [False, True, False]
    assert all(each["seconds"] > 0 for each in frames)
    volume = load_volume(inputs / "ct.nii.gz")
    frame = jax.tree.map(lambda leaf: leaf[0], load_frames(run))
    pose = locate(load(net), volume, frame)
    np.testing.assert_allclose(frames[0]["camera_from_world"], pose.as_matrix(), atol=1e-3)
    np.testing.assert_allclose(search(volume, frame).wxyz_xyz, pose.wxyz_xyz, atol=1e-4)
    (tmp_path / "c.json").write_text(json.dumps({"camera": frames[0]["camera"]}))
    assert load_camera(tmp_path / "c.json").image_size == (32, 32)
    shown = capsys.readouterr().out
    assert "run.npy, frame 2: NO_SIGNAL" in shown
    assert "1 of 3 frames passed their checks" in shown
    assert read_track_config(out) == config
    assert sorted(each.name for each in out.parent.iterdir()) == ["poses.json"]


def test_images_in_their_order_from_a_pose(inputs, tmp_path, fake_follow):
    told = fake_follow(0, 0)
    words = [inputs / "b.npy", inputs / "a.npy", "--pose", inputs / "start.json"]
    assert track(inputs, tmp_path / "p.json", *words) == 0
    ((config, search),) = told
    assert search is None  # nothing was given that could find a lost patient
    assert config.searches == 8
    record = json.loads((tmp_path / "p.json").read_text())
    assert [each["title"] for each in record["frames"]] == ["b.npy", "a.npy"]
    matrix = load_pose(inputs / "start.json").as_matrix()
    np.testing.assert_allclose(record["frames"][1]["camera_from_world"], matrix, atol=1e-3)


@pytest.mark.parametrize(
    "words, told",
    [
        ([], "XRAYS: no file"),
        (["{run}", "--antipodal"], "no --net beside it"),
        (["{run}", "--part"], "jxreg register --part"),
        (["{run}", "--far"], "jxreg register --far"),
        (["{run}", "--config", "{bad}"], "pixels = 0"),
        (["{run}", "--net", "{run}"], "a trained network of jxreg"),
    ],
)
def test_refused_input_leaves_no_file(inputs, run, tmp_path, fake_follow, capsys, words, told):
    fake_follow()
    (tmp_path / "bad.json").write_text('{"each": {"levels": [{"pixels": 0}]}}')
    words = [word.format(run=run, bad=tmp_path / "bad.json") for word in words]
    assert track(inputs, tmp_path / "p.json", *words) == 3
    assert told in capsys.readouterr().err
    assert not (tmp_path / "p.json").exists()


@pytest.mark.slow
def test_a_run_for_real(inputs, run, net, tmp_path):
    """The black frame is lost, the one after it is found."""
    small = SMALL | {"truncated": False}
    (tmp_path / "c.json").write_text(json.dumps({"first": small, "each": small}))
    track(inputs, tmp_path / "p.json", run, "--net", net, "--config", tmp_path / "c.json")
    first, black, last = json.loads((tmp_path / "p.json").read_text())["frames"]
    assert black["status"] == "NO_SIGNAL"
    truth = load_pose(inputs / "truth.json").as_matrix()
    for each in (first, last):
        away = np.array(each["camera_from_world"]) - truth
        assert np.abs(away[:2, 3]).max() < 3.0  # half a voxel; a pixel is 5.6 mm at the patient
