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
            found = _table(path)
        else:
            raise InputError(str(path), f"ending {path.suffix!r}", EXPECTED, "save it as one")
    if len(found.points) == 0 or not np.isfinite(found.points).all():
        text = f"{len(found.points)} points, or coordinates that are not finite"
        raise InputError(str(path), text, "finite points", "place all points")
    return found


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


def _table(path: Path) -> Landmarks:
    rows = [row for row in csv.reader(path.read_text("utf-8").splitlines()) if row]
    head = [c.strip().lower() for c in rows[0]]
    if {"x", "y", "z"} <= set(head):
        axes, rows = [head.index(a) for a in "xyz"], rows[1:]
        label = next((head.index(c) for c in ("label", "name") if c in head), None)
    else:  # no heading: x, y, z or label, x, y, z
        axes, label = ([0, 1, 2], None) if len(rows[0]) == 3 else ([1, 2, 3], 0)
    points = np.array([[float(row[a]) for a in axes] for row in rows]).reshape(-1, 3)
    return Landmarks(points, tuple("" if label is None else row[label].strip() for row in rows))


def _signs(path: Path, system: str) -> Float[np.ndarray, "3"]:
    if system not in _SIGNS:
        fix = "save it in LPS or RAS"
        raise InputError(str(path), f"coordinate system {system!r}", "LPS or RAS", fix)
    return np.array(_SIGNS[system])
