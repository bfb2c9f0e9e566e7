"""Label maps: which voxels of a volume belong to which structure."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from jxreg.errors import InputError
from jxreg.io.boundary import existing_file, notice, reading
from jxreg.io.pose_file import read_json
from jxreg.io.volume_file import read_scan
from jxreg.volume import Volume

_NAMES = "names of labels (.csv with columns id and name, or .json)"
_ID_COLUMNS = ("id", "labelvalue", "value", "index", "label")
_NAME_COLUMNS = ("name", "structure", "label_name", "labelname", "class")


class Labels(NamedTuple):
    """A label for each voxel of a volume."""

    ids: Int[np.ndarray, "x y z"]
    """Label numbers on the grid of the volume; 0 is background."""
    names: Mapping[int, str]
    """Names of the numbers, as far as they are known."""


def load_labels(
    path: str | Path, volume: Volume, names: Mapping[int, str] | str | Path | None = None
) -> Labels:
    """Reads a label map onto the grid of a volume.

    The grids are compared by their affines, so that a map in another orientation, or of the whole
    scan for a cropped volume, is read exactly. A map on another grid is sampled at the nearest
    voxel, with a notice. Voxels outside the map are background.

    Args:
        path: NIfTI, NRRD (also `.seg.nrrd`), MetaImage or DICOM file with whole numbers.
        volume: The volume that the labels are for.
        names: Names of the numbers, or a CSV or JSON file with them. A segmentation of 3D Slicer
            or TotalSegmentator may hold its own.

    Raises:
        InputError: The file cannot be used, holds fractions, or does not overlap the volume.
    """
    scan = read_scan(path)
    values = np.asarray(scan.values)
    if values.dtype.kind not in "iub":
        if not np.isfinite(values).all() or (values != np.round(values)).any():
            raise InputError(str(path), "fractions", "whole numbers", "give a label map, not a CT")
    x, y, z = volume.mu.shape[-3:]
    to_label = np.linalg.inv(scan.affine) @ np.asarray(volume.affine, np.float64)
    axes = _matching_axes(to_label, (x, y, z))
    if axes is not None:
        ids = _picked(values, axes)
    else:
        notice(path, "its grid is not that of the volume; taken at the nearest voxel")
        ids = _nearest(values, to_label, (x, y, z))
    if not ids.any() and values.any():
        fix = "give the label map of this very scan"
        raise InputError(str(path), "no label within the volume", "an overlapping map", fix)
    if isinstance(names, str | Path):
        names = load_label_names(names)
    return Labels(ids, dict(scan.names) if names is None else dict(names))


def load_label_names(path: str | Path) -> dict[int, str]:
    """Reads names of labels: a CSV with columns id and name, or JSON of number to name or back.

    Raises:
        InputError: The file is not such a table.
    """
    path = existing_file(path, _NAMES)
    with reading(path, _NAMES):
        if path.suffix.lower() == ".json":
            entry = read_json(path, _NAMES)
            entry = entry.get("labels", entry)
            numbers_first = all(str(key).lstrip("-").isdigit() for key in entry)
            pairs = entry.items() if numbers_first else ((v, k) for k, v in entry.items())
        else:
            rows = list(csv.DictReader(path.read_text("utf-8-sig").splitlines()))
            columns = {str(key).strip().lower(): key for key in rows[0]}
            number = next(columns[c] for c in _ID_COLUMNS if c in columns)
            name = next(columns[c] for c in _NAME_COLUMNS if c in columns)
            pairs = ((row[number], row[name]) for row in rows)
        return {int(number): str(name).strip() for number, name in pairs}


def select_labels(volume: Volume, labels: Labels, keep: Sequence[int | str]) -> Volume:
    """The volume with everything but some structures made air.

    `volume.crop_air` then makes it as small as the structures are.

    Args:
        volume: A volume on the grid of the labels.
        labels: Its label map.
        keep: Numbers or names.

    Raises:
        InputError: A label does not occur; the message lists those that do.
    """
    kept = _mask(labels, keep)
    made = np.asarray(volume.mu) * kept
    return Volume.from_array(made, volume.affine, volume.isocenter, beam=volume.beam)


def split_labels(volume: Volume, labels: Labels, groups: Sequence[Sequence[int | str]]) -> Volume:
    """The volume with one channel for each group of structures, to move or weight them apart.

    Raises:
        InputError: A label does not occur; the message lists those that do.
    """
    mu = np.asarray(volume.mu)
    channels = np.stack([mu * _mask(labels, keep) for keep in groups])
    return Volume.from_array(channels, volume.affine, volume.isocenter)


def _mask(labels: Labels, keep: Sequence[int | str]) -> Bool[np.ndarray, "x y z"]:
    present = set(np.unique(labels.ids).tolist()) - {0}
    numbers = {name: number for number, name in labels.names.items()}
    wanted = [numbers.get(k, -1) if isinstance(k, str) else int(k) for k in keep]
    absent = [k for k, number in zip(keep, wanted, strict=True) if number not in present]
    if absent or not wanted:
        known = ", ".join(f"{n} {labels.names.get(n, '')}".strip() for n in sorted(present)[:150])
        found = f"no label {', '.join(map(str, absent))}" if absent else "no label chosen"
        raise InputError("labels", found, f"labels that occur: {known}", "choose among them")
    return np.isin(labels.ids, wanted)


def _matching_axes(to_label: Float[np.ndarray, "4 4"], shape: tuple[int, int, int]):
    """For each axis of the label map: the axis of the volume it follows, its sign and shift.

    None if voxel centres do not fall together, to a tenth of a voxel over the whole grid.
    """
    linear = np.round(to_label[:3, :3])
    if not (np.abs(linear).sum(0) == 1).all() or not (np.abs(linear).sum(1) == 1).all():
        return None
    shift = np.round(to_label[:3, 3])
    far = np.abs(to_label[:3, :3] - linear) @ (np.array(shape) - 1)
    if (far + np.abs(to_label[:3, 3] - shift)).max() > 0.1:
        return None
    return [
        (axis := int(np.argmax(np.abs(row))), int(row[axis]), int(offset), shape[axis])
        for row, offset in zip(linear, shift, strict=True)
    ]


def _picked(values: Shaped[np.ndarray, "a b c"], axes) -> Int[np.ndarray, "x y z"]:
    """The label map turned, flipped and cut to the grid of the volume."""
    indices = [sign * np.arange(count) + offset for _, sign, offset, count in axes]
    inside = [(i >= 0) & (i < n) for i, n in zip(indices, values.shape, strict=True)]
    clipped = [np.clip(i, 0, n - 1) for i, n in zip(indices, values.shape, strict=True)]
    a, b, c = inside
    overlap = a[:, None, None] & b[:, None] & c
    cut = np.where(overlap, values[np.ix_(*clipped)], 0).astype(np.int32)
    return np.ascontiguousarray(cut.transpose(np.argsort([axis for axis, *_ in axes])))


def _nearest(
    values: Shaped[np.ndarray, "a b c"],
    to_label: Float[np.ndarray, "4 4"],
    shape: tuple[int, int, int],
) -> Int[np.ndarray, "x y z"]:
    """Nearest label for each voxel, slice by slice."""
    i, j = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    plane = to_label[:3, :1, None] * i + to_label[:3, 1:2, None] * j + to_label[:3, 3:, None]
    limit = np.array(values.shape)[:, None, None]
    ids = np.zeros(shape, np.int32)
    for k in range(shape[2]):
        index = np.round(plane + k * to_label[:3, 2, None, None]).astype(int)
        inside = ((index >= 0) & (index < limit)).all(0)
        ids[inside, k] = values[tuple(index[:, inside])]
    return ids
