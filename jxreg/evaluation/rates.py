"""Rates over many runs: success by bin of initial mTRE, capture range, trust in the verdict."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jxreg import metrics
from jxreg.metrics import Rate


class Bins(NamedTuple):
    """Success by initial mTRE."""

    edges: Float[Array, " edges"]
    """Edges of the bins [mm]; a lower edge belongs to its bin."""
    count: Int[Array, " bins"]
    """Runs in each bin."""
    success: Rate
    """Success rate of each bin; NaN where it is empty."""


class VerdictRates(NamedTuple):
    """Confusion matrix of the verdict, with what the user relies on."""

    accepted_good: Int[Array, ""]
    accepted_bad: Int[Array, ""]
    rejected_good: Int[Array, ""]
    rejected_bad: Int[Array, ""]
    false_accept: Rate
    """Share of the bad runs that were accepted."""
    true_accept: Rate
    """Share of the good runs that were accepted."""
    auc: Float[Array, ""]
    """Area under the ROC curve of the score; NaN if all runs are good, or all bad."""


def bin_success(
    initial_mtre: Float[Array, " runs"], good: Bool[Array, " runs"], edges: Float[Array, " edges"]
) -> Bins:
    """Success rate of each bin of initial mTRE; runs outside all bins are left out."""
    bins = edges.size - 1
    number = jnp.searchsorted(edges, initial_mtre, side="right") - 1
    inside = (number[:, None] == jnp.arange(bins)) & jnp.isfinite(initial_mtre)[:, None]
    count = inside.sum(0)
    return Bins(edges, count, metrics.wilson_interval((inside & good[:, None]).sum(0), count))


def capture_range(bins: Bins, required: float = 0.95) -> Float[Array, ""]:
    """Initial mTRE of the first bin, going outwards, whose success rate falls short [mm].

    It is the lower edge of that bin, or the last edge if no bin falls short. An empty bin shows
    nothing and ends the range, unless all bins within it are empty too.
    """
    started = jnp.cumsum(bins.count) > 0
    short = started & ~(bins.success.rate >= required)
    first = jnp.where(short.any(), jnp.argmax(short), bins.count.size)
    return jnp.where(started.any(), bins.edges[first], jnp.nan)


def verdict_rates(
    accepted: Bool[Array, " runs"], good: Bool[Array, " runs"], score: Float[Array, " runs"]
) -> VerdictRates:
    """Confusion of the verdict (accepted or not) with the truth (good or not)."""
    accepted_good, accepted_bad = (accepted & good).sum(), (accepted & ~good).sum()
    rejected_good, rejected_bad = (~accepted & good).sum(), (~accepted & ~good).sum()
    return VerdictRates(
        accepted_good,
        accepted_bad,
        rejected_good,
        rejected_bad,
        metrics.wilson_interval(accepted_bad, accepted_bad + rejected_bad),
        metrics.wilson_interval(accepted_good, accepted_good + rejected_good),
        auc(score, good),
    )


def auc(score: Float[Array, " runs"], good: Bool[Array, " runs"]) -> Float[Array, ""]:
    """Probability that a good run scores higher than a bad one, ties counting one half.

    A score that is not a number is the lowest of all; if every one is, there is no area.

    Source: Hanley and McNeil, Radiology 143, 1982 (the Wilcoxon statistic).
    """
    value = jnp.where(jnp.isnan(score), -jnp.inf, score)
    ordered = jnp.sort(value)
    below = jnp.searchsorted(ordered, value, side="left")
    rank = (below + jnp.searchsorted(ordered, value, side="right") + 1) / 2
    n_good = good.sum().astype(score.dtype)
    n_bad = good.size - n_good
    area = (jnp.where(good, rank, 0.0).sum() - n_good * (n_good + 1) / 2) / (n_good * n_bad)
    return jnp.where(jnp.isnan(score).all(), jnp.nan, area)
