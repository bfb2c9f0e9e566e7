"""Checksums of files and folders."""

import hashlib
from pathlib import Path


def sha256(path: Path) -> str:
    """Checksum of a file; of a folder, that of the list of its files with their checksums."""
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        lines = (f"{sha256(p)}  {p.relative_to(path).as_posix()}\n" for p in files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
