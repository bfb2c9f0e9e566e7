"""The command line: exit codes, files, and that refused input leaves nothing behind."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cli_inputs import REGISTER

from jxreg import drr
from jxreg.camera import Camera, detector_points
from jxreg.cli import main
from jxreg.cli.provenance import input_entry, make_folder
from jxreg.cli.render import detector_affine
from jxreg.errors import InputError
from jxreg.io import (
    load_camera,
    load_frames,
    load_pose,
    load_volume,
    save_camera,
    write_nifti,
    write_npy,
)
from jxreg.pose import from_carm

pytest_plugins = ["cli_inputs"]


def test_help_comes_quickly_and_imports_nothing_heavy():
    code = (
        "import sys; from jxreg.cli import main; main(['--help']); main(['register', '--help']);"
        "heavy = {'jax', 'numpy', 'matplotlib', 'nibabel', 'pydicom', 'jinja2', 'PIL', 'rich'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "register" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_usage(capsys):
    assert main([]) == 0
    assert main(["--version"]) == 0
    assert main(["nonsense"]) == 2
    assert main(["render"]) == 2
    assert main(["register", "--help"]) == 0
    assert "nonsense" in capsys.readouterr().err


def test_interrupt(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("jxreg.cli.fetch.is_complete", interrupted)
    assert main(["fetch", "chest-ct"]) == 130


def test_a_fault_of_ours_is_one_line_and_code_1(monkeypatch, capsys):
    def broken(*_):
        raise RuntimeError("first\nsecond \x1b[31m")

    monkeypatch.setattr("jxreg.cli.fetch.is_complete", broken)
    assert main(["fetch", "chest-ct"]) == 1
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert "\x1b" not in shown
    with pytest.raises(RuntimeError):
        main(["fetch", "chest-ct", "--debug"])


# --- refused input ----------------------------------------------------------------------------


def _truncated(folder: Path, inputs: Path) -> list[str]:
    (folder / "cut.nii.gz").write_bytes((inputs / "ct.nii.gz").read_bytes()[:-50])
    return [str(folder / "cut.nii.gz"), str(inputs / "a.npy")]


def _nan_volume(folder: Path, inputs: Path) -> list[str]:
    write_nifti(folder / "nan.nii", np.full((4, 4, 4), np.nan, np.float32), np.eye(4))
    return [str(folder / "nan.nii"), str(inputs / "a.npy")]


def _zero_spacing(folder: Path, inputs: Path) -> list[str]:
    whole = bytearray(gzip.decompress((inputs / "ct.nii.gz").read_bytes()))
    whole[280:328] = bytes(48)  # the rows of the sform
    whole[252:256] = b"\x00\x00\x01\x00"  # only the sform counts
    (folder / "flat.nii").write_bytes(whole)
    return [str(folder / "flat.nii"), str(inputs / "a.npy")]


def _not_rigid(folder: Path, inputs: Path) -> list[str]:
    entry = json.loads((inputs / "start.json").read_text())
    entry["camera_from_world"][0][0] = 2.0
    (folder / "bad.json").write_text(json.dumps(entry))
    ct, xray = str(inputs / "ct.nii.gz"), str(inputs / "a.npy")
    return [ct, xray, "--pose", str(folder / "bad.json")]


def _other_shape(folder: Path, inputs: Path) -> list[str]:
    write_npy(folder / "tall.npy", np.ones((40, 32), np.float32))
    ct, camera = str(inputs / "ct.nii.gz"), str(inputs / "a.json")
    return [ct, str(folder / "tall.npy"), "--camera", camera, "--pose", str(inputs / "start.json")]


def _other_config(folder: Path, inputs: Path) -> list[str]:
    (folder / "config.json").write_text('{"levles": []}')
    ct, xray = str(inputs / "ct.nii.gz"), str(inputs / "a.npy")
    return [ct, xray, "--config", str(folder / "config.json")]


def _given(*words):
    return lambda folder, inputs: [word.format(inputs=inputs) for word in words]


CT, XRAY = "{inputs}/ct.nii.gz", "{inputs}/a.npy"
REFUSED = {
    "no such volume": (_given("{inputs}/none.nii.gz", XRAY), "none.nii.gz"),
    "no such X-ray": (_given(CT, "{inputs}/none.dcm"), "none.dcm"),
    "no X-ray": (_given(CT), "X-ray"),
    "truncated volume": (_truncated, "cut.nii.gz"),
    "NaN volume": (_nan_volume, "nan.nii"),
    "zero spacing": (_zero_spacing, "flat.nii"),
    "no SDD": (_given(CT, "{inputs}/bare.npy"), "sdd"),
    "image and camera of different shapes": (_other_shape, "tall.npy"),
    "two starts": (_given(CT, XRAY, "--pose", "{inputs}/start.json", "--search"), "--search"),
    "a part and a network": (_given(CT, XRAY, "--part", "--net", "net.st"), "--part"),
    "a part, and far": (_given(CT, XRAY, "--part", "--far"), "--part searches for a bone"),
    "far, and the whole range": (
        _given(CT, XRAY, "--search", "--far"),
        "around a start that is given",
    ),
    "far, and a network": (_given(CT, XRAY, "--far", "--net", "net.st"), "--far"),
    "far from nothing": (_given(CT, XRAY, "--far"), "--far, but no start"),
    "landmarks of the volume alone": (
        _given(CT, XRAY, "--landmarks", "points.mrk.json"),
        "--landmarks-2d",
    ),
    "no distance": (_given(CT, XRAY, "--primary-degrees", "10"), "--source-to-isocenter"),
    "volume beyond the detector": (
        _given(CT, XRAY, "--primary-degrees", "1", "--source-to-isocenter", "1200"),
        "between source and detector",
    ),
    "second X-ray bad": (
        _given(CT, XRAY, "{inputs}/ct.nii.gz", "--pose", "{inputs}/start.json"),
        "ct.nii.gz",
    ),
    "pose is not rigid": (_not_rigid, "bad.json"),
    "unknown key in the configuration": (_other_config, "levles"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_input_is_one_line_and_writes_nothing(case, inputs, tmp_path, capsys):
    make, told = REFUSED[case]
    out = tmp_path / "out"
    assert main(["register", *make(tmp_path, inputs), "--out", str(out)]) == 3
    errors = [e for e in capsys.readouterr().err.splitlines() if e.startswith("error:")]
    assert len(errors) == 1
    assert told in errors[0]
    assert "expected" in errors[0]
    assert not out.exists()


@pytest.mark.parametrize(
    "words",
    [
        ("--out", "{tmp}/drr.bmp"),
        ("--out", "{tmp}/none/drr.png"),
        ("--out", "{tmp}/drr.png", "--sdd", "-5"),
        ("--out", "{tmp}/drr.png", "--pixel-spacing", "0", "1"),
        ("--out", "{tmp}/drr.png", "--size", "0", "5"),
        ("--out", "{tmp}/drr.png", "--quadrature", "siddon", "--step-mm", "1"),
        ("--out", "{tmp}/drr.png", "--pose", "{tmp}/none.json"),
        ("--out", "{tmp}/drr.png", "--mu-per-unit", "0"),
        ("--out", "{tmp}/drr.png", "--step-mm", "0"),
        ("--out", "{tmp}/drr.png", "--step-mm", "-2"),
        ("--out", "{tmp}/drr.png", "--step-mm", "nan"),
        ("--out", "{tmp}/drr.png", "--size", "0", "0"),
        ("--out", "{tmp}/drr.png", "--size", "-4", "-4", "--camera", "{inputs}/a.json"),
        ("--out", "{tmp}/drr.png", "--source-to-isocenter", "0"),
        ("--out", "{tmp}/drr.png", "--source-to-isocenter", "-700"),
        ("--out", "{tmp}/drr.png", "--camera", "{inputs}/a.json", "--sdd", "1500"),
        ("--out", "{tmp}/drr.png", "--camera", "{inputs}/a.json", "--principal-point", "1", "2"),
        ("--out", "{tmp}/drr.png", "--pose", "{inputs}/truth.json", "--primary-degrees", "3"),
        ("--out", "{tmp}/drr.png", "--series", "7", "--volume-frame", "3"),
    ],
)
def test_render_refuses(words, inputs, tmp_path, capsys):
    words = [word.format(tmp=tmp_path, inputs=inputs) for word in words]
    assert main(["render", str(inputs / "ct.nii.gz"), *words]) == 3
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err.count("error:") == 1


def test_out_is_a_file(inputs, tmp_path, fake_register, capsys):
    fake_register(0)
    (tmp_path / "out").write_text("mine")
    words = [str(inputs / "ct.nii.gz"), str(inputs / "a.npy"), "--pose", str(inputs / "start.json")]
    assert main(["register", *words, "--out", str(tmp_path / "out")]) == 3
    assert (tmp_path / "out").read_text() == "mine"
    assert "error:" in capsys.readouterr().err


def test_out_is_checked_before_the_registration(inputs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(REGISTER, "register", lambda *_, **__: pytest.fail("registers"))
    (tmp_path / "file").write_text("mine")
    (tmp_path / "out" / "b").parent.mkdir()
    (tmp_path / "out" / "b").write_text("mine")
    words = [str(inputs / "ct.nii.gz"), str(inputs / "a.npy"), "--pose", str(inputs / "start.json")]
    assert main(["register", *words, "--out", str(tmp_path / "file" / "out")]) == 3
    words.insert(2, str(inputs / "b.npy"))
    assert main(["register", *words, "--out", str(tmp_path / "out")]) == 3
    assert capsys.readouterr().err.count("choose another --out") == 2


def test_folder_must_be_writable(tmp_path, monkeypatch):
    def refused(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    with pytest.raises(InputError, match="Permission denied"):
        make_folder(tmp_path)


# --- render -----------------------------------------------------------------------------------


def test_render_from_a_pose_file_is_the_renderer(inputs, tmp_path):
    words = [str(inputs / "ct.nii.gz"), "--pose", str(inputs / "truth.json")]
    assert main(["render", *words, "--out", str(tmp_path / "drr.npy")]) == 0
    np.testing.assert_allclose(
        np.load(tmp_path / "drr.npy"), np.load(inputs / "a.npy"), atol=1e-4
    )  # the pose went through a file
    assert load_pose(tmp_path / "drr.json").wxyz_xyz.shape == (7,)
    assert load_camera(tmp_path / "drr.json").image_size == (32, 32)
    about = json.loads((tmp_path / "drr.about.json").read_text())
    assert about["inputs"] == [input_entry("volume", inputs / "ct.nii.gz")]
    assert about["versions"]["jax"] == jax.__version__


def test_numbers_of_a_file_may_be_attenuation(inputs, tmp_path):
    volume = load_volume(inputs / "ct.nii.gz", crop_air=False)
    write_nifti(tmp_path / "mu.nii", 1e5 * np.asarray(volume.mu), np.asarray(volume.affine))
    words = ["--mu-per-unit", "1e-5", "--pose", str(inputs / "truth.json")]
    out = str(tmp_path / "drr.npy")
    assert main(["render", str(tmp_path / "mu.nii"), *words, "--out", out]) == 0
    np.testing.assert_allclose(np.load(out), np.load(inputs / "a.npy"), atol=1e-4)


def rendered_camera(inputs, tmp_path, *words):
    out = tmp_path / "drr.npy"
    assert main(["render", str(inputs / "ct.nii.gz"), "--out", str(out), *words]) == 0
    return load_camera(tmp_path / "drr.json"), np.load(out)


def test_mirrored_overrules_a_camera_file(inputs, tmp_path):
    save_camera(tmp_path / "camera.json", Camera.from_sdd(1000.0, (32, 32), (8.0, 8.0)))
    words = ["--camera", str(tmp_path / "camera.json"), "--primary-degrees", "20"]
    camera, image = rendered_camera(inputs, tmp_path, *words)
    assert camera.intrinsic[0, 0] > 0
    other, mirrored = rendered_camera(inputs, tmp_path, *words, "--mirrored")
    assert other.intrinsic[0, 0] < 0
    np.testing.assert_allclose(mirrored, image[:, ::-1], atol=1e-4)


def test_numbers_overrule_the_camera_of_a_pose_file(inputs, tmp_path):
    words = ["--pose", str(inputs / "truth.json"), "--size", "16", "16", "--sdd", "1100"]
    camera, _ = rendered_camera(inputs, tmp_path, *words, "--pixel-spacing", "10", "12")
    assert camera.image_size == (16, 16)
    found = [camera.sdd, camera.intrinsic[0, 0], camera.intrinsic[1, 1], camera.intrinsic[0, 2]]
    np.testing.assert_allclose(found, [1100, -1100 / 12, 110, 7.5], rtol=1e-6)


def test_options_of_the_volume_reach_its_reader(inputs, tmp_path):
    import nibabel

    ct = nibabel.load(inputs / "ct.nii.gz")
    hu = np.asarray(ct.dataobj, np.float32)
    broken = np.where(hu == hu.max(), np.nan, hu)
    both = nibabel.Nifti1Image(np.stack([0 * hu, broken], -1), ct.affine)
    nibabel.save(both, tmp_path / "4d.nii")
    words = ["render", str(tmp_path / "4d.nii"), "--out", str(tmp_path / "drr.npy")]
    words += ["--pose", str(inputs / "truth.json")]
    assert main(words) == 3
    words += ["--volume-frame", "1"]
    assert main(words) == 3
    words += ["--fill-nonfinite", str(hu.max())]
    assert main(words) == 0
    np.testing.assert_allclose(np.load(tmp_path / "drr.npy"), np.load(inputs / "a.npy"), atol=1e-4)


def test_series_is_chosen_at_the_shell(monkeypatch, inputs, tmp_path, fake_register):
    from jxreg import io

    seen, load = [], io.load_volume

    def spy(path, **options):
        seen.append(options.pop("series"))
        return load(path, **options)

    monkeypatch.setattr(io, "load_volume", spy)
    fake_register(0)
    words = [str(inputs / "ct.nii.gz"), str(inputs / "a.npy"), "--series", "1.2.3"]
    words += ["--pose", str(inputs / "start.json"), "--out", str(tmp_path / "out")]
    assert main(["register", *words]) == 0
    assert seen == ["1.2.3"]


def test_render_by_angles_round_trips_as_png(inputs, tmp_path):
    png = tmp_path / "drr.png"
    angles = "--primary-degrees 20 --secondary-degrees 5 --source-to-isocenter 700 --sdd 1000"
    camera = "--size 32 32 --pixel-spacing 8 8 --mirrored"
    words = [str(inputs / "ct.nii.gz"), "--out", str(png), *angles.split(), *camera.split()]
    assert main(["render", *words]) == 0
    frames = load_frames(png)
    expected = np.load(inputs / "a.npy")
    step = np.ptp(expected) / 65535
    np.testing.assert_allclose(frames.image[0], expected, atol=2 * step + 1e-4)
    assert bool(frames.camera.intrinsic[0, 0, 0] < 0)


@pytest.mark.parametrize("mirrored", [False, True])
def test_nifti_output_lies_where_the_detector_stood(mirrored):
    camera = Camera.from_sdd(1000.0, (6, 8), (2.0, 3.0), (1.5, 4.0), mirrored=mirrored)
    pose = from_carm(33.0, -20.0, 7.0, source_to_isocenter=600.0, isocenter=(1.0, 2.0, 3.0))
    affine = detector_affine(camera, pose)
    pixels = jnp.array([[0.0, 0.0], [7.0, 0.0], [3.0, 5.0]])
    expected = pose.inverse().apply(detector_points(camera, pixels))
    homogeneous = jnp.concatenate([pixels, jnp.array([[0.0, 1.0]] * 3)], 1)
    np.testing.assert_allclose((homogeneous @ affine.T)[:, :3], expected, atol=2e-3)  # float32


@pytest.mark.parametrize("mirrored", [False, True])
def test_dicom_output_starts_a_registration(mirrored, inputs, tmp_path, fake_register):
    words = "--primary-degrees 30 --secondary-degrees -15 --source-to-isocenter 650 --sdd 990"
    words += " --size 32 32 --pixel-spacing 8 9" + " --mirrored" * mirrored
    ct, dcm = str(inputs / "ct.nii.gz"), tmp_path / "xray.dcm"
    assert main(["render", ct, "--out", str(dcm), *words.split()]) == 0
    frames = load_frames(dcm)
    camera = load_camera(tmp_path / "xray.json")
    np.testing.assert_allclose(frames.camera.intrinsic[0], camera.intrinsic, rtol=1e-5)
    volume = load_volume(ct)
    pose = load_pose(tmp_path / "xray.json")
    start = REGISTER.initial_pose(volume, jax.tree.map(lambda x: x[0], frames))
    np.testing.assert_allclose(start.as_matrix(), pose.as_matrix(), atol=1e-2)  # mm at 650 mm
    image = np.asarray(jax.jit(drr.render)(volume, camera, pose))
    assert np.corrcoef(frames.image[0].ravel(), image.ravel())[0, 1] > 0.9999  # 16 bits
    fake_register(0)
    assert main(["register", ct, str(dcm), "--out", str(tmp_path / "out")]) == 0
    record = json.loads((tmp_path / "out" / "registration.json").read_text())
    assert "DICOM" in record["start"]["source"]
