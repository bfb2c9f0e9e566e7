"""describe(): the facts of a file, and what is missing."""

import json

import jaxlie
import nibabel
import numpy as np
import pytest

from jxreg.camera import Camera
from jxreg.errors import InputError
from jxreg.io import (
    Landmarks,
    describe,
    save_camera,
    save_landmarks,
    save_pose,
    save_tfm,
    write_npy,
)
from jxreg.io.description import carm_words, orientation_code, shear_degrees

AFFINE = np.array([[-2.0, 0, 0, -11], [0, 1.5, 0, 22], [0, 0, 3.0, -33], [0, 0, 0, 1]])


def write(path, values, affine=AFFINE):
    path.write_bytes(nibabel.Nifti1Image(values, affine).to_bytes())
    return path


def ct_values():
    hu = np.full((10, 10, 10), -1000, np.int16)
    hu[3:7, 3:7, 3:7] = np.arange(64).reshape(4, 4, 4) + 20
    return hu


def described(path, **options):
    found = describe(path, **options)
    json.dumps(found._asdict(), allow_nan=False)  # plain values only
    return found


def test_a_ct(tmp_path):
    found = described(write(tmp_path / "a.nii", ct_values()))
    assert found.kind == "volume, NIfTI"
    assert found.facts["index axes point to"] == "LAS"
    assert found.facts["spacing [mm]"] == [2.0, 1.5, 3.0]
    assert found.facts["values"] == [-1000, 83]
    assert found.problems == ()


@pytest.mark.parametrize(
    ("values", "word"),
    [
        (np.abs(ct_values()) / np.float32(2), "hardly Hounsfield units"),
        (np.where(ct_values() < -200, 0, ct_values() - 215).astype(np.int16), "are 0"),
        (np.where(ct_values() > 0, np.nan, ct_values()), "NaN or infinite"),
    ],
)
def test_suspicious_values(tmp_path, values, word):
    found = described(write(tmp_path / "a.nii", values))
    assert any(word in problem for problem in found.problems)


def test_shear_is_told(tmp_path):
    affine = AFFINE.copy()
    affine[1, 2] = 3.0
    found = described(write(tmp_path / "a.nii", ct_values(), affine))
    assert found.facts["shear [degree]"] == 45.0
    assert "sheared by 45.0" in found.problems[0]


def test_a_label_map(tmp_path):
    values = np.zeros((10, 10, 10), np.uint8)
    values[:2], values[4] = 3, 7
    found = described(write(tmp_path / "a.nii", values))
    assert found.kind == "label map, NIfTI"
    assert found.facts["labels"] == {"3": 200, "7": 100}


def test_an_image_and_its_camera(tmp_path):
    write_npy(tmp_path / "a.npy", np.random.default_rng(0).random((20, 30)))
    assert "camera file" in described(tmp_path / "a.npy").problems[0]
    save_camera(tmp_path / "a.json", Camera.from_sdd(1000.0, (20, 30), (0.5, 0.6)))
    found = described(tmp_path / "a.npy")
    assert found.problems == ()
    assert found.facts["size (rows, columns)"] == [20, 30]
    assert described(tmp_path / "a.json").facts["sdd"] == 1000.0
    write_npy(tmp_path / "b.npy", np.ones((20, 30)))
    assert any("constant" in problem for problem in described(tmp_path / "b.npy").problems)


def test_poses_and_landmarks(tmp_path):
    pose = jaxlie.SE3.from_translation(np.array([1.0, 2.0, 700.0], np.float32))
    save_pose(tmp_path / "pose.json", pose)
    assert "camera" in described(tmp_path / "pose.json").problems[0]
    save_tfm(tmp_path / "pose.tfm", pose)
    assert described(tmp_path / "pose.tfm").facts["source, RAS [mm]"] == [-1, -2, -700]
    save_landmarks(tmp_path / "a.mrk.json", Landmarks(np.ones((2, 3)), ("hip", "")))
    assert described(tmp_path / "a.mrk.json").facts["points"] == {"hip": [1, 1, 1], "2": [1, 1, 1]}


@pytest.mark.parametrize("name", ["a.xyz", "a.json", "a.nii", "a.dcm", "a.png"])
def test_unknown_and_damaged_files(tmp_path, name):
    with pytest.raises(InputError, match="no such file"):
        describe(tmp_path / name)
    (tmp_path / name).write_bytes(b"nonsense")
    with pytest.raises(InputError, match=name):
        describe(tmp_path / name)


def test_words():
    assert orientation_code(np.diag([-1.0, -1, 1, 1])) == "LPS"
    assert orientation_code(np.eye(4)[[2, 0, 1, 3]]) == "ASR"
    assert shear_degrees(np.diag([1.0, 2, 3, 1])) == 0
    assert carm_words(30.0, -15.0) == "LAO 30.0, CAU 15.0"


def test_real_files(data_dir):
    found = described(data_dir / "dicom-xray" / "XA_multiframe_jpeg_fragments.dcm")
    assert found.facts["C-arm, first frame [degree]"] == "RAO 32.0, CRA 2.0"
    assert len(found.problems) == 3  # SDD, spacing, distance to the isocenter
    found = described(data_dir / "dicom-ct-edge" / "gantry_tilt_4slices")
    assert found.facts["shear [degree]"] == pytest.approx(14.0, abs=0.1)
    found = described(data_dir / "pelvis-bone-ct" / "pelvisVol.mha")
    assert "hardly Hounsfield units" in found.problems[0]


def test_no_patient_tag_is_told(data_dir):
    for name in ("XA1_UNC", "RG3_J2KR", "dx_image"):
        text = json.dumps(described(data_dir / "dicom-xray" / f"{name}.dcm")._asdict())
        for word in ("CompressedSamples", "PatientName", "PatientID", "StudyDate", "BirthDate"):
            assert word not in text
