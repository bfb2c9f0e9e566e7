"""What the verdict accepts and refuses: right and wrong poses, patients, images and cameras.

    python benchmarks/bench_verdict.py --seed 1 --out verdict.json
    python benchmarks/fit_verdict.py verdict.json
    python benchmarks/bench_verdict.py --how search --seed 1 --out verdict_search.json
    python benchmarks/bench_verdict.py --how views --seed 1 --out verdict_views.json

Protocol: the cases of `verdict_cases` for each CT, which is cropped along the patient at each end,
registered with the default configuration from a start, or, fewer of them, without one (`--how
search`), or from a start with a second image at right angles to the first one (`--how views`). A
run is right if it is of the kind "right" and its mRPD is below 2 mm. The area under the ROC curve
is that of the probability. Each run is written down with its signals and its error in units of its
covariance; `fit_verdict.py` fits the model to such files. Runs are written as they are finished,
and a second call goes on where the first one was stopped.
"""

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path

import accuracy
import jax
import jax.numpy as jnp
import numpy as np
import timing
import verdict_cases
from outcome import lead_of, outcome, resumed, setting
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table
from timing import timed

import jxreg
from jxreg import evaluation
from jxreg.confidence import Signals
from jxreg.views import register_views

RIGHT_MM = 2.0
LEAST_AREA, MOST_FALSE, TRUE = 0.98, 0.01, 0.95
"""Asked for: area under the curve, and false accepts where so many right ones are accepted."""
HOLDS = (0.90, 0.98)
"""How often the 95 % ellipsoid must hold the truth."""
CHI2_95 = 12.592
"""Of six degrees of freedom."""


def is_right(run: dict) -> bool:
    """Whether it ought to be accepted."""
    return run["kind"] == "right" and run["mrpd_mm"] < RIGHT_MM


def area(probability: np.ndarray, right: np.ndarray) -> float:
    """Area under the ROC curve: how often a right run is more probable than a wrong one."""
    return float(evaluation.auc(jnp.asarray(probability, float), jnp.asarray(right)))


def summary(runs: list[dict], probability: np.ndarray | None = None) -> dict:
    """Numbers of some runs, with their own probabilities or others."""
    right = np.array([is_right(run) for run in runs])
    if probability is None:
        probability = np.array([run["probability"] for run in runs])
    ok = np.array([run["status"] == "OK" for run in runs])
    threshold = np.quantile(probability[right], 1 - TRUE)
    squares = 6 * np.array([run["error_in_sigmas"] for run in runs])[right] ** 2
    return {
        "runs": len(runs),
        "right": int(right.sum()),
        "area": area(probability, right),
        "false_at_true_95": float((probability[~right] >= threshold).mean()),
        "ok_and_right": int((ok & right).sum()),
        "ok_and_wrong": int((ok & ~right).sum()),
        "ellipsoid_holds": float((squares < CHI2_95).mean()),
    }


def run(name: str, cases: Iterator[verdict_cases.Case], how: str) -> Iterator[dict]:
    """Registers the cases of one CT, with what each probability was made of."""
    for case in cases:
        result, seconds = timed(registered, case, how)
        yield {
            "ct": name,
            "kind": case.kind,
            "number": case.number,
            **outcome(result, case.truth, case.landmarks, case.volume.isocenter),
            "kept": float(result.kept),
            "lead": lead_of(result.found),
            "seconds": seconds,
            "signals": {key: float(value) for key, value in signals_of(result)._asdict().items()},
        }


def registered(case: verdict_cases.Case, how: str) -> jxreg.Registration:
    """One case from its start, without one, or with both views."""
    if how == "views":
        return register_views(case.volume, case.frames, case.cameras, case.start)
    return jxreg.register(case.volume, case.frames[0], None if how == "search" else case.start)


def signals_of(result: jxreg.Registration) -> Signals:
    """The signals; of several images those of the least probable one."""
    if result.views is None:
        return result.signals
    worst = int(result.views.probability.argmin())
    return jax.tree.map(lambda x: x[worst], result.views.signals)


def counts_of(how: str) -> dict[str, int]:
    """How many of each kind are run."""
    return verdict_cases.COUNTS if how == "start" else verdict_cases.FEW


def table(runs: list[dict]) -> Table:
    """How many of each kind were accepted, for each CT."""
    shown = Table(title="Accepted as OK", title_justify="left")
    names = list(dict.fromkeys(run["ct"] for run in runs))
    for name in ("kind", *names):
        shown.add_column(name, justify="right" if name != "kind" else "left")
    groups = {"right, mRPD < 2 mm": is_right, "right, but not its pose": _is_failure}
    seen = {run["kind"] for run in runs}
    kinds = [kind for kind in verdict_cases.COUNTS if kind != "right" and kind in seen]
    groups |= {kind: lambda run, kind=kind: run["kind"] == kind for kind in kinds}
    for label, belongs in groups.items():
        mine = [[r for r in runs if r["ct"] == name and belongs(r)] for name in names]
        accepted = [sum(r["status"] == "OK" for r in of_ct) for of_ct in mine]
        shown.add_row(
            label, *(f"{n} of {len(of_ct)}" for n, of_ct in zip(accepted, mine, strict=True))
        )
    return shown


def _is_failure(run: dict) -> bool:
    return run["kind"] == "right" and not is_right(run)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--cts", nargs="+", choices=list(accuracy.CTS), default=list(accuracy.CTS))
    add("--crop", type=float, default=30.0, help="cut off at each end of the CT [mm]")
    add("--how", choices=("start", "search", "views"), default="start")
    add("--seed", type=int, default=0)
    add("--data", type=Path, default=accuracy.data_folder(), help="folder of the CTs")
    add("--out", type=Path, default=Path("bench_verdict.json"))
    return parser.parse_args()


def begin(options: argparse.Namespace) -> dict:
    """A new report, or the one that is to be gone on with."""
    asked = {"how": options.how, "crop": options.crop, "seed": options.seed}
    new = setting(__doc__ or "") | timing.machine() | asked
    return resumed(options.out, new, ("config", *asked))


def main() -> None:
    """Shows a table; writes everything as JSON."""
    options, console = arguments(), Console(width=None if os.isatty(1) else 140)
    report = begin(options)
    cts = {
        name: jxreg.load_volume(options.data / path, crop_air=False)
        for name, path in accuracy.CTS.items()
    }
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        for name in options.cts:
            done = {(r["kind"], r["number"]) for r in report["runs"] if r["ct"] == name}
            counts, views = counts_of(options.how), 2 if options.how == "views" else 1
            bar = progress.add_task(name, total=sum(counts.values()), completed=len(done))
            cases = verdict_cases.cases(name, cts, options.crop, options.seed, done, counts, views)
            for row in run(name, cases, options.how):
                report["runs"].append(row)
                timing.write(options.out, json.dumps(report, indent=1))
                progress.advance(bar)
    report["summary"] = summary(report["runs"])
    timing.write(options.out, json.dumps(report, indent=1))
    console.print(table(report["runs"]))
    say(console, report["summary"])


def say(console: Console, line: dict) -> None:
    """What was asked for, and what was found."""
    console.print(
        f"area under the curve {line['area']:.4f}, asked >= {LEAST_AREA}; "
        f"false accepts {line['false_at_true_95']:.1%} at {TRUE:.0%} true ones, "
        f"asked <= {MOST_FALSE:.0%}; the 95 % ellipsoid holds the truth in "
        f"{line['ellipsoid_holds']:.1%}, asked {HOLDS[0]:.0%} to {HOLDS[1]:.0%}",
        highlight=False,
    )


if __name__ == "__main__":
    main()
