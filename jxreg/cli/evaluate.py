"""`jxreg evaluate`: how good registrations are, against the truth."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

if TYPE_CHECKING:
    from rich.console import Console

    from jxreg.cli.judged import Judged
    from jxreg.evaluation import Protocol, Summary

FILES = ("runs.csv", "errors.svg", "success.svg", "evaluation.json")


def run_evaluate(
    results: tyro.conf.Positional[tuple[Path, ...]],
    /,
    truth: Path,
    landmarks: Path,
    out: Path | None = None,
    metric: Literal["mrpd", "mpd", "mtre"] = "mrpd",
    good_mm: float = 2.0,
    bin_mm: float = 10.0,
    bins: int = 8,
) -> int:
    """Judge registrations: errors, success rates, capture range, trust in the verdict.

    A run whose registration gave no pose is a failure. Capture range and success by initial mTRE
    come from the starts that a registration.json tells, the verdict from its status.

    Args:
        results: Folders of `jxreg register` (all registration.json in them), or single files:
            registration.json, pose files (.json, .tfm).
        truth: The true pose: a pose file for all results, or a folder with one for each,
            named as the folder or the file of the result.
        landmarks: Anatomical points: .mrk.json or .fcsv of 3D Slicer, or .csv.
        out: Folder for evaluation.json, runs.csv, errors.svg and success.svg.
        metric: Error that decides about success: mrpd for one view, mtre for several.
        good_mm: A run below it is a success [mm].
        bin_mm: Width of a bin of initial mTRE [mm].
        bins: How many bins.
    """
    from jxreg.cli.console import progress_console, result_console, step
    from jxreg.cli.judged import judge, read_runs
    from jxreg.cli.provenance import make_folder
    from jxreg.io import load_landmarks

    protocol = _protocol(metric, good_mm, bin_mm, bins)
    console = progress_console()
    points = load_landmarks(landmarks).points
    with step(console, "read the results"):
        runs = read_runs(results, truth)
    if out is not None:
        make_folder(out)
    with step(console, f"judge {len(runs)} results"):
        judged = judge(runs, points, protocol)
    print_summary(result_console(), judged.summary, protocol, len(runs))
    if out is not None:
        write_evaluation(out, judged, protocol, landmarks)
        result_console().print(str(out / "evaluation.json"), markup=False, soft_wrap=True)
    return 0


def _protocol(metric: str, good_mm: float, bin_mm: float, bins: int) -> "Protocol":
    from jxreg.errors import InputError
    from jxreg.evaluation import Protocol

    for option, value in (("--good-mm", good_mm), ("--bin-mm", bin_mm), ("--bins", bins)):
        if not 0 < value < float("inf"):
            raise InputError(option, f"{value:g}", "a positive number", "leave it out, or mend it")
    edges = tuple(bin_mm * i for i in range(bins + 1))
    return Protocol(metric=metric, good_mm=good_mm, edges_mm=edges)


def print_summary(console: "Console", summary: "Summary", protocol: "Protocol", runs: int) -> None:
    """Tables: success and errors, bins, verdict."""
    from rich.table import Table

    name = protocol.metric
    table = Table(title=f"{runs} runs, {name}", title_justify="left", box=None)
    table.add_column("")
    table.add_column("", justify="right")
    table.add_column("95 % interval", justify="right", style="dim")
    for i, threshold in enumerate(protocol.thresholds_mm):
        table.add_row(f"below {threshold:g} mm", *_rate(summary.success, i))
    table.add_row(f"above {protocol.gross_mm:g} mm", *_rate(summary.gross_failures))
    errors = getattr(summary.percentiles, name)
    for percent in (50, 75, 95):
        table.add_row(f"{percent}th percentile", _mm(errors[percent]), "")
    table.add_row(f"mean of successes (< {protocol.good_mm:g} mm)", _mm(summary.mean_of_successes))
    table.add_row("95th percentile of successes", _mm(summary.p95_of_successes))
    if summary.capture_range is not None:
        table.add_row(f"capture range ({protocol.required:.0%})", _mm(summary.capture_range))
    console.print(table)
    if summary.bins is not None:
        console.print(_bins_table(summary.bins))
    if summary.verdict is not None:
        console.print(_verdict_table(summary.verdict, protocol))


def _bins_table(bins: Any):
    from rich.table import Table

    table = Table("initial mTRE", "runs", "success", "95 % interval", box=None)
    for i, count in enumerate(bins.count.tolist()):
        low, high = float(bins.edges[i]), float(bins.edges[i + 1])
        if count:
            table.add_row(f"{low:g} to {high:g} mm", str(count), *_rate(bins.success, i))
    return table


def _verdict_table(verdict: Any, protocol: "Protocol"):
    from rich.table import Table

    v = verdict
    table = Table("verdict", f"below {protocol.good_mm:g} mm", "not", "", "95 % interval", box=None)
    accepted, rejected = _rate(v.true_accept), _rate(v.false_accept)
    table.add_row(
        "OK", str(v.accepted_good), str(v.accepted_bad), f"good ones OK {accepted[0]}", accepted[1]
    )
    table.add_row(
        "not OK",
        str(v.rejected_good),
        str(v.rejected_bad),
        f"bad ones OK {rejected[0]}",
        rejected[1],
    )
    table.add_row("", "", "", f"area under ROC {float(v.auc):.3f}", "")
    return table


def _rate(rate: Any, i: int | None = None) -> tuple[str, str]:
    share, low, high = (float(part if i is None else part[i]) for part in rate)
    return f"{share:.1%}" if share == share else "-", f"{low:.1%} to {high:.1%}"


def _mm(value: Any) -> str:
    value = float(value)
    return f"{value:.3g} mm" if abs(value) < float("inf") else "-"


def write_evaluation(out: Path, judged: "Judged", protocol: "Protocol", landmarks: Path) -> None:
    """Writes tables and figures; evaluation.json comes last.

    Raises:
        InputError: A file cannot be written.
    """
    from jxreg import plot
    from jxreg.cli.judged import csv_text
    from jxreg.cli.provenance import input_entry
    from jxreg.evaluation import METRICS, as_record
    from jxreg.io import write_atomic
    from jxreg.io.pose_file import json_bytes
    from jxreg.report.record import versions

    for name in FILES:
        (out / name).unlink(missing_ok=True)
    summary, bins = judged.summary, judged.summary.bins
    errors = {_TITLES[name]: getattr(judged.outcomes, name) for name in METRICS}
    figure = plot.error_figure(errors, protocol.thresholds_mm)
    write_atomic(out / "errors.svg", plot.svg(figure))
    if bins is not None and summary.capture_range is not None and int(bins.count.sum()):
        rates = bins.success.rate, bins.success.low, bins.success.high
        capture = float(summary.capture_range)
        figure = plot.success_figure(bins.edges, bins.count, rates, protocol.required, capture)
        write_atomic(out / "success.svg", plot.svg(figure))
    write_atomic(out / "runs.csv", csv_text(judged, protocol).encode())
    record = {
        "format": "jxreg-evaluation",
        "version": 1,
        "runs": len(judged.names),
        **as_record(summary, protocol),
        "landmarks": input_entry("landmarks", landmarks),
        "versions": versions(),
    }
    write_atomic(out / "evaluation.json", json_bytes(record))


_TITLES = {"mtre": "mTRE", "mpd": "mPD", "mrpd": "mRPD"}
