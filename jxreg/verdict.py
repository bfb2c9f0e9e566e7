"""The verdict on a registration: a status from cheap, plain evidence."""

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jxreg.confidence import Signals


class Status(IntEnum):
    """How far a registration can be trusted."""

    OK = 0
    """No check failed."""
    SUSPECT = 1
    """It converged, but a check says that the pose may be wrong."""
    NO_SIGNAL = 2
    """The image, or the volume, shows nothing."""
    OUT_OF_VIEW = 3
    """The volume's shadow and the image hardly overlap."""
    NON_FINITE = 4
    """NaN or infinity in the image, the volume, the pose or the similarity."""
    NOT_CONVERGED = 5
    """The last level was still moving when its steps ran out."""
    AMBIGUOUS = 6
    """Another pose, far away, explains the image as well; only a search can tell."""


@dataclass(frozen=True)
class Thresholds:
    """What a registration must show to be called OK."""

    contrast: float = 1e-3
    """Smallest standard deviation of the image [attenuation] that counts as signal."""
    overlap: float = 0.25
    """Smallest overlap: of the volume with the image, or of the image with the volume's shadow."""
    kept: float = 0.2
    """Smallest usable fraction of the shadow."""
    probability: float = 0.5
    """Smallest probability that the mRPD is below 2 mm."""
    step_mm: float = 0.5
    """Largest step at the very end: across the beam, a tenth of it in depth, or 50 mm a radian."""
    lead: float = 0.1
    """Smallest lead of the best pose of a search over the best one elsewhere (`Found.lead`)."""


class Evidence(NamedTuple):
    """What the verdict rests on."""

    finite: Bool[Array, ""]
    contrast: Float[Array, ""]
    """Standard deviation of the image where it is valid; 0 if the volume is empty."""
    overlap: Float[Array, ""]
    """The smaller one of the overlaps at the start and at the end."""
    kept: Float[Array, ""]
    similarity: Float[Array, ""]
    initial_similarity: Float[Array, ""]
    probability: Float[Array, ""]
    """That the mRPD is below 2 mm (`confidence.probability`)."""
    last_step: Float[Array, ""]
    """Length of the very last step [mm], depth counted a tenth; 0 if the search had stopped before,
    or the step was refused."""
    signals: Signals | None = None
    """What the probability was made of."""
    lead: Float[Array, ""] | float = math.inf
    """Lead over other poses, in the units of `Found.score`; infinite if none were tried."""


def judge(evidence: Evidence, thresholds: Thresholds) -> Int[Array, ""]:
    """Status of a registration; the gravest finding wins."""
    e, t = evidence, thresholds
    findings = (
        (~e.finite, Status.NON_FINITE),
        (~(e.contrast > t.contrast), Status.NO_SIGNAL),
        (~(e.overlap > t.overlap), Status.OUT_OF_VIEW),
        (~(e.last_step < t.step_mm), Status.NOT_CONVERGED),
        (
            ~((e.probability > t.probability) & (e.kept > t.kept))
            | ~(e.similarity >= e.initial_similarity - 0.02),
            Status.SUSPECT,
        ),
        (~(jnp.asarray(e.lead) > t.lead), Status.AMBIGUOUS),
    )
    conditions = [condition for condition, _ in findings]
    values = [jnp.int32(status) for _, status in findings]
    return jnp.select(conditions, values, jnp.int32(Status.OK))
