"""An X-ray file as it is stored: pixels, what they mean, and what is known of the geometry."""

from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jxreg.errors import InputError
from jxreg.frame import attenuation

Scale = Literal["linear", "log", "attenuation"]
"""Pixel values are proportional to the intensity that arrived, its logarithm, or attenuation."""


class Angles(NamedTuple):
    """Directions of a C-arm for each frame [rad], as in `CArm`."""

    primary: Float[np.ndarray, " frames"]
    secondary: Float[np.ndarray, " frames"]
    roll: float


class Geometry(NamedTuple):
    """What a file tells of the geometry; None where it does not."""

    sdd: float | None = None
    """Source-to-detector distance [mm]."""
    pixel_spacing: tuple[float, float] | None = None
    """Distance of rows and of columns on the detector [mm]."""
    principal_point: tuple[float, float] | None = None
    """Pixel (u, v) of the central ray; None for the centre of the image."""
    mirrored: bool = False
    """Whether the display mirrors what the source sees."""
    angles: Angles | None = None
    """C-arm angles."""
    source_to_isocenter: float | None = None
    """Distance from the source to the isocenter [mm]."""
    missing: tuple[str, ...] = ()
    """What is not there, and the option that gives it."""
    notes: tuple[str, ...] = ()
    """What was not as usual."""


class Exposure(NamedTuple):
    """Frames in the numbers of the file, and the geometry that the file tells."""

    pixels: Float[np.ndarray, "frames rows columns"]
    """Large where much arrived, except for scale "attenuation", where it is the other way."""
    scale: Scale
    """What the pixel values are proportional to."""
    quantum: float = 1.0
    """One grey level, in the unit of `pixels`; 0 for floats."""
    levels: int = 256
    """Number of grey levels that the file can hold."""
    scale_from: Literal["nothing", "modality", "tags"] = "nothing"
    """What tells the scale and its direction: no header, the habit of its modality, or its tags."""
    mask: Float[np.ndarray, "#frames rows columns"] | None = None
    """0 under shutters and padding that the file names."""
    geometry: Geometry = Geometry()
    """Geometry that came with the pixels."""


def to_attenuation(
    exposure: Exposure, mask: Float[np.ndarray, "frames rows columns"], white: float | int | None
) -> Float[np.ndarray, "frames rows columns"]:
    """Attenuation log(I0 / I) of each frame.

    - linear: the logarithm, with at least half a grey level of signal.
    - log: a grey level is worth log(levels) / (levels - 1), as if the display range held all
      intensities from one count to the full scale. The true factor is in no tag; similarities that
      ignore gain and offset do not need it.
    - attenuation: as it is.

    Args:
        exposure: The frames.
        mask: Pixels that count for the white level.
        white: Pixel value without an object; by default the 99.9th percentile of each frame, and at
            least half a grey level, so that a black frame is constant.

    Raises:
        InputError: The given white level is not positive.
    """
    if white is not None and not 0 < white < np.inf:
        fix = "give the pixel value without an object"
        raise InputError("white", f"{white:g}", "a positive number", fix)
    if exposure.scale == "attenuation":
        return exposure.pixels
    if white is None:
        pairs = zip(exposure.pixels, mask, strict=True)
        whites = np.array([_white_level(p, m) for p, m in pairs])
    else:
        whites = np.full(len(exposure.pixels), white, np.float64)
    level = exposure.quantum or max(0.0, float(whites.max())) / 65535  # floats have no grey level
    level = level or 1.0
    pixels, whites = exposure.pixels / np.float32(level), whites / level
    if exposure.scale == "log":
        unit = np.log(exposure.levels) / (exposure.levels - 1)
        return ((whites[:, None, None] - pixels) * unit).astype(np.float32)
    whites = np.maximum(whites, 0.5)
    frames = [attenuation(jnp.asarray(p), float(w)) for p, w in zip(pixels, whites, strict=True)]
    return np.stack([np.asarray(frame, np.float32) for frame in frames])


def inverted(exposure: Exposure) -> Exposure:
    """The same frames with bright and dark exchanged, before any logarithm."""
    low, high = 0.0, exposure.quantum * (exposure.levels - 1)
    if exposure.pixels.min() < low or exposure.pixels.max() > high or not exposure.quantum:
        low, high = float(exposure.pixels.min()), float(exposure.pixels.max())
    return exposure._replace(pixels=np.float32(low + high) - exposure.pixels)


def _white_level(pixels: np.ndarray, mask: np.ndarray) -> float:
    inside = pixels[mask > 0]
    return float(np.percentile(inside if inside.size else pixels, 99.9))
