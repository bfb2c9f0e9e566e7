"""PSSS (Zhang et al., MICCAI 2023): structure-aware regression of a pose, for one patient.

A   EfficientNet-b0 says three angles and three translations of the C-arm
B   a decoder has to make the edges of the image of the same features, in training only
C   self-attention between the places of the features, which know where they are
*   incremental learning

The poster ablates A, A+B, A+C, A+B+C and (A+B+C)*: `ablated` makes their configurations. Its last
step, refinement, is `jxreg.register` with the network as a start.

From the published renderer and losses: camera, ranges and order of the rotations, which move the
C-arm; the pose loss, degrees and millimetres simply added; a polychromatic, noiseless DRR of 90 kV
and 4 mm of aluminium. Our reconstruction, since it is not published: the sizes of decoder,
attention and head; the structure loss, 1 - ZNCC of the decoder's image and the Sobel magnitude of
the input, and its weight; the schedule; and all of incremental learning: the level of
`train.curriculum` is the share of the pose range that is drawn from, or of a fixed set of images
(`images`). What differs: GroupNorm for BatchNorm; images are made anew in every batch by default,
where PSSS has a set of them; numbers of the network are multiples of the half range.

At reduced scale (32 pixels, a network of four blocks, line integrals, 1500 batches of 16, a minute
of one core) the mTRE of unseen frames of a chest CT falls by a factor of 7.8 with A alone (40.1 to
5.1 mm), of 7.6 with A, B and C and of 5.5 with incremental learning; the refinement leaves 0.2 mm.
The poster's order is not seen there: `python benchmarks/bench_ablation.py --tables psss`.
"""

import functools
import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jaxlie import SE3
from jaxtyping import Array, Float

from jxreg import losses
from jxreg.augmentation import JXREG, Exposure
from jxreg.curriculum import Curriculum, from_set, replayed
from jxreg.nets import (
    Decoder,
    PoseNet,
    Prediction,
    SelfAttention,
    efficientnet,
    pose_net,
)
from jxreg.nets.efficientnet import B0, Stage
from jxreg.optimizer import OptimizerConfig
from jxreg.parametrisation import PARAMETRISATIONS
from jxreg.recipes.patients import Draw, PatientConfig, Sample
from jxreg.recipes.recipe import Geometry, Patient, Recipe
from jxreg.recipes.regression import head_of, regression, standardised
from jxreg.sampling import UniformEuler
from jxreg.stepping import Params, Task
from jxreg.synthesis import SynthesisConfig
from jxreg.training import TrainConfig

DEEPDRR = Exposure(kilovolts=(90.0,), aluminium=4.0, photons=(1e8, 1e8), scatter=(0.0, 0.0))
"""The default spectrum of PSSS's renderer; so many photons that there is no noise."""
INCREMENTAL = Curriculum(first=0.25, stages=4, until=0.5, patience=3)
"""Four levels in the first half of the training, earlier where the validation stalls."""


@dataclass(frozen=True)
class PSSSConfig:
    """The recipe `psss`. Ranges are those of the published demonstration."""

    geometry: Geometry = Geometry(
        pixels=256, pixel_mm=1.6875, sdd=1259.65, source_to_isocenter=742.5
    )
    poses: UniformEuler = UniformEuler(
        orbit_degrees=(-15.0, 15.0),
        tilt_degrees=(-15.0, 15.0),
        roll_degrees=(-10.0, 10.0),
        across=(-30.0, 30.0),
        down=(-30.0, 30.0),
        depth=(-30.0, 30.0),
        moves_arm=True,
    )
    contrast: tuple[float, float] = (1.0, 1.0)
    """Range of the factor on bone; PSSS leaves it as it is."""
    physics: bool = True
    """Whether the DRR is that of a spectrum (`DEEPDRR`); else line integrals."""
    augmentation: bool = False
    """Whether images are changed as `JXREG` says, which is not PSSS's."""
    patient: PatientConfig = PatientConfig()
    width: float = 1.0
    """Factor on the features of all layers of the backbone; 1 is EfficientNet-b0."""
    blocks: tuple[int, ...] = tuple(stage.blocks for stage in B0)
    """Blocks of each of its seven stages; 0 leaves one out, and its halving of the image."""
    decoder: bool = True
    """B."""
    decoder_width: int = 256
    """Features of its first layer; each doubling of the image halves them."""
    structure_weight: float = 5.0
    """What 1 - ZNCC of the edges counts beside the degrees and millimetres of the pose."""
    attention: bool = True
    """C."""
    attention_width: int = 256
    heads: int = 8
    hidden: tuple[int, ...] = (512,)
    """Layers of the head, which sees the mean over all places, with attention or without."""
    images: int = 0
    """Images of the training set, which grows with the level; 0 for new ones in every batch, whose
    pose range grows instead."""
    replay: float = 0.25
    """Share of samples of smaller pose ranges, to the end, where a curriculum widens them."""
    train: TrainConfig = TrainConfig(
        steps=20_000,
        batch=16,
        validate_every=500,
        optimizer=OptimizerConfig(rate=1e-3, warmup=500),
        curriculum=INCREMENTAL,
    )


CONFIG = PSSSConfig()


def ablated(config: PSSSConfig) -> dict[str, PSSSConfig]:
    """The rows of the poster's ablation by their names, of a configuration that has all parts."""
    steady = replace(config, train=replace(config.train, curriculum=Curriculum()))
    return {
        "A": replace(steady, decoder=False, attention=False),
        "A+B": replace(steady, attention=False),
        "A+C": replace(steady, decoder=False),
        "A+B+C": steady,
        "(A+B+C)*": config,
    }


def build(config: PSSSConfig) -> Recipe:
    """The recipe of a configuration."""
    draw, net = drawing(config), network(config)

    def sample_loss(said: Prediction, pose: SE3, drawn: Sample, patient: Patient):
        truth = PARAMETRISATIONS["euler"].numbers(_arm(drawn.motion, config))
        apart = losses.euler_distance(said.numbers, truth)
        if said.structure is None:
            return apart, {"pose": apart}
        unlike = losses.structure(said.structure, drawn.frame.images)
        return apart + config.structure_weight * unlike, {"pose": apart, "structure": unlike}

    widens = config.images == 0 and config.train.curriculum.stages > 1
    recipe = regression(
        net,
        draw,
        standardised,
        sample_loss,
        patient=config.patient,
        train=config.train,
        share=functools.partial(replayed, share=config.replay if widens else 0.0),
    )
    return recipe._replace(task=_of_set(recipe.task, config.images)) if config.images else recipe


def drawing(config: PSSSConfig) -> Draw:
    """How samples of a configuration are drawn."""
    synthesis = SynthesisConfig(
        contrast=config.contrast,
        exposure=DEEPDRR if config.physics else None,
        augment=JXREG if config.augmentation else None,
    )
    return Draw(config.geometry, config.poses, synthesis)


def network(config: PSSSConfig) -> PoseNet:
    """The network: its `numbers` are those of the C-arm, its `motion` is that of the patient."""
    head = head_of(config.poses, "euler", math.sqrt(3), hidden=config.hidden)  # half ranges
    stem, features = (_scaled(x, config.width) for x in (32, 1280))
    attention = functools.partial(SelfAttention, width=config.attention_width, heads=config.heads)
    net = pose_net(
        efficientnet(stages=stages_of(config), stem=stem, features=features),
        (config.geometry.pixels, config.geometry.pixels),
        head=head,
        attention=attention if config.attention else None,
        decoder=functools.partial(Decoder, width=config.decoder_width) if config.decoder else None,
    )

    def apply(params: Params, image, conditioning=None) -> Prediction:
        said = net.apply(params, image, conditioning)
        return said._replace(motion=_arm(said.motion, config))

    return PoseNet(net.init, apply)


def stages_of(config: PSSSConfig) -> tuple[Stage, ...]:
    """The backbone's stages."""
    return tuple(
        stage._replace(features=_scaled(stage.features, config.width), blocks=blocks)
        for stage, blocks in zip(B0, config.blocks, strict=True)
        if blocks
    )


def _arm(motion: SE3, config: PSSSConfig) -> SE3:
    """The motion of the C-arm, of the patient's or the other way round."""
    return motion.inverse() if config.poses.moves_arm else motion


def _scaled(features: int, width: float) -> int:
    """Features of a layer, in eights as EfficientNet scales them."""
    return features if width == 1 else max(8, 8 * round(width * features / 8))


def _of_set(task: Task, images: int) -> Task:
    """The task with images of a fixed set; the level is the share of it that is there."""

    def loss(params: Params, keys, patient: Patient, level: Float[Array, ""]):
        members = jax.vmap(lambda key: from_set(key, level, images))(keys)
        return task.loss(params, members, patient, jnp.ones_like(level))

    return task._replace(loss=loss)
