"""NRRD and MetaImage, with SimpleITK and pynrrd as writers."""

import gzip
import itertools
import zlib

import numpy as np
import pytest

from jxreg.errors import InputError
from jxreg.io.volume_file import read_scan

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def voxels(dtype=np.int16):
    return (np.arange(4 * 5 * 6).reshape(4, 5, 6) % 100).astype(dtype)


def oblique():
    """An affine in LPS with rotation and three spacings."""
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    lps = np.eye(4)
    lps[:3, :3], lps[:3, 3] = turn * [1.0, 2.0, 3.0], [4.0, -5.0, 6.5]
    return lps


@pytest.mark.parametrize("suffix", ["mha", "mhd", "nrrd", "nhdr", "nii.gz"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32])
def test_files_of_simpleitk(tmp_path, suffix, packed, dtype):
    sitk = pytest.importorskip("SimpleITK")
    pytest.importorskip("nrrd")
    lps = oblique()
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(voxels(dtype).transpose(2, 1, 0))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    path = tmp_path / f"a.{suffix}"
    sitk.WriteImage(image, str(path), useCompression=packed)
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.values, voxels(dtype))
    tolerance = 2e-6 if suffix == "nii.gz" else 1e-12  # NIfTI stores float32
    np.testing.assert_allclose(scan.affine, RAS_FROM_LPS @ lps, atol=tolerance)


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("left-posterior-superior", (-1, -1, 1)),
        ("LPS", (-1, -1, 1)),
        ("right-anterior-superior", (1, 1, 1)),
        ("left-anterior-superior", (-1, 1, 1)),
    ],
)
def test_spaces_of_nrrd(tmp_path, space, signs):
    nrrd = pytest.importorskip("nrrd")
    matrix = oblique()
    header = {"space": space, "space directions": matrix[:3, :3].T, "space origin": matrix[:3, 3]}
    for encoding, endian in itertools.product(("raw", "gzip"), ("little", "big")):
        header |= {"encoding": encoding, "endian": endian}
        nrrd.write(str(tmp_path / "a.nrrd"), voxels(), header)
        scan = read_scan(tmp_path / "a.nrrd")
        np.testing.assert_array_equal(scan.values, voxels())
        np.testing.assert_allclose(scan.affine, np.diag([*signs, 1]) @ matrix)


def mha(**changes):
    entries = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "1 2 3",
        "ElementSpacing": "1 1 2",
        "DimSize": "4 5 6",
        "ElementType": "MET_SHORT",
    } | changes
    entries["ElementDataFile"] = entries.pop("ElementDataFile", "LOCAL")
    lines = [f"{key} = {value}" for key, value in entries.items() if value is not None]
    return "\n".join(lines).encode() + b"\n"


def body():
    return voxels().tobytes(order="F")


def nrrd_head(**changes):
    entries = {
        "type": "int16",
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": "4 5 6",
        "space directions": "(1,0,0) (0,1,0) (0,0,2)",
        "endian": "little",
        "encoding": "raw",
        "space origin": "(1,2,3)",
    } | {key.replace("_", " "): value for key, value in changes.items()}
    lines = [f"{key}: {value}" for key, value in entries.items() if value is not None]
    return ("NRRD0004\n" + "\n".join(lines) + "\n\n").encode()


MHA_FAULTS = [
    mha() + body()[:-1],
    mha() + body() + b"0",
    mha(CompressedData="True") + zlib.compress(body())[:-7],
    mha(CompressedData="True") + zlib.compress(body() + b"more"),
    mha(CompressedData="True") + body(),
    mha(DimSize="4 5") + body(),
    mha(DimSize="4 5 0") + body(),
    mha(DimSize="4 5 -6") + body(),
    mha(DimSize="40000 50000 60000") + body(),
    mha(ElementSpacing="1 0 2") + body(),
    mha(ElementSpacing=None) + body(),
    mha(ElementSpacing="1 nan 2") + body(),
    mha(TransformMatrix="1 0 0 1 0 0 0 0 1") + body(),
    mha(TransformMatrix="1 0 0 0 1 0") + body(),
    mha(ElementType="MET_COMPLEX") + body(),
    mha(ElementNumberOfChannels="3") + body(),
    mha(ElementDataFile="missing.raw"),
    mha(ElementDataFile="LIST"),
    b"ObjectType = Image\n",
    b"\0" * 500,
]


@pytest.mark.parametrize("content", MHA_FAULTS)
def test_damaged_metaimages(tmp_path, content):
    path = tmp_path / "a.mha"
    path.write_bytes(mha() + body())
    np.testing.assert_array_equal(read_scan(path).values, voxels())
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.mha"):
        read_scan(path)


def test_byte_order_of_metaimage(tmp_path):
    path = tmp_path / "a.mha"
    big = voxels().astype(">i2").tobytes(order="F")
    path.write_bytes(mha(BinaryDataByteOrderMSB="True") + big)
    np.testing.assert_array_equal(read_scan(path).values, voxels())


NRRD_FAULTS = [
    nrrd_head() + body()[:-1],
    nrrd_head() + body() + b"0",
    nrrd_head(encoding="gzip") + gzip.compress(body())[:-9],
    nrrd_head(encoding="gzip") + gzip.compress(body() + b"more"),
    nrrd_head(encoding="gzip") + gzip.compress(bytes(50 << 20)),
    nrrd_head(encoding="bzip2") + body(),
    nrrd_head(sizes="4 5 0") + body(),
    nrrd_head(sizes="4 5 -6") + body(),
    nrrd_head(sizes="40000 50000 60000") + body(),
    nrrd_head(dimension="2", sizes="4 30", space_directions="(1,0,0) (0,1,0)") + body(),
    nrrd_head(space=None) + body(),
    nrrd_head(space="scanner-xyz") + body(),
    nrrd_head(space_directions=None) + body(),
    nrrd_head(space_directions="(1,0,0) (1,0,0) (0,0,2)") + body(),
    nrrd_head(space_directions="(1,0,0) (0,0,0) (0,0,2)") + body(),
    nrrd_head(space_origin="(nan,0,0)") + body(),
    nrrd_head(type="block") + body(),
    b"NRRD0004\n",
    b"\0" * 500,
]


@pytest.mark.parametrize("content", NRRD_FAULTS)
def test_damaged_nrrd(tmp_path, content):
    pytest.importorskip("nrrd")
    path = tmp_path / "a.nrrd"
    path.write_bytes(nrrd_head() + body())
    np.testing.assert_array_equal(read_scan(path).values, voxels())
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.nrrd"):
        read_scan(path)


@pytest.mark.parametrize("kind", ["mhd", "nhdr"])
def test_headers_cannot_reach_other_folders(tmp_path, kind):
    pytest.importorskip("nrrd")
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "secret.raw").write_bytes(body())
    (folder / "a.raw").write_bytes(body())
    (folder / "link.raw").symlink_to(tmp_path / "secret.raw")

    def write(name):
        head = mha(ElementDataFile=name) if kind == "mhd" else nrrd_head(data_file=name)
        (folder / f"a.{kind}").write_bytes(head)
        return folder / f"a.{kind}"

    np.testing.assert_array_equal(read_scan(write("a.raw")).values, voxels())
    for name in ("../secret.raw", str(tmp_path / "secret.raw"), "link.raw", "in/../a.raw"):
        with pytest.raises(InputError, match="same folder"):
            read_scan(write(name))


def test_an_affine_can_be_given(tmp_path):
    path = tmp_path / "a.mha"
    path.write_bytes(mha(ElementSpacing=None) + body())
    np.testing.assert_array_equal(read_scan(path, affine=np.eye(4)).affine, np.eye(4))
