"""How well a method registers: the protocol of van de Kraats et al. (IEEE TMI 24(9), 2005).

Random starts with equal counts in bins of initial mTRE (`binned_starts`), the errors of each run
(`outcome`), and over all runs (`summarize`): success rates with 95 % Wilson intervals, the capture
range, the whole distribution of errors, and how far the verdict can be trusted. `evaluate` does the
last two in one call. Nothing is left out: a run without a pose is a run that failed.
"""

from jxreg.evaluation.rates import (
    Bins,
    VerdictRates,
    auc,
    bin_success,
    capture_range,
    verdict_rates,
)
from jxreg.evaluation.starts import Start, binned_starts, random_start
from jxreg.evaluation.summary import (
    METRICS,
    Evaluation,
    Outcome,
    Percentiles,
    Protocol,
    Summary,
    as_record,
    evaluate,
    outcome,
    summarize,
)

__all__ = [
    "METRICS",
    "Bins",
    "Evaluation",
    "Outcome",
    "Percentiles",
    "Protocol",
    "Start",
    "Summary",
    "VerdictRates",
    "as_record",
    "auc",
    "binned_starts",
    "bin_success",
    "capture_range",
    "evaluate",
    "outcome",
    "random_start",
    "summarize",
    "verdict_rates",
]
