"""From the numbers of an X-ray file to attenuation and its mask: by tags, then by the image."""

from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from jxreg.io.exposure import Exposure, inverted, to_attenuation
from jxreg.preprocessing import (
    NOTHING,
    Detect,
    collimation_mask,
    examine,
    looks_inverted,
    noise_law,
)

STILL = 16
"""Shutters and text are sought in the mean of at most so many frames: they stand still."""


class Content(NamedTuple):
    """What the frames of a file show."""

    image: Float[np.ndarray, "frames rows columns"]
    """Attenuation."""
    mask: Float[np.ndarray, "frames rows columns"] | None
    """1 where the image can be used; None if that is everywhere."""
    notes: tuple[str, ...] = ()
    """What was found in the image and decided by it, in words."""


def frame_content(
    exposure: Exposure,
    detect: Detect,
    intensity: Literal["auto", "linear", "log", "attenuation"] = "auto",
    invert: bool = False,
    white: int | float | None = None,
) -> Content:
    """Turns grey values into attenuation and masks what is no anatomy.

    The header decides what the values mean; the image is asked where it does not say.

    Args:
        exposure: The frames as the file has them.
        detect: What to look for in the image.
        intensity: As in `load_frames`.
        invert: As in `load_frames`.
        white: As in `load_frames`.

    Raises:
        InputError: The white level is not positive.
    """
    exposure, notes = _meaning(exposure, detect, intensity, invert)
    known = _known_mask(exposure, detect.field)
    image = to_attenuation(exposure, known, white)
    if exposure.scale == "log":  # how steep a step is steel, its unit does not tell
        detect = replace(detect, metal=False)
    mask, found = _masked(image, known, detect)
    return Content(image, None if mask.all() else mask, (*notes, *found))


def _meaning(
    exposure: Exposure, detect: Detect, intensity, invert: bool
) -> tuple[Exposure, tuple[str, ...]]:
    """The exposure with the scale and direction that options, header and image say."""
    if intensity != "auto":
        exposure = exposure._replace(scale=intensity)
    exposure = inverted(exposure) if invert else exposure
    # Floats are attenuation unless an option says otherwise, and tags are believed.
    if exposure.scale_from == "tags" or exposure.scale == "attenuation" or not exposure.quantum:
        return exposure, ()
    notes = []
    if detect.polarity and not invert:
        why = looks_inverted(exposure.pixels[0], exposure.quantum)
        exposure = inverted(exposure) if why and detect.inverted else exposure
        done = "turned" if detect.inverted else "not turned"
        notes += [f"looks inverted: {why}; {done}: see invert= (--invert)"] if why else []
    if detect.scale and intensity == "auto":
        first = exposure.pixels[0]
        law = noise_law(first, np.ones(first.shape, bool), exposure.quantum)
        if law not in ("unknown", exposure.scale):
            if exposure.scale_from == "nothing":
                exposure = exposure._replace(scale=law)
            words = {"log": "a logarithm of intensity", "linear": "intensity"}
            taken = f"taken as {words[exposure.scale]}: see intensity= (--intensity)"
            notes.append(f"its noise is that of {words[law]}; {taken}")
    return exposure, tuple(notes)


def _known_mask(exposure: Exposure, detect: bool) -> Float[np.ndarray, "frames rows columns"]:
    """Shutters of the header, and constant dark borders of the image."""
    masks = [np.ones(exposure.pixels.shape, np.float32)]
    if exposure.mask is not None:
        masks.append(exposure.mask)
    if detect:
        sign = -1 if exposure.scale == "attenuation" else 1
        borders = [collimation_mask(sign * p, exposure.quantum) for p in exposure.pixels]
        masks.append(np.stack(borders))
    return np.prod(np.broadcast_arrays(*masks), 0).astype(np.float32)


def _masked(image, mask, detect: Detect):
    """The mask without all that was found, and the words for it."""
    if detect == NOTHING:
        return mask, ()
    still = slice(None, None, -(-len(image) // STILL))
    common = mask[still].min(0)
    found = examine(image[still].mean(0), common, replace(detect, metal=False))
    mask = mask * ((found.mask > 0) | (common == 0))
    notes = list(found.notes)
    if detect.metal:
        metal = [
            examine(i, m, replace(NOTHING, metal=True)) for i, m in zip(image, mask, strict=True)
        ]
        mask = np.stack([m.mask for m in metal])
        notes += metal[0].notes
        count = sum(bool(m.notes) for m in metal)
        if len(image) > 1 and count:
            notes.append(f"metal in {count} of {len(image)} frames")
    return mask.astype(np.float32), tuple(notes)
