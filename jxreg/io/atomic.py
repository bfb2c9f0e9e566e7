"""Files appear whole or not at all."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from jxreg.errors import InputError


def write_atomic(path: str | Path, content: bytes | Callable[[BinaryIO], object]) -> None:
    """Writes a file under a temporary name in the same folder, then renames it.

    A reader sees the old file or the new one, never half of one; after an error or an interrupt
    the old file is untouched and the temporary one is gone.

    Args:
        path: Where the file goes; its folder must exist.
        content: The bytes, or a function that writes them to an open binary file.

    Raises:
        InputError: The folder does not exist or cannot be written, or the disk is full.
    """
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:80]}.", dir=path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise unwritable(path, error) from error
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def unwritable(path: Path, error: OSError) -> InputError:
    """The error of a file or folder that the system does not let us write."""
    reason = error.strerror or type(error).__name__
    return InputError(
        str(path), f"cannot be written ({reason})", "a writable folder", "choose another place"
    )
