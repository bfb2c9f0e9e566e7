"""Pose and camera files, and files that appear whole or not at all."""

import json

import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
import pytest

from jxreg import camera as camera_
from jxreg.camera import Camera
from jxreg.errors import InputError
from jxreg.io import load_camera, load_pose, save_camera, save_pose, write_atomic

CAMERA = Camera.from_sdd(1020.0, (200, 300), (1.1, 1.2), (140.5, 90.25), mirrored=True)

UPSIDE_DOWN = Camera.from_intrinsic(np.diag([900.0, -900.0, 1.0]), 1020.0, (200, 300))


def some_pose():
    return jaxlie.SE3.exp(jnp.array([12.0, -34.0, 700.0, 0.4, -1.2, 2.0]))


def as_entry():
    return {
        "format": "jxreg-pose",
        "version": 1,
        "camera_from_world": some_pose().as_matrix().astype(float).tolist(),
        "world": "RAS",
        "unit": "mm",
        "camera": {
            "sdd": 1020.0,
            "image_size": [200, 300],
            "pixel_spacing": [1.1, 1.2],
            "principal_point": [140.5, 90.25],
        },
    }


def test_pose_and_camera_come_back(tmp_path):
    path = tmp_path / "pose.json"
    save_pose(path, some_pose(), CAMERA)
    turn = load_pose(path).inverse() @ some_pose()
    np.testing.assert_allclose(turn.log(), 0, atol=1e-3)  # float32 at 700 mm
    camera = load_camera(path)
    np.testing.assert_allclose(camera.intrinsic, CAMERA.intrinsic, rtol=1e-6)
    assert camera.image_size == (200, 300)
    assert bool(camera_.is_mirrored(camera))
    save_camera(tmp_path / "camera.json", CAMERA)
    alone = load_camera(tmp_path / "camera.json")
    np.testing.assert_array_equal(alone.intrinsic, camera.intrinsic)


def test_double_precision_survives(tmp_path):
    with jax.enable_x64(True):
        pose = jaxlie.SE3.exp(jnp.array([12.0, -34.0, 1e3 / 3, 0.4, -1.2, 2.0]))
        save_pose(tmp_path / "pose.json", pose)
        error = load_pose(tmp_path / "pose.json").as_matrix() - pose.as_matrix()
    np.testing.assert_allclose(error, 0, atol=1e-12)


def test_the_format_is_the_documented_one(tmp_path):
    save_pose(tmp_path / "pose.json", some_pose(), Camera.from_sdd(1020.0, (200, 300), (1.1, 1.2)))
    entry = json.loads((tmp_path / "pose.json").read_text())
    assert entry.keys() == as_entry().keys()
    assert entry["camera"].keys() == as_entry()["camera"].keys()
    for key in ("format", "version", "world", "unit"):
        assert entry[key] == as_entry()[key]


def changed(key, value):
    return as_entry() | {key: value}


def changed_camera(key, value):
    return changed("camera", as_entry()["camera"] | {key: value})


def without(key):
    entry = as_entry()
    del entry[key]
    return entry


def with_matrix(change):
    matrix = np.array(as_entry()["camera_from_world"])
    return changed("camera_from_world", (change @ matrix).tolist())


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        (without("world"), "world"),
        (changed("colour", 1), "colour"),
        (changed("world", "LPS"), "LPS"),
        (changed("version", 2), "version"),
        (changed("unit", "cm"), "cm"),
        (changed("camera_from_world", [[1, 0], [0, 1]]), "4 x 4"),
        (changed("camera_from_world", [[1, 0, 0], [0, 1]]), "4 x 4"),
        (changed("camera_from_world", "identity"), "4 x 4"),
        (with_matrix(np.diag([1.0, 1, 1.0001, 1])), "orthonormal"),
        (with_matrix(np.diag([-1.0, 1, 1, 1])), "mirrored"),
        (with_matrix(np.diag([1.0, 1, 1, 2])), "last row"),
        ([1, 2], "list"),
    ],
)
def test_wrong_pose_files_are_refused(tmp_path, entry, word):
    path = tmp_path / "pose.json"
    path.write_text(json.dumps(entry))
    with pytest.raises(InputError, match=word) as caught:
        load_pose(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        (changed_camera("sdd", -1.0), "sdd"),
        (changed_camera("sdd", "1020"), "sdd"),
        (changed_camera("sdd", True), "sdd"),
        (changed_camera("sdd", None), "sdd"),
        (changed_camera("image_size", [200]), "image_size"),
        (changed_camera("image_size", [200, 0]), "image_size"),
        (changed_camera("image_size", [200.5, 3]), "image_size"),
        (changed_camera("pixel_spacing", [0, 1]), "pixel_spacing"),
        (changed_camera("pixel_spacing", 1.0), "pixel_spacing"),
        (changed_camera("mirrored", 1), "mirrored"),
        (changed_camera("focal", 1), "focal"),
        (changed("camera", 3), "int"),
    ],
)
def test_wrong_camera_files_are_refused(tmp_path, entry, word):
    path = tmp_path / "pose.json"
    path.write_text(json.dumps(entry))
    with pytest.raises(InputError, match=word) as caught:
        load_camera(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe\x00", b"[" * 100000, b'{"sdd": NaN}', b'{"sdd": 1e999}']
)
def test_files_that_are_not_json_are_refused(tmp_path, content):
    path = tmp_path / "pose.json"
    path.write_bytes(content)
    for read in (load_pose, load_camera):
        with pytest.raises(InputError, match=r"pose\.json"):
            read(path)
    with pytest.raises(InputError, match="no such file"):
        load_pose(tmp_path / "other.json")


def test_what_the_format_cannot_tell_is_not_written(tmp_path):
    path = tmp_path / "pose.json"
    with pytest.raises(InputError, match="finite"):
        save_pose(path, jaxlie.SE3(jnp.full(7, jnp.nan)))
    with pytest.raises(InputError, match="one pose"):
        save_pose(path, jaxlie.SE3(jnp.zeros((2, 7))))
    with pytest.raises(InputError, match="rows run downwards"):
        save_camera(path, UPSIDE_DOWN)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "result.bin"
    write_atomic(path, b"old")

    def fail(file):
        file.write(b"new and half")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_atomic(path, fail)
    assert path.read_bytes() == b"old"
    write_atomic(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["result.bin"]


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        write_atomic(tmp_path / "missing" / "a", b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        write_atomic(tmp_path / "folder", b"")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
