"""load_frames: pixel values, masks and plain images."""

import json
import sys

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from PIL import Image
from pydicom.dataset import Dataset
from xray_files import CAMERA, COLUMNS, ROWS, intensities, refused, saved, xray

from jxreg.camera import Camera
from jxreg.errors import InputError
from jxreg.io import (
    InputWarning,
    load_frames,
    save_camera,
    write_npy,
    write_png,
)
from jxreg.io.dicom_file import read_pixels
from jxreg.preprocessing import NOTHING

# --- intensity ----------------------------------------------------------------------------------


def test_linear_intensity_becomes_attenuation(tmp_path):
    frames = load_frames(saved(tmp_path, xray()), white=4095)
    np.testing.assert_allclose(frames.image, np.log(4095 / intensities()), atol=1e-6)
    relative = load_frames(tmp_path / "x.dcm").image - frames.image
    np.testing.assert_allclose(relative, relative[0, 0, 0], atol=1e-6)  # white level: an offset
    assert frames.mask is None


def lookup_table():
    """Stored value round(300 log I) and a table back to I."""
    table = Dataset()
    table.LUTDescriptor = [4096, 0, 16]
    table.LUTData = np.round(np.exp(np.arange(4096) / 300)).astype(np.uint16).tobytes()
    table.ModalityLUTType = "US"
    table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "OW"
    return table


TWINS = [
    (lambda i: 4095 - i, {"PhotometricInterpretation": "MONOCHROME1"}),
    (lambda i: 4095 - i, {"PixelIntensityRelationshipSign": -1}),
    (lambda i: i, {"PhotometricInterpretation": "MONOCHROME1",
                   "PixelIntensityRelationshipSign": 1}),
    (lambda i: i, {"RescaleSlope": 2, "RescaleIntercept": 0, "RescaleType": "US"}),
    (lambda i: 4095 - i, {"RescaleSlope": -1, "RescaleIntercept": 4095,
                          "PixelIntensityRelationshipSign": -1}),
    (lambda i: i, {"Modality": "DX", "PixelIntensityRelationshipSign": 1}),
    (lambda i: 4095 - i, {"Modality": "DX"}),
]  # fmt: skip


@pytest.mark.parametrize(("stored", "tags"), TWINS)
def test_twins_give_the_same_attenuation(tmp_path, stored, tags):
    original = load_frames(saved(tmp_path, xray()))
    twin = load_frames(saved(tmp_path, xray(stored(intensities()), **tags), "twin.dcm"))
    np.testing.assert_allclose(twin.image, original.image, atol=1e-6)


def test_log_with_a_table_is_the_same_attenuation(tmp_path):
    stored = np.round(300 * np.log(intensities())).astype(np.uint16)
    tags = {"PixelIntensityRelationship": "LOG", "ModalityLUTSequence": [lookup_table()]}
    image = load_frames(saved(tmp_path, xray(stored, **tags)), white=4095).image
    np.testing.assert_allclose(image, np.log(4095 / np.round(np.exp(stored / 300))), atol=1e-6)


@pytest.mark.parametrize("relationship", ["LOG", "DISP"])
def test_log_without_a_table_is_attenuation_up_to_scale(tmp_path, relationship):
    stored = np.round(490 * np.log(intensities())).astype(np.uint16)
    image = load_frames(
        saved(tmp_path, xray(stored, PixelIntensityRelationship=relationship)), white=4075
    ).image
    truth = np.log(4095 / intensities())
    slope, _ = np.polyfit(truth.ravel(), np.ravel(image), 1)
    assert 0.9 < slope < 1.1  # the display range spans one count to full scale
    correlation = np.corrcoef(np.ravel(image), truth.ravel())[0, 1]
    assert correlation > 0.99999  # rounding to grey levels


def test_radiographs_are_bright_where_much_is_absorbed(tmp_path):
    tags = {"Modality": "CR", "PixelIntensityRelationship": None}
    image = np.asarray(load_frames(saved(tmp_path, xray(**tags))).image)
    assert np.corrcoef(image.ravel(), intensities().ravel())[0, 1] > 0.9999
    tags["PhotometricInterpretation"] = "MONOCHROME1"
    image = np.asarray(load_frames(saved(tmp_path, xray(**tags))).image)
    assert np.corrcoef(image.ravel(), intensities().ravel())[0, 1] < -0.9999


def test_options_overrule_the_header(tmp_path):
    path = saved(tmp_path, xray())
    image = load_frames(path, intensity="attenuation").image
    np.testing.assert_allclose(image, intensities())
    inverse = load_frames(path, invert=True, white=4095).image
    np.testing.assert_allclose(inverse, np.log(4095 / (4095.0 - intensities())), atol=1e-5)


# --- masks --------------------------------------------------------------------------------------


def test_shutters(tmp_path):
    v, u = np.mgrid[1 : ROWS + 1, 1 : COLUMNS + 1]
    tags = {
        "ShutterShape": ["RECTANGULAR", "CIRCULAR"],
        "ShutterLeftVerticalEdge": 4,
        "ShutterRightVerticalEdge": 29,
        "ShutterUpperHorizontalEdge": 3,
        "ShutterLowerHorizontalEdge": 20,
        "CenterOfCircularShutter": [12, 16],
        "RadiusOfCircularShutter": 11,
    }
    mask = load_frames(saved(tmp_path, xray(intensities(2), **tags))).mask
    expected = (u >= 4) & (u <= 29) & (v >= 3) & (v <= 20)
    expected &= (v - 12) ** 2 + (u - 16) ** 2 <= 121
    np.testing.assert_array_equal(mask, [expected] * 2)
    square = [5, 6, 5, 25, 20, 25, 20, 6]
    tags = {"CollimatorShape": "POLYGONAL", "VerticesOfThePolygonalCollimator": square}
    mask = load_frames(saved(tmp_path, xray(**tags))).mask[0]
    assert mask[10, 15] == 1
    assert mask[2, 15] == mask[10, 2] == mask[22, 15] == mask[10, 28] == 0
    np.testing.assert_allclose(mask.sum(), 15 * 19, atol=2 * (15 + 19))


def test_incomplete_shutters_are_left_out(tmp_path):
    tags = {"ShutterShape": ["RECTANGULAR", "CIRCULAR"], "ShutterLeftVerticalEdge": 4,
            "RadiusOfCircularShutter": 3, "CenterOfCircularShutter": ""}  # fmt: skip
    assert load_frames(saved(tmp_path, xray(**tags))).mask is None


def test_padding_value(tmp_path):
    stored = intensities()
    stored[0, :3] = 7
    mask = load_frames(saved(tmp_path, xray(stored, PixelPaddingValue=7))).mask
    assert float(mask[0, :3].max()) == 0
    assert float(mask[0, 4:].min()) == 1


# --- files without a header -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("a.png", np.uint8), ("a.png", np.uint16), ("a.tif", np.uint8), ("a.tiff", np.uint16),
     ("a.bmp", np.uint8), ("a.npy", np.uint16), ("a.npy", np.int32), ("a.tif", np.int32)],
)  # fmt: skip
def test_whole_numbers_are_intensity(tmp_path, name, dtype):
    image = (intensities()[0] // (16 if dtype == np.uint8 else 1)).astype(dtype)
    path = tmp_path / name
    np.save(path, image) if name == "a.npy" else Image.fromarray(image).save(path)
    save_camera(tmp_path / "a.json", CAMERA)
    frames = load_frames(path, white=int(image.max()))
    np.testing.assert_allclose(frames.image[0], np.log(image.max() / image), atol=1e-5)
    np.testing.assert_allclose(frames.camera.intrinsic[0], CAMERA.intrinsic, rtol=1e-6)


@pytest.mark.parametrize("name", ["a.npy", "a.tif", "a.png"])
def test_written_attenuation_comes_back(tmp_path, name):
    image = np.log(4095 / intensities()[0]).astype(np.float32)
    path = tmp_path / name
    if name == "a.npy":
        write_npy(path, image)
    elif name == "a.png":
        write_png(path, image)
    else:
        Image.fromarray(image).save(path)
    frames = load_frames(path, camera=CAMERA)
    step = np.ptp(image) / 65535 if name == "a.png" else 0
    np.testing.assert_allclose(frames.image[0], image, atol=step / 2 + 1e-6)


def test_stacks_are_frames(tmp_path):
    stack = intensities(3)
    np.save(tmp_path / "a.npy", stack)
    pages = [Image.fromarray(page) for page in stack]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    save_camera(tmp_path / "a.json", CAMERA)
    for name in ("a.npy", "a.tif"):
        assert load_frames(tmp_path / name).image.shape == stack.shape
    np.testing.assert_array_equal(
        load_frames(tmp_path / "a.npy").image, load_frames(tmp_path / "a.tif").image
    )


def test_linear_floats(tmp_path):
    np.save(tmp_path / "a.npy", intensities()[0] / np.float32(4095))
    frames = load_frames(tmp_path / "a.npy", camera=CAMERA, intensity="linear", white=1.0)
    np.testing.assert_allclose(frames.image[0], np.log(4095 / intensities()[0]), atol=1e-5)


def test_grey_in_three_channels(tmp_path):
    grey = (intensities()[0] // 16).astype(np.uint8)
    Image.fromarray(np.stack([grey] * 3, -1)).save(tmp_path / "a.png")
    save_camera(tmp_path / "a.png.json", CAMERA)
    assert load_frames(tmp_path / "a.png").image.shape == (1, ROWS, COLUMNS)
    Image.fromarray(np.stack([grey, grey, grey // 2], -1)).save(tmp_path / "a.png")
    refused(tmp_path / "a.png", "colour")


def test_black_file_has_no_signal_but_stays_finite(tmp_path):
    Image.fromarray(np.zeros((ROWS, COLUMNS), np.uint8)).save(tmp_path / "a.png")
    np.save(tmp_path / "b.npy", np.zeros((ROWS, COLUMNS), np.float32))
    for name in ("a.png", "b.npy"):
        frames = load_frames(tmp_path / name, camera=CAMERA, intensity="linear")
        np.testing.assert_array_equal(frames.image, np.zeros((1, ROWS, COLUMNS)))


@pytest.mark.parametrize("white", [0, -3.0, np.nan])
def test_white_is_positive(tmp_path, white):
    with pytest.raises(InputError, match="white"):
        load_frames(saved(tmp_path, xray()), white=white)


def beside(tmp_path):
    """An image with a camera file whose central ray is off the centre."""
    np.save(tmp_path / "a.npy", intensities()[0])
    camera = Camera.from_sdd(1000.0, (ROWS, COLUMNS), (0.5, 0.6), (10.0, 12.0))
    save_camera(tmp_path / "a.json", camera)
    return tmp_path / "a.npy", camera


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("mirrored", [False, True])
def test_mirrored_overrules_a_camera_file(tmp_path, explicit, mirrored):
    path, camera = beside(tmp_path)
    given = {"camera": tmp_path / "a.json"} if explicit else {}
    found = load_frames(path, mirrored=mirrored, **given).camera
    signs = np.array([[-1.0 if mirrored else 1.0], [1.0], [1.0]])
    expected = np.asarray(camera.intrinsic) * np.where(np.eye(3) > 0, signs, 1.0)
    np.testing.assert_allclose(found.intrinsic[0], expected)


def test_numbers_overrule_the_camera_file_beside(tmp_path):
    path, _ = beside(tmp_path)
    found = load_frames(path, sdd=1500).camera
    np.testing.assert_allclose(found.sdd, 1500)
    expected = [[1500 / 0.6, 0, 10], [0, 1500 / 0.5, 12], [0, 0, 1]]
    np.testing.assert_allclose(found.intrinsic[0], expected, rtol=1e-6)
    found = load_frames(path, pixel_spacing=0.25, principal_point=(1, 2)).camera
    np.testing.assert_allclose(found.intrinsic[0], [[4000, 0, 1], [0, 4000, 2], [0, 0, 1]])
    with pytest.warns(InputWarning, match=r"a\.json beside it is not read"):
        found = load_frames(path, sdd=1000, pixel_spacing=0.25).camera
    centre = [(COLUMNS - 1) / 2, (ROWS - 1) / 2]
    np.testing.assert_allclose(found.intrinsic[0, :2, 2], centre)
    refused(path, "positive", sdd=-1)


@pytest.mark.parametrize(
    "number", [{"sdd": 1500}, {"pixel_spacing": 0.3}, {"principal_point": (3, 4)}]
)
def test_numbers_beside_a_chosen_camera_are_refused(tmp_path, number):
    path, camera = beside(tmp_path)
    for chosen in (camera, tmp_path / "a.json"):
        refused(path, next(iter(number)) + "=", "camera=", camera=chosen, **number)


def test_images_that_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", intensities()[0])
    refused(tmp_path / "a.npy", "sdd=", "camera file beside it")
    content = (tmp_path / "a.npy").read_bytes()
    for name, damaged in [("b.npy", content[:-9]), ("b.png", b"\x89PNG"), ("b.tif", content),
                          ("b.dcm", b"x" * 400), ("b.txt", b"x"), ("b.npy", b"")]:  # fmt: skip
        (tmp_path / name).write_bytes(damaged)
        refused(tmp_path / name, camera=CAMERA)
    np.save(tmp_path / "c.npy", np.array([{"a": 1}]), allow_pickle=True)
    refused(tmp_path / "c.npy", camera=CAMERA)
    np.save(tmp_path / "d.npy", np.full((4, 4), np.nan))
    refused(tmp_path / "d.npy", "finite", camera=CAMERA)
    np.save(tmp_path / "e.npy", np.zeros(4))
    refused(tmp_path / "e.npy", "shape (4,)", camera=CAMERA)
    refused(tmp_path, "a folder")
    refused(tmp_path / "missing.dcm", "no such file")
    (tmp_path / "a.json").write_text(json.dumps({"sdd": 1000}))
    with pytest.raises(InputError, match=r"a\.json.*image_size"):
        load_frames(tmp_path / "a.npy")


def test_frames_map_over_their_leading_axis(tmp_path):
    tags = {"PositionerPrimaryAngle": 10, "DistanceSourceToPatient": 700,
            "ShutterShape": "CIRCULAR", "CenterOfCircularShutter": [12, 16],
            "RadiusOfCircularShutter": 11}  # fmt: skip
    frames = load_frames(saved(tmp_path, xray(intensities(4), **tags)))
    means = jax.vmap(lambda frame: (frame.image * frame.mask).mean() + frame.camera.sdd)(frames)
    assert means.shape == (4,)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(frames)} == {4}


def test_a_missing_decoder_is_named(tmp_path, monkeypatch):
    dataset = xray()
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.90"
    dataset.PixelData = (
        b"\xfe\xff\x00\xe0\x00\x00\x00\x00\xfe\xff\x00\xe0\x04\x00\x00\x00" + b"1234"
    )
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    path = saved(tmp_path, dataset)
    for module in ("pylibjpeg", "openjpeg", "gdcm", "PIL"):
        monkeypatch.setitem(sys.modules, module, None)
    from pydicom.pixels.decoders.base import Decoder

    monkeypatch.setattr(Decoder, "is_available", property(lambda self: False))
    refused(path, "JPEG 2000", "jxreg[dicom-codecs]")


# --- real images ----------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["J2KR", "JLSL", "JPLL", "RLE"])
def test_real_codecs_hold_the_same_pixels(data_dir, codec):
    folder = data_dir / "dicom-xray"
    plain = read_pixels(folder / "XA1_UNC.dcm")
    np.testing.assert_array_equal(read_pixels(folder / f"XA1_{codec}.dcm"), plain)


def test_real_round_field_is_masked(data_dir):
    path = data_dir / "dicom-xray" / "XA1_UNC.dcm"
    refused(path, "DistanceSourceToDetector")
    frames = load_frames(path, sdd=1000, pixel_spacing=0.2)
    mask = np.asarray(frames.mask[0])
    assert mask[512, 512] == 1
    assert mask[:20, :20].max() == 0
    assert 0.75 < mask.mean() < np.pi / 4


def test_real_multiframe_run(data_dir):
    path = data_dir / "dicom-xray" / "XA_multiframe_jpeg_fragments.dcm"
    options = {"sdd": 1000, "pixel_spacing": 0.3, "source_to_isocenter": 700}
    frames = load_frames(path, detect=NOTHING, **options)
    assert frames.image.shape == (96, 512, 512)
    np.testing.assert_allclose(np.degrees(frames.carm.primary), -32, rtol=1e-5)


def test_real_radiographs(data_dir):
    folder = data_dir / "dicom-xray"
    frames = load_frames(folder / "dx_image.dcm")
    np.testing.assert_allclose(frames.camera.intrinsic[0, 0, 0], 1000 / 1.2012, rtol=1e-5)
    np.testing.assert_allclose(frames.camera.intrinsic[0, 1, 1], 1000 / 1.2, rtol=1e-5)
    hip = load_frames(folder / "RG2_J2KR.dcm", sdd=1000)  # bone is bright: MONOCHROME2
    leg = load_frames(folder / "RG3_J2KR.dcm", sdd=1000, pixel_spacing=0.2)  # dark: MONOCHROME1
    bone = [hip.image[0, 950, 1100], leg.image[0, 1100, 880]]
    air = [hip.image[0, 1900, 500], leg.image[0, 600, 500]]
    assert bone[0] > air[0] + 1
    assert bone[1] > air[1] + 1
    assert float(hip.mask[0, 900, 50]) == 0  # its shutters let scatter through
    assert float(hip.mask[0, 900, 800]) == 1
    assert load_frames(folder / "RG2_J2KR.dcm", sdd=1000, detect=NOTHING).mask is None
    assert float(leg.mask[0, 900, 200]) == 0
    assert float(leg.mask[0, 900, 900]) == 1


def test_real_fluoroscopy_in_tiff(data_dir):
    path = data_dir / "wrist-biplane-xray-ct" / "xr_rad_uln_cam01_UND.0099.tif"
    frames = load_frames(path, sdd=1000, pixel_spacing=0.2)
    assert frames.image.shape == (1, 1760, 1760)
    assert float(frames.mask[0, 5, 5]) == 0
    assert float(frames.mask[0, 880, 880]) == 1
    assert float(frames.image[0, 300, 1400]) < 0.1  # air


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    changes=st.lists(st.tuples(st.integers(0, 899), st.integers(0, 255)), min_size=1, max_size=8)
)
@pytest.mark.filterwarnings("ignore")
def test_random_damage_raises_one_type_only(tmp_path, changes):
    path = saved(tmp_path, xray(ShutterShape="CIRCULAR", CenterOfCircularShutter=[12, 16],
                                RadiusOfCircularShutter=11, PatientOrientation=["L", "F"],
                                PositionerPrimaryAngle=10))  # fmt: skip
    content = bytearray(path.read_bytes())
    for place, value in changes:
        content[place] = value
    path.write_bytes(bytes(content))
    error = None
    try:
        load_frames(path)
    except InputError as caught:
        error = caught
    assert "\n" not in str(error)
    assert not isinstance(getattr(error, "__cause__", None), TypeCheckError)
