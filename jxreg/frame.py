"""One X-ray image with its camera: intensity to attenuation, mask, crop, flips, downsampling."""

import functools
from dataclasses import dataclass, replace
from typing import no_type_check

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jxreg import camera as camera_
from jxreg.camera import Camera
from jxreg.pose import CArm


@no_type_check  # JAX rebuilds pytrees from tracers, None and batched leaves
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Frame:
    """One X-ray image, as attenuation, and the camera that took it.

    Files give frames with a leading axis on every leaf; functions take one frame, under `jax.vmap`.
    """

    image: Float[Array, "*frames rows columns"]
    """Attenuation log(I0 / I): large where much was absorbed. Dimensionless."""
    camera: Camera
    """Geometry of this image."""
    mask: Float[Array, "*frames rows columns"] | None = None
    """Weight of each pixel, 0 outside the collimator or on a dead border; None for all ones."""
    carm: CArm | None = None
    """Positioner angles that came with the image, a start for registration; None if unknown."""


def attenuation(
    intensity: Float[Array, "rows columns"], white: Float[Array, ""] | float
) -> Float[Array, "rows columns"]:
    """Attenuation log(I0 / I) by the Beer-Lambert law.

    Args:
        intensity: Detector signal, proportional to the photons that arrived; at least half a
            count is assumed, so that dark pixels stay finite.
        white: Signal I0 without an object, in the same unit.
    """
    return jnp.log(white / jnp.maximum(intensity, 0.5))


def add_scatter(
    image: Float[Array, "*b rows columns"], fraction: float | Float[Array, ""]
) -> Float[Array, "*b rows columns"]:
    """A DRR as the detector sees it when uniform scatter is added to the primary beam.

    Args:
        image: Attenuation A of the primary beam.
        fraction: Scatter s, as a fraction of the signal in air.

    Returns:
        -log((exp(-A) + s) / (1 + s)): attenuation against air with the same scatter.
    """
    # Through logarithms, since exp(-A) of metal is 0 in float32.
    return jnp.log1p(fraction) - jnp.logaddexp(-image, jnp.log(jnp.asarray(fraction, image.dtype)))


def subtracted(fill: Frame, mask: Frame) -> Frame:
    """What contrast agent adds: log mask - log fill, the image of digital subtraction angiography.

    At one energy this is the line integral of iodine alone, as a volume of
    `physics.intensity.rotational_angiography` has it; a beam that a thick patient has hardened
    shows up to a third less. Motion in between is not corrected.

    Args:
        fill: Frame with contrast agent; its camera and angles are those of the result.
        mask: Frame of the same view without.
    """
    weight = valid_mask(fill) * valid_mask(mask)
    image = jnp.where(weight > 0, fill.image - mask.image, 0.0)
    return replace(fill, image=image, mask=weight)


def crop(frame: Frame, top: int, left: int, image_size: tuple[int, int]) -> Frame:
    """The window whose first pixel is (left, top); it must lie inside the image."""
    rows, columns = image_size

    def cut(x):
        return x[..., top : top + rows, left : left + columns]

    return _mapped(frame, cut, camera_.crop(frame.camera, top, left, image_size))


def flip_horizontal(frame: Frame) -> Frame:
    """Image and camera with the columns in reverse order: the geometry stays true."""
    return _mapped(frame, lambda x: x[..., ::-1], camera_.flip_horizontal(frame.camera))


def flip_vertical(frame: Frame) -> Frame:
    """Image and camera with the rows in reverse order: the geometry stays true."""
    return _mapped(frame, lambda x: x[..., ::-1, :], camera_.flip_vertical(frame.camera))


def valid_mask(frame: Frame) -> Float[Array, "*frames rows columns"]:
    """The mask, or ones where there is none; always zero where the image is not finite."""
    mask = jnp.ones_like(frame.image) if frame.mask is None else frame.mask
    return jnp.where(jnp.isfinite(frame.image), mask, 0.0)


def downsample(frame: Frame, factor: int) -> Frame:
    """Averages blocks of factor x factor pixels, counting valid pixels only.

    A block's mask is the mean of its pixels' masks; a remainder at the lower and right border is
    filled with invalid pixels.
    """
    if factor == 1:
        return frame
    mask = valid_mask(frame)
    image = jnp.where(mask > 0, frame.image, 0.0)
    weight = block_mean(mask, factor)
    mean = block_mean(image * mask, factor) / jnp.maximum(weight, 1e-6)
    camera = camera_.downsample(frame.camera, factor)
    return replace(frame, image=mean, mask=weight, camera=camera)


def window(frame: Frame, corner: Float[Array, "2"], side: Float[Array, ""], pixels: int) -> Frame:
    """A square window of the image, resampled to pixels x pixels without aliasing.

    What lies outside the image is invalid: mask 0. Arguments as in `camera.window`.
    """
    mask = valid_mask(frame)
    scale = pixels / side
    move = functools.partial(
        jax.image.scale_and_translate,
        shape=(pixels, pixels),
        spatial_dims=(0, 1),
        scale=jnp.stack([scale, scale]),
        translation=-(corner[::-1] + 0.5) * scale,
        method="linear",
    )
    weight = jnp.clip(move(mask), 0.0, 1.0)
    image = move(jnp.where(mask > 0, frame.image, 0.0) * mask) / jnp.maximum(weight, 1e-6)
    camera = camera_.window(frame.camera, corner, side, pixels)
    return replace(frame, image=jnp.where(weight > 0, image, 0.0), mask=weight, camera=camera)


def square(frame: Frame, pixels: int) -> Frame:
    """The whole image in a square, resampled; what is added to a shorter side is invalid."""
    rows, columns = frame.camera.image_size
    side = max(rows, columns)
    corner = jnp.array([columns - side, rows - side]) / 2 - 0.5
    return window(frame, corner, jnp.asarray(float(side)), pixels)


def seen_by(frame: Frame, camera: Camera) -> Frame:
    """The image that another camera at the same place would have taken, resampled without aliasing.

    Its detector may have another distance, spacing, size and mirror; both cameras have no skew.
    What lies outside the image is invalid: mask 0. Positioner angles stay as they are.

    Args:
        frame: One image.
        camera: The other camera.
    """
    mask = valid_mask(frame)
    ours, theirs = frame.camera.intrinsic, camera.intrinsic
    flips = jnp.stack([ours[i, i] * theirs[i, i] < 0 for i in (1, 0)])
    ends = jnp.asarray(frame.image.shape) - 1.0
    scale = jnp.stack([theirs[i, i] / ours[i, i] for i in (1, 0)])
    shift = jnp.stack([theirs[i, 2] for i in (1, 0)]) - scale * jnp.stack(
        [ours[i, 2] for i in (1, 0)]
    )
    shift = jnp.where(flips, shift + scale * ends, shift)
    scale = jnp.abs(scale)

    def move(image):
        for axis in (0, 1):
            image = jnp.where(flips[axis], jnp.flip(image, axis), image)
        return jax.image.scale_and_translate(
            image, camera.image_size, (0, 1), scale, shift + 0.5 - 0.5 * scale, "linear"
        )

    weight = jnp.clip(move(mask), 0.0, 1.0)
    image = move(jnp.where(mask > 0, frame.image, 0.0) * mask) / jnp.maximum(weight, 1e-6)
    image = jnp.where(weight > 0, image, 0.0)
    return replace(frame, image=image, mask=weight, camera=camera)


def block_mean(image: Float[Array, "*b rows columns"], factor: int) -> Float[Array, "*b h w"]:
    """Mean of blocks of factor x factor pixels; the image is continued with zeros."""
    rows, columns = image.shape[-2:]
    pad = [(0, 0)] * (image.ndim - 2) + [(0, -rows % factor), (0, -columns % factor)]
    image = jnp.pad(image, pad)
    rows, columns = (n // factor for n in image.shape[-2:])
    return image.reshape(*image.shape[:-2], rows, factor, columns, factor).mean((-3, -1))


def _mapped(frame: Frame, change, camera: Camera) -> Frame:
    mask = None if frame.mask is None else change(frame.mask)
    return replace(frame, image=change(frame.image), mask=mask, camera=camera)
