"""LXPose (2025): two networks, a render between them, and no optimisation.

The first network says a pose of the image; the CT is rendered there; the second one sees image and
DRR and says what is left. Both learn together from where landmarks, found automatically, are
projected (mPD of both stages, LXPose++), with extensive augmentation. The gradient of the second
stage reaches the first through the pose, not through the render.

Our reconstruction where we depart from it: the correction is about the isocenter in axes of the
camera, and zero means none (LXPose adds its nominal distance there too); outputs have the sampling
deviations as units; mPD is a mean for each image, then over images; a landmark that only the truth
shows counts; the DRR between shows the whole CT, as in LXPose (in LXPose++, its bones).

At reduced scale (32 pixels, networks of two blocks, no augmentation, 3000 batches of 16, a minute
of one core) the mPD of unseen frames of a chest CT falls by a factor of 4.6 (115.6 to 24.9 mm, the
mTRE by 3.3), and that of the second stage is 30 % below that of the first, which has to be good
already; it is 9 % with the augmentations: `python benchmarks/bench_ablation.py --tables lxpose`.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxlie import SE3
from jaxtyping import Array, Float, PRNGKeyArray

from jxreg import losses
from jxreg.augmentation import LXPOSE
from jxreg.errors import InputError
from jxreg.nets import CBAM, InstanceNorm, PoseNet, pose_net, resnet
from jxreg.optimizer import OptimizerConfig
from jxreg.pose import moved
from jxreg.recipes.patients import Draw, PatientConfig, draw_sample, prepare
from jxreg.recipes.recipe import Geometry, Patient, Recipe, camera_of
from jxreg.recipes.regression import errors, head_of, pose_of, weighted
from jxreg.sampling import GaussianOffset
from jxreg.stepping import Params, Task
from jxreg.synthesis import SynthesisConfig, line_integrals, unit_range
from jxreg.training import TrainConfig
from jxreg.volume import Volume

LARGEST = 4_000_000
"""Voxels of the level of a volume that the DRR between the networks is rendered from, at most."""


@dataclass(frozen=True)
class LxposeConfig:
    """The recipe `lxpose`: one patient, DeepFluoro's C-arm and ranges."""

    geometry: Geometry = Geometry(pixels=256, pixel_mm=1.0882, source_to_isocenter=675.0)
    poses: GaussianOffset = GaussianOffset(scale=(50.0, 40.0, 75.0, 0.2, 0.25, 0.1))
    contrast: tuple[float, float] = (2.0, 2.0)
    """Range of the factor on bone in the X-ray, one number in LXPose; the DRR between has 1."""
    augmentation: bool = True
    """Salt and pepper, gamma, noise, sharpness, blur, plasma contrast, brightness and shadow."""
    patient: PatientConfig = PatientConfig()
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    """Residual blocks of each stage of both networks; these are ResNet-18."""
    width: int = 64
    """Features of the first stage of both."""
    attention: bool = True
    """CBAM after the last block (LXPose++)."""
    correction: float = 0.3
    """Unit of the second network, as a fraction of the first one's."""
    train: TrainConfig = TrainConfig(
        steps=150_000,
        batch=16,
        validate_every=5000,
        optimizer=OptimizerConfig(rate=1e-3, warmup=500),
        gain=0.01,
    )


CONFIG = LxposeConfig()


class Stages(NamedTuple):
    """What both networks say of one image."""

    first: SE3
    """`camera_from_world`."""
    second: SE3


def build(config: LxposeConfig) -> Recipe:
    """The recipe of a configuration.

    Raises:
        InputError: Images so small (less than 64 pixels for a ResNet-18) that the last maps have
            one place: InstanceNorm leaves nothing of these.
    """
    least = 2 ** (2 + len(config.blocks))
    if config.geometry.pixels < least:
        found, fix = f"{config.geometry.pixels} for lxpose", "give --pixels 128, or another recipe"
        raise InputError("pixels", found, f"{least} or more", fix)
    augment = LXPOSE if config.augmentation else None
    draw = Draw(config.geometry, config.poses, SynthesisConfig(config.contrast, augment=augment))
    first, second = _net(config, 1, 1.0), _net(config, 2, config.correction)
    camera = camera_of(config.geometry)

    def init(key: PRNGKeyArray) -> Params:
        one, two = jax.random.split(key)
        return {"first": first.init(one), "second": second.init(two)}

    def stages(params: Params, volume: Volume, image: Float[Array, "rows columns"]) -> Stages:
        pose = pose_of(first.apply(params["first"], image[None]), config.geometry, volume)
        seen = unit_range(_whole(volume, camera, jax.lax.stop_gradient(pose)))
        correction = second.apply(params["second"], jnp.stack([image, seen])).motion
        return Stages(pose, moved(pose, correction, volume.isocenter))

    def loss(params: Params, keys, patient: Patient, level: Float[Array, ""]):
        def one(key: PRNGKeyArray):
            drawn = draw_sample(key, patient.volume, draw, level)
            said = stages(params, patient.volume, drawn.frame.images)
            distances = [
                losses.projection_distance(pose, drawn.pose, patient.landmarks, drawn.camera)
                for pose in said
            ]
            return drawn.frame.weights, *distances

        weights, one_, two = jax.vmap(one)(keys)
        log = {"first_mpd": weighted(weights, one_), "second_mpd": weighted(weights, two)}
        return log["first_mpd"] + log["second_mpd"], log

    def locate(params: Params, volume: Volume, image: Float[Array, "rows columns"]) -> SE3:
        return stages(params, volume, image).second

    def validate(params: Params, patient: Patient):
        before = errors(lambda *given: stages(*given).first, params, patient, draw)
        return errors(locate, params, patient, draw) | {"first_mpd": before["mpd"]}

    return Recipe(
        config.geometry,
        Task(init, loss, validate),
        config.train,
        lambda volumes: prepare(volumes, draw, config.patient),
        locate,
    )


def _net(config: LxposeConfig, channels: int, unit: float) -> PoseNet:
    """ResNet with affine-free InstanceNorm, axis-angle and translation."""
    head = head_of(config.poses, "axis_angle", unit)
    last = CBAM if config.attention else None
    backbone = resnet(config.blocks, norm=InstanceNorm, width=config.width, last=last)
    size = (config.geometry.pixels, config.geometry.pixels)
    return pose_net(backbone, size, channels=channels, head=head)


def _whole(volume: Volume, camera, pose: SE3) -> Float[Array, "rows columns"]:
    """DRR of all channels, from a level of the volume that is not finer than the image needs."""
    levels = (volume, *volume.coarser)
    level = next((level for level in levels if level.mu.size <= LARGEST), levels[-1])
    return line_integrals(level, camera, pose).sum(0)
