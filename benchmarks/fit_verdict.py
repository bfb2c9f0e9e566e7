"""Fits the model of `jxreg.confidence` to runs of `bench_verdict.py`, and says how far to trust it.

    python benchmarks/fit_verdict.py verdict.json
    python benchmarks/fit_verdict.py verdict.json --judged fresh.json

Logistic regression with a weak prior on the weights of the standardised features. Each CT is also
judged by a model that was fitted to the others (the two chests leave together); those numbers are
what to expect of a patient that nobody has seen. The runs that are judged may be others than those
of the fit. Runs that need no model to be refused (no signal,
out of view) have probability 0. The same for the factor on the covariance, which is chosen so that
95 % of the right runs lie in the 95 % ellipsoid.
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from bench_verdict import CHI2_95, is_right, say, summary
from rich.console import Console
from rich.table import Table
from scipy.optimize import minimize

from jxreg import confidence
from jxreg.register import HOPELESS

WEAK = 3.0
"""Precision of the prior on a weight, of a feature with a standard deviation of 1."""
BINS = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def features(runs: list[dict]) -> np.ndarray:
    """One row for each run."""
    names = confidence.Signals._fields
    columns = (jnp.asarray([run["signals"][k] for run in runs], float) for k in names)
    return np.asarray(confidence.features(confidence.Signals(*columns)), float).T


def fit(x: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Weights of the features, and the offset."""
    mean, spread = x.mean(0), x.std(0)
    z, sign = (x - mean) / spread, np.where(right, 1.0, -1.0)

    def loss(w):
        return np.logaddexp(0, -sign * (z @ w[:-1] + w[-1])).sum() + WEAK / 2 * (w[:-1] ** 2).sum()

    w = minimize(loss, np.zeros(x.shape[1] + 1), method="BFGS").x
    weights = w[:-1] / spread
    return np.append(weights, w[-1] - weights @ mean)


def probability(model: np.ndarray, x: np.ndarray, judged: np.ndarray) -> np.ndarray:
    """Of each run; 0 of those that need no model."""
    return judged / (1 + np.exp(-(x @ model[:-1] + model[-1])))


def left_out(runs: list[dict]) -> np.ndarray:
    """The patient that is left out with each run: both chests are one kind."""
    return np.array([run["ct"].split("-")[0] for run in runs])


class Runs(NamedTuple):
    """Runs, and what the fit needs to know of each."""

    rows: list[dict]
    x: np.ndarray
    """Features, a row for each run."""
    right: np.ndarray
    judged: np.ndarray
    """Whether the model is asked at all."""
    group: np.ndarray
    squares: np.ndarray
    """Squared error of the pose in units of its covariance."""


def runs_of(paths: list[Path]) -> Runs:
    """The runs of some files of `bench_verdict.py`."""
    rows = [row for path in paths for row in json.loads(path.read_text())["runs"]]
    return Runs(
        rows,
        features(rows),
        np.array([is_right(row) for row in rows]),
        np.array([row["status"] not in {s.name for s in HOPELESS} for row in rows]),
        left_out(rows),
        6 * np.array([row["error_in_sigmas"] for row in rows]) ** 2,
    )


def of_others(known: Runs, fresh: Runs) -> tuple[np.ndarray, dict[str, float]]:
    """Probability of each fresh run by a model of the known runs of other patients.

    Returns:
        The probabilities; and of each patient, how often the 95 % ellipsoid holds the truth if the
        factor on the covariance is that of the others.
    """
    unseen, holds = np.zeros(len(fresh.rows)), {}
    for name in np.unique(fresh.group):
        here, others = fresh.group == name, known.group != name
        mine = others & known.judged
        model = fit(known.x[mine], known.right[mine])
        unseen[here] = probability(model, fresh.x[here], fresh.judged[here])
        factor = _factor(known.squares[others & known.right])
        holds[str(name)] = float((fresh.squares[here & fresh.right] < CHI2_95 * factor).mean())
    return unseen, holds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="of bench_verdict.py, to be fitted")
    parser.add_argument("--judged", type=Path, nargs="+", help="to be judged; else the same")
    options, console = parser.parse_args(), Console(width=120)
    known = runs_of(options.runs)
    fresh = runs_of(options.judged) if options.judged else known
    unseen, holds = of_others(known, fresh)
    console.print("Each CT by a model of the others:")
    say(console, summary(fresh.rows, unseen) | {"ellipsoid_holds": np.mean(list(holds.values()))})
    console.print({name: f"{share:.1%}" for name, share in holds.items()}, highlight=False)
    console.print(reliability(unseen, fresh.right))
    model = fit(known.x[known.judged], known.right[known.judged])
    console.print("WEIGHTS =", tuple(np.round(model[:-1], 3).tolist()), highlight=False)
    console.print("OFFSET =", round(float(model[-1]), 3), highlight=False)
    factor = _factor(known.squares[known.right])
    console.print("covariance times", round(factor, 4), highlight=False)


def _factor(squares: np.ndarray) -> float:
    """Factor on the covariance after which 95 % are within the 95 % ellipsoid."""
    return float(np.quantile(squares, 0.95) / CHI2_95)


def reliability(probabilities: np.ndarray, right: np.ndarray) -> Table:
    """How often runs are right that are said to be so with some probability."""
    shown = Table(title="Reliability", title_justify="left")
    for name in ("said", "runs", "mean", "right"):
        shown.add_column(name, justify="right")
    for low, high in zip(BINS[:-1], BINS[1:], strict=True):
        mine = (probabilities >= low) & ((probabilities < high) | (high == BINS[-1]))
        if mine.any():
            said, found = probabilities[mine].mean(), right[mine].mean()
            shown.add_row(f"{low:g} to {high:g}", str(mine.sum()), f"{said:.3f}", f"{found:.3f}")
    return shown


if __name__ == "__main__":
    main()
