"""Anatomical points: 3D Slicer markups (.mrk.json, .fcsv) and plain CSV."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jxreg.errors import InputError
from jxreg.io.atomic import write_atomic
from jxreg.io.boundary import existing_file, reading
from jxreg.io.pose_file import json_bytes, read_json

EXPECTED = "landmarks (.mrk.json, .fcsv, or .csv with x, y, z)"
_SIGNS = {"LPS": (-1.0, -1.0, 1.0), "1": (-1.0, -1.0, 1.0), "RAS": (1.0,) * 3, "0": (1.0,) * 3}


class Landmarks(NamedTuple):
    """Named points of the patient."""

    points: Float[np.ndarray, "n 3"]
    """World (RAS+) [mm]."""
    labels: tuple[str, ...]
    """Their names; empty strings where the file has none."""


def load_landmarks(path: str | Path) -> Landmarks:
    """Reads points in the world frame, whatever frame the file uses.

    A markups file names its frame (LPS or RAS). A CSV is in RAS; its first line may name the
    columns (x, y, z, and label or name).

    Raises:
        InputError: The file is damaged, empty, names another frame, or holds undefined points.
    """
    path = existing_file(path, EXPECTED)
    name = path.name.lower()
    with reading(path, EXPECTED):
        if name.endswith(".json"):
            found = _markups(path)
        elif name.endswith(".fcsv"):
            found = _fcsv(path)
        elif name.endswith(".csv"):
            found = Landmarks(*_table(path, "xyz"))
        else:
            raise InputError(str(path), f"ending {path.suffix!r}", EXPECTED, "save it as one")
    if len(found.points) == 0 or not np.isfinite(found.points).all():
        text = f"{len(found.points)} points, or coordinates that are not finite"
        raise InputError(str(path), text, "finite points", "place all points")
    return found


class ImagePoints(NamedTuple):
    """Named points of an image."""

    pixels: Float[np.ndarray, "n 2"]
    """(column, row); whole numbers are centres of pixels."""
    labels: tuple[str, ...]


def load_image_points(path: str | Path) -> ImagePoints:
    """Reads points of an image: a CSV of u, v (column, row), with label or name if it has them.

    Without a heading the columns are u, v or label, u, v.

    Raises:
        InputError: The file is damaged or empty, or a number is not finite.
    """
    expected = "points of an image (.csv with u, v)"
    path = existing_file(path, expected)
    with reading(path, expected):
        pixels, labels = _table(path, "uv")
    if len(pixels) == 0 or not np.isfinite(pixels).all():
        text = f"{len(pixels)} points, or numbers that are not finite"
        raise InputError(str(path), text, "finite points", "leave out what is not seen")
    return ImagePoints(pixels, labels)


def pair(
    landmarks: Landmarks, marks: ImagePoints, subject: str
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 2"]]:
    """Points of the patient and of the image that belong together, by label or by order.

    Args:
        landmarks: Of the patient.
        marks: Of the image; some may be missing if all have labels.
        subject: What a refusal names.

    Raises:
        InputError: A label occurs twice or nowhere, or there are no labels and the numbers differ.
    """
    if not (all(landmarks.labels) and all(marks.labels)):
        if len(landmarks.points) == len(marks.pixels):
            return landmarks.points, marks.pixels
        found = f"{len(marks.pixels)} points for {len(landmarks.points)} landmarks, without labels"
        raise InputError(subject, found, "as many, in the same order", "give labels in both files")
    known = dict(zip(landmarks.labels, landmarks.points, strict=True))
    strange = [label for label in marks.labels if label not in known]
    twice = len(known) < len(landmarks.labels) or len({*marks.labels}) < len(marks.labels)
    if strange or twice:
        found = f"no landmark {strange[0]!r}" if strange else "a label that occurs twice"
        raise InputError(subject, found, f"labels of {sorted(known)}", "correct the labels")
    return np.stack([known[label] for label in marks.labels]), marks.pixels


def save_landmarks(path: str | Path, landmarks: Landmarks) -> None:
    """Writes a markups file (.mrk.json) for 3D Slicer, in LPS as Slicer does.

    Raises:
        InputError: The file cannot be written.
    """
    points = np.asarray(landmarks.points, np.float64) * _SIGNS["LPS"]
    control = [
        {"id": str(i + 1), "label": label, "position": position, "positionStatus": "defined"}
        for i, (label, position) in enumerate(zip(landmarks.labels, points.tolist(), strict=True))
    ]
    entry = {
        "@schema": "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/"
        "Markups/Resources/Schema/markups-schema-v1.0.3.json#",
        "markups": [{"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": control}],
    }
    write_atomic(path, json_bytes(entry))


def _markups(path: Path) -> Landmarks:
    points, labels = [], []
    for markup in read_json(path, EXPECTED)["markups"]:
        signs = _signs(path, str(markup.get("coordinateSystem", "LPS")))
        for point in markup["controlPoints"]:
            if point.get("positionStatus", "defined") != "defined":
                found = f"point {point.get('label', '')!r} is not placed"
                raise InputError(str(path), found, "placed points", "place or delete it")
            points.append(np.array(point["position"], np.float64) * signs)
            labels.append(str(point.get("label", "")))
    return Landmarks(np.array(points, np.float64).reshape(-1, 3), tuple(labels))


def _fcsv(path: Path) -> Landmarks:
    system, columns, rows = "RAS", [], []
    for line in path.read_text("utf-8").splitlines():
        key, _, value = line.lstrip("# ").partition("=")
        if line.startswith("#") and key.strip() == "CoordinateSystem":
            system = value.strip()
        elif line.startswith("#") and key.strip() == "columns":
            columns = [c.strip() for c in value.split(",")]
        elif line.strip() and not line.startswith("#"):
            rows.append(next(csv.reader([line])))
    columns = columns or "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label".split(",")
    x, label = columns.index("x"), columns.index("label") if "label" in columns else None
    points = np.array([[float(v) for v in row[x : x + 3]] for row in rows]).reshape(-1, 3)
    labels = tuple(row[label] if label is not None and label < len(row) else "" for row in rows)
    return Landmarks(points * _signs(path, system), labels)


def _table(path: Path, axes: str) -> tuple[np.ndarray, tuple[str, ...]]:
    rows = [row for row in csv.reader(path.read_text("utf-8").splitlines()) if row]
    head = [c.strip().lower() for c in rows[0]]
    if set(axes) <= set(head):
        places, rows = [head.index(a) for a in axes], rows[1:]
        label = next((head.index(c) for c in ("label", "name") if c in head), None)
    else:  # no heading: the axes, or a label and the axes
        first, label = (0, None) if len(rows[0]) == len(axes) else (1, 0)
        places = range(first, first + len(axes))
    points = np.array([[float(row[k]) for k in places] for row in rows]).reshape(-1, len(axes))
    return points, tuple("" if label is None else row[label].strip() for row in rows)


def _signs(path: Path, system: str) -> Float[np.ndarray, "3"]:
    if system not in _SIGNS:
        fix = "save it in LPS or RAS"
        raise InputError(str(path), f"coordinate system {system!r}", "LPS or RAS", fix)
    return np.array(_SIGNS[system])
