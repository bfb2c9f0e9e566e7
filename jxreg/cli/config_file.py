"""A configuration in JSON, and the dataclass that it fills."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jxreg.register import RegisterConfig


def read_config(path: Path | None) -> "RegisterConfig":
    """The configuration of a file, or the default one.

    Raises:
        InputError: The file is not JSON, or has an unknown key or a value of the wrong kind.
    """
    from jxreg.errors import InputError
    from jxreg.io.pose_file import read_json
    from jxreg.register import RegisterConfig

    if path is None:
        return RegisterConfig()
    expected = "a configuration (JSON)"
    if not path.is_file():
        raise InputError(str(path), "no such file", expected, "check the path")
    entries = read_json(path, expected)
    if isinstance(entries, dict) and entries.get("format") == "jxreg-registration":
        entries = entries["config"]
    return _filled(RegisterConfig(), entries, str(path))


def _filled(default: Any, entries: Any, subject: str) -> Any:
    """The dataclass with its fields replaced; lists of dataclasses are made anew."""
    from jxreg.errors import InputError

    fields = {f.name: getattr(default, f.name) for f in dataclasses.fields(default)}
    unknown = set(entries) - set(fields) if isinstance(entries, dict) else {str(entries)[:40]}
    if unknown:
        raise InputError(
            subject, f"unknown {sorted(unknown)}", f"some of {sorted(fields)}", "correct the file"
        )
    changes = {}
    for name, value in entries.items():
        old = fields[name]
        if dataclasses.is_dataclass(old):
            changes[name] = _filled(old, value, subject)
        elif isinstance(old, tuple) and isinstance(value, list) and old:
            changes[name] = tuple(
                _filled(old[0], item, subject) if dataclasses.is_dataclass(old[0]) else item
                for item in value
            )
        elif _same_kind(old, value):
            changes[name] = value
        else:
            raise InputError(
                subject, f"{name} = {value!r}", f"a value like {old!r}", "correct the file"
            )
    return dataclasses.replace(default, **changes)


def _same_kind(old: Any, value: Any) -> bool:
    if isinstance(old, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(old) is type(value)
