"""load_volume: every format, orientation and way to be broken."""

import functools
import gzip
import itertools

import nibabel
import numpy as np
import pytest
import refusal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from jxreg.errors import InputError
from jxreg.io import InputWarning, load_volume, write_nifti
from jxreg.io.volume_file import read_scan
from jxreg.volume import MU_WATER, mu_from_hu

AFFINE = np.array([[2.0, 0, 0, -11], [0, 1.5, 0, 22], [0, 0, 3.0, -33], [0, 0, 0, 1]])


def smooth_ct(shape=(9, 8, 7)):
    """Hounsfield units: a water blob in air, different along every axis."""
    i, j, k = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return np.round(-1000 + 1300 * np.exp(-(i**2) - 2 * j**2 - (k - 0.3) ** 2)).astype(np.int16)


def write(path, values=None, affine=AFFINE, **header):
    image = nibabel.Nifti1Image(smooth_ct() if values is None else values, affine)
    content = image.to_bytes()
    changed = nibabel.Nifti1Header(content[:348], check=False)
    for key, value in header.items():
        changed[key] = value
    content = changed.binaryblock + content[348:]
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


refused = functools.partial(refusal.refused, load_volume)


def test_units_become_attenuation(tmp_path):
    path = write(tmp_path / "ct.nii")
    volume = load_volume(path, crop_air=False)
    expected = MU_WATER * np.maximum(0, 1 + smooth_ct() / 1000)
    np.testing.assert_allclose(volume.mu, expected, atol=1e-7 * MU_WATER * 2)  # float32
    np.testing.assert_allclose(volume.affine, AFFINE)
    softer = load_volume(path, to_mu=functools.partial(mu_from_hu, mu_water=0.0192))
    np.testing.assert_allclose(softer.mu.max() / volume.mu.max(), 0.0192 / MU_WATER, rtol=1e-6)


def test_values_without_a_unit_are_pointed_out(tmp_path):
    path = write(tmp_path / "bone.nii", np.abs(smooth_ct()))
    with pytest.warns(InputWarning, match="to_mu="):
        load_volume(path)
    volume = load_volume(path, to_mu=lambda x: 1e-5 * x, crop_air=False)
    np.testing.assert_allclose(volume.mu, 1e-5 * np.abs(smooth_ct()), rtol=1e-6)


def test_padding_below_air_is_air_and_is_cropped(tmp_path):
    hu = np.full((20, 20, 20), -2048, np.int16)
    hu[8:12, 9:13, 10:14] = 40
    volume = load_volume(write(tmp_path / "ct.nii", hu))
    assert volume.mu.shape == (8, 8, 8)
    assert volume.mu.min() == 0
    centre = AFFINE[:3, :3] @ np.full(3, 9.5) + AFFINE[:3, 3]
    np.testing.assert_allclose(volume.isocenter, centre, atol=1e-5)  # of the whole grid
    inside = np.linalg.inv(np.asarray(volume.affine)) @ AFFINE @ [8, 9, 10, 1]
    np.testing.assert_allclose(inside, [2, 2, 2, 1], atol=1e-5)


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", list(itertools.product([1, -1], repeat=3)))
def test_axis_orders_hold_the_same_value_at_each_point(tmp_path, axes, flips):
    hu = smooth_ct()
    image = nibabel.Nifti1Image(hu, AFFINE)
    turned = image.as_reoriented(np.array([(a, f) for a, f in zip(axes, flips, strict=True)]))
    path = tmp_path / "ct.nii.gz"
    path.write_bytes(gzip.compress(turned.to_bytes()))
    scan = read_scan(path)
    assert scan.values.shape == turned.shape
    world = AFFINE @ [3, 5, 2, 1]
    index = np.round(np.linalg.inv(scan.affine) @ world).astype(int)
    assert scan.values[tuple(index[:3])] == hu[3, 5, 2]
    np.testing.assert_allclose(scan.affine @ index, world, atol=1e-4)


def test_sheared_affine_stays(tmp_path):
    affine = AFFINE.copy()
    affine[1, 2] = 0.8
    np.testing.assert_allclose(
        load_volume(write(tmp_path / "a.nii", affine=affine)).affine[1, 2], 0.8
    )


def test_qform_is_used_when_the_sform_is_not_set(tmp_path):
    path = write(tmp_path / "q.nii", sform_code=0, qform_code=1)
    np.testing.assert_allclose(read_scan(path).affine, AFFINE, atol=1e-5)


def test_sform_and_qform_that_disagree_are_pointed_out(tmp_path):
    image = nibabel.Nifti1Image(smooth_ct(), AFFINE)
    image.set_qform(np.diag([1.0, 1, 1, 1]), 1)
    path = tmp_path / "a.nii"
    path.write_bytes(image.to_bytes())
    with pytest.warns(InputWarning, match="sform is used"):
        load_volume(path)


@pytest.mark.parametrize(("code", "scale"), [(0, 1.0), (1, 1000.0), (2, 1.0), (3, 0.001)])
def test_unit_of_length(tmp_path, code, scale):
    path = write(tmp_path / "u.nii", xyzt_units=code)
    np.testing.assert_allclose(read_scan(path).affine[:3], scale * AFFINE[:3], rtol=1e-6)


def test_one_volume_of_a_series_in_time(tmp_path):
    hu = np.stack([smooth_ct(), smooth_ct() + 7], -1)
    path = write(tmp_path / "4d.nii.gz", hu)
    refused(path, "frame=", "--volume-frame", "2 volumes")
    refused(path, "frame=2", frame=2)
    np.testing.assert_array_equal(read_scan(path, frame=1).values, smooth_ct() + 7)


def test_non_finite_voxels(tmp_path):
    hu = smooth_ct().astype(np.float32)
    hu[0, 0, 0], hu[1, 0, 0] = np.nan, -np.inf
    path = write(tmp_path / "nan.nii", hu)
    refused(path, "2 voxels", "fill_nonfinite", "--fill-nonfinite")
    volume = load_volume(path, fill_nonfinite=-1000.0, crop_air=False)
    assert volume.mu[0, 0, 0] == 0


def header_only(content):
    return content[:352]


def half(content):
    return content[: len(content) // 2]


def far_offset(content):
    return content[:108] + np.float32(1e9).tobytes() + content[112:]


def huge_size(content):
    return content[:42] + np.array([32767] * 3, "<i2").tobytes() + content[48:]


def with_size(n):
    return lambda content: content[:42] + np.array([n], "<i2").tobytes() + content[44:]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (header_only, "bytes"),
        (half, "bytes"),
        (far_offset, "bytes"),
        (huge_size, "GiB"),
        (with_size(0), "size"),
        (with_size(-3), ""),
        (lambda content: content[:100], ""),
        (lambda content: b"x" * 4000, "first bytes"),
        (lambda content: content + bytes(3 << 20), "more than"),
    ],
)
def test_damaged_nifti_is_refused(tmp_path, suffix, damage, word):
    content = damage(nibabel.Nifti1Image(smooth_ct(), AFFINE).to_bytes())
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
    refused(path, word)


def test_damaged_gzip_is_refused(tmp_path):
    content = bytearray(gzip.compress(nibabel.Nifti1Image(smooth_ct(), AFFINE).to_bytes()))
    path = tmp_path / "bad.nii.gz"
    for place in (-6, len(content) // 2):  # its checksum; its data
        damaged = content.copy()
        damaged[place] ^= 0xFF
        path.write_bytes(bytes(damaged))
        refused(path)
    path.write_bytes(bytes(content[:-5]))
    refused(path)


def test_impossible_headers_are_refused(tmp_path):
    path = tmp_path / "bad.nii"
    refused(write(path, sform_code=0, qform_code=0), "sform", "affine=")
    assert read_scan(path, affine=AFFINE).affine[1, 1] == 1.5
    refused(write(path, srow_z=[0, 0, 0, 0]), "spacing")
    refused(write(path, srow_x=[1, 1, 0, 0], srow_y=[1, 1, 0, 0]), "one plane")
    refused(write(path, srow_x=[np.nan, 0, 0, 0]), "spacing")
    refused(write(path, sform_code=0, qform_code=1, pixdim=[1, 2, 0, 2, 0, 0, 0, 0]), "spacing")
    refused(write(path, smooth_ct()[:, :, 0]), "(x, y, z)")
    refused(write(path, smooth_ct()[:, :, :1]), "2 voxels")
    refused(write(path, smooth_ct().astype(np.complex64)), "complex")
    with np.errstate(over="ignore"):
        refused(
            write(path, smooth_ct().astype(np.float32) * 1e30, scl_slope=1e38), "NaN or infinite"
        )


def test_paths_that_are_not_volumes(tmp_path):
    refused(tmp_path / "missing.nii", "no such file")
    (tmp_path / "empty.nii").write_bytes(b"")
    refused(tmp_path / "empty.nii", "empty")
    (tmp_path / "ct.xyz").write_bytes(b"abc")
    refused(tmp_path / "ct.xyz", "'.xyz'")
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", "no DICOM file")
    (tmp_path / "folder.nii").mkdir()
    refused(tmp_path / "folder.nii", "no DICOM file")


def test_written_nifti_reads_back(tmp_path):
    path = tmp_path / "out.nii.gz"
    write_nifti(path, smooth_ct(), AFFINE)
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.values, smooth_ct())
    np.testing.assert_allclose(scan.affine, AFFINE)
    with pytest.raises(InputError, match="ending"):
        write_nifti(tmp_path / "out.img", smooth_ct(), AFFINE)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    changes=st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=6)
)
def test_random_headers_raise_one_type_only(tmp_path_factory, changes):
    content = bytearray(nibabel.Nifti1Image(smooth_ct(), AFFINE).to_bytes())
    for place, value in changes:
        content[place] = value
    path = tmp_path_factory.getbasetemp() / "fuzz.nii"
    path.write_bytes(bytes(content))
    error = None
    try:
        read_scan(path)
    except InputError as caught:
        error = caught
    assert "\n" not in str(error)
    assert not isinstance(getattr(error, "__cause__", None), TypeCheckError)


@settings(max_examples=40, deadline=None)
@given(
    content=st.binary(max_size=600), suffix=st.sampled_from(["nii", "nii.gz", "nrrd", "mha", "dcm"])
)
def test_random_bytes_raise_one_type_only(tmp_path_factory, content, suffix):
    path = tmp_path_factory.getbasetemp() / f"fuzz.{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError):
        load_volume(path)


@pytest.mark.parametrize(
    ("file", "shape"),
    [
        ("abdomen-pelvis-ct/abdomen_pelvis_3mm.nii.gz", (122, 101, 112)),
        ("pelvis-bone-ct/pelvisVol.mha", (333, 181, 245)),
    ],
)
def test_real_volumes(data_dir, file, shape):
    assert read_scan(data_dir / file).values.shape == shape
