"""What the readers of public data sets return: a patient, X-rays of known pose, landmarks."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxlie import SE3
from jaxtyping import Float

from jxreg.errors import InputError
from jxreg.frame import Frame
from jxreg.io.boundary import existing_file, reading
from jxreg.io.labels import Labels
from jxreg.io.landmarks import Landmarks
from jxreg.volume import Volume

if TYPE_CHECKING:
    import h5py


class View(NamedTuple):
    """One X-ray of known pose."""

    name: str
    """What the data set calls it."""
    frame: Frame
    """Attenuation and camera."""
    pose: SE3
    """True pose, `camera_from_world`."""
    landmarks: Float[np.ndarray, "n 2"]
    """Where the landmarks of the patient are in the image: (u, v) [px]; NaN where unknown."""
    others: Mapping[str, SE3] = {}
    """True poses of bodies that moved on their own, by name."""


class Subject(NamedTuple):
    """One patient or specimen."""

    name: str
    volume: Volume
    landmarks: Landmarks
    """In the world (RAS+) [mm]."""
    views: tuple[View, ...]
    labels: Labels | None = None
    """Label map on the grid of the volume, if the data set has one."""


@contextlib.contextmanager
def open_hdf5(path: str | Path, expected: str) -> Iterator["h5py.File"]:
    """Opens an HDF5 file; what goes wrong inside the block is an `InputError`.

    Raises:
        InputError: h5py is not installed, or the file is missing, damaged, or lacks a key.
    """
    path = existing_file(path, expected)
    try:
        import h5py
    except ImportError as error:
        fix = "pip install 'jxreg[data]'"
        raise InputError(str(path), "h5py is not installed", "the extra `data`", fix) from error
    with reading(path, expected), h5py.File(path, "r") as file:
        yield file


def member(path: str | Path, group: Any, name: str, expected: str) -> Any:
    """A group or data set of an open file.

    Raises:
        InputError: There is none of that name; the message tells those that there are.
    """
    if name not in group:
        there = ", ".join(list(group)[:20])
        found = f"no {name!r} in {group.name!r}, which has {there or 'nothing'}"
        raise InputError(str(path), found, expected, "give the file as it was published")
    return group[name]


def chosen(path: str | Path, there: list[str], wanted: tuple[str, ...] | None) -> list[str]:
    """The names that are wanted, all of them by default.

    Raises:
        InputError: One of them is not there.
    """
    unknown = [name for name in wanted or () if name not in there]
    if unknown:
        found = f"no view {', '.join(unknown)}"
        raise InputError(str(path), found, f"some of {', '.join(there[:200])}", "choose of these")
    return [name for name in there if wanted is None or name in wanted]


def check_proper(path: str | Path, name: str, matrix: Float[np.ndarray, "4 4"]) -> None:
    """Refuses a matrix that is not rigid, or that mirrors.

    Raises:
        InputError: Its rotation is off by more than 1e-3, or its determinant is -1.
    """
    rotation = matrix[:3, :3]
    found = None
    if not np.isfinite(matrix).all() or np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-3:
        found = "is not rigid"
    elif np.linalg.det(rotation) < 0:
        found = "mirrors (determinant -1)"
    if found:
        fix = "give the file as it was published, not one for a renderer that mirrors volumes"
        raise InputError(str(path), f"{name} {found}", "a rotation of determinant +1", fix)


def rigid(matrix: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "4 4"]:
    """The matrix with the nearest exact rotation, after `check_proper`."""
    u, _, vt = np.linalg.svd(matrix[:3, :3])
    clean = np.eye(4)
    clean[:3, :3], clean[:3, 3] = u @ vt, matrix[:3, 3]
    return clean
