"""Random changes that make a network trained on DRRs read X-rays: `(key, image) -> image`.

composition    steps in a row, each with its probability
grey           gamma, noise, salt and pepper
sharpness      blur and sharpening
plasma         smooth random fields: contrast, brightness, shadow
occlusion      rectangles erased, collimator blades
equalisation   CLAHE
exposure       physics: spectrum, scatter and photons, on line integrals
presets        LXPOSE, XVR, JXREG

Images are in [0, 1] and stay there; all numbers are drawn for each image, and shapes are static.
"""

from jxreg.augmentation.composition import Augment, Step, compose
from jxreg.augmentation.equalisation import clahe, equalised
from jxreg.augmentation.exposure import Exposure, exposed
from jxreg.augmentation.grey import gamma, gaussian_noise, salt_and_pepper
from jxreg.augmentation.occlusion import collimation, erasing
from jxreg.augmentation.plasma import plasma, plasma_brightness, plasma_contrast, plasma_shadow
from jxreg.augmentation.presets import JXREG, JXREG_EXPOSURE, LXPOSE, XVR
from jxreg.augmentation.sharpness import box_blur, gaussian_blur, sharpness

__all__ = [
    "JXREG",
    "JXREG_EXPOSURE",
    "LXPOSE",
    "XVR",
    "Augment",
    "Exposure",
    "Step",
    "box_blur",
    "clahe",
    "collimation",
    "compose",
    "equalised",
    "erasing",
    "exposed",
    "gamma",
    "gaussian_blur",
    "gaussian_noise",
    "plasma",
    "plasma_brightness",
    "plasma_contrast",
    "plasma_shadow",
    "salt_and_pepper",
    "sharpness",
]
