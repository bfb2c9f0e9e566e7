"""load_volume(): any CT file to a Volume."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import ArrayLike, Float, Shaped

from jxreg import volume as volume_
from jxreg.errors import InputError
from jxreg.io.boundary import notice
from jxreg.io.dicom_file import is_dicom
from jxreg.io.scan import Scan
from jxreg.volume import Volume, mu_from_hu

_FORMATS = "NIfTI (.nii, .nii.gz), a DICOM folder, NRRD (.nrrd, .nhdr) or MetaImage (.mha, .mhd)"
_AIR_HU = -200.0  # below this is air or lung


def load_volume(
    path: str | Path,
    *,
    to_mu: Callable[[Float[np.ndarray, "x y z"]], ArrayLike] = mu_from_hu,
    crop_air: bool = True,
    affine: ArrayLike | None = None,
    frame: int | None = None,
    series: str | int | None = None,
    fill_nonfinite: int | float | None = None,
) -> Volume:
    """Reads a CT, in any orientation, as linear attenuation.

    The grid stays as it is in the file: flips, oblique axes and the shear of a tilted gantry are
    all in `Volume.affine`. LPS files are converted to RAS.

    Args:
        path: NIfTI, NRRD or MetaImage file, DICOM file or folder with one DICOM series.
        to_mu: Attenuation [1/mm] from the numbers of the file. The default takes Hounsfield units,
            with padding below -1000 HU as air. Examples: another energy,
            `functools.partial(mu_from_hu, mu_water=0.0192)`; a file of attenuation, `np.asarray`;
            a bone crop of 0 ... 4095 without a unit, `lambda x: 1e-5 * x`.
        crop_air: Removes the surrounding air; world coordinates and isocenter do not change.
        affine: World (RAS+ [mm]) from index, instead of a wrong or missing one in the file.
        frame: Which volume of a 4D file.
        series: SeriesInstanceUID or SeriesNumber, where a folder holds several series.
        fill_nonfinite: Number, in the unit of the file, for voxels that are NaN or infinite.

    Raises:
        InputError: The file cannot be used; the message names the file and says why.
    """
    scan = read_scan(path, affine=affine, frame=frame, series=series)
    values = _finite(path, scan.values, fill_nonfinite)
    for text in scan.notes:
        notice(path, text)
    if to_mu is mu_from_hu:
        _check_hounsfield(path, scan.unit, values)
    try:
        volume = Volume.from_array(to_mu(values), scan.affine, pyramid_mm=(), prepare=False)
    except InputError as error:
        raise InputError(str(path), error.found, error.expected, error.fix) from error
    if crop_air:
        volume = volume_.crop_air(volume)
    return Volume.from_array(volume.mu, volume.affine, volume.isocenter)


def read_scan(
    path: str | Path,
    *,
    affine: ArrayLike | None = None,
    frame: int | None = None,
    series: str | int | None = None,
) -> Scan:
    """Reads a 3D file in the unit of the file; the reader is chosen by the file's name.

    Raises:
        InputError: The file cannot be used, or its kind is unknown.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(str(path), "no such file", _FORMATS, "check the path")
    name = path.name.lower()
    if path.is_dir() or is_dicom(path):
        from jxreg.io.dicom_series import read_dicom_series

        return read_dicom_series(path, series=series, affine=affine)
    if name.endswith((".nii", ".nii.gz")):
        from jxreg.io.nifti import read_nifti

        return read_nifti(path, frame=frame, affine=affine)
    if name.endswith((".nrrd", ".nhdr")):
        from jxreg.io.nrrd_file import read_nrrd

        return read_nrrd(path, affine=affine)
    if name.endswith((".mha", ".mhd")):
        from jxreg.io.metaimage import read_metaimage

        return read_metaimage(path, affine=affine)
    raise InputError(str(path), f"ending {path.suffix!r}", _FORMATS, "convert it, or rename it")


def _finite(path, values: np.ndarray, fill: int | float | None) -> np.ndarray:
    values = values.astype(np.float32, copy=False)
    bad = ~np.isfinite(values)
    if not bad.any():
        return values
    if fill is None:
        raise InputError(
            str(path),
            f"{int(bad.sum())} voxels are NaN or infinite",
            "finite voxels",
            "give fill_nonfinite= (--fill-nonfinite at the shell), -1000 if they are air",
        )
    return np.where(bad, np.float32(fill), values)


def hounsfield_doubt(unit: str, values: Shaped[np.ndarray, "..."]) -> str | None:
    """Why the values of a file are hardly Hounsfield units of a CT with air; None if they may be.

    The usual cases: a unit that the file names, images of whole numbers from 0, and bones cut out
    of a CT on a background of 0, which as Hounsfield units would be a block of water.
    """
    if unit not in ("", "HU"):
        return f"its voxels are in {unit!r}, not Hounsfield units"
    low, high = float(values.min()), float(values.max())
    zeros, air = float((values == 0).mean()), float((values < _AIR_HU).mean())
    if low > _AIR_HU or (zeros > 0.2 and air < 0.01):
        return (
            f"its values are {low:g} ... {high:g}, {100 * zeros:.0f} % are 0 and "
            f"{100 * air:.0f} % below {_AIR_HU:g}: hardly Hounsfield units with air around"
        )
    return None


def _check_hounsfield(path: str | Path, unit: str, values: np.ndarray) -> None:
    doubt = hounsfield_doubt(unit, values)
    if doubt and unit not in ("", "HU"):
        fix = "say what they mean with to_mu= (--mu-per-unit at the shell)"
        raise InputError(str(path), doubt, "Hounsfield units", fix)
    if doubt:
        notice(path, f"{doubt}; say what they mean with to_mu= (--mu-per-unit at the shell)")
