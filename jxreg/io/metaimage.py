"""MetaImage files (.mha, .mhd), the format of ITK: a text header and raw or zlib voxels.

Read here and not with SimpleITK, because that opens any path that a header names and does not
report truncated voxels of every kind.
"""

import zlib
from pathlib import Path

import numpy as np
from jaxtyping import ArrayLike

from jxreg.errors import InputError
from jxreg.io.boundary import check_size, existing_file, neighbour, reading
from jxreg.io.scan import LPS_FROM_RAS, Scan, check_scan

EXPECTED = "a MetaImage file (.mha or .mhd)"
_MAX_HEADER = 1 << 16
_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}


def read_metaimage(path: str | Path, *, affine: ArrayLike | None = None) -> Scan:
    """Reads a 3D MetaImage of one number a voxel; LPS as ITK writes it becomes RAS.

    The data file of a `.mhd` must lie beside it, under a plain name.

    Args:
        path: A `.mha` or `.mhd` file.
        affine: World (RAS+ [mm]) from index, used instead of the header's.

    Raises:
        InputError: The file cannot be used; the message says why.
    """
    path = existing_file(path, EXPECTED)
    with reading(path, EXPECTED):
        header, start = _header(path)
        shape = tuple(int(n) for n in header["DimSize"].split())
        if len(shape) != 3 or int(header.get("ElementNumberOfChannels", 1)) != 1:
            found = f"size {header['DimSize']} with {header.get('ElementNumberOfChannels', 1)} "
            raise InputError(str(path), found + "numbers a voxel", "one 3D image", "convert it")
        values = _voxels(path, header, shape, start)
        matrix = _affine(header) if affine is None else np.asarray(affine, np.float64)
    return check_scan(path, Scan(values, matrix))


def _header(path: Path) -> tuple[dict[str, str], int]:
    """Entries of the header, and where it ends [byte]."""
    with open(path, "rb") as file:
        text = file.read(_MAX_HEADER)
    entries, position = {}, 0
    while "ElementDataFile" not in entries:
        end = text.index(b"\n", position)
        key, _, value = text[position:end].decode("ascii").partition("=")
        entries[key.strip()] = value.strip()
        position = end + 1
    return entries, position


def _voxels(path: Path, header: dict[str, str], shape: tuple[int, ...], start: int) -> np.ndarray:
    big = _flag(header, "BinaryDataByteOrderMSB") or _flag(header, "ElementByteOrderMSB")
    dtype = np.dtype((">" if big else "<") + _TYPES[header["ElementType"]])
    size = check_size(path, shape, dtype.itemsize)
    name = header["ElementDataFile"]
    source = path
    if name != "LOCAL":
        source, start = neighbour(path, name), max(0, int(header.get("HeaderSize", 0)))
    with open(source, "rb") as file:
        file.seek(start)
        if _flag(header, "CompressedData"):
            inflate = zlib.decompressobj(zlib.MAX_WBITS | 32)
            content = inflate.decompress(file.read(), size)
            complete = len(content) == size and not inflate.decompress(inflate.unconsumed_tail, 1)
            complete = complete and inflate.eof
        else:
            content = file.read(size + 1)
            complete = len(content) == size
    if not complete:
        raise ValueError(f"{len(content)} bytes of voxels instead of {size}, or a wrong checksum")
    return np.frombuffer(content, dtype).reshape(shape, order="F").astype(dtype.newbyteorder("="))


def _affine(header: dict[str, str]) -> np.ndarray:
    """World (RAS) from index. A header without spacing is refused; ITK would take 1 mm."""

    def numbers(count: int, default: str | None, *keys: str) -> np.ndarray:
        found = [header[key] for key in keys if key in header] + ([default] if default else [])
        if not found:
            raise ValueError(f"no {keys[0]}")
        values = np.array(found[0].split(), np.float64)
        if values.shape != (count,):
            raise ValueError(f"{keys[0]} = {found[0]!r} instead of {count} numbers")
        return values

    spacing = numbers(3, None, "ElementSpacing", "ElementSize")
    directions = numbers(9, "1 0 0 0 1 0 0 0 1", "TransformMatrix", "Rotation", "Orientation")
    lps = np.eye(4)
    lps[:3, :3] = directions.reshape(3, 3).T * spacing  # the file lists one axis after the other
    lps[:3, 3] = numbers(3, "0 0 0", "Offset", "Position", "Origin")
    return LPS_FROM_RAS @ lps


def _flag(header: dict[str, str], key: str) -> bool:
    return header.get(key, "False").lower() in ("true", "1")
