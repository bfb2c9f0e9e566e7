"""X-ray images in DICOM (XA, RF, DX, CR and secondary captures): pixels, polarity, geometry."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Shaped

from jxreg.errors import InputError
from jxreg.io.boundary import reading
from jxreg.io.dicom_file import read_pixels, read_tags
from jxreg.io.dicom_geometry import GEOMETRY_TAGS, read_geometry
from jxreg.io.exposure import Exposure, Scale
from jxreg.io.shutters import SHUTTER_TAGS, shutter_mask

if TYPE_CHECKING:
    from pydicom import Dataset

EXPECTED = "an X-ray image in DICOM"
TAGS = [
    *"Modality BitsStored PixelRepresentation PhotometricInterpretation".split(),
    *"PixelIntensityRelationship PixelIntensityRelationshipSign".split(),
    *"RescaleSlope RescaleIntercept RescaleType ModalityLUTSequence".split(),
    *"PixelPaddingValue PixelPaddingRangeLimit".split(),
    *GEOMETRY_TAGS,
    *SHUTTER_TAGS,
]
_RADIOGRAPHY = {"CR", "DX", "DR", "PX", "IO", "MG"}  # bone is bright in MONOCHROME2


def read_dicom_xray(path: str | Path) -> Exposure:
    """Reads all frames and what the header says about them.

    Raises:
        InputError: The file is damaged, compressed without a decoder at hand, not grey, or a tag
            holds an impossible value.
    """
    path = Path(path)
    tags = read_tags(path, TAGS)
    if tags.get("Modality") in ("CT", "MR", "PT"):
        modality = tags.get("Modality")
        fix = "read it with load_volume"
        raise InputError(str(path), f"a file of modality {modality}", EXPECTED, fix)
    stored = read_pixels(path)
    with reading(path, EXPECTED):
        exposure = _grey_values(tags, stored)
        return exposure._replace(mask=_mask(tags, stored), geometry=read_geometry(path, tags))


def _grey_values(tags: "Dataset", stored: Shaped[np.ndarray, "f r c"]) -> Exposure:
    """Values after the modality transformation, bright where much radiation arrived."""
    from pydicom.pixels.processing import apply_modality_lut

    values = np.asarray(apply_modality_lut(stored, tags), np.float32)
    levels = 1 << int(tags.get("BitsStored") or 8)
    if "ModalityLUTSequence" in tags:  # its output is proportional to intensity
        return Exposure(values, "linear", levels=levels, scale_from="tags")
    slope = float(tags.get("RescaleSlope") or 1.0)
    intercept = float(tags.get("RescaleIntercept") or 0.0)
    told = all(f"PixelIntensityRelationship{tag}" in tags for tag in ("", "Sign"))
    source = "tags" if told else "modality"
    exposure = Exposure(values, grey_scale(tags), abs(slope), levels, source)
    if _bright_is_intensity(tags) == (slope > 0):
        return exposure
    low = -(levels // 2) if tags.get("PixelRepresentation") == 1 else 0
    ends = slope * (2 * low + levels - 1) + 2 * intercept
    return exposure._replace(pixels=np.float32(ends) - values)


def grey_scale(tags: "Dataset") -> Scale:
    """What the stored values are proportional to; their direction apart."""
    relationship = tags.get("PixelIntensityRelationship") or ""
    if relationship:
        return "linear" if relationship == "LIN" else "log"  # DISP is near to a logarithm
    return "log" if tags.get("Modality") in _RADIOGRAPHY else "linear"


def _bright_is_intensity(tags: "Dataset") -> bool:
    """Whether stored values grow with the intensity that arrived."""
    sign = tags.get("PixelIntensityRelationshipSign")
    if sign is not None:
        return int(sign) > 0
    inverse = tags.get("PhotometricInterpretation") == "MONOCHROME1"
    return inverse if tags.get("Modality") in _RADIOGRAPHY else not inverse


def _mask(
    tags: "Dataset", stored: Shaped[np.ndarray, "f r c"]
) -> Float[np.ndarray, "#f r c"] | None:
    mask = shutter_mask(tags, stored.shape[1:])[None]
    padding = tags.get("PixelPaddingValue")
    if padding is not None:
        limit = tags.get("PixelPaddingRangeLimit", padding)
        low, high = sorted((int(padding), int(limit)))
        mask = mask * ((stored < low) | (stored > high))
    return None if mask.all() else mask.astype(np.float32)
