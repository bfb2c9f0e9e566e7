"""DiffPose (Gopalakrishnan et al., CVPR 2024): a pose that is learned through the renderer.

A ResNet-18 with GroupNorm says a motion in any of eight parametrisations (`se3_log` by default);
the image is rendered at the pose that it says, and the loss is

    1 - NCC(render at the prediction, clean image) + 0.01 (log geodesic + double geodesic),

whose first term sends its gradient through the renderer. One network for one patient. From the
paper and the published code: network, loss, twists and their spread (DeepFluoro), contrast of bone
from 1 to 10, Adam with warm-up, cosine and adaptive clipping, batches and epochs. The published
training takes one NCC of the whole image, not that of patches, and so do we. Where we depart from
it: bone has a contrast of its own in each image, which the render at the prediction has too, where
DiffPose draws one for the batch and renders with the default; the patient turns about the volume's
isocenter, not about a corner of the volume, and the mean depth is in the reference pose; outputs of
the network are multiples of the spread of training, not mm and rad; the distance between
translations is that of the isocenter as the camera sees it. The sparse patches of its refinement
are `Climb.patches` of a registration.

At reduced scale (32 pixels, a network of two blocks, 1500 batches of 8, half a minute of one core)
the mTRE of unseen frames of a chest CT falls by a factor of 2.0 (125.8 to 63.7 mm):
`python benchmarks/bench_ablation.py --tables diffpose`.
"""

from dataclasses import dataclass

from jaxlie import SE3
from jaxtyping import Array, Float

from jxreg import losses
from jxreg.augmentation import JXREG
from jxreg.nets import PoseNet, Prediction, pose_net, resnet
from jxreg.optimizer import OptimizerConfig
from jxreg.pose import log_geodesic
from jxreg.recipes.patients import Draw, PatientConfig, Sample
from jxreg.recipes.recipe import Geometry, Patient, Recipe
from jxreg.recipes.regression import head_of, regression
from jxreg.sampling import GaussianTwist
from jxreg.similarity import ncc
from jxreg.synthesis import SynthesisConfig, projected
from jxreg.training import TrainConfig

EPSILON = 1e-4
"""Added to the squares of the double geodesic [mm^2]."""


@dataclass(frozen=True)
class DiffPoseConfig:
    """The recipe `diffpose`. Spread and camera are those for DeepFluoro."""

    geometry: Geometry = Geometry(pixels=256, pixel_mm=1.08821875, source_to_isocenter=760.0)
    poses: GaussianTwist = GaussianTwist(
        scale=(70.0, 50.0, 90.0, 0.2, 0.25, 0.1), mean=(10.0, 5.0, 0.0, 0.0, 0.0, 0.0)
    )
    contrast: tuple[float, float] = (1.0, 10.0)
    """Range of the factor on bone."""
    augmentation: bool = False
    """Whether images are changed as `JXREG` says, which is not DiffPose's."""
    patient: PatientConfig = PatientConfig()
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    """Residual blocks of each stage; these are ResNet-18."""
    width: int = 64
    """Features of the first stage."""
    parametrisation: str = "se3_log"
    """How the network says a motion: a name of `parametrisation.PARAMETRISATIONS`."""
    mean: float = 0.3080
    """Of the images in [0, 1]; they are standardised by it."""
    deviation: float = 0.1494
    """Likewise."""
    image_weight: float = 1.0
    """Of 1 - NCC; 0 saves the render and its gradient."""
    geodesic_weight: float = 0.01
    """Of the two geodesics [1/mm]."""
    train: TrainConfig = TrainConfig(
        steps=100_000,
        batch=8,
        validate_every=1000,
        optimizer=OptimizerConfig(rate=1e-3, warmup=500, clip=0.01),
    )


CONFIG = DiffPoseConfig()


def build(config: DiffPoseConfig) -> Recipe:
    """The recipe of a configuration."""
    synthesis = SynthesisConfig(
        contrast=config.contrast, augment=JXREG if config.augmentation else None
    )
    draw, net = Draw(config.geometry, config.poses, synthesis), network(config)

    def normalise(image: Float[Array, "rows columns"]) -> Float[Array, "1 rows columns"]:
        return ((image - config.mean) / config.deviation)[None]

    def sample_loss(said: Prediction, pose: SE3, drawn: Sample, patient: Patient):
        isocenter, sdd = patient.volume.isocenter, drawn.camera.sdd
        log = {
            "log": log_geodesic(pose, drawn.pose),
            "double": losses.double_geodesic(pose, drawn.pose, isocenter, sdd=sdd, eps=EPSILON),
        }
        total = config.geodesic_weight * (log["log"] + log["double"])
        if not config.image_weight:
            return total, log
        image = projected(patient.volume, drawn.camera, pose, drawn.frame.contrast)
        unlike = losses.dissimilarity(image, drawn.frame.clean, ncc)
        return total + config.image_weight * unlike, log | {"image": unlike}

    return regression(net, draw, normalise, sample_loss, patient=config.patient, train=config.train)


def network(config: DiffPoseConfig) -> PoseNet:
    """The network of a configuration."""
    head = head_of(config.poses, config.parametrisation)
    size = (config.geometry.pixels, config.geometry.pixels)
    return pose_net(resnet(config.blocks, width=config.width), size, head=head)
