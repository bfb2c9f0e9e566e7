"""Errors of single runs, and what many runs show together."""

import functools
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxlie import SE3
from jaxtyping import Array, Bool, Float

from jxreg import metrics
from jxreg.camera import Camera
from jxreg.errors import InputError
from jxreg.evaluation.rates import Bins, VerdictRates, bin_success, capture_range, verdict_rates
from jxreg.metrics import Rate
from jxreg.pose import rotation_angle
from jxreg.precision import full_precision
from jxreg.register import Registration
from jxreg.verdict import Status

METRICS = ("mtre", "mpd", "mrpd")
"""Errors that can decide about success."""


@dataclass(frozen=True)
class Protocol:
    """What counts as success, and how the starts are binned."""

    metric: str = "mrpd"
    """Error that decides: mrpd for one view, which hardly sees the depth; mtre for several."""
    good_mm: float = 2.0
    """A run below it is a success, for the capture range and the verdict [mm]."""
    thresholds_mm: tuple[float, ...] = (1.0, 2.0, 5.0, 10.0)
    """Success rates are told for each [mm]."""
    gross_mm: float = 10.0
    """A run above it is a gross failure [mm]."""
    edges_mm: tuple[float, ...] = tuple(10.0 * i for i in range(9))
    """Edges of the bins of initial mTRE, from the centre outwards [mm]."""
    required: float = 0.95
    """Success rate that a bin must have to lie within the capture range."""


class Outcome(NamedTuple):
    """Errors of one run; NaN where it gave no pose."""

    mtre: Float[Array, "*batch"]
    """Mean target registration error [mm]."""
    mpd: Float[Array, "*batch"]
    """Mean projection distance on the detector, magnified [mm]."""
    mrpd: Float[Array, "*batch"]
    """Mean reprojection distance, blind to depth [mm]."""
    rotation_degrees: Float[Array, "*batch"]
    """Angle between the orientations [deg]."""
    translation: Float[Array, "*batch 3"]
    """Displacement of the centroid of the landmarks along x, y (in plane), z (depth) [mm]."""


class Percentiles(NamedTuple):
    """Percentiles 0, 1, ... 100 of each error [mm]; runs without a pose count as infinite."""

    mtre: Float[Array, "101"]
    mpd: Float[Array, "101"]
    mrpd: Float[Array, "101"]


class Summary(NamedTuple):
    """What a series of runs shows; parts whose input was not given are None."""

    success: Rate
    """For each threshold of the protocol."""
    percentiles: Percentiles
    mean_of_successes: Float[Array, ""]
    """Mean error of the successes [mm]; NaN if there is none."""
    p95_of_successes: Float[Array, ""]
    """95th percentile of the error of the successes [mm]."""
    gross_failures: Rate
    bins: Bins | None
    capture_range: Float[Array, ""] | None
    """Initial mTRE up to which the required rate is kept [mm]."""
    verdict: VerdictRates | None


class Evaluation(NamedTuple):
    """Every run, and what they show together."""

    outcomes: Outcome
    """With a leading axis, one entry a run."""
    initial_mtre: Float[Array, " runs"] | None
    """Of the starts, if they were given [mm]."""
    summary: Summary


def evaluate(
    results: Registration | SE3,
    truth: SE3,
    landmarks: Float[Array, "n 3"],
    *,
    camera: Camera,
    starts: SE3 | None = None,
    protocol: Protocol = Protocol(),
) -> Evaluation:
    """Judges a series of registrations against the truth.

    Args:
        results: What `jax.vmap(register)` returned, or only poses; leading axis = runs. With
            registrations the verdict is judged too, its score being the probability.
        truth: True poses, one for each run.
        landmarks: Anatomical points in the world, the same for all runs [mm].
        camera: The camera of all runs; only its SDD matters.
        starts: Where the runs began; without them there is neither a bin nor a capture range.
        protocol: What counts as success.

    Raises:
        InputError: The numbers of runs differ, or the protocol is impossible.
    """
    poses = results.pose if isinstance(results, Registration) else results
    runs = len(truth.wxyz_xyz)
    for name, given in (("results", poses), ("starts", starts)):
        if given is not None and given.wxyz_xyz.shape != (runs, 7):
            raise InputError(
                name,
                f"poses of shape {given.wxyz_xyz.shape}",
                f"a leading axis of {runs} runs, as the truth has",
                "stack one pose for each run",
            )
    outcomes = _outcomes(poses, truth, landmarks, camera)
    initial = None if starts is None else _initial(starts, truth, landmarks)
    accepted = score = None
    if isinstance(results, Registration):
        accepted, score = results.status == Status.OK, results.probability
    return Evaluation(outcomes, initial, summarize(outcomes, protocol, initial, accepted, score))


@full_precision
def outcome(estimate: SE3, truth: SE3, landmarks: Float[Array, "n 3"], camera: Camera) -> Outcome:
    """Errors of one run; NaN in the estimate gives NaN.

    Args:
        estimate: Estimated pose, `camera_from_world`.
        truth: True pose.
        landmarks: Anatomical points in the world [mm].
        camera: The camera of both poses; only its SDD matters.
    """
    found = jnp.isfinite(estimate.wxyz_xyz).all()
    errors = Outcome(
        metrics.mtre(estimate, truth, landmarks),
        metrics.mpd(estimate, truth, landmarks, camera),
        metrics.mrpd(estimate, truth, landmarks),
        jnp.rad2deg(rotation_angle(truth, estimate)),
        metrics.axis_errors(estimate, truth, landmarks.mean(0)).translation,
    )
    return jax.tree.map(lambda error: jnp.where(found, error, jnp.nan), errors)


_outcomes = jax.jit(jax.vmap(outcome, (0, 0, None, None)))
_initial = jax.jit(jax.vmap(metrics.mtre, (0, 0, None)))


def summarize(
    outcomes: Outcome,
    protocol: Protocol = Protocol(),
    initial_mtre: Float[Array, " runs"] | None = None,
    accepted: Bool[Array, " runs"] | None = None,
    score: Float[Array, " runs"] | None = None,
) -> Summary:
    """What many runs show.

    Args:
        outcomes: Errors with a leading axis, one entry a run.
        protocol: What counts as success.
        initial_mtre: mTRE of each start [mm].
        accepted: Whether the verdict was `OK`.
        score: Number that should be larger for good runs; without it the area is NaN.

    Raises:
        InputError: There are no runs, or the protocol is impossible.
    """
    _check(protocol, outcomes.mtre.size)
    return _summarize(outcomes, protocol, initial_mtre, accepted, score)


@functools.partial(jax.jit, static_argnames="protocol")
def _summarize(outcomes, protocol, initial_mtre, accepted, score) -> Summary:
    errors = getattr(outcomes, protocol.metric)
    good = errors < protocol.good_mm
    bins = capture = verdict = None
    if initial_mtre is not None:
        bins = bin_success(initial_mtre, good, jnp.asarray(protocol.edges_mm, errors.dtype))
        capture = capture_range(bins, protocol.required)
    if accepted is not None:
        score = jnp.full_like(errors, jnp.nan) if score is None else score
        verdict = verdict_rates(accepted, good, score)
    mean, p95 = _mean_and_p95(errors, good)
    percents = jnp.arange(101.0)
    return Summary(
        jax.vmap(metrics.success_rate, (None, 0))(errors, jnp.asarray(protocol.thresholds_mm)),
        Percentiles(*(metrics.percentiles(getattr(outcomes, name), percents) for name in METRICS)),
        mean,
        p95,
        metrics.gfr(errors, protocol.gross_mm),
        bins,
        capture,
        verdict,
    )


def as_record(summary: Summary, protocol: Protocol) -> dict[str, Any]:
    """A summary as JSON values: lists, numbers, and None for what is not finite."""
    return {"protocol": _plain(asdict(protocol)), **_plain(summary)}


def _check(protocol: Protocol, runs: int) -> None:
    if runs < 1:
        raise InputError("results", "no runs", "one run or more", "register something first")
    if protocol.metric not in METRICS:
        found = f"{protocol.metric!r}"
        raise InputError("metric", found, f"one of {', '.join(METRICS)}", "choose one of them")
    edges = np.asarray(protocol.edges_mm, float)
    if edges.size < 2 or not (np.isfinite(edges).all() and (np.diff(edges) > 0).all()):
        found = f"{edges.tolist()}"
        raise InputError("edges", found, "two or more rising numbers [mm]", "correct the bins")


def _mean_and_p95(
    errors: Float[Array, " runs"], chosen: Bool[Array, " runs"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean and 95th percentile (linear) of the chosen errors; NaN if none is chosen."""
    count = chosen.sum()
    mean = jnp.where(chosen, errors, 0.0).sum() / count
    ordered = jnp.sort(jnp.where(chosen, errors, jnp.inf))
    position = 0.95 * jnp.maximum(count - 1, 0)
    low, high = (ordered[f(position).astype(int)] for f in (jnp.floor, jnp.ceil))
    part = position - jnp.floor(position)
    value = low + jnp.where(part > 0, part * (high - low), 0.0)
    return mean, jnp.where(count > 0, value, jnp.nan)


def _plain(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    array = np.asarray(value)
    if array.ndim:
        return [_plain(item) for item in array]
    item = array.item()
    return None if isinstance(item, float) and not np.isfinite(item) else item
