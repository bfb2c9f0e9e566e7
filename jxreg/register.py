"""Registration of one X-ray image: start, coarse-to-fine refinement, verdict."""

import functools
from dataclasses import dataclass, replace
from typing import NamedTuple, no_type_check

import jax
import jax.numpy as jnp
import jaxlie
from jaxtyping import Array, Bool, Float, Int

from jxreg import alignment
from jxreg.alignment import Aligned, Level, Prior, Terms
from jxreg.camera import project_points
from jxreg.drr.coverage import cut_faces
from jxreg.errors import InputError
from jxreg.frame import Frame, valid_mask
from jxreg.pose import from_carm
from jxreg.precision import full_precision
from jxreg.refinement import RefineTrace
from jxreg.verdict import Evidence, Status, Thresholds, judge
from jxreg.volume import Volume

STEP = Prior(shift=1.0, depth=10.0, rotation=0.02)
"""What counts as a step of 1 mm; one image hardly sees the depth."""


@dataclass(frozen=True)
class RegisterConfig:
    """How `register` refines and judges a pose. The defaults are meant to need no tuning."""

    levels: tuple[Level, ...] = (
        Level(32, 3, tolerance=0.1),
        Level(64, 2, tolerance=0.1),
        Level(128, 1, scatter=True),
    )
    """From coarse to fine."""
    similarity: str | None = None
    """One similarity for all levels instead of each level's own."""
    truncated: bool = True
    """Whether anatomy may go on beyond the first and last slice; False: the image shows the ends of
    the volume, as for a phantom or a dry bone."""
    prior: Prior = Prior()
    """How far from the start the pose may be; it counts where the image says little."""
    thresholds: Thresholds = Thresholds()
    """What the verdict asks for."""


class Trace(NamedTuple):
    """Every step of a registration, level after level."""

    similarity: Float[Array, " steps"]
    step_mm: Float[Array, " steps"]
    """Length of the step, one mm for each mm and each 0.02 rad; 0 for steps not taken."""
    level: Int[Array, " steps"]
    pose: jaxlie.SE3


@no_type_check  # JAX rebuilds pytrees from tracers, None and batched leaves
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Registration:
    """What a registration found, and how it went."""

    pose: jaxlie.SE3
    """Extrinsic, `camera_from_world`."""
    status: Int[Array, "*batch"]
    """A `Status`."""
    similarity: Float[Array, "*batch"]
    """Similarity of the finest level at the pose, in its usable pixels."""
    initial_similarity: Float[Array, "*batch"]
    """The same at the start."""
    covariance: Float[Array, "*batch 6 6"]
    """Of the twist (mm, rad) about the isocenter in camera axes, from residuals and prior."""
    coverage: Float[Array, "*batch"]
    """Fraction of the image that the volume's shadow covers."""
    kept: Float[Array, "*batch"]
    """Fraction of the shadow's pixels that could be used: valid, and not truncated."""
    trace: Trace


def register(
    volume: Volume,
    frame: Frame,
    pose: jaxlie.SE3 | None = None,
    *,
    config: RegisterConfig = RegisterConfig(),
) -> Registration:
    """Finds the pose of the camera that took one X-ray image.

    Args:
        volume: The patient.
        frame: One image (attenuation) and its camera.
        pose: Start, `camera_from_world`; by default the positioner angles that came with the image.
        config: What to do; static.

    Returns:
        The refined pose with a verdict. Input without signal, out of view or not finite comes back
        with the start as pose and a status that says so.

    Raises:
        InputError: No start is given and the frame has no positioner angles.
    """
    start = initial_pose(volume, frame) if pose is None else pose
    return _register(volume, frame, start, config)


def initial_pose(volume: Volume, frame: Frame) -> jaxlie.SE3:
    """The pose that the frame's positioner angles say, the isocenter taken for the volume's.

    Raises:
        InputError: The frame has no positioner angles.
    """
    if frame.carm is None:
        raise InputError(
            "pose",
            "no start, and no positioner angles with the image",
            "a start within about 30 mm and 10 degrees",
            "give a pose, or the C-arm angles (jxreg.pose.from_carm)",
        )
    carm = frame.carm
    return from_carm(
        jnp.rad2deg(carm.primary),
        jnp.rad2deg(carm.secondary),
        jnp.rad2deg(carm.roll),
        source_to_isocenter=carm.source_to_isocenter,
        isocenter=volume.isocenter,
        offset=carm.offset,
    )


@functools.partial(jax.jit, static_argnames="config")
@full_precision
def _register(
    volume: Volume, frame: Frame, start: jaxlie.SE3, config: RegisterConfig
) -> Registration:
    levels = config.levels
    if config.similarity is not None:
        levels = [replace(level, similarity=config.similarity) for level in levels]
    finest = alignment.focus(volume, frame, start, max(level.pixels for level in levels))
    cut = cut_faces(volume) if config.truncated else None
    pose, traces = start, []
    for number, level in enumerate(levels):
        scene = alignment.scene(volume, finest, cut, level)
        aligned = alignment.align(scene, level, pose, start, config.prior)
        pose = aligned.pose
        traces.append(_trace(aligned.trace, number))
    trace = jax.tree.map(lambda *parts: jnp.concatenate(parts), *traces)
    first, last = alignment.look(scene, level, start, config.prior), aligned.terms
    evidence = Evidence(
        finite=_all_finite(volume, frame, start, last),
        contrast=_contrast(volume, frame),
        overlap=jnp.minimum(
            _overlap(volume, frame, first, start), _overlap(volume, frame, last, pose)
        ),
        kept=_fraction(last.mask, last.shadow),
        similarity=last.similarity,
        initial_similarity=first.similarity,
        last_step=_last_step(volume, start, trace),
    )
    status = judge(evidence, config.thresholds)
    hopeless = (Status.NON_FINITE, Status.NO_SIGNAL, Status.OUT_OF_VIEW)
    nothing = jnp.isin(status, jnp.array(hopeless))
    pose = jax.tree.map(lambda a, b: jnp.where(nothing, a, b), start, pose)
    return Registration(
        pose,
        status,
        last.similarity,
        first.similarity,
        _covariance(aligned),
        last.shadow.mean(),
        evidence.kept,
        trace,
    )


def _trace(trace: RefineTrace, number: int) -> Trace:
    level = jnp.full(trace.value.size, number, jnp.int32)
    return Trace(trace.value, trace.step_length, level, trace.pose)


def _last_step(volume: Volume, start: jaxlie.SE3, trace: Trace) -> Float[Array, ""]:
    """How far the last step went, in the units of `STEP`; 0 if there was none or it was refused."""
    path = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), start, trace.pose)
    before, after = (jax.tree.map(lambda x, i=i: x[i], path) for i in (-2, -1))
    return jnp.linalg.norm(alignment.departure(before, after, volume.isocenter, STEP))


def _covariance(aligned: Aligned) -> Float[Array, "6 6"]:
    """Variance of a measurement times the inverse of J^T J; infinite where nothing is known."""
    hessian = aligned.hessian
    scale = jnp.sqrt(jnp.maximum(jnp.diag(hessian), 1e-30))
    inverse = jnp.linalg.inv(hessian / (scale[:, None] * scale))
    return aligned.terms.variance * inverse / (scale[:, None] * scale)


def _all_finite(volume: Volume, frame: Frame, start: jaxlie.SE3, last: Terms) -> Bool[Array, ""]:
    mask = jnp.ones_like(frame.image) if frame.mask is None else frame.mask
    image = jnp.where(mask > 0, frame.image, 0.0)
    parts = (
        image,
        _coarsest(volume).mu.sum(),
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
    return jnp.where(_coarsest(volume).mu.max() > 1e-6, deviation, 0.0)


def _overlap(volume: Volume, frame: Frame, terms: Terms, pose: jaxlie.SE3) -> Float[Array, ""]:
    """The larger one of the volume's share on the image and the image's share in shadow."""
    coarse = _coarsest(volume)
    mu = coarse.mu.reshape(-1, *coarse.mu.shape[-3:]).sum(0)[::2, ::2, ::2]
    axes = [jnp.arange(0, n, 2, dtype=mu.dtype) for n in coarse.mu.shape[-3:]]
    index = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    points = index @ coarse.affine[:3, :3].T + coarse.affine[:3, 3]
    rows, columns = frame.camera.image_size
    pixels = project_points(frame.camera, pose, points)
    inside = ((pixels > -0.5) & (pixels < jnp.array([columns, rows]) - 0.5)).all(1)
    inside &= pose.apply(points)[:, 2] > 0
    weight = mu.ravel()
    share = (weight * inside).sum() / jnp.maximum(weight.sum(), 1e-12)
    return jnp.maximum(share, terms.shadow.mean() * inside.any())


def _fraction(mask: Array, shadow: Array) -> Float[Array, ""]:
    return (mask * shadow).sum() / jnp.maximum(shadow.sum(), 1.0)


def _coarsest(volume: Volume) -> Volume:
    """Stands for the whole volume where a sum is asked, without reading all of it."""
    return volume.coarser[-1] if volume.coarser else volume
