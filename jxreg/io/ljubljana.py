"""Ljubljana: 3D DSA of ten neurovascular patients, each with a frontal and a lateral 2D DSA.

Mitrovic et al., 3D-2D registration of cerebral angiograms, IEEE TMI 32(8), 2013. The data are
CC BY-NC-ND and not part of jxreg; give the path of `ljubljana.h5`.

The geometry is exact and proper as it stands in the file: a point p of the volume's physical frame
(origin + spacing * index, voxel centres) appears at pixel K . extrinsic . p, with another K for
each view (off-centre by up to 28 mm, SDD about 1150 to 1250 mm). K has negative focal lengths: z
points to the source, which `convention.from_xreg` turns into a proper pose and a mirrored camera.
Nothing is flipped. Chains for renderers that mirror the volume along x need a pose of determinant
-1 to make up for that; none is accepted here.

The file does not name its frame. It is taken for LPS, as DICOM has it; if it were another one,
patient left and right would be called by the wrong name, and nothing else would change.
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jxreg import camera as camera_
from jxreg.camera import Camera
from jxreg.convention import from_xreg
from jxreg.errors import InputError
from jxreg.frame import Frame, attenuation
from jxreg.io.dataset import Subject, View, check_proper, chosen, member, open_hdf5, rigid
from jxreg.io.landmarks import Landmarks
from jxreg.volume import Volume

EXPECTED = "Ljubljana's ljubljana.h5 (HDF5)"
VIEWS = ("ap", "lat")
"""Frontal and lateral; "ap-max" and "lat-max" are the maxima over time."""
_LPS = np.array([-1.0, -1.0, 1.0])


def load_ljubljana(
    path: str | Path,
    subject: int,
    *,
    views: tuple[str, ...] = VIEWS,
    threshold: float = 1000.0,
    mu_per_unit: float = 1e-5,
) -> Subject:
    """Reads one patient: vessels, points on their centre lines, X-rays and true poses.

    Args:
        path: The HDF5 file.
        subject: Number of the patient, 1 to 10.
        views: Which X-rays: "ap", "lat", "ap-max", "lat-max".
        threshold: Voxels below it are no vessel and become air, in the unit of the file.
        mu_per_unit: Attenuation [1/mm] of one unit of the volume, whose scale is arbitrary.

    Raises:
        InputError: h5py is missing, the file lacks something, a matrix mirrors or is not rigid, or
            there is no such patient or view.
    """
    with open_hdf5(path, EXPECTED) as file:
        group = member(path, file, f"subject{subject:02d}", EXPECTED)
        there = [name.removeprefix("proj-") for name in group if name.startswith("proj-")]
        chosen(path, there, views)
        volume = _volume(path, group, threshold, mu_per_unit)
        points = np.asarray(member(path, group, "points", EXPECTED)[()], np.float64)
        if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
            found = f"points of shape {points.shape}, or not finite"
            raise InputError(str(path), found, "n x 3 numbers", "give the published file")
        landmarks = Landmarks(points * _LPS, ("",) * len(points))
        found = tuple(_view(path, group[f"proj-{name}"], name, landmarks) for name in views)
    return Subject(f"subject{subject:02d}", volume, landmarks, found)


def _volume(path, group, threshold: float, mu_per_unit: float) -> Volume:
    """The 3D DSA; its array runs (x, y, z)."""
    image = member(path, group, "volume", EXPECTED)
    pixels, spacing, origin = (
        np.asarray(member(path, image, name, EXPECTED)[()])
        for name in ("pixels", "spacing", "origin")
    )
    affine = np.eye(4)
    affine[:3, :3] = np.diag(_LPS * spacing.ravel())
    affine[:3, 3] = _LPS * origin.ravel()
    mu = np.where(pixels < threshold, 0.0, pixels).astype(np.float32) * np.float32(mu_per_unit)
    return Volume.from_array(mu, affine)


def _view(path, group, name: str, landmarks: Landmarks) -> View:
    keys = ("pixels", "extrinsic", "intrinsic", "row-spacing", "col-spacing")
    pixels, extrinsic, k, row_mm, column_mm = (
        np.asarray(member(path, group, key, EXPECTED)[()], np.float64) for key in keys
    )
    check_proper(path, f"extrinsic of view {name}", extrinsic)
    column_sdd, row_sdd = abs(k[0, 0]) * column_mm.item(), abs(k[1, 1]) * row_mm.item()
    if not (k[0, 0] * k[1, 1] > 0 and abs(column_sdd - row_sdd) < 1e-3 * row_sdd):
        found = f"view {name}: focal lengths of {column_sdd:.1f} and {row_sdd:.1f} mm"
        raise InputError(str(path), found, "one SDD, of one sign", "give the published file")
    pose, intrinsic = from_xreg(rigid(extrinsic), k / k[2, 2])
    rows, columns = pixels.shape
    camera = Camera.from_intrinsic(intrinsic, (column_sdd + row_sdd) / 2, (rows, columns))
    frame = Frame(_attenuation(pixels), camera)
    points = jnp.asarray(landmarks.points, float)
    marks = np.asarray(camera_.project_points(camera, pose, points), np.float64)
    return View(name, frame, pose, marks)


def _attenuation(pixels: Float[np.ndarray, "rows columns"]):
    """Attenuation of the contrast agent: the background, the most frequent grey level, is zero."""
    counts, edges = np.histogram(pixels, 256)
    background = edges[counts.argmax() : counts.argmax() + 2].mean()
    image = attenuation(jnp.asarray(pixels, float) + 1.0, float(background) + 1.0)
    return jnp.maximum(image, 0.0)
