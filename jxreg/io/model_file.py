"""Trained networks: one safetensors file, with everything else that is needed in its header.

The arrays are named by their place in the nested dict of parameters ("backbone/stem/kernel"). The
header's entry `jxreg` is JSON:

    {"format": "jxreg-model", "version": 1, "weights_sha256": "...", "recipe": "...", ...}

where the rest is the caller's (`jxreg.recipes`). Such a file holds no code: reading it runs none.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jxreg.errors import InputError
from jxreg.io.atomic import write_atomic
from jxreg.io.boundary import existing_file, reading

EXPECTED = "a trained network of jxreg (safetensors with format jxreg-model)"
VERSION = 1
_SEPARATOR = "/"


class ModelFile(NamedTuple):
    """What such a file holds."""

    params: dict[str, Any]
    """Nested dict of arrays of NumPy."""
    header: dict[str, Any]
    """What it says about them."""


def save_model_file(path: str | Path, params: Mapping[str, Any], header: Mapping[str, Any]) -> None:
    """Writes parameters and what is needed to use them.

    Args:
        path: The file.
        params: Nested dict of arrays, with strings for keys.
        header: Values for JSON; `recipe` among them.

    Raises:
        InputError: A parameter is not finite, or the file cannot be written.
    """
    from safetensors.numpy import save

    arrays = {name: np.array(leaf, order="C") for name, leaf in _flat(params).items()}
    bad = [name for name, leaf in arrays.items() if not np.isfinite(leaf).all()]
    if bad:
        fix = "train again, with a lower rate"
        raise InputError(str(path), f"NaN or infinity in {bad[0]}", "finite weights", fix)
    about = {"format": "jxreg-model", "version": VERSION, "weights_sha256": _checksum(arrays)}
    text = json.dumps(about | dict(header), allow_nan=False)
    write_atomic(path, save(arrays, {"jxreg": text}))


def load_model_file(path: str | Path) -> ModelFile:
    """Reads such a file, and checks that the weights are those that were written.

    Raises:
        InputError: The file is missing, damaged, of another kind, or of a newer jxreg.
    """
    from safetensors import safe_open

    path = existing_file(path, EXPECTED)
    with reading(path, EXPECTED), safe_open(path, framework="numpy") as file:
        about = (file.metadata() or {}).get("jxreg")
        arrays = {name: file.get_tensor(name) for name in file.keys()}
    header = _header(path, about)
    if header.get("weights_sha256") != _checksum(arrays):
        found = "weights that are not those whose checksum is in the header"
        raise InputError(str(path), found, EXPECTED, "copy the file again")
    return ModelFile(_nested(arrays), header)


def _header(path: Path, text: str | None) -> dict[str, Any]:
    with reading(path, EXPECTED):
        header = None if text is None else json.loads(text)
    if not isinstance(header, dict) or header.get("format") != "jxreg-model":
        fix = "give a file that jxreg train wrote"
        raise InputError(str(path), "safetensors of another program", EXPECTED, fix)
    version = header.get("version")
    if not isinstance(version, int) or version > VERSION:
        fix = "update jxreg, or train again"
        raise InputError(str(path), f"version = {version!r}", f"version {VERSION} or below", fix)
    return header


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}{_SEPARATOR}")
        else:
            flat[prefix + name] = value
    return flat


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *folders, last = name.split(_SEPARATOR)
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = value
    return tree


def _checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """Of names, types, shapes and bytes of all arrays."""
    checksum = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        checksum.update(f"{name} {array.dtype} {array.shape}\n".encode())
        checksum.update(array.tobytes())
    return checksum.hexdigest()
