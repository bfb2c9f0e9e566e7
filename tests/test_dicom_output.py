"""DICOM files that jxreg writes: the geometry comes back from the header."""

import jax
import numpy as np
import pydicom
import pytest

from jxreg.camera import Camera
from jxreg.cli.dicom_output import Technique, write_dx, write_xa
from jxreg.io import load_frames
from jxreg.pose import from_carm

TECHNIQUE = Technique(80.0, 2.5, (("aluminium", 3.0), ("copper", 0.1)), 0.6, True)


def numbers(rows=20, columns=30):
    v, u = np.mgrid[:rows, :columns]
    return np.round(60000 * np.exp(-((u - 11) ** 2 + (v - 8) ** 2) / 60)) + 17


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("point", [None, (3.25, 17.5), (-6.0, 25.0)])
def test_a_dx_image_comes_back_with_its_camera_and_angles(tmp_path, mirrored, point):
    camera = Camera.from_sdd(1100.0, (20, 30), (7.5, 6.25), point, mirrored=mirrored)
    isocenter = (12.0, -30.0, 400.0)
    pose = from_carm(-35.0, 20.0, 90.0, source_to_isocenter=710.0, isocenter=isocenter)
    path = tmp_path / "xray.dcm"
    write_dx(path, numbers(), camera, pose, np.array(isocenter), TECHNIQUE)
    if point == (-6.0, 25.0):  # the central ray misses the image: told, and not used
        with pytest.warns(match="central ray outside"):
            load_frames(path)
        return
    frames = load_frames(path)
    np.testing.assert_allclose(frames.camera.intrinsic[0], camera.intrinsic, rtol=1e-6)
    np.testing.assert_allclose(frames.camera.sdd[0], 1100.0)
    assert frames.camera.image_size == (20, 30)
    angles = frames.carm
    np.testing.assert_allclose(np.degrees(angles.primary), -35.0, rtol=1e-6)
    np.testing.assert_allclose(np.degrees(angles.secondary), 20.0, rtol=1e-6)
    np.testing.assert_allclose(np.degrees(angles.roll), 90.0, rtol=1e-6)
    np.testing.assert_allclose(angles.source_to_isocenter, 710.0, rtol=1e-6)
    stored = numbers()
    expected = -np.log(stored / np.percentile(stored, 99.9))
    np.testing.assert_allclose(frames.image[0], expected, atol=1e-4)


def test_a_dx_header_tells_the_technique(tmp_path):
    camera = Camera.from_sdd(1000.0, (20, 30), (1.0, 1.0))
    pose = from_carm(source_to_isocenter=700.0, isocenter=(0.0, 0.0, 0.0))
    write_dx(tmp_path / "a.dcm", numbers(), camera, pose, np.zeros(3), TECHNIQUE)
    tags = pydicom.dcmread(tmp_path / "a.dcm")
    assert tags.SOPClassUID.name == "Digital X-Ray Image Storage - For Processing"
    assert (tags.Modality, tags.PresentationIntentType) == ("DX", "FOR PROCESSING")
    assert (float(tags.KVP), int(tags.ExposureInuAs), tags.Grid[0]) == (80.0, 2500, "FIXED")
    assert tags.DetectorType == "SCINTILLATOR"
    assert list(tags.FilterMaterial) == ["ALUMINUM", "COPPER"]
    assert [float(x) for x in tags.FilterThicknessMaximum] == [3.0, 0.1]
    np.testing.assert_array_equal(tags.pixel_array, numbers())


def test_an_xa_image_keeps_attenuation(tmp_path):
    camera = Camera.from_sdd(1000.0, (20, 30), (1.0, 1.0), mirrored=True)
    pose = from_carm(180.0, source_to_isocenter=700.0, isocenter=(0.0, 0.0, 0.0))
    image = np.linspace(0, 5, 600, dtype=np.float32).reshape(20, 30)
    write_xa(tmp_path / "a.dcm", image, camera, pose, np.zeros(3))
    frame = jax.tree.map(lambda x: x[0], load_frames(tmp_path / "a.dcm"))
    np.testing.assert_allclose(frame.image - frame.image[0, 0], image - image[0, 0], atol=1.2e-3)
    np.testing.assert_allclose(frame.camera.intrinsic, camera.intrinsic, rtol=1e-6)
