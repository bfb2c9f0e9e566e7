"""DICOM series as volumes: geometry, refusals, and highdicom as the judge of regular ones."""

import functools

import numpy as np
import pydicom
import pytest
import refusal
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian

from jxreg.errors import InputError
from jxreg.io import InputWarning, load_volume
from jxreg.io.volume_file import read_scan
from jxreg.volume import mu_from_hu

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
ROWS, COLUMNS, SLICES = 5, 6, 7


def stored_values():
    return np.arange(SLICES * ROWS * COLUMNS, dtype=np.uint16).reshape(SLICES, ROWS, COLUMNS)


def ct_slice(index, *, uid="1.2.3", step=(0.0, 0.0, 2.0), spacing=(0.5, 0.75), **tags):
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{uid}.{index + 1}"
    dataset.SeriesInstanceUID, dataset.SeriesNumber = uid, 4
    dataset.StudyInstanceUID = dataset.FrameOfReferenceUID = "1.2"
    dataset.Modality, dataset.PatientName = "CT", "Canary^Name"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.Rows, dataset.Columns = ROWS, COLUMNS
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 15, 0, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelSpacing = list(spacing)
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    position = np.array([-10.0, 20.0, -30.0]) + index * np.array(step)
    dataset.ImagePositionPatient = position.round(6).tolist()
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.PixelData = stored_values()[index].tobytes()
    for key, value in tags.items():
        setattr(dataset, key, value)
    return dataset


def save(folder, datasets, names=None):
    folder.mkdir(exist_ok=True)
    for number, dataset in enumerate(datasets):
        name = names[number] if names else f"{number:03d}.dcm"
        dataset.save_as(folder / name, enforce_file_format=True)
    return folder


def series(**options):
    return [ct_slice(i, **options) for i in range(SLICES)]


refused = functools.partial(refusal.refused, read_scan)


def expected_affine(step=(0.0, 0.0, 2.0)):
    lps = np.eye(4)
    lps[:3, :3] = np.stack([[0.75, 0, 0], [0, 0.5, 0], step], 1)
    lps[:3, 3] = [-10, 20, -30]
    return LPS_FROM_RAS @ lps


@pytest.mark.parametrize("reverse", [False, True])
def test_plain_series(tmp_path, reverse):
    datasets = series()
    names = [f"{i:02d}" for i in (range(SLICES) if not reverse else reversed(range(SLICES)))]
    scan = read_scan(save(tmp_path / "ct", datasets, names))
    np.testing.assert_array_equal(scan.values, stored_values().transpose(2, 1, 0) - 1024.0)
    np.testing.assert_allclose(scan.affine, expected_affine(), atol=1e-6)
    assert scan.unit == "HU"


def test_highdicom_agrees(tmp_path):
    highdicom = pytest.importorskip("highdicom")
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    datasets = series(
        step=2.5 * np.cross(turn[0], turn[1]), ImageOrientationPatient=turn[:2].ravel().tolist()
    )
    scan = read_scan(save(tmp_path / "ct", datasets))
    volume = highdicom.get_volume_from_series(
        [pydicom.dcmread(f) for f in sorted((tmp_path / "ct").iterdir())]
    )
    world = LPS_FROM_RAS @ volume.affine @ [2, 1, 3, 1]  # its index is (slice, row, column)
    index = np.round(np.linalg.inv(scan.affine) @ world, 4)[:3].astype(int)
    np.testing.assert_allclose(scan.affine @ [*index, 1], world, atol=1e-5)
    assert scan.values[tuple(index)] == volume.array[2, 1, 3]


def test_gantry_tilt_becomes_shear(tmp_path):
    tilt = np.radians(15.0)
    orientation = [1, 0, 0, 0, float(np.cos(tilt)), float(-np.sin(tilt))]
    scan = read_scan(save(tmp_path / "ct", series(ImageOrientationPatient=orientation)))
    lps = LPS_FROM_RAS @ scan.affine
    np.testing.assert_allclose(lps[:3, 2], [0, 0, 2], atol=1e-6)  # along the table
    np.testing.assert_allclose(lps[:3, 1], 0.5 * np.array(orientation[3:]), atol=1e-6)
    load_volume(tmp_path / "ct")


def test_each_slice_has_its_own_rescale(tmp_path):
    datasets = series()
    datasets[3].RescaleIntercept, datasets[3].RescaleSlope = -1000, 2
    scan = read_scan(save(tmp_path / "ct", datasets))
    np.testing.assert_array_equal(scan.values[:, :, 3], 2.0 * stored_values()[3].T - 1000)
    np.testing.assert_array_equal(scan.values[:, :, 2], stored_values()[2].T - 1024.0)


def test_small_jitter_is_accepted(tmp_path):
    datasets = series()
    datasets[3].ImagePositionPatient = [-10.004, 20.003, -24.005]
    np.testing.assert_allclose(
        read_scan(save(tmp_path / "ct", datasets)).affine, expected_affine(), atol=0.01
    )


def test_missing_slice(tmp_path):
    datasets = series()
    del datasets[3]
    refused(save(tmp_path / "ct", datasets), "1 slice(s) missing", "-26.00", "-22.00")


def test_three_missing_slices(tmp_path):
    datasets = series()
    del datasets[4], datasets[1:3]
    refused(save(tmp_path / "ct", datasets), "3 slice(s) missing")


@pytest.mark.parametrize(
    ("position", "word"),
    [([-10.0, 20.0, -23.7], "uneven"), ([-9.0, 20.0, -24.0], "sideways")],
)
def test_uneven_positions(tmp_path, position, word):
    datasets = series()
    datasets[3].ImagePositionPatient = position
    refused(save(tmp_path / "ct", datasets), word)


def test_a_slice_stored_twice_is_dropped(tmp_path):
    folder = save(tmp_path / "ct", [*series(), ct_slice(2)])
    scan = read_scan(folder)
    assert scan.values.shape == (COLUMNS, ROWS, SLICES)
    np.testing.assert_allclose(scan.affine, expected_affine(), atol=1e-6)
    with pytest.warns(InputWarning, match="stored twice"):
        load_volume(folder)


def test_different_slices_at_one_position(tmp_path):
    other = ct_slice(2, PixelData=stored_values()[0].tobytes())
    refused(save(tmp_path / "ct", [*series(), other]), "one position", "002.dcm", "007.dcm")


def test_several_series_are_listed(tmp_path):
    folder = save(tmp_path / "ct", series())
    save(folder / "more", series(uid="1.2.99", SeriesNumber=9, RescaleIntercept=0))
    refused(folder, "2 series", "1.2.99", "series=", "--series", "7 files")
    refused(folder, "5", series=5)
    assert read_scan(folder, series=9).values.min() == 0
    assert read_scan(folder, series="1.2.3").values.min() == -1024


def test_localizer_is_ignored(tmp_path):
    scout = ct_slice(
        0,
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
        ImageOrientationPatient=[1, 0, 0, 0, 0, -1],
    )
    folder = save(tmp_path / "ct", [*series(), scout])
    scan = read_scan(folder)
    assert scan.values.shape[2] == SLICES
    assert "localizer" in scan.notes[0]
    refused(save(tmp_path / "scouts", [scout]), "localizers")


@pytest.mark.parametrize(
    ("tags", "word"),
    [
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, 1]}, "orientation"),
        ({"Rows": 6, "Columns": 5}, "size"),
        ({"PixelSpacing": [0.5, 0.76]}, "spacing"),
        ({"PixelSpacing": None}, "PixelSpacing"),
        ({"ImagePositionPatient": None}, "ImagePositionPatient"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 1]}, "ImageOrientationPatient"),
        ({"PixelData": b"\0" * 10}, "003.dcm"),
        ({"Modality": "MR"}, "unit"),
        ({"SamplesPerPixel": 3}, "colour"),
        ({"Rows": 0}, "size"),
    ],
)
def test_one_slice_that_differs(tmp_path, tags, word):
    datasets = series()
    for key, value in tags.items():
        setattr(datasets[3], key, value)
    refused_with = save(tmp_path / "ct", datasets)
    with pytest.raises(InputError, match=word):
        read_scan(refused_with)


def test_zero_spacing_and_bad_directions_everywhere(tmp_path):
    refused(save(tmp_path / "a", series(spacing=(0.0, 1.0))), "PixelSpacing")
    refused(save(tmp_path / "b", series(ImageOrientationPatient=[1, 0, 0, 1, 0, 0])), "right angle")


def test_damaged_files(tmp_path):
    folder = save(tmp_path / "ct", series())
    content = (folder / "003.dcm").read_bytes()
    for damage in (content[:-20], content[:200], b"nothing", b""):
        (folder / "003.dcm").write_bytes(damage)
        with pytest.raises(InputError, match=r"003\.dcm"):
            read_scan(folder)


def test_single_slices(tmp_path):
    folder = save(tmp_path / "ct", series()[:1])
    refused(folder, "1 slice", "folder with the whole series")
    refused(folder / "000.dcm", "1 slice")


def test_other_files_do_not_matter(tmp_path):
    folder = save(tmp_path / "ct", series())
    (folder / "README.md").write_text("slices")
    (folder / ".hidden.dcm").write_text("x")
    assert read_scan(folder).values.shape[2] == SLICES


def test_values_that_are_not_hounsfield_units(tmp_path):
    folder = save(tmp_path / "mr", series(Modality="MR"))
    with pytest.raises(InputError, match="to_mu="):
        load_volume(folder)
    assert load_volume(folder, to_mu=lambda x: 1e-4 * (x + 1024)).mu.shape == (6, 5, 7)


def enhanced_ct():
    dataset = ct_slice(0, SOPClassUID=EnhancedCTImageStorage, NumberOfFrames=SLICES)
    dataset.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    dataset.PixelData = stored_values()[::-1].tobytes()
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = dataset.PixelSpacing
    orientation.ImageOrientationPatient = dataset.ImageOrientationPatient
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [orientation]
    dataset.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for index in reversed(range(SLICES)):
        position, transformation, frame = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = ct_slice(index).ImagePositionPatient
        transformation.RescaleSlope, transformation.RescaleIntercept = 1, -1024 + index
        transformation.RescaleType = "HU"
        frame.PlanePositionSequence = [position]
        frame.PixelValueTransformationSequence = [transformation]
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = frames
    for tag in ("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient"):
        delattr(dataset, tag)
    return dataset


def test_enhanced_multiframe(tmp_path):
    folder = save(tmp_path / "ct", [enhanced_ct()])
    for path in (folder, folder / "000.dcm"):
        scan = read_scan(path)
        shift = np.arange(SLICES) - 1024.0
        np.testing.assert_array_equal(scan.values, stored_values().transpose(2, 1, 0) + shift)
        np.testing.assert_allclose(scan.affine, expected_affine(), atol=1e-6)
    broken = enhanced_ct()
    broken.PerFrameFunctionalGroupsSequence = broken.PerFrameFunctionalGroupsSequence[:3]
    refused(save(tmp_path / "broken", [broken]), "7 frames")


def test_deflated_bomb_is_refused(tmp_path, monkeypatch):
    dataset = ct_slice(0)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    dataset.add_new(0x00091001, "OB", bytes(4 << 20))
    folder = save(tmp_path / "ct", [dataset])
    monkeypatch.setattr("jxreg.io.dicom_file._MAX_INFLATED", 1 << 20)
    with pytest.raises(InputError, match="inflated"):
        read_scan(folder)


# --- real series ------------------------------------------------------------------------------


def test_real_uniform_series(data_dir):
    scan = read_scan(data_dir / "dicom-ct-uniform")
    assert scan.values.shape == (512, 512, 20)
    np.testing.assert_allclose(np.diag(scan.affine), [-0.9765625, -0.9765625, 2.0, 1.0])
    assert (scan.values.min(), scan.values.max()) == (-1024, 1839)


def test_real_gantry_tilt(data_dir):
    """Step (0, 0, 5) mm along the table, 4.851 mm along the normal: 14 degrees."""
    lps = LPS_FROM_RAS @ read_scan(data_dir / "dicom-ct-edge" / "gantry_tilt_4slices").affine
    np.testing.assert_allclose(lps[:3, 2], [0, 0, 5], atol=1e-6)
    normal = np.cross(lps[:3, 0], lps[:3, 1])
    np.testing.assert_allclose(normal @ lps[:3, 2] / np.linalg.norm(normal), 4.851, atol=1e-3)


@pytest.mark.parametrize(
    ("folder", "word"),
    [
        ("dicom-ct-tilt-variable-spacing", "13 x 4 mm, 13 x 7 mm"),
        ("dicom-ct-edge/not_a_volume_4slices", "one position"),
        ("dicom-ct-edge/uneven_increment_4slices_ge", "1 slice(s) missing"),
        ("dicom-ct-edge/uneven_increment_4slices_siemens_tilt", "1 slice(s) missing"),
        ("dicom-ct-edge/nonstandard", "2 series"),
        ("dicom-xray/XA1_UNC.dcm", "load_frames"),
    ],
)
def test_real_series_that_are_refused(data_dir, folder, word):
    refused(data_dir / folder, word)


def test_real_oblique_series(data_dir):
    scan = read_scan(data_dir / "dicom-ct-edge" / "nonstandard", series="-")
    header = pydicom.dcmread(data_dir / "dicom-ct-edge" / "nonstandard" / "oriented_0.dcm")
    lps = LPS_FROM_RAS @ scan.affine
    rows, columns = header.PixelSpacing
    np.testing.assert_allclose(lps[:3, 0], columns * np.array(header.ImageOrientationPatient[:3]))
    np.testing.assert_allclose(lps[:3, 1], rows * np.array(header.ImageOrientationPatient[3:]))


def test_real_enhanced_ct_that_is_not_hounsfield_units(data_dir):
    path = data_dir / "dicom-ct-edge" / "enhanced_multiframe" / "eCT_Supplemental.dcm"
    with pytest.raises(InputError, match="'US'"):
        load_volume(path)
    load_volume(path, to_mu=lambda x: mu_from_hu(x))


def test_real_transfer_syntaxes_hold_the_same_pixels(data_dir):
    from jxreg.io.dicom_file import read_pixels

    folder = data_dir / "dicom-ct-edge" / "transfer_syntaxes"
    pixels = [read_pixels(path) for path in sorted(folder.iterdir())]
    assert len(pixels) == 7
    for other in pixels[1:]:
        np.testing.assert_array_equal(other, pixels[0])
