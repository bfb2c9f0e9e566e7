"""`jxreg train`, and its model as a start of `jxreg register` and `jxreg.register`."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_recipe
from cli_inputs import REGISTER, a_registration

from jxreg import recipes
from jxreg.candidates import Found
from jxreg.cli import main
from jxreg.io import load_frames, load_volume
from jxreg.io.checksum import sha256
from jxreg.io.model_file import load_model_file
from jxreg.io.train_folder import LOG
from jxreg.io.train_log import load_log
from jxreg.recipes.model import Several, load_model, locate, starter
from jxreg.report.record import versions

pytest_plugins = ["cli_inputs"]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, "tiny", "tiny")
    monkeypatch.setattr(recipes, "_file", lambda name: tiny_recipe)


@pytest.fixture
def trained(inputs, tmp_path, capsys):
    out = tmp_path / "m.safetensors"
    assert run(inputs, out) == 0
    capsys.readouterr()
    return out


def run(inputs, out, *options):
    return main(
        ["train", str(inputs / "ct.nii.gz"), "--out", str(out), "--recipe", "tiny", *options]
    )


def test_a_model_file_tells_how_it_came_to_be(inputs, trained):
    params, header = load_model_file(trained)
    assert params["layer"]["slope"].shape == ()
    assert header["recipe"] == "tiny"
    assert header["volumes_sha256"] == [sha256(inputs / "ct.nii.gz")]
    assert header["config"]["train"]["steps"] == 6
    assert header["camera"]["image_size"] == [16, 16]
    assert header["training"]["steps"] == 6
    assert header["versions"] == versions()
    assert "ct.nii" not in json.dumps(header)
    folder = trained.with_name("m.safetensors.training")
    assert [e["step"] for e in load_log(folder / LOG) if "validation" in e] == [3, 6]
    assert b"<svg" in (folder / "log.svg").read_bytes()


def test_the_same_command_again_trains_no_further(inputs, trained, capsys):
    before = load_model_file(trained)
    assert run(inputs, trained) == 0
    after = load_model_file(trained)
    jax.tree.map(np.testing.assert_array_equal, before.params, after.params)
    assert "validation set" in capsys.readouterr().out
    assert run(inputs, trained, "--steps", "9") == 3
    assert "a training with another config.steps" in capsys.readouterr().err


def test_options_and_a_file_change_the_configuration(inputs, tmp_path):
    (tmp_path / "c.json").write_text('{"gain": 2.0, "train": {"steps": 3, "batch": 2}}')
    out = tmp_path / "other.safetensors"
    options = ["--config", str(tmp_path / "c.json"), "--batch", "8", "--camera"]
    options += [str(inputs / "truth.json"), "--pixels", "32", "--primary-degrees", "90"]
    assert run(inputs, out, *options, "--work", str(tmp_path / "w")) == 0
    config = load_model_file(out).header["config"]
    assert (config["gain"], config["train"]["steps"], config["train"]["batch"]) == (2.0, 3, 8)
    geometry = config["geometry"]
    assert (geometry["sdd"], geometry["pixels"], geometry["pixel_mm"]) == (1000.0, 32, 8.0)
    assert geometry["mirrored"]
    assert geometry["primary_degrees"] == 90
    assert (tmp_path / "w" / "run.json").is_file()


def test_finetuning_begins_with_a_foundation(inputs, trained, tmp_path, capsys):
    out = tmp_path / "fine.safetensors"
    assert run(inputs, out, "--from", str(trained), "--steps", "1") == 0
    header = load_model_file(out).header
    assert header["foundation_sha256"] == sha256(trained)
    first, second = (load_model_file(path).params["layer"]["slope"] for path in (trained, out))
    assert 0 < abs(first - second) < 0.2  # one step of 0.1 at most, from where it was
    assert run(inputs, tmp_path / "x.safetensors", "--from", str(inputs / "ct.nii.gz")) == 3
    assert "a trained network of jxreg" in capsys.readouterr().err
    words = ["train", str(inputs / "ct.nii.gz"), "--out", str(out), "--from", str(trained)]
    assert main(words) == 3
    assert "a model of the recipe 'tiny'; expected one of 'jxreg'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, words",
    [
        (["--recipe", "resnet"], "--recipe: 'resnet'; expected one of"),
        (["--sdd", "-1"], "--sdd: -1.0; expected a positive number"),
        (["--steps", "0"], "steps: 0"),
        (["--config", "nowhere.json"], "no such file"),
    ],
)
def test_impossible_options_are_refused(inputs, tmp_path, capsys, options, words):
    assert run(inputs, tmp_path / "m.safetensors", *options) == 3
    assert words in capsys.readouterr().err


SMALL = {
    "geometry": {"pixels": 16, "pixel_mm": 17.4},
    "exposure": False,
    "augmentation": False,
    "width": 8,
    "blocks": [0, 1],
    "hidden": [16],
    "patient": {"validation": 4, "landmarks": 8},
    "train": {"steps": 120, "batch": 4, "validate_every": 4, "block": 2},
}
"""The recipe `jxreg`, small enough to be started many times."""


@pytest.mark.slow
def test_five_kills_at_random_moments_change_no_weight(inputs, tmp_path):
    """SIGKILL of the command while it trains, reads or writes; the same command goes on."""
    (tmp_path / "c.json").write_text(json.dumps(SMALL))
    assert process(inputs, tmp_path, "whole").wait() == 0
    whole = load_model_file(tmp_path / "whole").params
    log = tmp_path / "killed.training" / LOG
    seconds = load_log(tmp_path / "whole.training" / LOG)[-1]["seconds"]
    for delay in np.random.default_rng().uniform(0.0, seconds / 10, 5):
        running = process(inputs, tmp_path, "killed")
        wait_for_batches(running, log)
        time.sleep(delay)
        running.kill()
        assert running.wait() == -signal.SIGKILL
        assert not (tmp_path / "killed").exists()
    assert process(inputs, tmp_path, "killed").wait() == 0
    killed = load_model_file(tmp_path / "killed").params
    jax.tree.map(np.testing.assert_array_equal, killed, whole)
    steps = [
        [entry["step"] for entry in load_log(tmp_path / f"{name}.training" / LOG)]
        for name in ("whole", "killed")
    ]
    assert steps[0] == steps[1]


def process(inputs, folder, out):
    """The command, started."""
    code = "from jxreg.cli import main; raise SystemExit(main())"
    words = [str(inputs / "ct.nii.gz"), "--out", str(folder / out)]
    cache = {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled")}
    return subprocess.Popen(
        [sys.executable, "-c", code, "train", *words, "--config", str(folder / "c.json")],
        env={**os.environ, **cache, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for_batches(running, log):
    """Until it has written to its log, which it cuts to the last checkpoint when it begins."""
    least = np.inf
    while running.poll() is None:
        count = len(load_log(log)) if log.exists() else 0
        if count > least:
            return
        least = min(least, count)
        time.sleep(0.01)


def test_a_network_is_a_start(inputs, trained, tmp_path, fake_register, capsys):
    fake_register(0)
    words = ["register", str(inputs / "ct.nii.gz"), str(inputs / "a.npy")]
    assert main([*words, "--out", str(tmp_path / "r"), "--net", str(trained)]) == 0
    record = json.loads((tmp_path / "r" / "registration.json").read_text())
    assert record["start"]["source"] == "network m.safetensors"
    volume = load_volume(inputs / "ct.nii.gz")
    frame = jax.tree.map(lambda leaf: leaf[0], load_frames(inputs / "a.npy"))
    pose = locate(load_model(trained), volume, frame)
    np.testing.assert_allclose(
        np.array(record["start"]["camera_from_world"]), pose.as_matrix(), atol=1e-3
    )
    assert main([*words, "--out", str(tmp_path / "r"), "--antipodal"]) == 3
    assert "no --net beside it" in capsys.readouterr().err
    assert main([*words, "--out", str(tmp_path / "r"), "--net", str(trained), "--search"]) == 3


def test_register_takes_a_network(inputs, trained, monkeypatch):
    """As a function of volume and frame; where it gives several poses, they are compared."""
    volume = load_volume(inputs / "ct.nii.gz")
    frame = jax.tree.map(lambda leaf: leaf[0], load_frames(inputs / "a.npy"))
    model, seen = load_model(trained), []

    def registered(volume, frame, start, lead, config, found):
        seen.append((start, found))
        return a_registration(0, start)

    monkeypatch.setattr(REGISTER, "_register", registered)

    def compared(volume, frame, poses, **_):
        return Found(poses, *[None] * 4, lead=jnp.float32(1.0), rounds=None)

    monkeypatch.setattr(REGISTER, "compare", compared)
    alone = REGISTER.register(volume, frame, starter(model))
    compared_ = REGISTER.register(volume, frame, starter(model, Several((0.0,), antipodal=True)))
    (one, searched), (best, compared_first) = seen
    assert not searched
    assert compared_first
    assert alone.found is None
    assert compared_.found.pose.wxyz_xyz.shape == (2, 7)
    np.testing.assert_allclose(one.wxyz_xyz, best.wxyz_xyz, atol=1e-5)
