"""The folder of a training: `run.json`, `log.jsonl` and the checkpoints.

`run.json` says what is trained and how, so that nothing else goes on in the same folder.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jxreg.errors import InputError
from jxreg.io.atomic import unwritable, write_atomic
from jxreg.io.boundary import notice
from jxreg.io.checkpoint import Checkpoint, list_checkpoints, load_checkpoint
from jxreg.io.pose_file import json_bytes, read_json

LOG = "log.jsonl"
RUN = "run.json"
CHECKPOINTS = "checkpoints"


def claim(folder: Path, run: Mapping[str, Any]) -> None:
    """Makes the folder, or checks that it is of this training.

    Args:
        folder: Of the training.
        run: What is trained and how, for JSON.

    Raises:
        InputError: It holds another training, or cannot be written.
    """
    entry = {"format": "jxreg-training", "version": 1, **run}
    path = folder / RUN
    if not path.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from error
        write_atomic(path, json_bytes(entry))
        return
    there = read_json(path, "what a training is (JSON with format jxreg-training)")
    differing = differences(there, json.loads(json_bytes(entry)))
    if differing:
        raise InputError(
            str(folder),
            f"a training with another {', '.join(differing[:4])}",
            "the folder of this training, or a new one",
            "choose another folder, or remove this one",
        )


def differences(one: Any, other: Any, name: str = "") -> list[str]:
    """Names of what differs between two values of JSON."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = list(dict.fromkeys([*one, *other]))
        return [
            found
            for key in keys
            for found in differences(one.get(key), other.get(key), f"{name}.{key}".lstrip("."))
        ]
    return [] if one == other else [name]


def resume(checkpoints: Path, like: Any) -> tuple[Any, Checkpoint] | None:
    """The state of the latest checkpoint that is as it was written.

    Args:
        checkpoints: Their folder.
        like: A state of the same kind: its shapes, types and devices.

    Returns:
        The state and its checkpoint; None if nothing was finished yet.

    Raises:
        InputError: There are checkpoints, but none has the checksum that was recorded.
    """
    refusal = None
    for checkpoint in list_checkpoints(checkpoints):
        try:
            state = load_checkpoint(checkpoints, checkpoint, like)
        except InputError as error:
            notice(checkpoints, f"goes on from an earlier checkpoint, since {error}")
            refusal = refusal or error
            continue
        return state, checkpoint
    if refusal is not None:
        raise refusal
    return None
