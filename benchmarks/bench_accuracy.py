"""Success and capture range of `register` from the published starts, one view at a time.

    python benchmarks/bench_accuracy.py
    python benchmarks/bench_accuracy.py --cts head --per-bin 1 --nearby
    python benchmarks/bench_accuracy.py --cts head --per-bin 1 --far

Protocol (van de Kraats et al., IEEE TMI 24(9), 2005): each file in benchmarks/starts/ holds 80
views of a CT, every one with a start, 10 in each bin of 10 mm of initial mTRE. An X-ray of the view
is made by `simulated_xray` from the full CT, and registered from the start with the default
configuration; with `--nearby` it tries other starts around it too (`NEARBY`), with `--far` it
begins at what a search around the start finds (`AROUND`). A run is a success if its mRPD is below
2 mm. The capture range is the initial mTRE of the first bin, going outwards, with a success rate
below 95 %. Runs without a pose are failures. The CTs are looked for in `$JXREG_DATA` and must have
the checksum of the file of starts. Runs are written as they are finished, and a second call goes on
where the first one was stopped.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import accuracy
import jax
import jax.numpy as jnp
import numpy as np
import timing
from bench_register import crop_ends
from outcome import outcome, setting
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table
from simulated_xray import materials, simulate

import jxreg
from jxreg import evaluation, metrics
from jxreg.descent import Nearby
from jxreg.evaluation import Outcome, Protocol
from jxreg.global_search import AROUND
from jxreg.io.checksum import sha256
from jxreg.io.start_file import StartFile, load_starts
from jxreg.register import RegisterConfig

ASKED_MM = 60.0
"""Capture range that is asked for."""
NEARBY = Nearby(count=512, kept=12, carried=4, apart=3.0, shift=50.0, rotation=0.3)
"""For starts up to 60 mm off, without a search."""


def cases(starts: StartFile, per_bin: int) -> list[int]:
    """The first starts of each bin, by number."""
    number = np.digitize(starts.mtre, starts.edges) - 1
    rank = [(number[:i] == number[i]).sum() for i in range(len(number))]
    return [i for i, r in enumerate(rank) if r < per_bin]


def run(
    name: str,
    starts: StartFile,
    ct: jxreg.Volume,
    crop: float,
    todo: list[int],
    config: RegisterConfig = RegisterConfig(),
    far: bool = False,
) -> Iterator[dict]:
    """Registers each case; the first one of a volume compiles."""
    landmarks, isocenter = (
        jnp.asarray(starts.landmarks, float),
        jnp.asarray(starts.isocenter, float),
    )
    two, make = materials(ct), jax.jit(simulate)
    registered = crop_ends(ct, crop)
    judge = jax.jit(evaluation.outcome)
    for i, number in enumerate(todo):
        truth, start = accuracy.pose_and_start(starts, number)
        image = make(jax.random.key(1000 * starts.key + number), two, starts.camera, truth)
        began = time.perf_counter()
        frame = jxreg.Frame(image, starts.camera)
        around = jxreg.search(registered, frame, start, config=AROUND) if far else start
        result = jxreg.register(registered, frame, around, config=config)
        jax.block_until_ready(result)
        seconds = time.perf_counter() - began
        errors = judge(result.pose, truth, landmarks, starts.camera)
        initial = float(jax.jit(metrics.mtre)(start, truth, landmarks))
        if abs(initial - starts.mtre[number]) > 0.05:
            raise SystemExit(
                f"{name}: start {number} is {initial:.2f} mm off, not as its file says"
            )
        yield {
            "ct": name,
            "crop_mm": crop,
            "case": number,
            "start_mtre_mm": initial,
            **outcome(result, truth, landmarks, isocenter),
            "mpd_mm": float(errors.mpd),
            "rotation_degrees": float(errors.rotation_degrees),
            "translation_mm": np.asarray(errors.translation, float).tolist(),
            "kept": float(result.kept),
            "seconds": seconds,
            "compiled": i == 0,
        }


def summary(runs: list[dict]) -> evaluation.Summary:
    """What the runs of one CT, or of several, show."""
    columns = {k: jnp.asarray([run[k] for run in runs], float) for k in _NUMBERS}
    outcomes = Outcome(
        columns["mtre_mm"],
        columns["mpd_mm"],
        columns["mrpd_mm"],
        columns["rotation_degrees"],
        jnp.asarray([run["translation_mm"] for run in runs], float),
    )
    accepted = jnp.asarray([run["status"] == "OK" for run in runs])
    initial, score = columns["start_mtre_mm"], columns["probability"]
    return evaluation.summarize(outcomes, Protocol(), initial, accepted, score)


_NUMBERS = ("mtre_mm", "mpd_mm", "mrpd_mm", "rotation_degrees", "start_mtre_mm", "probability")


def summaries(runs: list[dict]) -> list[dict]:
    """A line for each CT and crop, and one for all CTs of a crop."""
    lines = []
    for crop in sorted({run["crop_mm"] for run in runs}):
        of_crop = [run for run in runs if run["crop_mm"] == crop]
        names = list(dict.fromkeys(run["ct"] for run in of_crop))
        for name in [*names, *(["all"] if len(names) > 1 else [])]:
            mine = [run for run in of_crop if name in (run["ct"], "all")]
            seconds = [run["seconds"] for run in mine if not run["compiled"]] or [np.nan]
            record = evaluation.as_record(summary(mine), Protocol())
            lines.append(
                {
                    "ct": name,
                    "crop_mm": crop,
                    "runs": len(mine),
                    "median_seconds": float(np.median(seconds)),
                    "passed": record["capture_range"] >= ASKED_MM,
                    **record,
                }
            )
    return lines


def table(lines: list[dict]) -> Table:
    shown = Table(title="mRPD of one view, from the published starts", title_justify="left")
    for name in ("CT", "crop", "runs", "< 1 mm", "< 2 mm (95 %)", "> 10 mm", "capture range"):
        shown.add_column(name, justify="left" if name == "CT" else "right")
    for name in ("false accept", "true accept", "s"):
        shown.add_column(name, justify="right")
    for line in lines:
        success, verdict = line["success"], line["verdict"]
        low, high = success["low"][1], success["high"][1]
        shown.add_row(
            line["ct"],
            f"{line['crop_mm']:g} mm",
            str(line["runs"]),
            f"{success['rate'][0]:.1%}",
            f"{success['rate'][1]:.1%} ({low:.1%} to {high:.1%})",
            f"{line['gross_failures']['rate']:.1%}",
            f"{line['capture_range']:g} mm",
            f"{verdict['accepted_bad']} of {verdict['accepted_bad'] + verdict['rejected_bad']}",
            f"{verdict['accepted_good']} of {verdict['accepted_good'] + verdict['rejected_good']}",
            f"{line['median_seconds']:.2f}",
        )
    return shown


def begin(
    options: argparse.Namespace,
    files: dict[str, StartFile],
    config: RegisterConfig = RegisterConfig(),
    far: bool = False,
) -> dict:
    """A new report, or the one that is to be gone on with."""
    new = setting(__doc__) | timing.machine()
    new["config"], new["search"] = repr(config), repr(AROUND) if far else None
    new["starts"] = {name: sha256(options.starts / f"{name}.json") for name in files}
    if not options.out.exists():
        return new
    report = json.loads(options.out.read_text())
    old = report.get("starts", {})
    same = all(old.get(name, checksum) == checksum for name, checksum in new["starts"].items())
    if any(report.get(key) != new[key] for key in ("config", "search")) or not same:
        raise SystemExit(f"{options.out}: of another configuration or other starts; give --out")
    report["starts"] = old | new["starts"]
    return report


def load_ct(options: argparse.Namespace, starts: StartFile) -> jxreg.Volume:
    path = options.data / starts.ct
    if not path.is_file() or sha256(path) != starts.sha256:
        raise SystemExit(f"{path}: no such CT, or another one than the starts are for; see --data")
    return jxreg.load_volume(path, crop_air=False)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--cts", nargs="+", default=list(accuracy.CTS), help="names of files of starts")
    add("--per-bin", type=int, default=10, help="take so many starts of each bin")
    add("--crops", type=float, nargs="+", default=[0.0], help="cut off at each end of the CT [mm]")
    how = parser.add_mutually_exclusive_group().add_argument
    how("--nearby", action="store_true", help="try other starts too")
    how("--far", action="store_true", help="search around the start")
    add("--data", type=Path, default=accuracy.data_folder(), help="folder of the CTs")
    add("--starts", type=Path, default=accuracy.STARTS, help="folder of the files of starts")
    add("--out", type=Path, default=Path("bench_accuracy.json"))
    return parser.parse_args()


def main() -> None:
    """Shows a table; writes everything as JSON."""
    options, console = arguments(), Console(width=None if os.isatty(1) else 140)
    files = {name: load_starts(options.starts / f"{name}.json") for name in options.cts}
    config = RegisterConfig(nearby=NEARBY) if options.nearby else RegisterConfig()
    report = begin(options, files, config, options.far)
    done = {(run["ct"], run["crop_mm"], run["case"]) for run in report["runs"]}
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        for name, starts in files.items():
            wanted = cases(starts, options.per_bin)
            todo = {c: [n for n in wanted if (name, c, n) not in done] for c in options.crops}
            total = len(wanted) * len(todo)
            left = sum(map(len, todo.values()))
            bar = progress.add_task(name, total=total, completed=total - left)
            ct = load_ct(options, starts) if left else None
            for crop, numbers in todo.items():
                how = numbers, config, options.far
                for row in run(name, starts, ct, crop, *how) if numbers else ():
                    report["runs"].append(row)
                    timing.write(options.out, json.dumps(report, indent=1))
                    progress.advance(bar)
    report["summary"] = summaries(report["runs"])
    timing.write(options.out, json.dumps(report, indent=1))
    console.print(table(report["summary"]))
    for line in report["summary"]:
        said = f"{line['ct']}, crop {line['crop_mm']:g} mm: capture range {line['capture_range']:g}"
        verdict = "pass" if line["passed"] else "FAIL"
        console.print(f"{said} mm, asked >= {ASKED_MM:g}: {verdict}", highlight=False)


if __name__ == "__main__":
    main()
