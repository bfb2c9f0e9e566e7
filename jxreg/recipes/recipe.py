"""What a recipe is: a learned system as a few functions, and the parts that most of them share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from jaxlie import SE3
from jaxtyping import Array, Float

from jxreg.camera import Camera
from jxreg.curriculum import Curriculum
from jxreg.pose import from_carm
from jxreg.stepping import Params, Task
from jxreg.training import TrainConfig
from jxreg.volume import Volume


@dataclass(frozen=True)
class Geometry:
    """The camera of a network, and the pose at which its motions begin.

    X-rays of other cameras are resampled to it. The C-arm turns about the volume's isocenter.
    """

    pixels: int = 128
    """Rows and columns."""
    pixel_mm: float = 2.18
    """Distance of pixels on the detector [mm]."""
    sdd: float = 1020.0
    """Source-to-detector distance [mm]."""
    mirrored: bool = False
    """Whether columns run against the camera's x axis."""
    primary_degrees: float = 0.0
    """Positioner angles of the reference pose: LAO + [deg]."""
    secondary_degrees: float = 0.0
    """CRA + [deg]."""
    roll_degrees: float = 0.0
    source_to_isocenter: float = 700.0
    """Of the reference pose [mm]."""


def camera_of(geometry: Geometry) -> Camera:
    """The network's camera."""
    pixels, spacing = geometry.pixels, geometry.pixel_mm
    return Camera.from_sdd(
        geometry.sdd, (pixels, pixels), (spacing, spacing), mirrored=geometry.mirrored
    )


def reference_pose(geometry: Geometry, isocenter: Float[Array, "3"]) -> SE3:
    """The pose that a network's motion of zero stands for."""
    return from_carm(
        geometry.primary_degrees,
        geometry.secondary_degrees,
        geometry.roll_degrees,
        source_to_isocenter=geometry.source_to_isocenter,
        isocenter=isocenter,
    )


class Fixed(NamedTuple):
    """The validation set of a patient: frames that no training step draws."""

    images: Float[Array, "n rows columns"]
    """In [0, 1], augmented as in training."""
    poses: SE3
    """Their true poses, `camera_from_world`."""


class Patient(NamedTuple):
    """A volume as a network is trained on it."""

    volume: Volume
    """From `synthesis.training_volume`, padded to the largest of all patients."""
    landmarks: Float[Array, "n 3"]
    """Points of the surface, in the world [mm]: what errors are measured at."""
    fixed: Fixed


class Recipe(NamedTuple):
    """A learned system: how it is trained, and what it says of an image."""

    geometry: Geometry
    task: Task
    """What `training.fit` trains; its patients are of `prepare`."""
    train: TrainConfig
    prepare: Callable[[Sequence[Volume]], list[Any]]
    """Patients of volumes as `load_volume` gives them; not compiled."""
    locate: Callable[[Params, Volume, Float[Array, "rows columns"]], SE3]
    """The pose in one image of the network's camera, in [0, 1]; pure, to be compiled. Of the volume
    most use the isocenter only."""


def finetuning(config: TrainConfig, steps: int = 500) -> TrainConfig:
    """A short training that begins with the weights of a long one.

    As in xvr: 500 batches, each of them a step, 10 of them to warm up.
    """
    warmup = min(10, config.optimizer.warmup)
    optimizer = replace(config.optimizer, warmup=warmup, accumulate=1)
    every = min(config.validate_every, max(1, steps // 5))
    return replace(
        config,
        steps=steps,
        validate_every=every,
        optimizer=optimizer,
        curriculum=Curriculum(),
        patience=0,
    )
