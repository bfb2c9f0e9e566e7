"""Configurations in JSON: frozen dataclasses of plain numbers, and back."""

import dataclasses
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jxreg.errors import InputError


def filled(default: Any, entries: Any, subject: str) -> Any:
    """The dataclass with its fields replaced; lists of dataclasses are made anew.

    Args:
        default: A dataclass; fields that are not named stay as they are.
        entries: Values by field, as JSON has them; `dataclasses.asdict` is the inverse.
        subject: The file that they come from, for errors.

    Raises:
        InputError: A field is unknown, or a value is of the wrong kind.
    """
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
            changes[name] = filled(old, value, subject)
        elif isinstance(value, dict) and (kind := _dataclass_in(kinds[name])) is not None:
            changes[name] = filled(kind(), value, subject)
        elif get_origin(kinds[name]) is tuple and isinstance(value, list):
            changes[name] = _several(old, kinds[name], name, value, subject)
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


def _several(default: tuple, kind: Any, name: str, values: list, subject: str) -> tuple:
    """The items of a list: dataclasses made anew, or plain values."""
    item, *others = get_args(kind)
    if default and dataclasses.is_dataclass(default[0]):
        return tuple(filled(default[0], value, subject) for value in values)
    fixed = others != [...]
    right = len(values) == 1 + len(others) if fixed else bool(values) or not default
    if not right or not all(_is_of(item, value) for value in values):
        found = f"{name} = {values!r}"
        raise InputError(subject, found, f"a value like {list(default)!r}", "correct the file")
    return tuple(values)


def _is_of(kind: Any, value: Any) -> bool:
    """Whether a value of JSON is of a field's type; whole numbers are floats too."""
    if get_origin(kind) in (Union, types.UnionType):
        return any(_is_of(option, value) for option in get_args(kind))
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind
