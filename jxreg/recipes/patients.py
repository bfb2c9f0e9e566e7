"""From volumes to what networks are trained on, and the draw of one training sample."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxlie import SE3
from jaxtyping import Array, Float, PRNGKeyArray

from jxreg.camera import Camera
from jxreg.errors import InputError
from jxreg.physics.intensity import ct
from jxreg.pose import moved
from jxreg.recipes.recipe import Fixed, Geometry, Patient, camera_of, reference_pose
from jxreg.sampling import Sampler, checked, sample
from jxreg.simulation import hounsfield
from jxreg.surface import automatic_landmarks
from jxreg.synthesis import SynthesisConfig, Synthetic, frame, padded, training_volume
from jxreg.volume import Volume

BODY_HU = -300.0
"""Where the body ends and air begins."""
LANDMARK_MM = 3.0
"""Voxels are averaged to this size before landmarks are looked for."""


@dataclass(frozen=True)
class PatientConfig:
    """How volumes are prepared."""

    voxels_per_pixel: float = 1.0
    """Voxels that one pixel covers at the isocenter; less is coarser and faster."""
    bone: bool = True
    """Whether bone is a channel of its own, so that its contrast can be drawn."""
    landmarks: int = 50
    """Points at which errors are measured."""
    landmarks_hu: float = 250.0
    """They are on the surface of what exceeds this."""
    validation: int = 64
    """Frames of the validation set."""
    seed: int = 2026
    """Of the validation set."""


class Draw(NamedTuple):
    """How a training sample is drawn."""

    geometry: Geometry
    sampler: Sampler
    synthesis: SynthesisConfig


class Sample(NamedTuple):
    """A frame to train on, with its truth."""

    frame: Synthetic
    motion: SE3
    """From the reference pose, about the isocenter."""
    pose: SE3
    """`camera_from_world`."""
    camera: Camera


def draw_sample(
    key: PRNGKeyArray, volume: Volume, draw: Draw, share: Float[Array, ""] | float = 1.0
) -> Sample:
    """One frame at a random pose.

    Args:
        key: Random key; the same key makes the same sample.
        volume: Of a patient.
        draw: What from; static.
        share: Of the pose range that is drawn from.
    """
    posed, shown = jax.random.split(key)
    camera = camera_of(draw.geometry)
    motion = sample(posed, draw.sampler, share)
    pose = moved(reference_pose(draw.geometry, volume.isocenter), motion, volume.isocenter)
    return Sample(frame(shown, volume, camera, pose, draw.synthesis), motion, pose, camera)


def prepare(volumes: Sequence[Volume], draw: Draw, config: PatientConfig) -> list[Patient]:
    """Patients of volumes, all of one shape.

    Args:
        volumes: As from `load_volume`.
        draw: How samples are drawn, those of the validation set too.
        config: How volumes are prepared.

    Raises:
        InputError: There is no volume, one has channels, or the pose range makes no sense.
    """
    checked(draw.sampler)
    if not volumes:
        raise InputError("volumes", "none", "one or more", "name the CT to train on")
    camera, distance = camera_of(draw.geometry), draw.geometry.source_to_isocenter
    model = ct if config.bone else None
    coarse = [
        training_volume(
            volume, camera, distance, model=model, voxels_per_pixel=config.voxels_per_pixel
        )
        for volume in volumes
    ]
    x, y, z = (max(sizes) for sizes in zip(*(v.mu.shape[-3:] for v in coarse), strict=True))
    alike = [padded(volume, (x, y, z)) for volume in coarse]
    points = [landmarks_of(volume, config) for volume in volumes]
    made = jax.jit(lambda keys, volume: jax.lax.map(_fixed(volume, draw), keys))
    keys = jax.random.split(jax.random.key(config.seed), 2 * config.validation)
    patients = []
    for volume, each in zip(alike, points, strict=True):
        fixed, weights = made(keys, volume)
        kept = _shown(fixed, weights, config.validation)
        patients.append(Patient(volume, jnp.asarray(each), kept))
    return patients


def _fixed(volume: Volume, draw: Draw) -> Callable[[PRNGKeyArray], tuple[Fixed, Array]]:
    def one(key: PRNGKeyArray) -> tuple[Fixed, Array]:
        drawn = draw_sample(key, volume, draw)
        return Fixed(drawn.frame.images, drawn.pose), drawn.frame.weights

    return one


def _shown(fixed: Fixed, weights: Float[Array, " n"], count: int) -> Fixed:
    """The first frames that show enough of the patient; others too where these are too few."""
    order = np.argsort(-np.asarray(weights), kind="stable")[:count]
    return jax.tree.map(lambda leaf: leaf[order], fixed)


def landmarks_of(volume: Volume, config: PatientConfig) -> Float[np.ndarray, "n 3"]:
    """Points on the surface of bone, or of the body where there is no bone, in the world [mm]."""
    hu = hounsfield(volume.mu)
    above = config.landmarks_hu if (hu > config.landmarks_hu).any() else BODY_HU
    return automatic_landmarks(volume, config.landmarks, above_hu=above, voxel_mm=LANDMARK_MM)
