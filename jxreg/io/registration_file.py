"""Reads back what a registration wrote: the part of `registration.json` that is to be judged."""

from pathlib import Path
from typing import NamedTuple

from jaxlie import SE3

from jxreg.camera import Camera
from jxreg.errors import InputError
from jxreg.io.boundary import existing_file
from jxreg.io.pose_file import camera_of, numbers, pose_of, read_json

EXPECTED = "a record of a registration (JSON with format jxreg-registration, version 1)"
NAME = "registration.json"
"""What `jxreg register` calls it."""


class RegistrationRecord(NamedTuple):
    """One registration as its file has it."""

    pose: SE3 | None
    """`camera_from_world`; None if none was found."""
    start: SE3 | None
    """Where it began."""
    camera: Camera
    status: str
    """Name of the `Status`."""
    score: float | None
    """Probability of success if the file has one, else the similarity; None if not finite."""


def load_registration(path: str | Path) -> RegistrationRecord:
    """Reads one `registration.json`.

    Raises:
        InputError: The file is missing or not such a file.
    """
    path = existing_file(path, EXPECTED)
    entry = read_json(path, EXPECTED)
    if not isinstance(entry, dict) or entry.get("format") != "jxreg-registration":
        raise InputError(str(path), "another kind of file", EXPECTED, "give that of jxreg register")
    if entry.get("version") != 1:
        found = f"version = {entry.get('version')!r}"
        raise InputError(str(path), found, "version = 1", "register again with this jxreg")
    start = entry.get("start")
    score = entry.get("probability", entry.get("similarity"))
    return RegistrationRecord(
        _pose(path, entry),
        _pose(path, start if isinstance(start, dict) else {}),
        camera_of(path, entry.get("camera")),
        str(entry.get("status")),
        None if score is None else float(numbers(path, {"score": score}, "score", ())),
    )


def _pose(path: Path, entry: dict) -> SE3 | None:
    return None if entry.get("camera_from_world") is None else pose_of(path, entry)
