"""Letters and digits burnt into an image."""

import numpy as np
from jaxtyping import Float


def lettering_mask(image: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows columns"]:
    """Mask of what is not text: three or more glyphs of one height side by side.

    A glyph is a small region within a fiftieth of the brightest or darkest value whose border is
    a jump of a third of the range from one pixel to the next, which no detector blurs so little.

    Args:
        image: Attenuation or any monotonic function of it, as many pixels as the file has.

    Returns:
        0 in the boxes of the words found, 1 elsewhere.
    """
    mask = np.ones(image.shape, np.float32)
    low, high = float(image.min()), float(image.max())
    if not high > low:
        return mask
    step = (high - low) / 3
    jump = np.zeros(image.shape, bool)
    for axis in (0, 1):
        far = np.abs(np.diff(image, axis=axis)) > step
        before, after = [(0, 0), (0, 0)], [(0, 0), (0, 0)]
        before[axis], after[axis] = (1, 0), (0, 1)
        jump |= np.pad(far, before) | np.pad(far, after)
    for extreme in (image >= high - 0.02 * (high - low), image <= low + 0.02 * (high - low)):
        for top, left, bottom, right in _words(_glyphs(extreme, jump)):
            margin = 2 + (bottom - top) // 4
            mask[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin] = 0
    return mask


def _glyphs(extreme, jump) -> list[tuple[int, int, int, int]]:
    """Boxes (top, left, bottom, right) of regions that look like letters, from left to right."""
    from scipy import ndimage

    regions = np.zeros(extreme.shape, np.int32)
    ndimage.label(extreme, np.ones((3, 3)), output=regions)
    border = extreme & np.logical_not(ndimage.binary_erosion(extreme, border_value=1))
    sharp = np.bincount(regions[border & jump], minlength=regions.max() + 1)
    length = np.bincount(regions[border], minlength=regions.max() + 1)
    boxes = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(regions), 1):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        small = 6 <= height <= max(12, extreme.shape[0] // 20) and 1 <= width <= 1.5 * height
        if small and sharp[number] >= 0.8 * length[number]:
            boxes.append((rows.start, columns.start, rows.stop, columns.stop))
    return sorted(boxes, key=lambda box: box[1])


def _words(boxes) -> list[tuple[int, int, int, int]]:
    """Boxes of glyphs of one height that stand side by side, three at least."""
    words: list[list[tuple[int, int, int, int]]] = []
    for box in boxes:
        height = box[2] - box[0]
        for word in words:
            last = word[-1]
            level = abs(box[2] - last[2]) <= 0.3 * height
            alike = abs(height - (last[2] - last[0])) <= 0.4 * height
            if level and alike and -1 <= box[1] - last[3] <= 1.5 * height:
                word.append(box)
                break
        else:
            words.append([box])
    return [
        (min(b[0] for b in w), w[0][1], max(b[2] for b in w), max(b[3] for b in w))
        for w in words
        if len(w) >= 3
    ]
