"""Checkpoints of a training: orbax folders, each with a record that says it is whole.

    000001200/        written by orbax
    000001200.json    {"format": "jxreg-checkpoint", "version": 1, "step": 1200, "sha256": "...",
                       "seconds": 351.2}

The record comes last, so that a checkpoint that was being written when the process died has none
and does not count.
"""

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jxreg.errors import InputError
from jxreg.io.atomic import unwritable, write_atomic
from jxreg.io.boundary import reading
from jxreg.io.checksum import sha256
from jxreg.io.pose_file import check_keys, json_bytes, numbers, read_json

_EXPECTED = "a record of a checkpoint (JSON with format jxreg-checkpoint, version 1)"
_KEYS = {"format", "version", "step", "sha256", "seconds"}


class Checkpoint(NamedTuple):
    """One that is whole, as far as its record says."""

    step: int
    sha256: str
    seconds: float
    """Time that the training had taken by then [s]."""


def save_checkpoint(folder: Path, step: int, state: Any, seconds: float) -> None:
    """Writes one checkpoint, in place of what is there of that step.

    Args:
        folder: Where all of them are; made if need be.
        step: Its name.
        state: A pytree of arrays.
        seconds: Time that the training has taken so far [s].

    Raises:
        InputError: It cannot be written.
    """
    import orbax.checkpoint as ocp

    path = _path(folder, step)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _record(path).unlink(missing_ok=True)
        with ocp.StandardCheckpointer() as writer:
            writer.save(path.resolve(), state, force=True)
    except OSError as error:
        raise unwritable(path, error) from error
    entry = {"format": "jxreg-checkpoint", "version": 1, "step": step}
    entry |= {"sha256": sha256(path), "seconds": seconds}
    write_atomic(_record(path), json_bytes(entry))


def list_checkpoints(folder: Path) -> list[Checkpoint]:
    """Those that have a record, the latest first.

    Raises:
        InputError: A record is damaged.
    """
    return sorted((_read(path) for path in folder.glob("[0-9]*.json")), reverse=True)


def load_checkpoint(folder: Path, checkpoint: Checkpoint, like: Any) -> Any:
    """Reads a checkpoint, once its checksum has been verified.

    Args:
        folder: Where all of them are.
        checkpoint: Which.
        like: A state of the same kind: its shapes, types and devices.

    Raises:
        InputError: The files have changed since they were written, or hold another state.
    """
    import orbax.checkpoint as ocp

    path = _path(folder, checkpoint.step)
    if not path.is_dir() or sha256(path) != checkpoint.sha256:
        raise InputError(
            str(path),
            "files that are not those whose checksum was recorded",
            "the checkpoint as it was written",
            "remove it and its .json, so that the one before it is used",
        )
    with reading(path, "a checkpoint of this training"), ocp.StandardCheckpointer() as reader:
        return reader.restore(path.resolve(), jax.tree.map(_abstract, like))


def keep_only(folder: Path, steps: Collection[int]) -> None:
    """Removes other checkpoints, and what is left of unfinished ones."""
    names = {_path(folder, step).name for step in steps}
    for path in sorted(folder.glob("[0-9]*"), key=lambda path: path.suffix != ".json"):
        if path.name.removesuffix(".json") in names:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _path(folder: Path, step: int) -> Path:
    return folder / f"{step:09d}"


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _read(path: Path) -> Checkpoint:
    entry = read_json(path, _EXPECTED)
    check_keys(path, entry, _KEYS, set(), _EXPECTED)
    if entry["format"] != "jxreg-checkpoint" or entry["version"] != 1:
        found = f"{entry['format']} {entry['version']}"
        raise InputError(str(path), found, _EXPECTED, "use the jxreg that wrote it")
    seconds = float(numbers(path, entry, "seconds", ()))
    return Checkpoint(int(numbers(path, entry, "step", ())), str(entry["sha256"]), seconds)


def _abstract(leaf: Any) -> Any:
    leaf = jax.numpy.asarray(leaf)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
