"""The log of a training: JSON Lines, an entry a line, each with its `step`."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jxreg.errors import InputError
from jxreg.io.atomic import unwritable, write_atomic
from jxreg.io.boundary import existing_file

_EXPECTED = "a log of a training (JSON Lines, each with a step)"


def append(path: Path, entry: Mapping[str, Any]) -> None:
    """Adds one line, in a single write: it is there whole, or a last line without an end is cut.

    Numbers that are not finite become null.

    Raises:
        InputError: The file cannot be written.
    """
    line = json.dumps(_plain(entry), allow_nan=False) + "\n"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)
    except OSError as error:
        raise unwritable(path, error) from error


def truncate(path: Path, step: int) -> None:
    """Drops the entries after a step, and a last line that was not finished."""
    if path.exists() and path.stat().st_size:
        kept = [json.dumps(entry) for entry in load_log(path) if entry["step"] <= step]
        write_atomic(path, "".join(f"{line}\n" for line in kept).encode())


def load_log(path: str | Path) -> list[dict[str, Any]]:
    """Reads the entries; a last line that was not finished does not count.

    Raises:
        InputError: The file is missing, or a line is not JSON with a `step`.
    """
    path = existing_file(path, _EXPECTED)
    entries = []
    for number, line in enumerate(_lines(path), 1):
        try:
            entry = json.loads(line)
            entry["step"]
        except (ValueError, KeyError, TypeError) as error:
            found = f"line {number} is {line[:40]!r}"
            raise InputError(str(path), found, _EXPECTED, "give log.jsonl of a training") from error
        entries.append(entry)
    return entries


def _lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return text[: text.rfind("\n") + 1].splitlines()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, float):
        return value if value - value == 0 else None
    return value
