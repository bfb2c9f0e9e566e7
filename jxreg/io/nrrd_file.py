"""NRRD files (.nrrd, .nhdr, .seg.nrrd), the format of 3D Slicer.

The header is parsed with pynrrd (extra `nrrd`). The voxels are read here, because pynrrd opens any
path that a header names and inflates without a limit.
"""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import ArrayLike

from jxreg.errors import InputError
from jxreg.io.boundary import check_size, existing_file, neighbour, reading
from jxreg.io.scan import LPS_FROM_RAS, Scan, check_scan

EXPECTED = "a NRRD file (.nrrd or .nhdr)"
_RAS_FROM_SPACE = {
    "right-anterior-superior": np.eye(4),
    "ras": np.eye(4),
    "left-posterior-superior": LPS_FROM_RAS,
    "lps": LPS_FROM_RAS,
    "left-anterior-superior": np.diag([-1.0, 1, 1, 1]),
    "las": np.diag([-1.0, 1, 1, 1]),
}
_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_DTYPES = {name: code for code, names in _TYPES.items() for name in names}


def read_nrrd(path: str | Path, *, affine: ArrayLike | None = None) -> Scan:
    """Reads a 3D NRRD file; the space of the header becomes RAS.

    Encodings raw and gzip. The data file of a `.nhdr` must lie beside it, under a plain name. The
    names of the segments of a Slicer segmentation come along.

    Args:
        path: A `.nrrd` or `.nhdr` file.
        affine: World (RAS+ [mm]) from index, used instead of the header's.

    Raises:
        InputError: The file cannot be used, or pynrrd is not installed; the message says why.
    """
    path = existing_file(path, EXPECTED)
    nrrd = _library(path)
    with reading(path, EXPECTED), open(path, "rb") as file:
        header = nrrd.read_header(file)
        shape = tuple(int(n) for n in header["sizes"])
        if len(shape) != 3:
            fix = "export one volume; layers of a segmentation as one label map"
            raise InputError(str(path), f"sizes {shape}", "one 3D image", fix)
        values = _voxels(path, header, shape, file)
        matrix = _affine(path, header) if affine is None else np.asarray(affine, np.float64)
        names = _segment_names(header)
    return check_scan(path, Scan(values, matrix, names=names))


def _library(path: Path):
    try:
        import nrrd
    except ImportError as error:
        fix = 'install it: pip install "jxreg[nrrd]"'
        raise InputError(str(path), "a NRRD file", "the package pynrrd", fix) from error
    return nrrd


def _voxels(path: Path, header: Any, shape: tuple[int, ...], file: Any) -> np.ndarray:
    order = {"big": ">", "little": "<"}[header.get("endian", "little").lower()]
    dtype = np.dtype(order + _DTYPES[header["type"]])
    size = check_size(path, shape, dtype.itemsize)
    name = header.get("data file", header.get("datafile"))
    encoding = header["encoding"].lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise InputError(str(path), f"encoding {encoding}", "raw or gzip", "save it again so")
    if header.get("line skip", 0) or header.get("byte skip", 0):
        raise InputError(str(path), "skipped lines or bytes", "plain data", "save it again")
    if name is None:
        return _from_stream(file, encoding, dtype, shape, size)
    with open(neighbour(path, name), "rb") as data:
        return _from_stream(data, encoding, dtype, shape, size)


def _from_stream(file: Any, encoding: str, dtype, shape, size: int) -> np.ndarray:
    if encoding == "raw":
        content = file.read(size + 1)
    else:
        with gzip.GzipFile(fileobj=file) as unzipped:
            content = unzipped.read(size + 1)
    if len(content) != size:
        raise ValueError(f"{len(content)} bytes of voxels instead of {size}")
    return np.frombuffer(content, dtype).reshape(shape, order="F").astype(dtype.newbyteorder("="))


def _affine(path: Path, header: Any) -> np.ndarray:
    space = str(header.get("space", "")).lower()
    if space not in _RAS_FROM_SPACE or "space directions" not in header:
        raise InputError(
            str(path),
            f"space {space!r}, {'with' if 'space directions' in header else 'without'} directions",
            "an anatomical space with directions",
            "give affine= (world RAS from index [mm]), or export it from 3D Slicer",
        )
    matrix = np.eye(4)
    matrix[:3, :3] = np.asarray(header["space directions"], np.float64).T
    matrix[:3, 3] = np.asarray(header.get("space origin", np.zeros(3)), np.float64)
    return _RAS_FROM_SPACE[space] @ matrix


def _segment_names(header: Any) -> dict[int, str]:
    """Names of a Slicer segmentation: Segment0_LabelValue, Segment0_Name, ..."""
    names = {}
    for key, value in header.items():
        if key.startswith("Segment") and key.endswith("_LabelValue"):
            names[int(value)] = str(header.get(key.replace("_LabelValue", "_Name"), value))
    return names
