"""Terminal output: steps with a spinner and their time, tables, verdicts."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

COLOURS = {"good": "green", "doubt": "yellow", "bad": "red"}


def progress_console() -> "Console":
    """Where progress goes: the standard error, so that results can be piped."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def result_console() -> "Console":
    """Where results go: the standard output."""
    from rich.console import Console

    return Console(highlight=False)


@contextmanager
def step(console: "Console", text: str, seconds: dict[str, float] | None = None) -> Iterator[None]:
    """Shows a spinner while the block runs, and afterwards one line with its time.

    Args:
        console: Where to show it; a log file gets the line alone.
        text: What is being done, also the key of the time.
        seconds: Gets the time [s].
    """
    from rich.text import Text

    begin = time.perf_counter()
    with console.status(Text(printable(text))):
        yield
    elapsed = time.perf_counter() - begin
    if seconds is not None:
        seconds[text] = elapsed
    line = Text.assemble(("✓ ", "green"), printable(text), (f"  {elapsed:.1f} s", "dim"))
    console.print(line, soft_wrap=True)


def print_registration(console: "Console", record: Mapping[str, Any]) -> None:
    """The verdict and the pose of one registration, in words."""
    from rich.table import Table
    from rich.text import Text

    from jxreg.report import words

    verdict = words.verdict(record)
    colour = COLOURS[verdict.kind]
    console.print()
    console.print(
        Text.assemble(
            (f" {verdict.headline} ", f"bold white on {colour}"), "  ", printable(record["title"])
        )
    )
    console.print(Text(" ".join([verdict.explanation, *record["reasons"]]), style=colour))
    table = Table("", "start", "result", "change", "±", box=None, padding=(0, 2, 0, 0))
    for row in words.pose_rows(record):
        table.add_row(
            row.name, row.start, Text(row.result, "bold"), row.change, Text(row.deviation, "dim")
        )
    before, after = (words.number(record[k], 3) for k in ("initial_similarity", "similarity"))
    table.add_row("Similarity", before, Text(after, "bold"))
    table.add_row("Probability", "", Text(words.percent(record["probability"])))
    for name, error in record["errors"].items():
        start, end = (words.number(error[k], 2) for k in ("start", "end"))
        table.add_row(f"True {name}", start, Text(end, "bold"))
    console.print(table)


def printable(text: str) -> str:
    """Text without control characters, such as those that a file's tags may hold."""
    return "".join(c if c.isprintable() else "�" for c in text)
