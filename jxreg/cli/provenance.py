"""Where results came from: names and checksums of the inputs, a folder to put results in."""

import hashlib
import re
import tempfile
from pathlib import Path

from jxreg.errors import InputError


def input_entry(role: str, path: Path) -> dict[str, str]:
    """Role, name and sha256 of a file or folder; the path is left out, it may name people."""
    return {"role": role, "name": path.resolve().name, "sha256": sha256(path)}


def sha256(path: Path) -> str:
    """Checksum of a file; of a folder, that of the list of its files with their checksums."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        lines = (f"{sha256(p)}  {p.relative_to(path).as_posix()}\n" for p in files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
