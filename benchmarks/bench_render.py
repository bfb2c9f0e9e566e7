"""Speed of rendering against nanodrr and DiffDRR, alternated in one process, with errors beside.

    python benchmarks/bench_render.py chest.nii.gz --pixels 200 64 512 1024 --batch 1 8 64 --scaling

Protocol: SDD 1020 mm, source 850 mm from the isocenter, a detector of 400 mm, AP view tilted by
(5, -3, 2) degrees and shifted; all renderers get the same voxels and the same views. nanodrr and
DiffDRR take the same number of samples on every ray (500), our march as many on average of the rays
that meet the volume. Times are medians a frame, of calls in turn; compiling is timed apart. Errors
are of the first view, in parts of the image's maximum, against a march of 8000 samples; those of a
gradient against that march's gradient, with 1 mm and 0.02 rad as units. Memory: of ours what XLA
says that the compiled program takes beside its arguments; of the others how far the process (on a
GPU, torch's allocations) grows.
"""

import argparse
import gc
import json
import os
from dataclasses import asdict, replace
from pathlib import Path

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # a GPU is shared with torch

import compare
import measuring
import peers
import scene as scene_
import timing
from measuring import RENDERERS, WHAT, Case, Measured, Truth
from outcome import setting
from peers import Peer
from rich.console import Console
from scene import Scene

from jxreg.volume import Volume

SAMPLES = (125, 250, 1000, 2000)
POOLED = (2, 4)
CONSOLE = Console(width=None if os.isatty(1) else 140)


def cases(options: argparse.Namespace) -> list[Case]:
    """Every size of the image with the first batch, then every batch with the first size."""
    first = Case(options.pixels[0], options.batch[0], options.samples)
    listed = [replace(first, pixels=pixels) for pixels in options.pixels]
    listed += [replace(first, batch=batch) for batch in options.batch]
    if options.scaling:
        listed += [replace(first, samples=samples) for samples in SAMPLES]
        listed += [replace(first, pooled=pooled) for pooled in POOLED]
    return list(dict.fromkeys(listed))


def run(ct: Volume, case: Case, options: argparse.Namespace, first: bool) -> dict:
    """Measures one case; the first one also at equal error."""
    scene = scene_.make_scene(ct, case.pixels, case.batch, case.pooled)
    truth = measuring.make_truth(scene, options.reference_samples)
    what = [kind for kind in WHAT if kind == "forward" or kind in options.what]
    widths = (None, options.vector_width) if options.vector_width else (None,)
    names, theirs = options.renderers, options.peers
    if case.samples != options.samples:  # of interest to what takes samples
        names = [name for name in names if name == "trilinear"]
        theirs = [name for name in theirs if name != "diffdrr-siddon"]
    rows = list(measuring.ours(scene, truth, case.samples, names, what, widths))
    skipped: list[str] = []
    for make in peers.makers(case.samples, theirs):
        try:
            rows += fitting(scene, truth, make(scene), what, options.peer_memory_gb, skipped)
        except Exception as error:  # out of memory, a kernel that does not compile: ours go on
            skipped.append(f"{type(error).__name__}: {error}".splitlines()[0])
        gc.collect()
    if first and "nanodrr" in options.peers and "joseph" in options.renderers:
        rms = next(row.row["rms_error"] for row in rows if row.row["renderer"] == "joseph")
        peer = measuring.equally_good(scene, truth, rms)
        rows += measuring.theirs(scene, truth, peer, what, equal_error=True)
    return {
        **asdict(case),
        "volume_shape": list(scene.volume.mu.shape),
        "skipped": skipped,
        "rows": measure(rows, options.rounds, case.batch),
    }


def fitting(
    scene: Scene, truth: Truth, peer: Peer, what: list[str], memory_gb: float, skipped: list[str]
) -> list[Measured]:
    """Rows of a peer, but for those that take too much memory, which are named in `skipped`."""
    wanted = []
    for kind in (kind for kind in what if kind in ("forward", "gradient")):
        needed = measuring.bytes_needed(peer, scene, kind) / 1e9
        if needed <= memory_gb:
            wanted.append(kind)
        else:
            skipped.append(f"{peer.name}, {compare.NAMES[kind]}: takes about {needed:.0f} GB")
    return list(measuring.theirs(scene, truth, peer, wanted))


def measure(rows: list[Measured], rounds: int, frames: int) -> list[dict]:
    """Times all rows in turn."""
    times = timing.alternate({str(i): row.call for i, row in enumerate(rows)}, rounds)
    return [row.row | timing.summary(times[str(i)], frames) for i, row in enumerate(rows)]


def say(case: dict, device: str) -> None:
    """Shows a case on the terminal."""
    CONSOLE.print(compare.table(case))
    for line in case["skipped"]:
        CONSOLE.print("left out:", line)
    lines = [compare.sentence(line) for line in compare.asked(case, device)]
    for line in lines + compare.memory_asked(case):
        CONSOLE.print(line, highlight=False)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("volume", type=Path, help="CT in Hounsfield units")
    add("--pixels", type=int, nargs="+", default=[200], help="sizes; each with the first batch")
    add("--batch", type=int, nargs="+", default=[1], help="batches; each with the first size")
    add("--samples", type=int, default=500)
    add("--rounds", type=int, default=5)
    add("--what", nargs="+", choices=WHAT, default=WHAT, help="the image is always among them")
    add("--renderers", nargs="+", choices=RENDERERS, default=RENDERERS, help="of ours")
    add(
        "--peers", nargs="*", choices=peers.NAMES, default=list(peers.NAMES), help="none: ours only"
    )
    add("--peer-memory-gb", type=float, default=12.0, help="leave out what takes more")
    add("--vector-width", type=int, help="ours compiled for such vectors too: 512 on AVX-512")
    add("--scaling", action="store_true", help="other numbers of samples, and smaller volumes too")
    add("--reference-samples", type=int, default=scene_.REFERENCE_SAMPLES)
    add("--out", type=Path, default=Path("bench_render.json"))
    return parser.parse_args()


def head(options: argparse.Namespace) -> dict:
    """What the report begins with."""
    report = setting(__doc__) | timing.machine()
    del report["config"]  # of registration
    return report | {
        "peers_on": peers.device_name() if options.peers else None,
        "volume": options.volume.name,
        "rounds": options.rounds,
        "reference_samples": options.reference_samples,
        "runs": report.pop("runs"),
    }


def main() -> None:
    """Prints a table for each case; writes everything as JSON."""
    options = arguments()
    reason = peers.missing() if options.peers else "nanodrr and DiffDRR are not asked for"
    if reason:
        options.peers = []
        CONSOLE.print(reason)
    report = head(options)
    ct, device = scene_.load(options.volume), "cpu" if timing.on_cpu() else "gpu"
    listed = cases(options)
    for case in listed:
        measured = run(ct, case, options, case == listed[0])
        measured["ratios"] = compare.ratios(measured)
        measured["asked"] = compare.asked(measured, device)
        report["runs"].append(measured)
        timing.write(options.out, json.dumps(report, indent=1))
        say(measured, device)


if __name__ == "__main__":
    main()
