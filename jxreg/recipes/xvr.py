"""xvr (Gopalakrishnan et al., 2025): one network for many patients, then some minutes for one.

A ResNet says a quaternion adjugate and metres; it learns from the image that is rendered at what it
said: 1 - mNCC + Dice + 0.01 double geodesic. Ranges and schedule are those for the pelvis. Where we
depart from it: bone has a contrast of its own in each image, not in each batch; images are scaled
one by one; the Dice is that of the soft shadow of bone, with a gradient, where xvr has boolean
masks of labels without one.

At reduced scale (32 pixels, a network of two blocks, no augmentation) the mTRE of unseen frames of
a chest CT falls in 500 batches of 16 by a factor of 1.6 from scratch (207.7 to 127.2 mm), by 1.9
from a network that 3000 batches of three other CTs have trained (to 110.9 mm; 146.1 mm before):
`python benchmarks/bench_ablation.py --tables xvr`.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxlie import SE3
from jaxtyping import Array, Float

from jxreg import losses
from jxreg.augmentation import XVR
from jxreg.nets import HeadConfig, Prediction, pose_net, resnet
from jxreg.optimizer import OptimizerConfig
from jxreg.recipes.patients import Draw, PatientConfig, Sample
from jxreg.recipes.recipe import Geometry, Patient, Recipe
from jxreg.recipes.regression import regression
from jxreg.sampling import UniformEuler
from jxreg.synthesis import SynthesisConfig, line_integrals
from jxreg.training import TrainConfig

MEAN, DEVIATION = 0.15, 0.1
"""What images in [0, 1] are standardised by."""
RAW_DEGREES = float(np.rad2deg(2.0))
"""Unit of the head at which numbers of the adjugate are outputs as they are."""


@dataclass(frozen=True)
class XvrConfig:
    """The recipe `xvr`, from scratch; `--from` makes it the short one for a patient."""

    geometry: Geometry = Geometry(pixels=128, pixel_mm=2.1764375, source_to_isocenter=725.0)
    poses: UniformEuler = UniformEuler(
        orbit_degrees=(-45.0, 45.0),
        tilt_degrees=(-45.0, 45.0),
        roll_degrees=(-15.0, 15.0),
        across=(-150.0, 150.0),
        down=(-150.0, 150.0),
        depth=(-275.0, 275.0),
    )
    contrast: tuple[float, float] = (1.0, 10.0)
    """Range of the factor on bone."""
    augmentation: bool = True
    """CLAHE, gamma, blur, noise, sharpness, erasing, collimation, each with probability 1/3."""
    patient: PatientConfig = PatientConfig()
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    """Residual blocks of each stage of the ResNet, with GroupNorm; these are ResNet-34."""
    width: int = 64
    """Features of the first stage."""
    unit_mm: float = 1000.0
    """Translation that an output of 1 stands for."""
    image_weight: float = 1.0
    """Of 1 - mNCC; 0 for all weights but that of the geodesic saves the render."""
    dice_weight: float = 1.0
    geodesic_weight: float = 0.01
    train: TrainConfig = TrainConfig(
        steps=30_000,
        batch=116,
        validate_every=250,
        optimizer=OptimizerConfig(rate=1e-3, warmup=1000, accumulate=4),
        keep="last",
    )


CONFIG = XvrConfig()


def build(config: XvrConfig) -> Recipe:
    """The recipe of a configuration."""
    augment = XVR if config.augmentation else None
    synthesis = SynthesisConfig(contrast=config.contrast, augment=augment)
    draw = Draw(config.geometry, config.poses, synthesis)
    unit = config.unit_mm
    head = HeadConfig("quaternion_adjugate", (unit, unit, unit), rotation_degrees=RAW_DEGREES)
    backbone = resnet(config.blocks, width=config.width)
    net = pose_net(backbone, (config.geometry.pixels, config.geometry.pixels), head=head)

    def sample_loss(said: Prediction, pose: SE3, drawn: Sample, patient: Patient):
        geodesic = losses.double_geodesic(
            pose, drawn.pose, patient.volume.isocenter, sdd=drawn.camera.sdd
        )
        total, log = config.geodesic_weight * geodesic, {"geodesic": geodesic}
        if config.image_weight or config.dice_weight:
            channels = line_integrals(patient.volume, drawn.camera, pose)
            image = jnp.tensordot(drawn.frame.contrast, channels, 1)
            unlike = losses.dissimilarity(image, drawn.frame.clean)
            total, log = total + config.image_weight * unlike, log | {"image": unlike}
            if len(channels) > 1:
                dice = losses.soft_dice(channels[1:], drawn.frame.channels[1:])
                total, log = total + config.dice_weight * dice, log | {"dice": dice}
        return total, log

    return regression(net, draw, normalise, sample_loss, patient=config.patient, train=config.train)


def normalise(image: Float[Array, "rows columns"]) -> Float[Array, "1 rows columns"]:
    """Standardised by the mean and deviation that xvr has for all images."""
    return ((image - MEAN) / DEVIATION)[None]
