"""Triangle meshes of implants and tools: STL, binary or text."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jxreg.errors import InputError
from jxreg.io.boundary import existing_file, reading

EXPECTED = "a triangle mesh in STL"
_HEADER, _TRIANGLE = 84, 50
"""Bytes of the header and of a triangle: normal, three corners, two bytes of attributes."""


class Mesh(NamedTuple):
    """A surface of triangles."""

    vertices: Float[np.ndarray, "n 3"]
    """Points [mm]; each once."""
    faces: Int[np.ndarray, "m 3"]
    """Their three vertices, as the file turns them."""


def load_mesh(path: str | Path) -> Mesh:
    """Reads an STL file; corners at the same place become one vertex.

    A file has no unit, and is taken as mm. Where its header says SPACE=LPS, as that of 3D Slicer
    does, its points are converted to RAS; others are taken as they are.

    Raises:
        InputError: The file is damaged, of another kind, or not finite.
    """
    path = existing_file(path, EXPECTED)
    with reading(path, EXPECTED):
        content = path.read_bytes()
        corners = _binary(content)
        corners = _text(content) if corners is None else corners
    if corners is None or not len(corners) or not np.isfinite(corners).all():
        found = "no triangles" if corners is None or not len(corners) else "not finite"
        raise InputError(str(path), found, EXPECTED, "export the mesh as STL again")
    vertices, faces = np.unique(corners.reshape(-1, 3), axis=0, return_inverse=True)
    if b"SPACE=LPS" in content[:_HEADER]:
        vertices = vertices * np.array([-1, -1, 1], vertices.dtype)
    return Mesh(vertices.astype(np.float64), faces.reshape(-1, 3).astype(np.int32))


def _binary(content: bytes) -> Float[np.ndarray, "m 3 3"] | None:
    """Corners of a binary file; None if its size is not that of one."""
    if len(content) < _HEADER:
        return None
    count = int.from_bytes(content[_HEADER - 4 : _HEADER], "little")
    if len(content) != _HEADER + _TRIANGLE * count:
        return None
    rows = np.frombuffer(content, np.uint8, offset=_HEADER).reshape(count, _TRIANGLE)
    numbers = np.ascontiguousarray(rows[:, :48]).view("<f4").reshape(count, 4, 3)
    return numbers[:, 1:].astype(np.float32)


def _text(content: bytes) -> Float[np.ndarray, "m 3 3"] | None:
    """Corners of a text file; None if it is none."""
    if not content.lstrip().lower().startswith(b"solid"):
        return None
    words = re.findall(rb"vertex\s+(\S+)\s+(\S+)\s+(\S+)", content, re.IGNORECASE)
    return np.array(words, dtype="S32").astype(np.float32).reshape(-1, 3, 3)
