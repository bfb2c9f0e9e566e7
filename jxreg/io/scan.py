"""A 3D image as a file holds it, before its numbers become attenuation."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from jxreg.errors import InputError

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""DICOM and ITK point x to the left and y to the back; it is its own inverse."""


class Scan(NamedTuple):
    """Voxels in the unit of the file, and where they are."""

    values: Shaped[np.ndarray, "x y z"]
    """In the unit of the file: Hounsfield units of a CT, label numbers of a label map."""
    affine: Float[np.ndarray, "4 4"]
    """World (RAS+ [mm]) from index."""
    unit: str = ""
    """Unit that the file names, "HU" for a CT; empty if it names none, as NIfTI does."""
    notes: tuple[str, ...] = ()
    """What was unusual about the file and how it was understood."""
    names: dict[int, str] = {}
    """Names of label numbers, where the file holds them."""


def check_scan(path: str | Path, scan: Scan) -> Scan:
    """The scan itself, if its grid can be used.

    Raises:
        InputError: Not three-dimensional, a side of one voxel, or a singular affine.
    """
    if scan.values.ndim != 3 or min(scan.values.shape) < 2:
        raise InputError(
            str(path),
            f"an array of shape {scan.values.shape}",
            "a 3D image with at least 2 voxels a side",
            "give the whole volume, not one slice",
        )
    lengths = np.linalg.norm(scan.affine[:3, :3], axis=0)
    if not np.isfinite(scan.affine).all() or (lengths == 0).any():
        raise InputError(
            str(path),
            f"voxel spacing {lengths.tolist()} mm",
            "a positive, finite spacing",
            "correct the header, or give affine=",
        )
    if abs(np.linalg.det(scan.affine[:3, :3] / lengths)) < 1e-3:
        raise InputError(
            str(path),
            "voxel axes that lie in one plane",
            "three independent axes",
            "correct the header, or give affine=",
        )
    return scan
