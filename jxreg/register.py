"""Registration of one X-ray image: start, coarse-to-fine refinement, verdict."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, no_type_check

import jax
import jax.numpy as jnp
import jaxlie
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from jxreg import alignment
from jxreg.alignment import Aligned, Level, Prior
from jxreg.camera import Camera
from jxreg.candidates import Found, compare, start_of
from jxreg.confidence import SPREAD, Signals
from jxreg.descent import STEP, Nearby, Trace, descent_of, last_two, through
from jxreg.drr.coverage import cut_faces
from jxreg.errors import InputError
from jxreg.evidence import Look, evidence_of
from jxreg.frame import Frame
from jxreg.global_search import SearchConfig, search
from jxreg.pose import from_carm
from jxreg.precision import full_precision
from jxreg.verdict import Status, Thresholds, judge
from jxreg.volume import Volume

HOPELESS = (Status.NON_FINITE, Status.NO_SIGNAL, Status.OUT_OF_VIEW)
"""Verdicts of input that no registration can use: the start comes back."""


@dataclass(frozen=True)
class RegisterConfig:
    """How `register` refines and judges a pose. The defaults are meant to need no tuning."""

    levels: tuple[Level, ...] = (
        Level(32, 3, tolerance=0.1),
        Level(64, 2, tolerance=0.1),
        Level(128, 1, scatter=True),
    )
    """From coarse to fine."""
    found: tuple[Level, ...] = (
        Level(64, 2, tolerance=0.1, scatter=True),
        Level(128, 1, similarity="gradient_ncc", scatter=True),
        Level(128, 1, scatter=True),
    )
    """The same for what a search or a comparison found. That is good to a pixel of its fine level,
    and where the scan is cut off a coarser level would lead away from it."""
    similarity: str | None = None
    """One similarity for all levels instead of each level's own."""
    truncated: bool = True
    """Whether anatomy may go on beyond the first and last slice; False: the image shows the ends of
    the volume, as for a phantom or a dry bone."""
    nearby: Nearby = Nearby()
    """Other starts to try; for a small bone, whose basin is small."""
    prior: Prior = Prior()
    """How far from the start the pose may be; it counts where the image says little."""
    search: SearchConfig = SearchConfig()
    """Where to look if there is no start; `truncated` above overrules the one in it."""
    thresholds: Thresholds = Thresholds()
    """What the verdict asks for."""


class Views(NamedTuple):
    """The images of a registration that had several, each alone; leading axis views."""

    camera_from_rig: jaxlie.SE3
    """As they were given, or as they were found if their geometry was sought."""
    camera: tuple[Camera, ...]
    """The same of the cameras themselves; a tuple, since images may differ in size."""
    status: Int[Array, " views"]
    """The verdict that each image would get alone, at the common pose."""
    probability: Float[Array, " views"]
    signals: Signals | None
    similarity: Float[Array, " views"]
    initial_similarity: Float[Array, " views"]
    coverage: Float[Array, " views"]
    kept: Float[Array, " views"]


@no_type_check  # JAX rebuilds pytrees from tracers, None and batched leaves
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Registration:
    """What a registration found, and how it went."""

    pose: jaxlie.SE3
    """Extrinsic, `camera_from_world`."""
    status: Int[Array, "*batch"]
    """A `Status`."""
    probability: Float[Array, "*batch"]
    """That the mRPD is below 2 mm, calibrated on simulated X-rays (`confidence`)."""
    similarity: Float[Array, "*batch"]
    """Similarity of the finest level at the pose, in its usable pixels."""
    initial_similarity: Float[Array, "*batch"]
    """The same at the start."""
    covariance: Float[Array, "*batch 6 6"]
    """Of the twist (mm, rad) about the isocenter in camera axes, from residuals and prior;
    calibrated on simulated X-rays (`confidence.SPREAD`)."""
    coverage: Float[Array, "*batch"]
    """Fraction of the image that the volume's shadow covers."""
    kept: Float[Array, "*batch"]
    """Fraction of the shadow's pixels that could be used: valid, and not truncated."""
    trace: Trace
    signals: Signals | None = None
    """What the probability was made of; of several images it is in `views`."""
    views: Views | None = None
    """Of `register_views` and `register_bodies`: each image alone, with a leading axis."""
    found: Found | None = None
    """What a search found, the poses that were second best too; None if there was none."""


Start = jaxlie.SE3 | Found | Callable[[Volume, Frame], "jaxlie.SE3 | Found"]
"""Where a registration may begin."""


def register(
    volume: Volume,
    frame: Frame,
    pose: Start | None = None,
    *,
    again: Start | None = None,
    config: RegisterConfig = RegisterConfig(),
) -> Registration:
    """Finds the pose of the camera that took one X-ray image.

    Args:
        volume: The patient.
        frame: One image (attenuation) and its camera.
        pose: Start, `camera_from_world`, or what `search` or `candidates.compare` found, or several
            starts to compare (a leading axis), or a function of volume and frame that gives one of
            these, such as a network (`recipes.model.starter`). By default the positioner angles
            that came with the image; if none did, the image is searched.
        again: Another start, for an image whose verdict is not OK (`retried`), such as several
            poses of a network that told one.
        config: What to do; static.

    Returns:
        The refined pose with a verdict. Input without signal, out of view or not finite comes back
        with the start as pose and a status that says so.
    """
    begun = begin(volume, frame, pose, config)
    found = begun if isinstance(begun, Found) else None
    result = _register(volume, frame, *start_of(begun), config, found is not None)
    result = replace(result, found=found)
    return result if again is None else retried(result, volume, frame, again, config)


def retried(
    first: Registration, volume: Volume, frame: Frame, again: Start, config: RegisterConfig
) -> Registration:
    """A second try for a registration that is not OK.

    In compiled code it costs its time only where it is needed, but under `vmap` always.

    Args:
        first: The registration. If it is OK, or nothing can be done with its input, it is the
            result.
        volume: As of `register`.
        frame: As of `register`.
        again: Where to begin.
        config: As of `register`.

    Returns:
        The second registration if it is OK or more probable, else the first one; `found` is of the
        first one in any case.
    """

    def second() -> Registration:
        return replace(register(volume, frame, again, config=config), found=first.found)

    done = jnp.isin(first.status, jnp.array((Status.OK, *HOPELESS)))
    if isinstance(done, Tracer):
        steps = max(_steps(first), _steps(jax.eval_shape(second)))
        return jax.lax.cond(done, lambda: _filled(first, steps), lambda: _better(first, second()))
    return first if done else _better(first, second())


def _better(first: Registration, other: Registration) -> Registration:
    """The other one if it is OK or more probable; the trace is as long as the longer one."""
    steps = max(_steps(first), _steps(other))
    better = (other.status == Status.OK) | (other.probability > first.probability)
    pair = _filled(other, steps), _filled(first, steps)
    return jax.tree.map(lambda a, b: jnp.where(better, a, b), *pair)


def _steps(result: Registration) -> int:
    return result.trace.step_mm.shape[0]


def _filled(result: Registration, steps: int) -> Registration:
    """With a trace of as many steps, the first of them not taken."""
    missing = steps - _steps(result)

    def fill(x, value):
        return jnp.concatenate([jnp.broadcast_to(value, (missing, *x.shape[1:])), x])

    trace = jax.tree.map(lambda x: fill(x, x[0]), result.trace)
    return replace(result, trace=trace._replace(step_mm=fill(result.trace.step_mm, 0.0)))


def begin(
    volume: Volume, frame: Frame, start: Start | None, config: RegisterConfig
) -> jaxlie.SE3 | Found:
    """The pose that a start stands for, or what was found where several were compared.

    Arguments as of `register`.
    """
    if callable(start):
        start = start(volume, frame)
    elif start is None and frame.carm is not None:
        start = initial_pose(volume, frame)
    elif start is None:
        start = search(volume, frame, config=search_of(config))
    if isinstance(start, jaxlie.SE3) and start.wxyz_xyz.ndim > 1:
        how, truncated = config.search.compare, config.truncated
        return compare(volume, frame, start, config=how, truncated=truncated)
    return start


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


@functools.partial(jax.jit, static_argnames=("config", "found"))
@full_precision
def _register(
    volume: Volume,
    frame: Frame,
    start: jaxlie.SE3,
    lead: Float[Array, ""],
    config: RegisterConfig,
    found: bool,
) -> Registration:
    levels = levels_of(config, found)
    finest = alignment.focus(volume, frame, start, max(level.pixels for level in levels))
    cut = cut_faces(volume) if config.truncated else None

    descent = descent_of(volume, finest, cut, start, config.prior)
    first_level = first_number(config, found)
    aligned, trace = through(levels, start, descent, config.nearby, first_level)
    scene = alignment.scene(volume, finest, cut, levels[-1])
    first = alignment.look(scene, levels[-1], start, config.prior)
    last_step = alignment.departure(*last_two(start, trace), volume.isocenter, STEP)
    evidence = evidence_of(
        volume,
        frame,
        scene,
        Look(start, first),
        Look(aligned.pose, aligned.terms),
        jnp.linalg.norm(last_step),
    )
    evidence = evidence._replace(lead=lead)
    status = judge(evidence, config.thresholds)
    return Registration(
        unless_hopeless(status, aligned.pose, start),
        status,
        unless_hopeless(status, evidence.probability, 0.0),
        evidence.similarity,
        evidence.initial_similarity,
        covariance(aligned),
        aligned.terms.shadow.mean(),
        evidence.kept,
        trace,
        evidence.signals,
    )


def levels_of(config: RegisterConfig, found: bool = False) -> list[Level]:
    """The levels, with the one similarity if the configuration names one.

    Args:
        config: The configuration.
        found: Whether the start is what a search or a comparison found.
    """
    levels = config.found if found else config.levels
    if config.similarity is None:
        return list(levels)
    return [replace(level, similarity=config.similarity) for level in levels]


def first_number(config: RegisterConfig, found: bool) -> int:
    """Number of the first of these levels in `Trace.level`."""
    return len(config.levels) if found else 0


def search_of(config: RegisterConfig) -> SearchConfig:
    """The search, of a volume that is cut off or not as the configuration says."""
    return replace(config.search, truncated=config.truncated)


def unless_hopeless(status: Int[Array, ""], found: Any, start: Any) -> Any:
    """What was found; the start if there was nothing to find."""
    nothing = jnp.isin(status, jnp.array(HOPELESS))
    return jax.tree.map(lambda a, b: jnp.where(nothing, a, b), start, found)


def covariance(aligned: Aligned) -> Float[Array, "n n"]:
    """Variance of a measurement times the inverse of J^T J, calibrated; infinite if unknown."""
    hessian = aligned.hessian
    scale = jnp.sqrt(jnp.maximum(jnp.diag(hessian), 1e-30))
    inverse = jnp.linalg.inv(hessian / (scale[:, None] * scale))
    return SPREAD * aligned.terms.variance * inverse / (scale[:, None] * scale)
