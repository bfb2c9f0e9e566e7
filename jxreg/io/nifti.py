"""NIfTI files: strict reading with nibabel, and writing."""

import gzip
import re
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import ArrayLike

from jxreg.errors import InputError
from jxreg.io.atomic import write_atomic
from jxreg.io.boundary import check_size, existing_file, reading
from jxreg.io.scan import Scan, check_scan

EXPECTED = "a NIfTI file (.nii or .nii.gz)"
_MAX_TAIL = 1 << 20  # bytes that may follow the voxels
_UNIT_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # xyzt_units: unknown, metre, millimetre, micron


def read_nifti(
    path: str | Path, *, frame: int | None = None, affine: ArrayLike | None = None
) -> Scan:
    """Reads a 3D NIfTI-1 or NIfTI-2 file.

    The affine is the sform if its code is set, else the qform, as the NIfTI-1 standard prefers. A
    file with neither has no orientation and is refused, unless `affine` is given. Truncated files,
    bytes that fail the gzip checksum, and headers that announce more than the file holds are
    refused.

    Args:
        path: A `.nii` or `.nii.gz` file.
        frame: Index in the fourth dimension of a 4D file.
        affine: World (RAS+ [mm]) from index, used instead of the file's.

    Raises:
        InputError: The file cannot be used; the message says why.
    """
    path = existing_file(path, EXPECTED)
    with reading(path, EXPECTED):
        content, header = _read_whole(path)
        shape = _checked_shape(path, header, frame)
        image = _image_class(content).from_bytes(content)
        data = image.dataobj[..., frame] if frame is not None else image.dataobj
        values = np.asarray(data).reshape(shape)
        matrix, notes = _affine(path, header, affine)
        names = _label_names(image)
    return check_scan(path, Scan(values, matrix, "", notes, names))


def write_nifti(path: str | Path, values: ArrayLike, affine: ArrayLike) -> None:
    """Writes an array (x, y, z) or (x, y, z, frames) with its affine, world (RAS+ [mm]) from index.

    Raises:
        InputError: The file cannot be written, or its name does not end in .nii or .nii.gz.
    """
    import nibabel

    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise InputError(str(path), f"ending {path.suffix!r}", EXPECTED, "choose such a name")
    image = nibabel.Nifti1Image(np.asarray(values), np.asarray(affine, np.float64))
    image.header.set_xyzt_units("mm")
    content = image.to_bytes()
    write_atomic(path, gzip.compress(content, 6) if path.suffix == ".gz" else content)


def _read_whole(path: Path):
    """All bytes of the file, decompressed to the end, and its header."""
    with open(path, "rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if not zipped:
            return _read_stream(path, raw)
        with gzip.GzipFile(fileobj=raw) as file:  # its end carries the checksum of the data
            return _read_stream(path, file)


def _read_stream(path: Path, file: Any):
    start = file.read(544)
    kind = _image_class(start).header_class
    header = kind(start[: kind.template_dtype.itemsize], check=False)
    shape = tuple(int(n) for n in header.get_data_shape())
    size = int(header["vox_offset"]) + check_size(path, shape, header.get_data_dtype().itemsize)
    rest = file.read(size + _MAX_TAIL - len(start))
    content = start + rest
    if len(content) < size:
        raise InputError(
            str(path), f"{len(content)} bytes", f"{size} bytes, as its header says", _TRUNCATED
        )
    if file.read(1):
        raise InputError(
            str(path), f"more than {len(content)} bytes", f"{size}, as its header says", _TRUNCATED
        )
    return content, header


_TRUNCATED = "the file is damaged or incomplete: copy or export it again"


def _image_class(content: bytes):
    import nibabel

    size = content[:4]
    if size in (b"\x5c\x01\0\0", b"\0\0\x01\x5c"):
        return nibabel.Nifti1Image
    if size in (b"\x1c\x02\0\0", b"\0\0\x02\x1c"):
        return nibabel.Nifti2Image
    raise ValueError("the first bytes are not those of a NIfTI header")


def _checked_shape(path: Path, header, frame: int | None) -> tuple[int, ...]:
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf":
        raise InputError(
            str(path), f"voxels of type {dtype}", "real numbers", "convert it to integers or floats"
        )
    shape = tuple(int(n) for n in header.get_data_shape())
    frames = shape[3] if len(shape) > 3 else 1
    if len(shape) < 3 or any(n > 1 for n in shape[4:]):
        raise InputError(str(path), f"shape {shape}", "(x, y, z)", "give one 3D volume")
    if frame is None and frames > 1:
        raise InputError(
            str(path),
            f"{frames} volumes, shape {shape}",
            "one volume",
            "choose one with frame= (--volume-frame at the shell)",
        )
    if frame is not None and (len(shape) != 4 or not 0 <= frame < frames):
        raise InputError(
            str(path), f"frame={frame}, shape {shape}", f"frame 0 ... {frames - 1}", "correct it"
        )
    return shape[:3]


def _label_names(image) -> dict[int, str]:
    """Names that TotalSegmentator leaves in a header extension."""
    contents = [e.content for e in image.header.extensions]
    text = b"".join(c for c in contents if isinstance(c, bytes)).decode("utf-8", "replace")
    pairs = re.findall(r'<Label Key="(\d{1,9})"[^>]*>\s*<!\[CDATA\[(.{0,200}?)\]\]>', text)
    return {int(number): name for number, name in pairs}


def _affine(path: Path, header, affine: ArrayLike | None) -> tuple[np.ndarray, tuple[str, ...]]:
    if affine is not None:
        return np.asarray(affine, np.float64), ("affine given by the caller",)
    if header["sform_code"] == 0 and header["qform_code"] == 0:
        raise InputError(
            str(path),
            "neither sform nor qform is set, so its orientation is unknown",
            "a NIfTI file with an affine",
            "give affine= (world RAS from index [mm]), or export it again",
        )
    matrix = np.asarray(header.get_best_affine(), np.float64)
    if header["sform_code"] == 0 and (np.asarray(header["pixdim"][1:4]) == 0).any():
        matrix[:3, :3] = 0  # nibabel replaces a spacing of zero by one; we refuse it
    notes = []
    scale = _UNIT_MM.get(int(header["xyzt_units"]) & 7, 1.0)
    if scale != 1.0:
        matrix[:3] *= scale
        notes.append(f"its unit of length is {scale:g} mm; converted to mm")
    if header["sform_code"] > 0 and header["qform_code"] > 0:
        other = np.asarray(header.get_qform(), np.float64)
        corner = np.array(header.get_data_shape()[:3])
        apart = np.abs((matrix - scale * other)[:3, :3] @ corner).max()
        if apart > 1.0:
            notes.append(f"sform and qform differ by up to {apart:.1f} mm; the sform is used")
    return matrix, tuple(notes)
