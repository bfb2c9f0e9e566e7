"""A DICOM series (a folder of slices, or one multi-frame file) as one 3D image."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import ArrayLike, Shaped

from jxreg.errors import InputError
from jxreg.io.boundary import check_size, reading
from jxreg.io.dicom_file import is_dicom, read_pixels, read_tags
from jxreg.io.scan import Scan, check_scan
from jxreg.io.slice_stack import Slice, same_position, sort_slices, stack_affine

if TYPE_CHECKING:
    from pydicom import Dataset

EXPECTED = "one DICOM series of slices (CT)"
_TAGS = (
    "Modality ImageType SeriesInstanceUID SeriesNumber Rows Columns NumberOfFrames PixelSpacing "
    "ImagePositionPatient ImageOrientationPatient RescaleSlope RescaleIntercept RescaleType "
    "SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence"
).split()
_XRAY = {"XA", "RF", "DX", "CR", "IO", "PX", "MG"}


def read_dicom_series(
    path: str | Path, *, series: str | int | None = None, affine: ArrayLike | None = None
) -> Scan:
    """Reads one series of slices, classic or enhanced (multi-frame), in any order and orientation.

    Localizers and slices that are stored twice with the same pixels are dropped with a note. Each
    slice has its own rescale applied. The shear of a tilted gantry goes into the affine.

    Args:
        path: Folder (searched with its subfolders), or one multi-frame file.
        series: SeriesInstanceUID or SeriesNumber; needed where there are several.
        affine: World (RAS+ [mm]) from index, used instead of the positions.

    Raises:
        InputError: Several series, a missing slice, uneven distances, different slices at one
            position, mixed orientations, or a damaged file; the message says which.
    """
    path = Path(path)
    name = str(path)
    with reading(name, EXPECTED):
        datasets = _choose_series(name, _headers(path), series)
        datasets, notes = _without_localizers(name, datasets)
        slices = [item for file, dataset in datasets for item in _slices(file, dataset)]
        slices = sort_slices(name, slices)
        check_size(name, (len(slices), *slices[0].size), 4)
        values = _pixels(name, slices)
        slices, values, dropped = _without_duplicates(name, slices, values)
        matrix = stack_affine(name, slices) if affine is None else np.asarray(affine, np.float64)
        values = _rescaled(slices, values)
    return check_scan(name, Scan(values, matrix, slices[0].unit, (*notes, *dropped)))


def _headers(path: Path) -> list[tuple[Path, "Dataset"]]:
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if not f.name.startswith(".") and is_dicom(f))
    else:
        files = [path]
    headers = [(file, read_tags(file, _TAGS)) for file in files if file.name != "DICOMDIR"]
    if not headers:
        raise InputError(str(path), "no DICOM file in it", EXPECTED, "check the path")
    return headers


def _choose_series(
    name: str, headers: Sequence[tuple[Path, "Dataset"]], series: str | int | None
) -> list[tuple[Path, "Dataset"]]:
    groups = defaultdict(list)
    for file, dataset in headers:
        groups[str(dataset.get("SeriesInstanceUID", "unnamed"))].append((file, dataset))
    first = {uid: group[0][1] for uid, group in groups.items()}
    numbers = {uid: str(first[uid].get("SeriesNumber") or "-") for uid in groups}
    if series is None:
        chosen = list(groups)
    else:
        chosen = [uid for uid in groups if str(series) in (uid, numbers[uid])]
    if len(chosen) == 1:
        return groups[chosen[0]]
    listing = "; ".join(
        f"{first[uid].get('Modality')} number {numbers[uid]}, {len(group)} files, {uid}"
        for uid, group in groups.items()
    )
    wanted = "one series" if series is None else f"one series {series!r}"
    fix = "choose by number or UID with series= (--series at the shell)"
    raise InputError(name, f"{len(groups)} series ({listing})", wanted, fix)


def _without_localizers(name: str, datasets: list[tuple[Path, "Dataset"]]):
    kept = [item for item in datasets if "LOCALIZER" not in (item[1].get("ImageType") or ())]
    if not kept:
        raise InputError(name, "localizers (scouts) only", EXPECTED, "choose another series")
    dropped = len(datasets) - len(kept)
    return kept, (f"{dropped} localizer(s) ignored",) if dropped else ()


def _slices(path: Path, dataset: "Dataset") -> Iterator[Slice]:
    """All slices that one file holds."""
    count = int(dataset.get("NumberOfFrames") or 1)
    shared = _first(dataset.get("SharedFunctionalGroupsSequence"))
    frames = dataset.get("PerFrameFunctionalGroupsSequence") or [None] * count
    if len(frames) != count:
        found = f"{count} frames with {len(frames)} positions"
        raise InputError(str(path), found, EXPECTED, "export it again")
    for index, own in enumerate(frames):
        groups = [g for g in (own, shared) if g is not None]
        yield _slice(path, dataset, groups, index, count)


def _slice(path: Path, dataset: "Dataset", groups: list, index: int, count: int) -> Slice:
    def find(sequence: str, tag: str, default: Any = None) -> Any:
        places = [_first(group.get(sequence)) for group in groups]
        places += [dataset] if count == 1 or not groups else []
        found = [place.get(tag) for place in places if place is not None and tag in place]
        return found[0] if found and found[0] is not None else default

    def numbers(sequence: str, tag: str, length: int) -> tuple[float, ...]:
        value = find(sequence, tag)
        if value is None or len(value) != length:
            modality = dataset.get("Modality", "?")
            found = f"no {tag} in a file of modality {modality}"
            fix = "read X-ray images with load_frames" if modality in _XRAY else "export it again"
            raise InputError(str(path), found, EXPECTED, fix)
        return tuple(float(x) for x in value)

    transformation = "PixelValueTransformationSequence"
    with reading(path, EXPECTED):  # names the file, where the series would name the folder
        return Slice(
            path,
            index,
            (int(dataset.Rows), int(dataset.Columns)),
            numbers("PlanePositionSequence", "ImagePositionPatient", 3),
            numbers("PlaneOrientationSequence", "ImageOrientationPatient", 6),
            numbers("PixelMeasuresSequence", "PixelSpacing", 2),
            float(find(transformation, "RescaleSlope", 1.0)),
            float(find(transformation, "RescaleIntercept", 0.0)),
            _unit(dataset, find(transformation, "RescaleType", "")),
        )


def _unit(dataset: "Dataset", rescale_type: str) -> str:
    """Unit of the rescaled values: an original CT image is in HU (DICOM PS3.3 C.8.2.1)."""
    modality = str(dataset.get("Modality", ""))
    if modality != "CT":
        return f"{modality} signal"
    original = "DERIVED" not in (dataset.get("ImageType") or ())
    unspecified = rescale_type in ("", "US")
    return "HU" if rescale_type == "HU" or (unspecified and original) else str(rescale_type)


def _first(sequence):
    return sequence[0] if sequence else None


def _pixels(name: str, slices: Sequence[Slice]) -> Shaped[np.ndarray, "slices rows columns"]:
    frames: dict[Path, np.ndarray] = {}
    remaining = Counter(item.path for item in slices)
    values = []
    for item in slices:
        if item.path not in frames:
            frames[item.path] = read_pixels(item.path)
        values.append(frames[item.path][item.frame])
        remaining[item.path] -= 1
        if not remaining[item.path]:
            del frames[item.path]
    if len({v.dtype for v in values}) > 1:
        values = [v.astype(np.float32) for v in values]
    return np.stack(values)


def _without_duplicates(name: str, slices: list[Slice], values: np.ndarray):
    """Drops slices that are stored twice; refuses different slices at one position."""
    again = set()
    pairs = same_position(slices)
    for i, j in pairs:
        a, b = slices[i], slices[j]
        same = a.position == b.position and (a.slope, a.intercept) == (b.slope, b.intercept)
        if not same or not np.array_equal(values[i], values[j]):
            found = f"different slices at one position ({a.path.name}, {b.path.name})"
            found += f", {len(pairs)} such pair(s)" if len(pairs) > 1 else ""
            fix = "keep one acquisition (time point or reconstruction) in the folder"
            raise InputError(name, found, EXPECTED, fix)
        again.add(j)
    if not again:
        return slices, values, ()
    keep = [i for i in range(len(slices)) if i not in again]
    note = f"{len(again)} slice(s) stored twice with the same pixels; kept once"
    return [slices[i] for i in keep], values[keep], (note,)


def _rescaled(slices: Sequence[Slice], values: np.ndarray) -> Shaped[np.ndarray, "x y z"]:
    """Values after each slice's own rescale, as (column, row, slice)."""
    slope = np.array([s.slope for s in slices], np.float32)[:, None, None]
    intercept = np.array([s.intercept for s in slices], np.float32)[:, None, None]
    return (values.astype(np.float32) * slope + intercept).transpose(2, 1, 0)
