"""What every reader does before and around its library: one kind of error, in one line."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jxreg.errors import InputError

MAX_BYTES = 4 << 30
"""Largest array that a header may announce [bytes]; a guard against broken or hostile files."""


class InputWarning(UserWarning):
    """Input that was read, with something about it that the user should know."""


def existing_file(path: str | Path, expected: str) -> Path:
    """The path of a file that exists and is not empty.

    Raises:
        InputError: There is no such file, it is a folder, or it is empty.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(str(path), "a folder", expected, "give the path of one file")
    if not path.is_file():
        raise InputError(str(path), "no such file", expected, "check the path")
    if path.stat().st_size == 0:
        raise InputError(str(path), "an empty file", expected, "copy or export the file again")
    return path


@contextmanager
def reading(path: str | Path, expected: str) -> Iterator[None]:
    """Turns whatever a file library raises within the block into an `InputError`.

    The libraries raise many types on broken bytes (OSError, EOFError, struct.error, IndexError,
    zlib.error, their own); for the user they all mean that the file cannot be read.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = one_line(f"cannot be read ({type(error).__name__}: {error})")
        fix = "the file is damaged, incomplete or of another kind: copy or export it again"
        raise InputError(str(path), reason, expected, fix) from error


def one_line(text: str, limit: int = 300) -> str:
    """Text without line breaks, cut to a readable length."""
    text = re.sub(r"\s+", " ", text).strip()
    return text if len(text) <= limit else text[: limit - 3] + "..."


def notice(path: str | Path, text: str) -> None:
    """Tells the user something about a file that was read all the same."""
    warnings.warn(f"{path}: {one_line(text)}", InputWarning, stacklevel=3)


def check_size(path: str | Path, shape: tuple[int, ...], itemsize: int) -> int:
    """Bytes of an array that a header announces.

    Raises:
        InputError: A side is not positive, or the array is larger than `MAX_BYTES`.
    """
    if not shape or min(shape) < 1:
        raise InputError(
            str(path), f"size {shape}", "positive sizes", "the header is broken: export again"
        )
    count = itemsize
    for side in shape:
        count *= int(side)
    if count > MAX_BYTES:
        raise InputError(
            str(path),
            f"its header announces {shape}, {count / 2**30:.1f} GiB",
            f"at most {MAX_BYTES / 2**30:.0f} GiB",
            "crop or resample it first, if the header is right",
        )
    return count


def neighbour(path: Path, name: str) -> Path:
    """The data file that a header names: a plain name in the folder of the header.

    Raises:
        InputError: The name leads out of the folder, or there is no such file.
    """
    other = path.parent / str(name)
    plain = Path(str(name)).name == str(name)
    if not plain or other.resolve().parent != path.parent.resolve():
        raise InputError(
            str(path),
            f"its data file is {str(name)!r}",
            "a name in the same folder",
            "move it there",
        )
    return existing_file(other, f"the data file of {path.name}")
