"""Training frames: poses -> rendered, contrast-randomised, augmented images, in compiled code.

A training volume has channels that add up to the attenuation of the patient: soft tissue first,
then bone, or one channel for each label. All are rendered in one march, and one image is

    soft tissue + c x bone,   c drawn for each image (xvr draws one for the whole batch),

so that a network does not learn the absolute contrast of bone, which changes with spectrum and
scanner. What an image is normalised by is its own: nothing couples the images of a batch.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxlie import SE3
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jxreg import drr
from jxreg.augmentation import Augment, Exposure, exposed
from jxreg.camera import Camera, pixel_spacing
from jxreg.errors import InputError
from jxreg.physics.intensity import Model, ct
from jxreg.simulation import area_scales, hounsfield
from jxreg.volume import Volume, crop_air, pool, pooling_factors, prepared

SHOWN = 1e-3
"""Attenuation that is no air."""


@dataclass(frozen=True)
class SynthesisConfig:
    """How a training frame is made from a pose."""

    contrast: tuple[float, float] = (1.0, 10.0)
    """Range of the factor c on bone (or on the labels), drawn uniformly for each image."""
    exposure: Exposure | None = None
    """Physics in place of adding up the channels; it sees them times c."""
    augment: Augment | None = None
    """What is done to the image after it was scaled to [0, 1]."""
    foreground: float = 0.10
    """Least share of pixels that show anything; an image with less has weight 0."""
    labelled: float = 0.05
    """Least share of pixels that show bone or a label; as above. Only with channels."""


class Synthetic(NamedTuple):
    """Training frames, and what a loss needs to render more like them."""

    images: Float[Array, "*batch rows columns"]
    """What the network sees: in [0, 1], augmented."""
    clean: Float[Array, "*batch rows columns"]
    """Attenuation with the contrast drawn, without augmentation or exposure."""
    weights: Float[Array, "*batch"]
    """1, or 0 where the pose shows too little of the patient."""
    channels: Float[Array, "*batch channels rows columns"]
    """Line integral of each channel, before the contrast."""
    contrast: Float[Array, "*batch channels"]
    """Factor of each channel: `clean` is the sum of `contrast` times `channels`."""


def frames(
    key: PRNGKeyArray, volume: Volume, camera: Camera, poses: SE3, config: SynthesisConfig
) -> Synthetic:
    """Frames of a batch of poses, each with a key of its own.

    Args:
        key: Random key.
        volume: From `training_volume`; traced, as camera and poses are.
        camera: Geometry of the detector.
        poses: Extrinsics with a leading axis, `camera_from_world`.
        config: Static.
    """
    keys = jax.random.split(key, poses.wxyz_xyz.shape[0])
    return jax.vmap(lambda key, pose: frame(key, volume, camera, pose, config))(keys, poses)


def frame(
    key: PRNGKeyArray, volume: Volume, camera: Camera, pose: SE3, config: SynthesisConfig
) -> Synthetic:
    """One frame; arguments as of `frames`."""
    contrast_key, exposure_key, augment_key = jax.random.split(key, 3)
    channels = line_integrals(volume, camera, pose)
    contrast = drawn_contrast(contrast_key, channels.shape[0], config.contrast)
    visible = contrast[:, None, None] * channels
    clean = visible.sum(0)
    image = clean
    if config.exposure is not None:
        image = exposed(exposure_key, visible, camera, config.exposure)
    image = unit_range(image)
    if config.augment is not None:
        image = config.augment(augment_key, image)
    return Synthetic(image, clean, _weight(channels, config), channels, contrast)


def line_integrals(
    volume: Volume, camera: Camera, pose: SE3
) -> Float[Array, "channels rows columns"]:
    """DRR of each channel, of a volume without channels the only one."""
    lengths = drr.render(volume, camera, pose, drr.joseph())
    return lengths.reshape(-1, *camera.image_size)


def projected(
    volume: Volume, camera: Camera, pose: SE3, contrast: Float[Array, " channels"]
) -> Float[Array, "rows columns"]:
    """The DRR with the contrast of a frame, differentiable in the pose: to compare with `clean`."""
    return jnp.tensordot(contrast, line_integrals(volume, camera, pose), 1)


def drawn_contrast(
    key: PRNGKeyArray, channels: int, between: tuple[float, float]
) -> Float[Array, " channels"]:
    """Factor of each channel: 1 for the first (soft tissue, or all there is), c for the others."""
    c = jax.random.uniform(key, (), minval=between[0], maxval=between[1])
    return jnp.where(jnp.arange(channels) == 0, 1.0, c)


def unit_range(
    image: Float[Array, "rows columns"], mask: Float[Array, "rows columns"] | None = None
) -> Float[Array, "rows columns"]:
    """The image scaled to [0, 1] by its own extremes; an image of one value becomes 0.

    Args:
        image: Any image.
        mask: Pixels that count, above 0; the others become 0.
    """
    valid = jnp.ones(image.shape, bool) if mask is None else mask > 0
    low = jnp.min(image, initial=jnp.inf, where=valid)
    extent = jnp.max(image, initial=-jnp.inf, where=valid) - low
    some = extent > 0
    return jnp.where(valid & some, (image - low) / jnp.where(some, extent, 1.0), 0.0)


def training_volume(
    volume: Volume,
    camera: Camera,
    source_to_isocenter: float,
    *,
    labels: Int[np.ndarray, "x y z"] | None = None,
    model: Model | None = ct,
    voxels_per_pixel: float = 1.0,
) -> Volume:
    """The volume to render training frames from: as coarse as the image, with channels.

    Air around the patient is cut off, since every slice of the grid costs time. Nothing here is
    compiled; the size of the result depends on patient and camera (see `padded`).

    Args:
        volume: Attenuation of one channel, as from `load_volume`.
        camera: Camera of the training images.
        source_to_isocenter: Usual distance [mm], which says how large a pixel is there.
        labels: Label of each voxel on the grid of the volume: each one above 0 becomes a channel,
            in ascending order, after that of all the rest.
        model: Without labels: what soft tissue and bone are made of (`physics.intensity`). None
            for a volume of one channel, whose contrast is then as it is.
        voxels_per_pixel: Voxels that one pixel covers at the isocenter; less is coarser and faster.

    Raises:
        InputError: The labels are on another grid, or all zero; or the volume has channels.
    """
    if volume.mu.ndim != 3:
        found = f"a volume of {volume.mu.shape[0]} channels"
        raise InputError("volume", found, "attenuation in one channel", "give the CT itself")
    pixel_mm = float(np.mean(np.asarray(pixel_spacing(camera))))
    voxel_mm = pixel_mm * source_to_isocenter / float(camera.sdd) / voxels_per_pixel
    mu = jnp.asarray(_split(volume, labels, model))
    plain = Volume(mu, volume.affine, volume.isocenter)
    pooled = pool(plain, pooling_factors(volume.affine, voxel_mm))
    return prepared(crop_air(pooled, margin=1))


def padded(volume: Volume, shape: tuple[int, int, int]) -> Volume:
    """The volume with air behind the ends of its axes: patients of one shape compile once.

    Raises:
        InputError: The volume is larger.
    """
    sizes = volume.mu.shape[-3:]
    if any(n < m for n, m in zip(shape, sizes, strict=True)):
        fix = "take the largest size among the volumes along each axis"
        raise InputError("shape", f"{shape}", f"at least {sizes}", fix)
    rest = [(0, n - m) for n, m in zip(shape, sizes, strict=True)]
    mu = np.pad(np.asarray(volume.mu), [(0, 0)] * (volume.mu.ndim - 3) + rest)
    changed = replace(volume, mu=jnp.asarray(mu), coarser=())
    return changed if volume.packed is None else prepared(changed)


def _split(volume: Volume, labels, model: Model | None) -> Float[Array, "channels x y z"]:
    """Channels that add up to the volume's attenuation."""
    if labels is not None:
        return _by_label(np.asarray(volume.mu), np.asarray(labels))
    if model is None:
        return volume.mu[None]
    mixture = model(hounsfield(volume.mu))
    scales = jnp.asarray(area_scales(mixture.materials), volume.mu.dtype)
    return 0.1 * mixture.densities / scales[:, None, None, None]


def _by_label(mu: np.ndarray, labels: np.ndarray) -> Float[Array, "channels x y z"]:
    if labels.shape != mu.shape:
        expected = f"the grid of the volume, {mu.shape}"
        raise InputError("labels", f"a shape of {labels.shape}", expected, "resample the labels")
    found = np.unique(labels[labels > 0])
    if found.size == 0:
        raise InputError("labels", "none above 0", "a label of each structure", "check the file")
    kept = np.concatenate([[0], found])
    which = np.where(labels > 0, labels, 0)
    return jnp.asarray(np.stack([np.where(which == one, mu, 0) for one in kept]))


def _weight(channels: Float[Array, "channels rows columns"], config: SynthesisConfig):
    enough = jnp.mean(channels.sum(0) > SHOWN) > config.foreground
    if channels.shape[0] > 1:
        enough &= jnp.mean(channels[1:].sum(0) > SHOWN) > config.labelled
    return enough.astype(channels.dtype)
