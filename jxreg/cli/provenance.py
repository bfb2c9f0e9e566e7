"""Where results came from: names and checksums of the inputs, a folder to put results in."""

import re
import tempfile
from pathlib import Path

from jxreg.errors import InputError
from jxreg.io.checksum import sha256


def input_entry(role: str, path: Path) -> dict[str, str]:
    """Role, name and sha256 of a file or folder; the path is left out, it may name people."""
    return {"role": role, "name": path.resolve().name, "sha256": sha256(path)}


def make_folder(path: Path) -> Path:
    """The folder, made if need be; files can be written there.

    Raises:
        InputError: It cannot be made or written to, or a file is in its place.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(
            str(path),
            f"cannot be written to ({reason})",
            "a writable folder",
            "choose another --out",
        ) from error
    return path


def safe_name(text: str) -> str:
    """A plain file name: letters, digits, dot, dash and underscore, at most 80 of them."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip("._")[:80]
    return name or "frame"
