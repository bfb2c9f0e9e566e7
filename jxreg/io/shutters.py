"""Shutters and collimators that a DICOM header names."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from pydicom import Dataset

_EDGES = ("LeftVerticalEdge", "RightVerticalEdge", "UpperHorizontalEdge", "LowerHorizontalEdge")
SHUTTER_TAGS = [
    *(kind + name for kind in ("Shutter", "Collimator") for name in ("Shape", *_EDGES)),
    *(what + "Shutter" for what in ("CenterOfCircular", "RadiusOfCircular")),
    *(what + "Collimator" for what in ("CenterOfCircular", "RadiusOfCircular")),
    "VerticesOfThePolygonalShutter",
    "VerticesOfThePolygonalCollimator",
]


def shutter_mask(dataset: "Dataset", shape: tuple[int, int]) -> Float[np.ndarray, "rows columns"]:
    """Mask of the shutters and collimators in a DICOM header (PS3.3 C.7.6.11 and C.8.7.3).

    Columns and rows count from 1 there; the edges themselves are inside the field. A shutter whose
    description is not complete is left out.
    """
    rows = np.arange(1, shape[0] + 1)[:, None]
    columns = np.arange(1, shape[1] + 1)[None, :]
    mask = np.ones(shape, bool)
    for kind in ("Shutter", "Collimator"):
        shapes = dataset.get(f"{kind}Shape") or ()
        shapes = [shapes] if isinstance(shapes, str) else list(shapes)
        edges = _numbers(dataset, [kind + edge for edge in _EDGES])
        if "RECTANGULAR" in shapes and len(edges) == 4:
            left, right, upper, lower = edges
            mask &= (columns >= left) & (columns <= right) & (rows >= upper) & (rows <= lower)
        circle = _numbers(dataset, [f"CenterOfCircular{kind}", f"RadiusOfCircular{kind}"])
        if "CIRCULAR" in shapes and len(circle) == 3:
            row, column, radius = circle
            mask &= (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
        vertices = _numbers(dataset, [f"VerticesOfThePolygonal{kind}"])
        if "POLYGONAL" in shapes and len(vertices) >= 6 and len(vertices) % 2 == 0:
            mask &= _inside_polygon(rows, columns, np.array(vertices).reshape(-1, 2))
    return mask.astype(np.float32)


def _numbers(dataset: "Dataset", names: list[str]) -> list[float]:
    """All numbers of some tags, one after the other; absent and empty ones give none."""
    values = [dataset.get(name) for name in names]
    present = [np.atleast_1d(np.asarray(v, float)) for v in values if v is not None and v != ""]
    return np.concatenate(present).tolist() if present else []


def _inside_polygon(rows: np.ndarray, columns: np.ndarray, vertices: np.ndarray) -> np.ndarray:
    """Even-odd rule; vertices are (row, column)."""
    inside = np.zeros(np.broadcast_shapes(rows.shape, columns.shape), bool)
    for (row0, column0), (row1, column1) in zip(vertices, np.roll(vertices, -1, 0), strict=True):
        if row0 == row1:
            continue
        crosses = (rows > min(row0, row1)) & (rows <= max(row0, row1))
        at = column0 + (rows - row0) * (column1 - column0) / (row1 - row0)
        inside ^= crosses & (columns >= at)
    return inside
