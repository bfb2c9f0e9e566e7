"""A configuration in JSON, and the dataclass that it fills."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jxreg.alignment import Level
    from jxreg.register import RegisterConfig
    from jxreg.tracking import TrackConfig


def read_config(path: Path | None) -> "RegisterConfig":
    """The configuration of a file, or the default one.

    Raises:
        InputError: The file is not JSON, or has an unknown key, a value of the wrong kind, or
            levels that cannot be registered.
    """
    from jxreg.register import RegisterConfig

    config = filled_from(RegisterConfig(), path, record="jxreg-registration")
    _check_levels(config, str(path))
    return config


def read_track_config(path: Path | None) -> "TrackConfig":
    """The same for a sequence.

    Raises:
        InputError: As above.
    """
    from jxreg.tracking import TrackConfig

    config = filled_from(TrackConfig(), path, record="jxreg-track")
    for each in (config.first, config.each):
        if each is not None:
            _check_levels(each, str(path))
    return config


def filled_from(
    default: Any, path: Path | None, expected: str = "a configuration (JSON)", record: str = ""
) -> Any:
    """The default configuration with what a file says.

    Args:
        default: All its entries.
        path: The file; None for the default alone.
        expected: What the file should be, for errors.
        record: The file may also be a record of this format, which has it as `config`.

    Raises:
        InputError: The file is missing or not JSON, or has an unknown key or a wrong value.
    """
    from jxreg.errors import InputError
    from jxreg.io.config_entries import filled
    from jxreg.io.pose_file import read_json

    if path is None:
        return default
    if not path.is_file():
        raise InputError(str(path), "no such file", expected, "check the path")
    entries = read_json(path, expected)
    if isinstance(entries, dict) and entries.get("format") == record:
        entries = entries.get("config")
    return filled(default, entries, str(path))


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

    for name in ("levels", "found"):
        if not getattr(config, name):
            refuse(f"{name} = []", "one level or more")
    for levels in (config.levels, config.found):
        _check_sizes(levels, refuse)
    for level in config.levels + config.found:
        if level.climb is not None:
            check_climb(level.climb, subject)
    for name in (config.similarity, *(level.similarity for level in config.levels + config.found)):
        if name is not None and name not in SIMILARITIES:
            refuse(f"similarity = {name!r}", f"one of {sorted(SIMILARITIES)}")


def _check_sizes(levels: "tuple[Level, ...]", refuse: Callable[[str, str], None]) -> None:
    largest = max(level.pixels for level in levels)
    for level in levels:
        for name, least in (("pixels", 1), ("voxels", 0), ("steps", 1)):
            if getattr(level, name) < least:
                refuse(f"{name} = {getattr(level, name)}", f"at least {least}")
        if largest % level.pixels:
            refuse(f"pixels = {level.pixels}", f"a divisor of the largest level's {largest}")
