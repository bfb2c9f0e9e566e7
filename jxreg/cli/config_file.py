"""A configuration in JSON, and the dataclass that it fills."""

import dataclasses
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from jxreg.register import RegisterConfig


def read_config(path: Path | None) -> "RegisterConfig":
    """The configuration of a file, or the default one.

    Raises:
        InputError: The file is not JSON, or has an unknown key, a value of the wrong kind, or
            levels that cannot be registered.
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
        entries = entries.get("config")
    config = _filled(RegisterConfig(), entries, str(path))
    _check_levels(config, str(path))
    return config


def _filled(default: Any, entries: Any, subject: str) -> Any:
    """The dataclass with its fields replaced; lists of dataclasses are made anew."""
    from jxreg.errors import InputError

    kinds = get_type_hints(type(default))
    unknown = set(entries) - set(kinds) if isinstance(entries, dict) else {str(entries)[:40]}
    if unknown:
        raise InputError(
            subject, f"unknown {sorted(unknown)}", f"some of {sorted(kinds)}", "correct the file"
        )
    changes = {}
    for name, value in entries.items():
        old = getattr(default, name)
        if dataclasses.is_dataclass(old):
            changes[name] = _filled(old, value, subject)
        elif isinstance(value, dict) and (kind := _dataclass_in(kinds[name])) is not None:
            changes[name] = _filled(kind(), value, subject)
        elif get_origin(kinds[name]) is tuple and isinstance(value, list):
            changes[name] = _several(old[0], get_args(kinds[name])[0], name, value, subject)
        elif _is_of(kinds[name], value):
            changes[name] = value
        else:
            raise InputError(
                subject, f"{name} = {value!r}", f"a value like {old!r}", "correct the file"
            )
    return dataclasses.replace(default, **changes)


def _dataclass_in(kind: Any) -> Any:
    """The dataclass that a field may hold instead of None; None if it holds none."""
    options = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else ()
    return next((option for option in options if dataclasses.is_dataclass(option)), None)


def _several(default: Any, kind: Any, name: str, values: list, subject: str) -> tuple:
    """The items of a list: dataclasses made anew, or plain values."""
    from jxreg.errors import InputError

    if dataclasses.is_dataclass(default):
        return tuple(_filled(default, item, subject) for item in values)
    if not values or not all(_is_of(kind, value) for value in values):
        raise InputError(subject, f"{name} = {values!r}", f"[{default!r}, ...]", "correct the file")
    return tuple(values)


def _is_of(kind: Any, value: Any) -> bool:
    """Whether a value of JSON is of a field's type; whole numbers are floats too."""
    if get_origin(kind) in (Union, types.UnionType):
        return any(_is_of(option, value) for option in get_args(kind))
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind


def _check_levels(config: "RegisterConfig", subject: str) -> None:
    """Refuses levels that would fail while they are compiled.

    Raises:
        InputError: No level, an unknown similarity or optimizer, or sizes that do not fit.
    """
    from jxreg.ascent import check_climb
    from jxreg.errors import InputError
    from jxreg.similarity import SIMILARITIES

    def refuse(found: str, expected: str):
        raise InputError(subject, found, expected, "correct the file")

    if not config.levels:
        refuse("levels = []", "one level or more")
    for name in (config.similarity, *(level.similarity for level in config.levels)):
        if name is not None and name not in SIMILARITIES:
            refuse(f"similarity = {name!r}", f"one of {sorted(SIMILARITIES)}")
    largest = max(level.pixels for level in config.levels)
    for level in config.levels:
        if level.climb is not None:
            check_climb(level.climb, subject)
        for name, least in (("pixels", 1), ("voxels", 0), ("steps", 1)):
            if getattr(level, name) < least:
                refuse(f"{name} = {getattr(level, name)}", f"at least {least}")
        if largest % level.pixels:
            refuse(f"pixels = {level.pixels}", f"a divisor of the largest level's {largest}")
