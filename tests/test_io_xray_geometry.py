"""load_frames: the geometry that DICOM tags and options give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from xray_files import CAMERA, COLUMNS, ROWS, intensities, refused, saved, xray

from jxreg import camera as camera_
from jxreg.camera import Camera
from jxreg.io import load_frames
from jxreg.pose import from_carm
from jxreg.preprocessing import NOTHING


def test_geometry_of_the_header(tmp_path):
    frames = load_frames(saved(tmp_path, xray(intensities(3), PixelSpacing=[0.3, 0.3])))
    assert frames.camera.intrinsic.shape == (3, 3, 3)
    assert frames.camera.sdd.shape == (3,)
    np.testing.assert_allclose(frames.camera.intrinsic[1], CAMERA.intrinsic)
    assert frames.carm is None
    focal = jax.vmap(camera_.pixel_spacing)(frames.camera)
    np.testing.assert_allclose(focal, [[0.5, 0.6]] * 3, rtol=1e-6)


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"DistanceSourceToDetector": None}, ["DistanceSourceToDetector", "sdd="]),
        ({"DistanceSourceToDetector": 0}, ["DistanceSourceToDetector", "sdd="]),
        ({"DistanceSourceToDetector": -5}, ["DistanceSourceToDetector", "correct the header"]),
        ({"ImagerPixelSpacing": None}, ["ImagerPixelSpacing", "pixel_spacing="]),
        ({"ImagerPixelSpacing": [0, 1]}, ["ImagerPixelSpacing", "correct the header"]),
        ({"ImagerPixelSpacing": [0.5]}, ["ImagerPixelSpacing", "correct the header"]),
        (
            {
                "ImagerPixelSpacing": None,
                "PixelSpacing": [0.3, 0.3],
                "PixelSpacingCalibrationType": "GEOMETRY",
            },
            ["calibrated to the patient (GEOMETRY)", "pixel_spacing="],
        ),
        ({"Modality": "CT"}, ["load_volume"]),
        ({"PixelData": b"123"}, []),
        ({"PixelData": None}, ["PixelData"]),
        ({"BitsAllocated": 7}, []),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, ["colour"]),
        ({"NumberOfFrames": 100000, "Rows": 60000, "Columns": 60000}, ["GiB"]),
        (
            {"PositionerPrimaryAngle": 0, "PositionerPrimaryAngleIncrement": [0, 1, 2]},
            ["increment"],
        ),
    ],
)
def test_headers_that_are_refused(tmp_path, tags, words):
    refused(saved(tmp_path, xray(**tags)), *words)


def test_text_in_place_of_a_number(tmp_path):
    path = saved(tmp_path, xray(DistanceSourceToDetector=1234))
    path.write_bytes(path.read_bytes().replace(b"1234", b"far "))
    refused(path)


def test_options_give_what_the_header_lacks(tmp_path):
    path = saved(tmp_path, xray(DistanceSourceToDetector=None, ImagerPixelSpacing=None))
    frames = load_frames(path, sdd=1000, pixel_spacing=(0.5, 0.6), mirrored=True)
    np.testing.assert_allclose(frames.camera.intrinsic[0, 0, 0], -1000 / 0.6, rtol=1e-6)
    frames = load_frames(path, sdd=1000, pixel_spacing=0.5, principal_point=(3, 4))
    np.testing.assert_allclose(frames.camera.intrinsic[0, :2, 2], [3, 4])
    frames = load_frames(path, camera=CAMERA)
    np.testing.assert_allclose(frames.camera.intrinsic[0], CAMERA.intrinsic)
    refused(path, "one size", camera=Camera.from_sdd(1000.0, (5, 5), (1.0, 1.0)))
    refused(path, "sdd = -1", sdd=-1, pixel_spacing=1)
    calibrated = xray(ImagerPixelSpacing=None, PixelSpacing=[0.5, 0.6])
    load_frames(saved(tmp_path, calibrated))  # PixelSpacing without a calibration type is fine


def test_angles_of_a_rotational_run(tmp_path):
    tags = {
        "PositionerPrimaryAngle": 30,
        "PositionerSecondaryAngle": -10,
        "DistanceSourceToPatient": 700,
        "PositionerMotion": "DYNAMIC",
    }
    still = load_frames(saved(tmp_path, xray(intensities(3), **tags))).carm
    np.testing.assert_allclose(np.degrees(still.primary), [30, 30, 30], rtol=1e-6)
    np.testing.assert_allclose(np.degrees(still.secondary), [-10, -10, -10], rtol=1e-6)
    np.testing.assert_allclose(still.source_to_isocenter, [700, 700, 700])
    assert still.offset.shape == (3, 3)
    tags |= {"PositionerPrimaryAngleIncrement": [0, 1.5, 4], "PositionerSecondaryAngleIncrement": 2}
    moving = load_frames(saved(tmp_path, xray(intensities(3), **tags))).carm
    np.testing.assert_allclose(np.degrees(moving.primary), [30, 31.5, 34], rtol=1e-6)
    np.testing.assert_allclose(np.degrees(moving.secondary), [-10, -8, -6], rtol=1e-6)


def test_distance_to_the_isocenter(tmp_path):
    tags = {"PositionerPrimaryAngle": 0, "EstimatedRadiographicMagnificationFactor": 1.6}
    path = saved(tmp_path, xray(**tags))
    np.testing.assert_allclose(load_frames(path).carm.source_to_isocenter, [625])
    given = load_frames(path, source_to_isocenter=650.0).carm
    np.testing.assert_allclose(given.source_to_isocenter, [650])
    path = saved(tmp_path, xray(PositionerPrimaryAngle=0))
    assert load_frames(path).carm is None  # a start needs a distance


DIRECTIONS = {"R": [1, 0, 0], "L": [-1, 0, 0], "A": [0, 1, 0], "P": [0, -1, 0],
              "H": [0, 0, 1], "F": [0, 0, -1]}  # fmt: skip


@pytest.mark.parametrize(
    ("primary", "secondary", "orientation", "mirrored"),
    [
        (0, 0, ["L", "F"], True),
        (30, 20, ["L", "F"], True),
        (-40, -25, ["L", "F"], True),
        (0, 0, ["R", "F"], False),
        (180, 0, ["L", "F"], False),  # detector behind the patient
        (0, 0, ["F", "L"], False),  # turned by a quarter
        (0, 0, ["H", "L"], True),
        (0, 0, ["R", "H"], True),  # upside down
        (90, 0, ["P", "F"], True),
        (90, 0, ["A", "F"], False),
        (60, 10, ["LA", "FL"], True),
        (0, 0, ["", ""], True),
        (0, 0, None, True),
    ],
)
def test_patient_orientation_agrees_with_the_projection(
    tmp_path, primary, secondary, orientation, mirrored
):
    tags = {
        "PositionerPrimaryAngle": primary,
        "PositionerSecondaryAngle": secondary,
        "DistanceSourceToPatient": 700,
        "PatientOrientation": orientation or "",
    }
    frames = load_frames(saved(tmp_path, xray(**tags)))
    camera = jax.tree.map(lambda x: x[0], frames.camera)
    assert bool(camera_.is_mirrored(camera)) == mirrored
    if not orientation or not orientation[0]:
        orientation = ["L", "F"]  # the usual display
    carm = jax.tree.map(lambda x: x[0], frames.carm)
    pose = from_carm(
        np.degrees(carm.primary), np.degrees(carm.secondary), np.degrees(carm.roll),
        source_to_isocenter=carm.source_to_isocenter, isocenter=(0.0, 0.0, 0.0),
    )  # fmt: skip
    along = [DIRECTIONS[letters[0]] for letters in orientation]
    points = jnp.concatenate([jnp.zeros((1, 3)), 10.0 * jnp.array(along, float)])
    centre, row, column = np.asarray(camera_.project_points(camera, pose, points))
    assert row[0] - centre[0] > 1
    assert column[1] - centre[1] > 1


def test_projection_name_gives_a_start(tmp_path):
    tags = {"Modality": "DX", "PatientOrientation": ["L", "F"], "DistanceSourceToPatient": 900}
    frames = load_frames(saved(tmp_path, xray(ViewPosition="AP", **tags)))
    np.testing.assert_allclose(np.degrees(frames.carm.primary), [180])
    assert not bool(camera_.is_mirrored(jax.tree.map(lambda x: x[0], frames.camera)))
    frames = load_frames(saved(tmp_path, xray(ViewPosition="PA", **tags)))
    assert bool(camera_.is_mirrored(jax.tree.map(lambda x: x[0], frames.camera)))


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
@pytest.mark.parametrize("flip", ["NO", "YES"])
def test_field_of_view_moves_the_central_ray(tmp_path, turn, flip):
    """A mark at the centre of a detector is followed through cut, turn and flip."""
    detector = np.zeros((81, 61))
    detector[40, 30] = 1  # an odd count has a central element
    top, left = 20, 5
    image = detector[top : top + ROWS, left : left + COLUMNS]
    image = np.rot90(image, -turn // 90)
    image = image[:, ::-1] if flip == "YES" else image
    (row, column) = np.argwhere(image)[0]
    spacing = [0.5, 0.6] if turn % 180 == 0 else [0.6, 0.5]
    tags = {
        "DetectorElementSpacing": [0.5, 0.6],
        "DetectorActiveDimensions": [81 * 0.5, 61 * 0.6],
        "FieldOfViewOrigin": [top, left],
        "FieldOfViewRotation": turn,
        "FieldOfViewHorizontalFlip": flip,
        "ImagerPixelSpacing": spacing,
    }
    stored = np.full((1, *image.shape), 100, np.uint16)
    frames = load_frames(saved(tmp_path, xray(stored, **tags)), detect=NOTHING)
    np.testing.assert_allclose(frames.camera.intrinsic[0, :2, 2], [column, row], atol=1e-4)
