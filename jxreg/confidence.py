"""How sure a registration is: a probability from a few signals, calibrated on simulated X-rays.

The model is logistic regression. Its weights come from `benchmarks/fit_verdict.py`, from runs of
`benchmarks/bench_verdict.py`: right and wrong poses, other patients, other parts of the body,
mirrored and turned images, wrong SDDs. How it does on CTs that it was not fitted to is there too.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Signals(NamedTuple):
    """What tells a right pose from a wrong one, at the end of a registration."""

    similarity: Float[Array, "*batch"]
    """Gradient correlation of all that is compared."""
    fine_motion: Float[Array, "*batch"]
    """How far small detail of the DRR is from where the image has it [mm at the isocenter], as
    root mean square."""
    broad_motion: Float[Array, "*batch"]
    """The same of larger structures."""
    sdd: Float[Array, "*batch"]
    """Logarithm of the factor on the SDD that would explain the image better, the pose being free
    to follow; 0 where the image cannot tell."""
    depth: Float[Array, "*batch"]
    """How much deeper the pose is than the start [mm]."""
    kept: Float[Array, "*batch"]
    """Fraction of the shadow's pixels that could be compared."""


WEIGHTS, OFFSET = (2.163, -2.667, -1.902, -3.633, -2.222, 1.675), -9.017
"""Of `features`: 832 runs, four CTs cropped by 30 mm at each end, 258 of the runs right; 704 from a
start (seeds 3 and 5), and 128 after a search (18 and 19), where the depth says nothing."""
SPREAD = 0.16
"""Factor on the covariance that residuals and prior give, after which 95 % of these 258 right runs
lie in the 95 % ellipsoid: 82 % of the head's, 97 to 99 % of the others'."""


def features(signals: Signals) -> Float[Array, "6 *batch"]:
    """The signals in the form that the model weighs."""
    return jnp.stack(
        [
            jnp.arctanh(jnp.clip(signals.similarity, -0.99, 0.99)),
            jnp.log(signals.fine_motion + 0.01),
            jnp.log(signals.broad_motion + 0.01),
            jnp.log1p((signals.sdd / 0.02) ** 2),
            jnp.log1p((signals.depth / 40.0) ** 2),
            jnp.log(signals.kept + 0.05),
        ]
    )


def probability(signals: Signals) -> Float[Array, "*batch"]:
    """Probability that the mRPD is below 2 mm; 0 where a signal is not finite."""
    log_odds = jnp.tensordot(jnp.asarray(WEIGHTS, float), features(signals), 1) + OFFSET
    return jnp.where(jnp.isfinite(log_odds), jax.nn.sigmoid(log_odds), 0.0)
