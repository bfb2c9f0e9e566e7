"""One DICOM file: header tags without patient fields, and decoded pixels."""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Shaped

from jxreg.errors import InputError
from jxreg.io.boundary import check_size, existing_file, reading

if TYPE_CHECKING:
    from pydicom import Dataset

EXPECTED = "a DICOM image"
_PREFIX = 128  # bytes of the preamble before the word DICM
_MAX_INFLATED = 1 << 30  # largest deflated DICOM file once inflated [bytes]
_DEFLATED = "1.2.840.10008.1.2.1.99"


def is_dicom(path: str | Path) -> bool:
    """Whether a file is DICOM by its preamble; a file ending in .dcm counts without one."""
    path = Path(path)
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        start = file.read(_PREFIX + 4)
    return start[_PREFIX:] == b"DICM" or path.suffix.lower() == ".dcm"


def read_tags(path: str | Path, tags: Sequence[str]) -> "Dataset":
    """The named header tags of a file; nothing else, so no patient field, stays in memory.

    Raises:
        InputError: The file is missing, not DICOM, or damaged.
    """
    import pydicom

    path = existing_file(path, EXPECTED)
    with reading(path, EXPECTED):
        _check_deflated(path)
        dataset = pydicom.dcmread(
            path, force=True, stop_before_pixels=True, specific_tags=["SOPClassUID", *tags]
        )
        if "SOPClassUID" not in dataset:
            raise ValueError("no SOP class: not a DICOM object")
        for element in dataset.iterall():  # parse values now, while errors are caught
            _ = element.value
    return dataset


def read_pixels(path: str | Path) -> Shaped[np.ndarray, "frames rows columns"]:
    """The stored values of all frames, decoded, before any rescale.

    Raises:
        InputError: The pixels are missing, truncated, in colour, too large, or compressed in a way
            for which no decoder is installed.
    """
    import pydicom

    path = existing_file(path, EXPECTED)
    with reading(path, EXPECTED):
        _check_deflated(path)
        dataset = pydicom.dcmread(path, force=True)
        frames = int(dataset.get("NumberOfFrames") or 1)
        shape = (frames, int(dataset.Rows), int(dataset.Columns))
        check_size(path, shape, 4)
        if int(dataset.get("SamplesPerPixel", 1)) != 1:
            raise InputError(str(path), "a colour image", "one grey value a pixel", "export grey")
        _check_decoder(path, dataset)
        return np.asarray(dataset.pixel_array).reshape(shape)


def _check_decoder(path: Path, dataset: "Dataset") -> None:
    from pydicom.pixels.decoders.base import get_decoder

    if "PixelData" not in dataset:
        raise InputError(str(path), "no pixels", "an image with PixelData", "export it again")
    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if syntax is None or not syntax.is_compressed or syntax.is_deflated:
        return
    if not get_decoder(syntax).is_available:
        raise InputError(
            str(path),
            f"pixels compressed as {syntax.name}",
            "a decoder for them",
            'install it: pip install "jxreg[dicom-codecs]"',
        )


def _check_deflated(path: Path) -> None:
    """Refuses a deflated file that inflates beyond reason, before anything inflates it whole."""
    with open(path, "rb") as file:
        start = file.read(_PREFIX + 1024)
        if _DEFLATED.encode() not in start or start[_PREFIX : _PREFIX + 4] != b"DICM":
            return
        group_length = int.from_bytes(start[_PREFIX + 12 : _PREFIX + 16], "little")
        file.seek(_PREFIX + 16 + group_length)
        inflate, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while chunk := inflate.unconsumed_tail or file.read(1 << 16):
            size += len(inflate.decompress(chunk, 1 << 20))
            if size > _MAX_INFLATED:
                raise InputError(
                    str(path),
                    f"more than {_MAX_INFLATED >> 20} MiB once inflated",
                    "a file of reasonable size",
                    "store it uncompressed, if it is right",
                )
