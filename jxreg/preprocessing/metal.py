"""Implants, screws, wires and lead markers: dense, with an edge all around that no bone has."""

import numpy as np
from jaxtyping import Bool, Float

WIDTH = 0.1
"""Metal is narrower than this fraction of the image's width."""
LEVELS = 12
"""Thresholds at which dense regions are sought."""
STEEP = 0.8
"""Share of a region's border that must be a steep step."""
LARGEST = 0.15
"""Largest region, as a fraction of the image."""


def metal_mask(
    image: Float[np.ndarray, "rows columns"],
    seen: Bool[np.ndarray, "rows columns"],
    step: float = 0.6,
) -> Float[np.ndarray, "rows columns"]:
    """Mask of what is not metal.

    What stands out from its surroundings (a top-hat transform: the image less its opening) is cut
    at several levels; a region above a level is metal if most of its border is a steep step.

    Args:
        image: Attenuation, of some 200 to 600 pixels.
        seen: Pixels that are not known to be closed.
        step: Least change of attenuation within two pixels of the border. Half a millimetre of
            steel makes 0.5 at 60 keV; the wall of a bone, seen along it, hardly as much.

    Returns:
        0 on metal and two pixels around it, 1 elsewhere.
    """
    from scipy import ndimage

    if not seen.any():
        return np.ones(image.shape, np.float32)
    size = max(3, round(WIDTH * image.shape[1]))
    smooth = ndimage.gaussian_filter(np.where(seen, image, np.median(image[seen])), 0.7)
    above = np.where(seen, smooth - ndimage.grey_opening(smooth, size=(size, size)), 0.0)
    steep = ndimage.maximum_filter(smooth, 5) - ndimage.minimum_filter(smooth, 5) > step
    # Beside closed pixels and the border of the image there is an edge, whatever is there.
    counted = ndimage.binary_erosion(seen, iterations=3)
    metal = np.zeros(image.shape, bool)
    for level in np.linspace(step, max(above.max(), step), LEVELS, endpoint=False):
        metal |= _edged_all_around(above > level, steep, counted)
    return np.logical_not(ndimage.binary_dilation(metal, iterations=2)).astype(np.float32)


def _edged_all_around(dense, steep, counted) -> Bool[np.ndarray, "rows columns"]:
    """The connected regions whose border is steep nearly everywhere."""
    from scipy import ndimage

    regions = np.zeros(dense.shape, np.int32)
    count = int(ndimage.label(dense, np.ones((3, 3)), output=regions))  # pyright: ignore
    border = dense & np.logical_not(ndimage.binary_erosion(dense, border_value=1)) & counted

    def sizes(of):
        return np.bincount(regions[of], minlength=count + 1)

    length = sizes(border)
    good = (sizes(dense) >= 10) & (sizes(dense) <= LARGEST * counted.sum())
    good &= (length >= 6) & (sizes(border & steep) >= STEEP * length)
    good[0] = False
    return good[regions]
