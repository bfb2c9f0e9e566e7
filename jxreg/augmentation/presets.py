"""The augmentations of the published systems, and ours.

LXPOSE   the eight of LXPose++ in their order (seven in LXPose, without the shadow), their ranges
         and probabilities
XVR      the seven of xvr, each with probability 1/3
JXREG    after `exposure.Exposure`, which brings spectrum, scatter and noise: what else an unseen
         X-ray may have, none of it strong enough to hide the anatomy

The two published sets take an image scaled to [0, 1] by its own extremes, as `synthesis` gives it;
LXPose's own scale is that of the whole batch, which couples images.
"""

from functools import partial

from jxreg.augmentation.composition import Step, compose
from jxreg.augmentation.equalisation import clahe
from jxreg.augmentation.exposure import Exposure
from jxreg.augmentation.grey import gamma, gaussian_noise, salt_and_pepper
from jxreg.augmentation.occlusion import collimation, erasing
from jxreg.augmentation.plasma import plasma_brightness, plasma_contrast, plasma_shadow
from jxreg.augmentation.sharpness import box_blur, gaussian_blur, sharpness

LXPOSE = compose(
    Step(partial(salt_and_pepper, amount=(0.005, 0.01), salt=(0.4, 0.6)), 0.5),
    Step(partial(gamma, exponent=(0.6, 1.8)), 0.5),
    Step(partial(gaussian_noise, deviation=(0.03, 0.03)), 0.5),
    Step(partial(sharpness, factor=(0.0, 0.5)), 0.5),
    Step(partial(gaussian_blur, sigma=(0.1, 1.0)), 0.5),
    Step(partial(plasma_contrast, roughness=(0.1, 0.5))),
    Step(partial(plasma_brightness, roughness=(0.1, 0.5), intensity=(-1.0, 1.0))),
    Step(partial(plasma_shadow, roughness=(0.1, 0.7), intensity=(-0.5, 0.5), quantity=(0.0, 0.5))),
)
"""LXPose++: extensive, so that a network trained on DRRs reads X-rays."""

XVR = compose(
    Step(partial(clahe, clip=(1.0, 10.0)), 1 / 3),
    Step(partial(gamma, exponent=(0.7, 1.8)), 1 / 3),
    Step(box_blur, 1 / 3),
    Step(partial(gaussian_noise, deviation=(0.01, 0.01)), 1 / 3),
    Step(partial(sharpness, factor=(0.0, 0.5)), 1 / 3),
    Step(partial(erasing, area=(0.02, 0.33), aspect=(0.3, 3.3)), 1 / 3),
    Step(partial(collimation, border=(0.0, 10 / 128)), 1 / 3),
)
"""xvr at its present head; ranges that it leaves to its library are that library's defaults."""

JXREG = compose(
    Step(partial(gamma, exponent=(0.6, 1.6)), 0.5),
    Step(partial(plasma_brightness, roughness=(0.1, 0.4), intensity=(-0.2, 0.2)), 0.5),
    Step(partial(gaussian_blur, sigma=(0.2, 1.0)), 0.3),
    Step(partial(gaussian_noise, deviation=(0.0, 0.03)), 0.5),
    Step(partial(erasing, area=(0.01, 0.1), value=(0.0, 1.0)), 0.2),
    Step(partial(collimation, border=(0.0, 0.2)), 0.5),
)
"""Ours, to follow `JXREG_EXPOSURE`."""

JXREG_EXPOSURE = Exposure()
"""Spectrum, scatter and noise before `JXREG`."""
