"""What the verdict on a registration rests on, gathered from image, volume and both poses."""

from typing import NamedTuple

import jax.numpy as jnp
import jaxlie
from jaxtyping import Array, Bool, Float

from jxreg.alignment import Scene, Terms
from jxreg.camera import project_points
from jxreg.confidence import probability
from jxreg.frame import Frame, valid_mask
from jxreg.signals import signals_of
from jxreg.verdict import Evidence
from jxreg.volume import Volume, coarsest


class Look(NamedTuple):
    """A pose, and how image and volume compare there."""

    pose: jaxlie.SE3
    terms: Terms


def evidence_of(
    volume: Volume,
    frame: Frame,
    scene: Scene,
    first: Look,
    last: Look,
    last_step: Float[Array, ""],
) -> Evidence:
    """Evidence for one image.

    Args:
        volume: The patient.
        frame: The whole image.
        scene: What the finest level compared.
        first: The start.
        last: The pose found.
        last_step: Length of the very last step [mm].
    """
    signals = signals_of(scene, first.pose, last.pose, last.terms)
    overlaps = [_overlap(volume, frame, each) for each in (first, last)]
    return Evidence(
        finite=_all_finite(volume, frame, first.pose, last.terms),
        contrast=_contrast(volume, frame),
        overlap=jnp.minimum(*overlaps),
        kept=signals.kept,
        similarity=last.terms.similarity,
        initial_similarity=first.terms.similarity,
        probability=probability(signals),
        last_step=last_step,
        signals=signals,
    )


def _all_finite(volume: Volume, frame: Frame, start: jaxlie.SE3, last: Terms) -> Bool[Array, ""]:
    mask = jnp.ones_like(frame.image) if frame.mask is None else frame.mask
    image = jnp.where(mask > 0, frame.image, 0.0)
    parts = (
        image,
        coarsest(volume).mu.sum(),
        start.wxyz_xyz,
        frame.camera.intrinsic,
        last.similarity,
    )
    return jnp.stack([jnp.isfinite(part).all() for part in parts]).all()


def _contrast(volume: Volume, frame: Frame) -> Float[Array, ""]:
    """Standard deviation of the valid image; 0 where image or volume is empty."""
    mask = valid_mask(frame)
    total = jnp.maximum(mask.sum(), 1.0)
    image = jnp.where(mask > 0, frame.image, 0.0)
    mean = (mask * image).sum() / total
    deviation = jnp.sqrt((mask * (image - mean) ** 2).sum() / total)
    return jnp.where(coarsest(volume).mu.max() > 1e-6, deviation, 0.0)


def _overlap(volume: Volume, frame: Frame, look: Look) -> Float[Array, ""]:
    """The larger one of the volume's share on the image and the image's share in shadow."""
    coarse = coarsest(volume)
    mu = coarse.mu.reshape(-1, *coarse.mu.shape[-3:]).sum(0)[::2, ::2, ::2]
    axes = [jnp.arange(0, n, 2, dtype=mu.dtype) for n in coarse.mu.shape[-3:]]
    index = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    points = index @ coarse.affine[:3, :3].T + coarse.affine[:3, 3]
    rows, columns = frame.camera.image_size
    pixels = project_points(frame.camera, look.pose, points)
    inside = ((pixels > -0.5) & (pixels < jnp.array([columns, rows]) - 0.5)).all(1)
    inside &= look.pose.apply(points)[:, 2] > 0
    weight = mu.ravel()
    share = (weight * inside).sum() / jnp.maximum(weight.sum(), 1e-12)
    return jnp.maximum(share, look.terms.shadow.mean() * inside.any())
