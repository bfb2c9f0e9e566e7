"""From the positions of slices to the affine of a volume, or the reason why there is none."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jxreg.errors import InputError
from jxreg.io.scan import LPS_FROM_RAS

_COMPLETE = "export the complete series, or even it out, for example with dcm2niix"


class Slice(NamedTuple):
    """Where one slice lies and how its numbers are stored."""

    path: Path
    """File it is in."""
    frame: int
    """Frame within the file, from 0."""
    size: tuple[int, int]
    """Rows, columns."""
    position: tuple[float, ...]
    """Centre of the first pixel, LPS [mm] (ImagePositionPatient)."""
    orientation: tuple[float, ...]
    """Directions of a row and of a column, LPS (ImageOrientationPatient)."""
    spacing: tuple[float, ...]
    """Distance of rows and of columns [mm] (PixelSpacing)."""
    slope: float
    """RescaleSlope."""
    intercept: float
    """RescaleIntercept."""
    unit: str
    """Unit after the rescale: "HU", or what the file says."""


def sort_slices(name: str, slices: Sequence[Slice]) -> list[Slice]:
    """Slices of one grid in the order of their positions along the normal.

    Raises:
        InputError: Matrix size, spacing, orientation or unit change within the series.
    """
    first = slices[0]
    for other in slices:
        for what in ("size", "unit"):
            if getattr(other, what) != getattr(first, what):
                found = f"{what} {getattr(first, what)} and {getattr(other, what)}"
                raise InputError(name, found, "one kind of slice", _SEPARATE)
        for what, tolerance in (("orientation", 1e-3), ("spacing", 1e-4)):
            a, b = np.array(getattr(first, what)), np.array(getattr(other, what))
            if np.abs(a - b).max() > tolerance:
                found = f"{what} {a.tolist()} ({first.path.name}), {b.tolist()} ({other.path.name})"
                raise InputError(name, found, f"the same {what} in all slices", _SEPARATE)
    _check_axes(name, first)
    normal = _normal(first)
    return sorted(slices, key=lambda s: float(normal @ np.array(s.position)))


def same_position(slices: Sequence[Slice]) -> list[tuple[int, int]]:
    """Pairs of neighbours, in sorted order, that lie at the same place (within 0.01 mm)."""
    depths = _depths(slices)
    return [(i, i + 1) for i in np.flatnonzero(np.diff(depths) < 0.01).tolist()]


def stack_affine(name: str, slices: Sequence[Slice]) -> Float[np.ndarray, "4 4"]:
    """World (RAS+ [mm]) from index (column, row, slice) of sorted slices.

    The third axis is the step from slice to slice as the positions tell it: with a tilted gantry
    it is not along the normal, and the affine is sheared; nothing is resampled.

    Raises:
        InputError: Fewer than two positions, or steps that differ by more than 1 % of a step (and
            more than 0.05 mm): a slice is missing, or the spacing changes.
    """
    positions = np.array([s.position for s in slices], np.float64)
    depths = _depths(slices)
    if len(slices) < 2 or depths[-1] - depths[0] < 0.01:
        raise InputError(
            name,
            f"{len(slices)} slice(s) at one position",
            "slices at different positions",
            "give the folder with the whole series",
        )
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    even = positions[0] + np.arange(len(slices))[:, None] * step
    if np.abs(positions - even).max() > max(0.05, 0.01 * float(np.linalg.norm(step))):
        raise InputError(name, _unevenness(depths), "evenly spaced slices", _COMPLETE)
    rows, columns = slices[0].spacing
    direction = np.array(slices[0].orientation)
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1] = direction[:3] * columns, direction[3:] * rows
    lps[:3, 2], lps[:3, 3] = step, positions[0]
    return LPS_FROM_RAS @ lps


_SEPARATE = "put each kind into a folder of its own, or choose with series= (--series at the shell)"


def _check_axes(name: str, item: Slice) -> None:
    row, column = np.array(item.orientation[:3]), np.array(item.orientation[3:])
    lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
    finite = np.isfinite([*item.orientation, *item.position, *item.spacing]).all()
    if not finite or abs(row @ column) > 1e-3 or np.abs(lengths - 1).max() > 1e-3:
        found = f"ImageOrientationPatient {list(item.orientation)} in {item.path.name}"
        raise InputError(name, found, "two unit vectors at a right angle", "correct the header")
    if min(item.spacing) <= 0:
        found = f"PixelSpacing {list(item.spacing)} in {item.path.name}"
        raise InputError(name, found, "positive distances [mm]", "correct the header")


def _normal(item: Slice) -> np.ndarray:
    return np.cross(np.array(item.orientation[:3]), np.array(item.orientation[3:]))


def _depths(slices: Sequence[Slice]) -> np.ndarray:
    return np.array([s.position for s in slices], np.float64) @ _normal(slices[0])


def _unevenness(depths: np.ndarray) -> str:
    """Which slices are missing, or how the distances change."""
    gaps = np.diff(depths)
    smallest = float(np.median(gaps[gaps <= 1.2 * gaps.min()]))
    multiples = gaps / smallest
    counts: Int[np.ndarray, " gaps"] = np.round(multiples).astype(int)
    if np.abs(multiples - counts).max() < 0.05 and counts.max() > 1 and (counts == 1).mean() > 0.3:
        where = ", ".join(
            f"between {depths[i]:.2f} and {depths[i + 1]:.2f} mm"
            for i in np.flatnonzero(counts > 1)[:3].tolist()
        )
        return f"{int((counts - 1).sum())} slice(s) missing along the normal {where}"
    if np.ptp(gaps) > 0.05:
        values, numbers = np.unique(np.round(gaps, 2), return_counts=True)
        listing = ", ".join(f"{n} x {v:g} mm" for v, n in zip(values[:5], numbers[:5], strict=True))
        return f"uneven slice distances ({listing})"
    return "slices that are shifted sideways against each other"
