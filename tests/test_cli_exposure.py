"""`jxreg render --physics`: files, what their headers tell, and what is refused."""

import json

import jax.numpy as jnp
import numpy as np
import pydicom
import pytest

from jxreg.camera import Camera
from jxreg.cli import main
from jxreg.cli.exposure import PhysicsOptions, _setup
from jxreg.io import load_camera, load_frames
from jxreg.physics.blur import modulation

pytest_plugins = ["cli_inputs"]

VIEW = "--primary-degrees 30 --secondary-degrees -15 --source-to-isocenter 650 --sdd 990"
VIEW += " --size 32 32 --pixel-spacing 8 9 --mirrored"


def render(inputs, out, *words):
    code = main(["render", str(inputs / "ct.nii.gz"), "--out", str(out), *VIEW.split(), *words])
    return code, out


def test_a_dx_image_has_the_camera_the_angles_and_the_technique(inputs, tmp_path):
    words = "--physics --kvp 90 --filter aluminium 3 copper 0.1 --mas 2 --noise 1 --scatter 0.4"
    words += " --grid"
    code, path = render(inputs, tmp_path / "xray.dcm", *words.split())
    assert code == 0
    frames, camera = load_frames(path), load_camera(tmp_path / "xray.json")
    np.testing.assert_allclose(frames.camera.intrinsic[0], camera.intrinsic, rtol=1e-5)
    np.testing.assert_allclose(frames.camera.sdd[0], camera.sdd)
    angles = np.degrees(np.array([frames.carm.primary[0], frames.carm.secondary[0]]))
    np.testing.assert_allclose(angles, [30.0, -15.0], rtol=1e-5)
    np.testing.assert_allclose(frames.carm.source_to_isocenter[0], 650.0, rtol=1e-5)
    tags = pydicom.dcmread(path)
    assert (tags.Modality, float(tags.KVP), int(tags.ExposureInuAs)) == ("DX", 90.0, 2000)
    assert tags.pixel_array.max() < 65535  # the open field is at 80 %
    about = json.loads((tmp_path / "xray.about.json").read_text())["physics"]
    assert about["scatter_to_primary"] == 0.4
    assert 50 < about["mean_kev"] < 55
    assert about["materials"] == ["soft", "bone"]


def test_a_png_keeps_absolute_attenuation_that_the_seed_repeats(inputs, tmp_path):
    shots = {}
    for name, words in {"clear": "", "noisy": "--noise 3", "again": "--noise 3"}.items():
        mas = "--physics --mas 0.01"
        code, path = render(inputs, tmp_path / f"{name}.png", *mas.split(), *words.split())
        assert code == 0
        shots[name] = np.asarray(load_frames(path, camera=tmp_path / f"{name}.json").image[0])
    assert np.abs(shots["clear"].min()) < 1e-3  # air beside the balls
    assert 1.5 < shots["clear"].max() < 5  # 120 mm of water and some bone
    np.testing.assert_array_equal(shots["noisy"], shots["again"])
    assert 1e-4 < np.std(shots["noisy"] - shots["clear"]) < 0.1


def test_each_option_turns_on_its_part():
    camera = Camera.from_sdd(1000.0, (4, 4), (1.0, 1.0))
    plain = _setup(PhysicsOptions(), camera, 700.0)
    assert [name for name, part in plain._asdict().items() if part is not None] == [
        "electronic_noise"
    ]
    chosen = PhysicsOptions(heel=True, focal_spot=0.6, resolution=1.5, scatter=0.5, grid=True)
    made = _setup(chosen, camera, 700.0)
    parts = {name for name, part in made._asdict().items() if part is not None}
    assert parts == {"heel", "focal_spot", "scatter", "grid", "transfer", "electronic_noise"}
    assert made.scatter.ratio == 0.5
    fwhm = np.sqrt(8 * np.log(2)) * float(made.focal_spot.sigmas[0, 0])
    assert fwhm == pytest.approx(0.6 * (1000 / 700 - 1))
    assert float(modulation(made.transfer, jnp.array([1.5]))[0]) == pytest.approx(0.5)
    assert _setup(PhysicsOptions(counting=True), camera, 700.0).electronic_noise is None


@pytest.mark.parametrize(
    "words, told",
    [
        ("--kvp 90", "--kvp"),
        ("--grid", "--grid"),
        ("--physics --kvp 300", "kV"),
        ("--physics --kvp 0", "kV"),
        ("--physics --filter unobtainium 1", "unobtainium"),
        ("--physics --filter lead 50", "photons"),
        ("--physics --scatter -1", "--scatter"),
        ("--physics --noise 99999999999999999999", "--noise"),
        ("--physics --modality mr", "structural MR"),
        ("--physics --modality labels", "intensities"),
        ("--physics --focal-spot 0", "--focal-spot"),
    ],
)
def test_what_is_refused(words, told, inputs, tmp_path, capsys):
    code, path = render(inputs, tmp_path / "xray.png", *words.split())
    assert code == 3
    assert told in capsys.readouterr().err
    assert not path.exists()
