"""Optimisers side by side: success, accuracy and time from the same starts on the same X-rays.

    python benchmarks/bench_optimisers.py
    python benchmarks/bench_optimisers.py --cts head --largest 20 --methods "L-BFGS" xvr
    python benchmarks/bench_optimisers.py --cts pelvis head --untimed

Protocol: starts, X-rays and CTs as in bench_accuracy.py, the first starts of each bin of 10 mm of
initial mTRE up to a largest one. Each method (`optimisers.py`) gets the whole CT, the image and the
start. A run is a success if its mRPD is below 1 mm. Times are of one image on a machine that has
compiled already; `--untimed` leaves them out, where other work runs beside. Steps are those that
moved the pose, of CMA-ES evaluations of the similarity; a step of L-BFGS is a line search of
several. CMA-ES needs the package cmaes (extra `bench`). Runs are written as they are finished, and
a second call goes on where the first one was stopped.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import accuracy
import bench_accuracy
import jax
import jax.numpy as jnp
import numpy as np
import optimisers
import timing
from outcome import outcome, summary
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table
from simulated_xray import materials, simulate

import jxreg
from jxreg import metrics
from jxreg.io.start_file import StartFile, load_starts

SUCCESS_MM = 1.0
"""mRPD of a success."""


def run(
    name: str, starts: StartFile, ct: jxreg.Volume, todo: dict[str, list[int]], timed: bool = True
) -> Iterator[dict]:
    """A row for each method and each of its cases; to time it the first case runs twice."""
    two, make = materials(ct), jax.jit(simulate)
    landmarks = jnp.asarray(starts.landmarks, float)
    isocenter = jnp.asarray(starts.isocenter, float)
    for method, numbers in todo.items():
        for i, number in enumerate(numbers):
            truth, start = accuracy.pose_and_start(starts, number)
            image = make(jax.random.key(1000 * starts.key + number), two, starts.camera, truth)
            frame = jxreg.Frame(jax.block_until_ready(image), starts.camera)
            if timed and i == 0:
                optimisers.METHODS[method](ct, frame, start)
            began = time.perf_counter()
            found = optimisers.METHODS[method](ct, frame, start)
            seconds = time.perf_counter() - began
            yield {
                "method": method,
                "ct": name,
                "case": number,
                "start_mtre_mm": float(starts.mtre[number]),
                **outcome(found.result, truth, landmarks, isocenter),
                "seconds": seconds if timed else None,
                **effort(found, truth, landmarks),
            }


def effort(found: optimisers.Found, truth, landmarks) -> dict:
    """Steps or evaluations until the end, and until the mRPD was below 1 mm."""
    if not found.spent.size:
        return {"steps": 0, "steps_to_1mm": None}
    errors = _along(found.path, truth, landmarks)
    good = np.asarray(errors) < SUCCESS_MM
    first = int(found.spent[good.argmax()]) if good.any() else None
    return {"steps": int(found.spent[-1]), "steps_to_1mm": first}


_along = jax.jit(jax.vmap(metrics.mrpd, in_axes=(0, None, None)))


def summaries(runs: list[dict]) -> list[dict]:
    """A line for each method, over all CTs."""
    lines = []
    for method in dict.fromkeys(run["method"] for run in runs):
        mine = [run for run in runs if run["method"] == method]
        lines.append(
            {
                "method": method,
                "cts": list(dict.fromkeys(run["ct"] for run in mine)),
                "runs": len(mine),
                **summary(mine),
                "median_seconds": _median([run["seconds"] for run in mine]),
                "median_steps": float(np.median([run["steps"] for run in mine])),
                "median_steps_to_1mm": _median([run["steps_to_1mm"] for run in mine]),
            }
        )
    return lines


def _median(values: list[float | None]) -> float | None:
    """Of those that are there; None if none is."""
    there = [value for value in values if value is not None]
    return float(np.median(there)) if there else None


def table(lines: list[dict]) -> Table:
    shown = Table(title="Optimisers, from the same starts", title_justify="left")
    shown.add_column("method")
    for name in ("< 1 mm", "mRPD", "mTRE", "s", "steps", "to 1 mm"):
        shown.add_column(name, justify="right")
    for line in lines:
        seconds, to_1mm = line["median_seconds"], line["median_steps_to_1mm"]
        shown.add_row(
            line["method"],
            f"{round(line['success_mrpd_1mm'] * line['runs'])} of {line['runs']}",
            f"{line['median_mrpd_mm']:.2f} mm",
            f"{line['median_mtre_mm']:.2f} mm",
            "-" if seconds is None else f"{seconds:.2f}",
            f"{line['median_steps']:.0f}",
            "-" if to_1mm is None else f"{to_1mm:.0f}",
        )
    return shown


def begin(options: argparse.Namespace, files: dict[str, StartFile]) -> dict:
    """A new report, or the one that is to be gone on with."""
    report = bench_accuracy.begin(options, files) | {"protocol": __doc__}
    settings = {name: optimisers.SETTINGS[name] for name in options.methods}
    old = report.get("methods", {})
    changed = [name for name, setting in settings.items() if old.get(name, setting) != setting]
    if changed:
        raise SystemExit(f"{options.out}: other settings of {', '.join(changed)}; give --out")
    return report | {"methods": old | settings}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add, methods = parser.add_argument, list(optimisers.METHODS)
    add("--cts", nargs="+", default=list(accuracy.CTS), help="names of files of starts")
    add("--methods", nargs="+", default=methods, choices=methods, metavar="METHOD")
    add("--per-bin", type=int, default=1, help="take so many starts of each bin")
    add("--largest", type=float, default=40.0, help="largest initial mTRE [mm]")
    add("--untimed", action="store_true", help="run nothing twice, write down no times")
    add("--data", type=Path, default=accuracy.data_folder(), help="folder of the CTs")
    add("--starts", type=Path, default=accuracy.STARTS, help="folder of the files of starts")
    add("--out", type=Path, default=Path("bench_optimisers.json"))
    return parser.parse_args()


def main() -> None:
    """Shows a table; writes everything as JSON."""
    options, console = arguments(), Console(width=None if os.isatty(1) else 140)
    files = {name: load_starts(options.starts / f"{name}.json") for name in options.cts}
    report = begin(options, files)
    done = {(run["method"], run["ct"], run["case"]) for run in report["runs"]}
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        for name, starts in files.items():
            cases = bench_accuracy.cases(starts, options.per_bin)
            cases = [number for number in cases if starts.mtre[number] <= options.largest]
            wanted = dict.fromkeys(options.methods, cases)
            todo = {m: [n for n in ns if (m, name, n) not in done] for m, ns in wanted.items()}
            left = sum(map(len, todo.values()))
            total = len(cases) * len(wanted)
            bar = progress.add_task(name, total=total, completed=total - left)
            if not left:
                continue
            ct = bench_accuracy.load_ct(options, starts)
            for row in run(name, starts, ct, todo, not options.untimed):
                report["runs"].append(row)
                timing.write(options.out, json.dumps(report, indent=1))
                progress.advance(bar)
    report["summary"] = summaries(report["runs"])
    timing.write(options.out, json.dumps(report, indent=1))
    console.print(table(report["summary"]))


if __name__ == "__main__":
    main()
