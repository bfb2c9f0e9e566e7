"""What a DICOM header of an X-ray image says about the geometry (PS3.3 C.8.7.5, C.8.11.4).

Traps: PixelSpacing may be calibrated to the patient plane; DistanceSourceToPatient means the
isocenter with some vendors and the table with others; DetectorActiveOrigin is a corner in detector
elements, not a shift of the central ray.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from jxreg.errors import InputError
from jxreg.io.boundary import reading
from jxreg.io.dicom_display import primary_of_view, roll_and_mirror
from jxreg.io.exposure import Angles, Geometry

if TYPE_CHECKING:
    from pydicom import Dataset

GEOMETRY_TAGS = [
    *"Rows Columns NumberOfFrames DistanceSourceToDetector DistanceSourceToPatient".split(),
    *"EstimatedRadiographicMagnificationFactor ImagerPixelSpacing PixelSpacing".split(),
    *"PixelSpacingCalibrationType NominalScannedPixelSpacing".split(),
    *"PositionerPrimaryAngle PositionerSecondaryAngle".split(),
    *"PositionerPrimaryAngleIncrement PositionerSecondaryAngleIncrement".split(),
    *"PatientOrientation ViewPosition".split(),
    *"DetectorElementSpacing DetectorActiveDimensions DetectorActiveOrigin".split(),
    *"FieldOfViewOrigin FieldOfViewRotation FieldOfViewHorizontalFlip".split(),
]


def read_geometry(path: str | Path, tags: "Dataset") -> Geometry:
    """Geometry of all frames from the header tags.

    Args:
        path: The file, named in errors.
        tags: Dataset with `GEOMETRY_TAGS`.

    Raises:
        InputError: A tag holds an impossible value.
    """
    path = Path(path)
    with reading(path, "an X-ray image in DICOM"):
        spacing, missing = _pixel_spacing(path, tags)
        sdd = _length(path, tags, "DistanceSourceToDetector")
        if sdd is None:
            missing = ("no DistanceSourceToDetector: give sdd= / --sdd [mm]", *missing)
        angles, mirrored = _angles(tags, int(tags.get("NumberOfFrames") or 1))
        isocenter = _source_to_isocenter(path, tags, sdd)
        if angles is not None and isocenter is None:
            option = "source_to_isocenter= / --source-to-isocenter"
            missing += (f"no DistanceSourceToPatient: give {option} [mm]",)
        size = (int(tags.Rows), int(tags.Columns))
        point, notes = _principal_point(tags, size, spacing)
        return Geometry(sdd, spacing, point, mirrored, angles, isocenter, missing, notes)


def _source_to_isocenter(path: Path, tags: "Dataset", sdd: float | None) -> float | None:
    distance = _length(path, tags, "DistanceSourceToPatient")
    magnification = float(tags.get("EstimatedRadiographicMagnificationFactor") or 0)
    if distance is None and sdd is not None and magnification > 1:
        return sdd / magnification
    return distance


def _pixel_spacing(
    path: Path, tags: "Dataset"
) -> tuple[tuple[float, float] | None, tuple[str, ...]]:
    """Spacing on the detector: ImagerPixelSpacing; others only where they mean the same."""
    for name in ("ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        if tags.get(name):
            return _two_lengths(path, tags, name), ()
    calibration = tags.get("PixelSpacingCalibrationType")
    if not tags.get("PixelSpacing"):
        return None, ("no ImagerPixelSpacing: give pixel_spacing= / --pixel-spacing [mm]",)
    if calibration:
        return None, (
            f"PixelSpacing is calibrated to the patient ({calibration}), not the detector, and "
            "there is no ImagerPixelSpacing: give pixel_spacing= / --pixel-spacing [mm]",
        )
    return _two_lengths(path, tags, "PixelSpacing"), ()


def _angles(tags: "Dataset", frames: int) -> tuple[Angles | None, bool]:
    """C-arm angles of each frame, and whether the display is mirrored."""
    orientation = tuple(tags.get("PatientOrientation") or ())
    primary, secondary = tags.get("PositionerPrimaryAngle"), tags.get("PositionerSecondaryAngle")
    if primary is None or primary == "":
        primary = primary_of_view(str(tags.get("ViewPosition") or ""))
        if primary is None or len(orientation) != 2:
            return None, False
        roll, mirrored = roll_and_mirror(primary, 0.0, orientation)
        return Angles(np.full(frames, primary), np.zeros(frames), roll), mirrored
    primary = np.radians(float(primary) + _increments(tags, "Primary", frames))
    secondary = np.radians(float(secondary or 0) + _increments(tags, "Secondary", frames))
    roll, mirrored = roll_and_mirror(float(primary[0]), float(secondary[0]), orientation)
    return Angles(primary, secondary, roll), mirrored


def _increments(tags: "Dataset", which: str, frames: int) -> Float[np.ndarray, " frames"]:
    """Degrees from the first frame: a constant step, or one offset a frame (C.8.7.5.1.3)."""
    value = tags.get(f"Positioner{which}AngleIncrement")
    if value is None or value == "":
        return np.zeros(frames)
    steps = np.atleast_1d(np.asarray(value, float))
    if len(steps) == 1:
        return steps[0] * np.arange(frames)
    if len(steps) != frames:
        raise ValueError(f"{len(steps)} angle increments for {frames} frames")
    return steps


def _principal_point(
    tags: "Dataset", size: tuple[int, int], spacing: tuple[float, float] | None
) -> tuple[tuple[float, float] | None, tuple[str, ...]]:
    """Pixel (u, v) of the centre of the active detector area, if the header tells all of it.

    The central ray is taken to meet that centre. FieldOfViewOrigin counts detector elements from
    the corner of the physical detector, before the image was turned and flipped.
    """
    names = ("DetectorElementSpacing", "DetectorActiveDimensions", "FieldOfViewOrigin")
    if spacing is None or any(len(tags.get(name) or ()) != 2 for name in names):
        return None, ()
    element, extent, origin = (np.array(tags[name].value, float) for name in names)
    corner = np.array(tags.get("DetectorActiveOrigin") or (0, 0), float)
    turn = int(float(tags.get("FieldOfViewRotation") or 0)) // 90 % 4
    shape, step = np.array(size, float), np.array(spacing)
    if turn % 2:
        shape, step = shape[::-1], step[::-1]
    row, column = (corner + extent / element / 2 - origin) * element / step  # from the corner
    for _ in range(turn):  # a quarter turn clockwise of an image of `shape`
        row, column, shape = column, shape[0] - row, shape[::-1]
    if tags.get("FieldOfViewHorizontalFlip") == "YES":
        column = shape[1] - column
    if not (0 <= row <= shape[0] and 0 <= column <= shape[1]):
        return None, ("the field-of-view tags put the central ray outside the image; not used",)
    return (float(column) - 0.5, float(row) - 0.5), ()


def _length(path: Path, tags: "Dataset", name: str) -> float | None:
    """A positive length [mm]; absent and zero mean unknown."""
    value: Any = tags.get(name)
    if value is None or value == "" or float(value) == 0:
        return None
    if not np.isfinite(float(value)) or float(value) < 0:
        raise InputError(str(path), f"{name} = {value}", "a positive length", "correct the header")
    return float(value)


def _two_lengths(path: Path, tags: "Dataset", name: str) -> tuple[float, float]:
    value: Any = tags.get(name)
    lengths = np.asarray(value, float)
    if lengths.shape != (2,) or not np.isfinite(lengths).all() or (lengths <= 0).any():
        found = f"{name} = {value}"
        raise InputError(str(path), found, "two positive lengths", "correct the header")
    return float(lengths[0]), float(lengths[1])
