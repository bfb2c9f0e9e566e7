"""describe(): what a file holds, what is missing, and the fix; the content of `jxreg info`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import ArrayLike

from jxreg.errors import InputError
from jxreg.io.boundary import reading
from jxreg.io.dicom_file import is_dicom, read_tags
from jxreg.io.raster import SUFFIXES
from jxreg.io.scan import Scan
from jxreg.io.volume_file import hounsfield_doubt, read_scan

_VOLUMES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
_XRAY_MODALITIES = {"XA", "RF", "DX", "CR", "DR", "PX", "IO", "MG", "OT", "SC"}


class Description(NamedTuple):
    """What a file holds, in values that JSON can hold."""

    kind: str
    """One line, such as "CT volume, NIfTI"."""
    facts: dict[str, Any]
    """What is known, in the order to show it; units are in the names."""
    problems: tuple[str, ...] = ()
    """What is missing or suspicious, each with its fix."""


def describe(path: str | Path, *, series: str | int | None = None) -> Description:
    """Reads a file, whatever it is, and tells what jxreg makes of it. No patient tag is kept.

    Args:
        path: Volume, DICOM folder, label map, X-ray image, pose, camera, transform or landmarks.
        series: SeriesInstanceUID or SeriesNumber, where a folder holds several series.

    Raises:
        InputError: The file is missing, damaged or unknown.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(str(path), "no such file", "a file to describe", "check the path")
    with reading(path, "a file that jxreg knows"):
        return _described(path, series)


def _described(path: Path, series: str | int | None) -> Description:
    name = path.name.lower()
    if path.is_dir():
        return _volume(path, "DICOM series", series)
    if is_dicom(path):
        modality = read_tags(path, ["Modality"]).get("Modality", "")
        if modality in _XRAY_MODALITIES:
            return _xray(path)
        return _volume(path, f"DICOM, modality {modality}", series)
    if name.endswith(_VOLUMES):
        return _volume(path, {".gz": "NIfTI", ".nii": "NIfTI"}.get(path.suffix, path.suffix[1:]))
    if name.endswith(SUFFIXES):
        return _xray(path)
    return _small_file(path)


def orientation_code(affine: ArrayLike) -> str:
    """Directions of the three index axes, such as LPS: to the left, to the back, to the head."""
    linear = np.asarray(affine, np.float64)[:3, :3]
    linear = linear / np.linalg.norm(linear, axis=0)
    code, free = "", [0, 1, 2]
    for column in linear.T:
        axis = max(free, key=lambda a: abs(column[a]))
        free.remove(axis)
        code += "RAS"[axis] if column[axis] > 0 else "LPI"[axis]
    return code


def shear_degrees(affine: ArrayLike) -> float:
    """Largest deviation of two index axes from a right angle [degree]."""
    linear = np.asarray(affine, np.float64)[:3, :3]
    linear = linear / np.linalg.norm(linear, axis=0)
    cosines = (linear.T @ linear)[np.triu_indices(3, 1)]
    return float(np.degrees(np.arcsin(np.clip(np.abs(cosines).max(), 0, 1))))


def carm_words(primary_degrees: float, secondary_degrees: float) -> str:
    """C-arm angles as a clinician says them: "LAO 30, CRA 15"."""
    first = "LAO" if primary_degrees >= 0 else "RAO"
    second = "CRA" if secondary_degrees >= 0 else "CAU"
    return f"{first} {abs(primary_degrees):.1f}, {second} {abs(secondary_degrees):.1f}"


# --- volumes ----------------------------------------------------------------------------------


def _volume(path: Path, source: str, series: str | int | None = None) -> Description:
    scan = read_scan(path, series=series)
    lengths = np.linalg.norm(scan.affine[:3, :3], axis=0)
    centre = scan.affine[:3, :3] @ ((np.array(scan.values.shape) - 1) / 2) + scan.affine[:3, 3]
    shear = shear_degrees(scan.affine)
    facts: dict[str, Any] = {
        "size (x, y, z)": list(scan.values.shape),
        "spacing [mm]": _rounded(lengths),
        "extent [mm]": _rounded(lengths * scan.values.shape, 1),
        "index axes point to": orientation_code(scan.affine),
        "angle to the patient axes [degree]": _rounded(_obliqueness(scan.affine), 2),
        "shear [degree]": _rounded(shear, 2),
        "centre, RAS [mm]": _rounded(centre, 2),
        "stored as": str(scan.values.dtype),
    }
    problems = list(scan.notes)
    if shear > 0.1:
        problems.append(
            f"the slices are sheared by {shear:.1f} degrees (tilted gantry); used as they are, "
            "other programs may need a resampled copy"
        )
    finite = np.isfinite(scan.values)
    if not finite.all():
        bad = int((~finite).sum())
        problems.append(
            f"{bad} voxels are NaN or infinite: give fill_nonfinite= in Python, --fill-nonfinite "
            "at the shell (-1000 for air)"
        )
    values = scan.values[finite]
    if values.size == 0:
        return Description(f"volume, {source}", facts, tuple(problems))
    facts["values"] = [float(values.min()), float(values.max())]
    found = _labels(scan) if finite.all() else None
    if found is not None:
        return Description(f"label map, {source}", facts | {"labels": found}, tuple(problems))
    facts["unit"] = scan.unit or "not named in the file"
    facts["share below -200 (air) [%]"] = _rounded(100 * float((values < -200).mean()), 1)
    doubt = hounsfield_doubt(scan.unit, values)
    if doubt:
        problems.append(
            f"{doubt}; say what the values mean: to_mu= in Python, --mu-per-unit at the shell"
        )
    if lengths.max() > 4:
        problems.append("voxels of more than 4 mm: rendered images are coarse along that axis")
    return Description(f"volume, {source}", facts, tuple(problems))


def _labels(scan: Scan) -> dict[str, int] | None:
    """Voxels of each label, if this looks like a label map: few whole numbers, none negative."""
    values = scan.values
    if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 4095:
        return None
    counts = np.bincount(values.ravel().astype(np.int64))
    present = np.flatnonzero(counts)
    if len(present) > 256 or (len(present) > 100 and not scan.names and values.max() > 255):
        return None
    return {f"{n} {scan.names.get(int(n), '')}".strip(): int(counts[n]) for n in present if n}


def _obliqueness(affine: np.ndarray) -> float:
    linear = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.degrees(np.arccos(np.clip(np.abs(linear).max(0).min(), 0, 1))))


# --- X-ray images -----------------------------------------------------------------------------


def _xray(path: Path) -> Description:
    from jxreg.io.frame_content import frame_content
    from jxreg.io.frame_file import camera_beside, read_exposure
    from jxreg.preprocessing import Detect

    exposure = read_exposure(path)
    known = exposure.geometry
    frames, rows, columns = exposure.pixels.shape
    first = exposure.pixels[0]
    sign = -1 if exposure.scale == "attenuation" else 1
    one = exposure._replace(pixels=first[None], mask=_first(exposure.mask))
    content = frame_content(one, Detect())
    usable = 1.0 if content.mask is None else float(content.mask.mean())
    facts: dict[str, Any] = {
        "frames": frames,
        "size (rows, columns)": [rows, columns],
        "values, bright is intensity" if sign > 0 else "values": [
            float(exposure.pixels.min()),
            float(exposure.pixels.max()),
        ],
        "proportional to": {"linear": "intensity", "log": "logarithm of intensity"}.get(
            exposure.scale, exposure.scale
        ),
        "usable part of the first frame [%]": _rounded(100 * usable, 1),
    }
    if content.notes:
        facts["found in the first frame"] = "; ".join(content.notes)
    if is_dicom(path):
        facts |= _xray_tags(path)
    facts |= _geometry_facts(known)
    problems = [*known.missing, *known.notes]
    beside = camera_beside(path)
    if beside is not None and known.sdd is None:
        facts["camera file"] = str(beside)
        problems = [p for p in problems if "sdd=" not in p and "pixel_spacing=" not in p]
    if np.ptp(first) == 0:
        problems.append("the first frame is constant: nothing to register")
    return Description(f"X-ray image, {path.suffix[1:] or 'DICOM'}", facts, tuple(problems))


def _first(mask):
    return None if mask is None else mask[:1]


def _geometry_facts(known) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "source-to-detector distance [mm]": known.sdd,
        "pixel spacing at the detector (row, column) [mm]": known.pixel_spacing,
        "source-to-isocenter distance [mm]": known.source_to_isocenter,
    }
    if known.principal_point is not None:
        facts["central ray at pixel (u, v)"] = _rounded(known.principal_point, 2)
    if known.angles is not None:
        primary, secondary = np.degrees(known.angles.primary), np.degrees(known.angles.secondary)
        facts["C-arm, first frame [degree]"] = carm_words(float(primary[0]), float(secondary[0]))
        if len(primary) > 1 and (np.ptp(primary) > 0 or np.ptp(secondary) > 0):
            facts["C-arm, last frame [degree]"] = carm_words(
                float(primary[-1]), float(secondary[-1])
            )
        facts["roll of the display [degree]"] = _rounded(np.degrees(known.angles.roll), 1)
        facts["display"] = "mirrored" if known.mirrored else "as the source sees it"
    else:
        facts["display"] = "taken as the source sees it (give mirrored= / --mirrored if not)"
    return {key: value for key, value in facts.items() if value is not None}


def _xray_tags(path: Path) -> dict[str, Any]:
    """DICOM tags that decide about pixels and geometry, as they stand in the header."""
    from jxreg.io.dicom_xray import TAGS

    tags = read_tags(path, TAGS)
    sequence = "SQ"
    return {
        element.keyword: _plain(element.value)
        for element in tags
        if element.VR != sequence and element.keyword not in ("SOPClassUID", "Rows", "Columns")
        if element.value not in (None, "")
    }


def _plain(value: Any) -> Any:
    """A DICOM value as JSON can hold it; long lists are cut."""
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, Sequence):
        return [_plain(v) for v in value[:8]] + (["..."] if len(value) > 8 else [])
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)


# --- poses, cameras, transforms, landmarks ----------------------------------------------------


def _small_file(path: Path) -> Description:
    from jxreg.io.itk_transform import load_tfm
    from jxreg.io.landmarks import load_landmarks
    from jxreg.io.pose_file import camera_dict, load_camera, load_pose, pose_dict, read_json

    name = path.name.lower()
    if name.endswith((".mrk.json", ".fcsv", ".csv")):
        found = load_landmarks(path)
        points = {
            label or str(i + 1): _rounded(point)
            for i, (label, point) in enumerate(zip(found.labels, found.points, strict=True))
        }
        return Description("landmarks, RAS [mm]", {"count": len(found.points), "points": points})
    if name.endswith(".tfm"):
        return Description("pose, ITK transform", _pose_facts(load_tfm(path), pose_dict))
    if not name.endswith(".json"):
        expected = "a volume, an X-ray image, a pose, a camera, a transform or landmarks"
        raise InputError(str(path), f"ending {path.suffix!r}", expected, "convert it, or rename it")
    entry = read_json(path, "a pose or camera file")
    if isinstance(entry, dict) and "camera_from_world" not in entry:
        return Description("camera", camera_dict(load_camera(path)))
    facts = _pose_facts(load_pose(path), pose_dict)
    if "camera" in entry:
        return Description("pose", facts | camera_dict(load_camera(path)))
    return Description("pose", facts, ("no camera in it: give one with camera= (--camera)",))


def _pose_facts(pose, as_dict: Callable) -> dict[str, Any]:
    matrix = as_dict(pose)["camera_from_world"]
    source = -np.array(matrix)[:3, :3].T @ np.array(matrix)[:3, 3]
    return {"camera_from_world": matrix, "source, RAS [mm]": _rounded(source, 3)}


def _rounded(value: Any, digits: int = 4) -> Any:
    return np.round(np.asarray(value, np.float64), digits).tolist()
