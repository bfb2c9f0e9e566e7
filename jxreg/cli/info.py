"""`jxreg info`: what a file holds, what is missing, and the fix."""

import json as json_
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

if TYPE_CHECKING:
    from rich.console import Console

    from jxreg.io import Description


def run_info(
    files: tyro.conf.Positional[tuple[Path, ...]],
    /,
    json: bool = False,
    series: str | None = None,
) -> int:
    """Tell what files hold: geometry, orientation, values, X-ray tags, what is missing, the fix.

    No patient tag is shown. Exit code 3: a file was refused; the others are told all the same.

    Args:
        files: CTs, DICOM folders, label maps, X-rays, poses, cameras, transforms, landmarks.
        json: Print JSON, a list with one entry a file.
        series: SeriesInstanceUID or SeriesNumber, where a folder holds several series.
    """
    from jxreg.cli.console import printable, result_console
    from jxreg.errors import InputError
    from jxreg.io import describe

    console, entries, refused = result_console(), [], 0
    for path in files:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the description tells it
                found = describe(path, series=series)
        except InputError as error:
            refused += 1
            entries.append({"file": str(path), "error": str(error)})
            print(f"error: {printable(str(error))}", file=sys.stderr)
            continue
        entries.append({"file": str(path), **found._asdict()})
        if not json:
            _print(console, path, found)
    if json:
        print(json_.dumps(entries, indent=2))
    return 3 if refused else 0


def _print(console: "Console", path: Path, found: "Description") -> None:
    from rich.table import Table
    from rich.text import Text

    from jxreg.cli.console import printable

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, value in found.facts.items():
        table.add_row(Text(printable(name), "dim"), Text(_words(value)))
    console.print()
    console.print(Text.assemble((printable(str(path)), "bold"), "  ", found.kind), soft_wrap=True)
    console.print(table)
    for problem in found.problems:
        console.print(Text.assemble(("! ", "bold yellow"), printable(problem)), soft_wrap=True)


def _words(value: Any) -> str:
    """A fact as text; rows of a matrix and entries of a dict on lines of their own."""
    from jxreg.cli.console import printable

    if isinstance(value, dict):
        return "\n".join(f"{printable(str(k))}: {_words(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        nested = any(isinstance(item, list | tuple) for item in value)
        return ("\n" if nested else ", ").join(_words(item) for item in value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return printable(str(value))
