"""What the benchmarks of registration write down: a row for each case, rates, and the setting."""

import argparse
import json
import platform
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import timing
from rich.console import Console
from rich.progress import Progress

import jxreg
from jxreg import metrics
from jxreg.candidates import Found
from jxreg.pose import twist_between
from jxreg.verdict import Status


def outcome(result: jxreg.Registration, truth, landmarks, isocenter) -> dict:
    """Errors [mm] and verdict of one registration."""
    error = twist_between(truth, result.pose, isocenter)
    return {
        "mtre_mm": float(metrics.mtre(result.pose, truth, landmarks)),
        "mrpd_mm": float(metrics.mrpd(result.pose, truth, landmarks)),
        "depth_mm": float(error[2]),
        "error_in_sigmas": in_sigmas(error, result.covariance),
        "status": Status(int(result.status)).name,
        "probability": float(result.probability),
        "similarity": float(result.similarity),
    }


def lead_of(found: Found | None) -> float | None:
    """What a search says of its best pose, if there was one and it found another optimum."""
    lead = np.inf if found is None else float(found.lead)
    return lead if np.isfinite(lead) else None


def in_sigmas(error, covariance) -> float:
    """Root mean square of the six errors in standard deviations; 1 if the covariance is right."""
    error, covariance = np.asarray(error, float), np.asarray(covariance, float)
    return float(np.sqrt(error @ np.linalg.solve(covariance, error) / 6))


def summary(rows: list[dict]) -> dict:
    """Success rate with its interval, medians, and the confusion of the verdict."""
    mrpd = np.array([row["mrpd_mm"] for row in rows])
    ok = np.array([row["status"] == "OK" for row in rows])
    rate = metrics.success_rate(jnp.asarray(mrpd, float), 1.0)
    return {
        "success_mrpd_1mm": float(rate.rate),
        "success_interval_95": [float(rate.low), float(rate.high)],
        "median_mtre_mm": float(np.median([row["mtre_mm"] for row in rows])),
        "median_mrpd_mm": float(np.median(mrpd)),
        "median_error_in_sigmas": float(np.median([row["error_in_sigmas"] for row in rows])),
        "ok_and_good": int((ok & (mrpd < 1)).sum()),
        "ok_and_bad": int((ok & (mrpd >= 2)).sum()),
    }


def setting(protocol: str) -> dict:
    """What a report begins with."""
    return {
        "protocol": protocol,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": f"{jax.devices()[0].device_kind}, {platform.machine()}",
        "jax": jax.__version__,
        "config": repr(jxreg.RegisterConfig()),
        "runs": [],
    }


def resumed(path: Path, new: dict, same: tuple[str, ...]) -> dict:
    """The report in a file, to go on with, or a new one; entries of these names must be alike."""
    if not path.exists():
        return new
    report = json.loads(path.read_text())
    for key in same:
        if report.get(key) != new[key]:
            raise SystemExit(f"{path}: of another {key}; give --out")
    return report


def run_volumes(
    options: argparse.Namespace,
    report: dict,
    rows_of: Callable[[jxreg.Volume, set[int]], Iterator[dict]],
    each: int,
    console: Console,
) -> None:
    """Adds the rows of every CT to a report, writing it after each row.

    Args:
        options: With `volumes`, `cases` and `out`.
        report: From `resumed`; cases that have all their rows are not run again.
        rows_of: From a CT and the cases that are done to the rows of the others.
        each: Rows of a case.
        console: Where the progress is shown.
    """
    with Progress(console=console) as progress:
        for path in options.volumes:
            old = [row["case"] for row in report["runs"] if row["ct"] == path.name]
            done = {case for case in old if old.count(case) == each}
            report["runs"] = [
                row for row in report["runs"] if row["ct"] != path.name or row["case"] in done
            ]
            total, finished = each * options.cases, each * len(done)
            bar = progress.add_task(path.name, total=total, completed=finished)
            for row in rows_of(jxreg.load_volume(path, crop_air=False), done):
                report["runs"].append({"ct": path.name, **row})
                timing.write(options.out, json.dumps(report, indent=1))
                progress.advance(bar)
