"""What was found in an image: a mask and a report in words."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jxreg.detect import Detect
from jxreg.preprocessing import field as field_
from jxreg.preprocessing.border import border_mask
from jxreg.preprocessing.contrast import brightness, dark_air
from jxreg.preprocessing.curves import Circle
from jxreg.preprocessing.lettering import lettering_mask
from jxreg.preprocessing.metal import metal_mask

SIDE = 512
"""Field and metal are sought in an image of at most so many rows or columns."""
SMALLEST = 64
"""Images of fewer rows or columns are too coarse to tell shutters or metal from anatomy."""


class Findings(NamedTuple):
    """What an image shows besides anatomy."""

    mask: Float[np.ndarray, "rows columns"]
    """1 where the image can be used, 0 elsewhere."""
    notes: tuple[str, ...] = ()
    """What was found and masked, in words."""


def examine(
    image: Float[np.ndarray, "rows columns"],
    mask: Float[np.ndarray, "rows columns"] | None = None,
    detect: Detect = Detect(),
    *,
    quantum: float = 0.0,
) -> Findings:
    """Looks for dead borders, a field, text and metal.

    Args:
        image: Attenuation.
        mask: What is known already: 0 behind shutters that the header names.
        detect: What to look for.
        quantum: A difference that counts as none, for dead borders.
    """
    known = np.ones(image.shape, np.float32) if mask is None else np.asarray(mask, np.float32)
    usable, notes = known.copy(), []
    finite = np.isfinite(image)
    if not finite.any() or np.ptp(image[finite]) == 0:
        return Findings(usable)
    image = np.where(finite, image, np.median(image[finite])).astype(np.float32)

    def close(found: np.ndarray, what: str) -> None:
        share = float(((found == 0) & (usable > 0)).mean())
        usable[found == 0] = 0
        if share > 0:
            notes.append(f"{what}: {_percent(share)} of the image masked")

    if detect.border:
        close(border_mask(image, quantum), "dead border")
    lettering = np.ones(image.shape, np.float32)
    if detect.text:
        lettering = lettering_mask(image)
    factor = max(1, -(-max(image.shape) // SIDE))
    small, seen = _pooled(image, factor), _pooled_least(usable, factor) > 0
    seen &= min(image.shape) >= SMALLEST
    if detect.field and seen.any():
        ignored = _pooled_least(lettering, factor) == 0
        found = field_.open_field(brightness(small, seen), seen, ignored)
        if found.curves:
            curves = [field_.scaled(curve, factor) for curve in found.curves]
            close(field_.within(curves, image.shape), _field_words(found.curves))
            seen &= found.mask > 0
    close(lettering, "burnt-in text")
    if detect.metal and seen.any():
        seen &= _pooled_least(usable, factor) > 0
        close(_enlarged(metal_mask(small, seen), factor, image.shape), "metal")
    return Findings(usable, tuple(notes))


def looks_inverted(intensity: Float[np.ndarray, "rows columns"], quantum: float) -> str | None:
    """Why an image that should be bright where much radiation arrived looks inverted, or None.

    Args:
        intensity: The image.
        quantum: One grey level.
    """
    if np.ptp(intensity) == 0:
        return None
    factor = max(1, -(-max(intensity.shape) // SIDE))
    if dark_air(intensity[::factor, ::factor], quantum):
        return "the darkest value lies around the body as air does"
    small = _pooled(intensity, factor)
    low, high = float(small.min()), float(small.max())
    upright = (small - low) / (high - low)
    every = np.ones(small.shape, bool)
    found = field_.open_field(1 - upright, every)
    certain = len(found.curves) > 2 or any(isinstance(curve, Circle) for curve in found.curves)
    if certain and found.mask.mean() < 0.95 and not field_.open_field(upright, every).curves:
        return "it is bright and even behind sharp edges, where shutters would be dark"
    return None


def _field_words(curves) -> str:
    circles = sum(isinstance(curve, Circle) for curve in curves)
    lines = len(curves) - circles
    parts = ["round field"] * (circles > 0)
    if lines:
        parts.append(f"{lines} straight edge{'s'[: lines > 1]} of shutters")
    return " and ".join(parts)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else f"{100 * share:.1g} %"


def _pooled(image: np.ndarray, factor: int) -> Float[np.ndarray, "h w"]:
    """Means of blocks; a remainder is left out."""
    return _blocks(image, factor).mean((1, 3))


def _pooled_least(mask: np.ndarray, factor: int) -> Float[np.ndarray, "h w"]:
    return _blocks(mask, factor).min((1, 3))


def _blocks(image: np.ndarray, factor: int) -> np.ndarray:
    rows, columns = (n // factor for n in image.shape)
    cut = image[: rows * factor, : columns * factor]
    return cut.reshape(rows, factor, columns, factor)


def _enlarged(mask: np.ndarray, factor: int, shape: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """A mask of blocks in the pixels of the image; the last block goes on to the border."""
    large = mask.repeat(factor, 0).repeat(factor, 1)
    return np.pad(large, [(0, n - m) for n, m in zip(shape, large.shape, strict=True)], "edge")
