"""Files of starting positions in JSON, so that others can repeat an evaluation exactly.

    {"format": "jxreg-starts", "version": 1, "ct": "chest-ct/cxr.nii.gz", "sha256": "...", "key": 0,
     "world": "RAS", "unit": "mm", "isocenter": [x, y, z], "source_to_isocenter": mm,
     "camera": {...}, "edges": [mm, ...], "landmarks": [[x, y, z], ...],
     "starts": [{"view": [primary, secondary, roll, x, y, z], "twist": [tx, ty, tz, rx, ry, rz],
                 "mtre": mm}, ...]}

`camera` is as in a camera file. `view` is the true position of the C-arm: three angles in degrees
and the offset in mm, as in `pose.from_carm`. The start is the true pose moved by `twist`, mm and
rad, as in `pose.perturb` about the isocenter. `mtre` is its mTRE over the landmarks; each of the
bins whose edges are given holds as many.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jxreg.camera import Camera
from jxreg.errors import InputError
from jxreg.io.atomic import write_atomic
from jxreg.io.boundary import existing_file
from jxreg.io.pose_file import (
    camera_dict,
    camera_of,
    check_keys,
    json_bytes,
    numbers,
    read_json,
)

EXPECTED = "a file of starts (JSON with format jxreg-starts, version 1)"
_FIXED = {"format": "jxreg-starts", "version": 1, "world": "RAS", "unit": "mm"}
_KEYS = _FIXED.keys() | {
    "ct",
    "sha256",
    "key",
    "isocenter",
    "source_to_isocenter",
    "camera",
    "edges",
    "landmarks",
    "starts",
}
_START_KEYS = {"view", "twist", "mtre"}
_EDIT = "correct the file"


class StartFile(NamedTuple):
    """Starts for one CT, each from a true pose of its own."""

    ct: str
    """Name of the CT's file in the folder of all data."""
    sha256: str
    """Its checksum."""
    key: int
    """Seed of the random key that gave the starts."""
    isocenter: Float[np.ndarray, "3"]
    """World (RAS+) [mm]."""
    source_to_isocenter: float
    """Distance [mm]."""
    camera: Camera
    edges: Float[np.ndarray, " edges"]
    """Edges of the bins of initial mTRE [mm]."""
    landmarks: Float[np.ndarray, "landmarks 3"]
    """World (RAS+) [mm]."""
    views: Float[np.ndarray, "starts 6"]
    """True C-arm: primary, secondary, roll [deg], offset [mm]."""
    twists: Float[np.ndarray, "starts 6"]
    """From the true pose to the start: translation [mm], rotation [rad], about the isocenter."""
    mtre: Float[np.ndarray, " starts"]
    """Initial mTRE [mm]."""


def save_starts(path: str | Path, starts: StartFile) -> None:
    """Writes a file of starts.

    Raises:
        InputError: The starts contradict themselves, or the file cannot be written.
    """
    _check(path, starts)
    rows = zip(starts.views, starts.twists, starts.mtre, strict=True)
    entry = _FIXED | {
        "ct": starts.ct,
        "sha256": starts.sha256,
        "key": starts.key,
        "isocenter": starts.isocenter.tolist(),
        "source_to_isocenter": float(starts.source_to_isocenter),
        "camera": camera_dict(starts.camera),
        "edges": starts.edges.tolist(),
        "landmarks": starts.landmarks.tolist(),
        "starts": [
            {"view": view.tolist(), "twist": twist.tolist(), "mtre": float(mtre)}
            for view, twist, mtre in rows
        ],
    }
    write_atomic(path, json_bytes(entry))


def load_starts(path: str | Path) -> StartFile:
    """Reads a file of starts.

    Raises:
        InputError: The file is missing, not such a file, a number is impossible, an mTRE lies in no
            bin, or the bins do not hold equally many.
    """
    path = existing_file(path, EXPECTED)
    entry = read_json(path, EXPECTED)
    check_keys(path, entry, set(_KEYS), set(), EXPECTED)
    for key, value in _FIXED.items():
        if entry[key] != value:
            raise InputError(str(path), f"{key} = {entry[key]!r}", f"{key} = {value!r}", _EDIT)
    for key, kind in (("ct", str), ("sha256", str), ("key", int), ("starts", list)):
        if not isinstance(entry[key], kind):
            raise InputError(str(path), f"{key} = {str(entry[key])[:80]}", kind.__name__, _EDIT)
    for start in entry["starts"]:
        check_keys(path, start, _START_KEYS, set(), EXPECTED)
    count, edges, landmarks = (len(entry[k]) for k in ("starts", "edges", "landmarks"))
    columns = {k: [start[k] for start in entry["starts"]] for k in _START_KEYS}
    starts = StartFile(
        entry["ct"],
        entry["sha256"],
        entry["key"],
        numbers(path, entry, "isocenter", (3,)),
        float(numbers(path, entry, "source_to_isocenter", ())),
        camera_of(path, entry["camera"]),
        numbers(path, entry, "edges", (edges,)),
        numbers(path, entry, "landmarks", (landmarks, 3)),
        numbers(path, columns, "view", (count, 6)),
        numbers(path, columns, "twist", (count, 6)),
        numbers(path, columns, "mtre", (count,)),
    )
    _check(path, starts)
    return starts


def _check(path: str | Path, starts: StartFile) -> None:
    edges, mtre = starts.edges, starts.mtre
    found = None
    if len(edges) < 2 or (np.diff(edges) <= 0).any():
        found = f"edges {edges.tolist()}, which do not rise"
    elif mtre.size == 0 or mtre.min() < edges[0] or mtre.max() > edges[-1]:
        found = f"an mtre outside {edges[0]:g} to {edges[-1]:g} mm, or none"
    elif len(set(np.histogram(mtre, edges)[0])) > 1:
        found = f"bins with {np.histogram(mtre, edges)[0].tolist()} starts"
    elif not starts.source_to_isocenter > 0 or not len(starts.landmarks):
        found = "no landmarks, or a distance that is not positive"
    if found:
        raise InputError(str(path), found, "rising bins with as many starts each", _EDIT)
