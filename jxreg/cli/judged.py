"""Results and truths from files, in pairs, and what became of them."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxlie import SE3
from jaxtyping import ArrayLike

from jxreg import evaluation, metrics
from jxreg.camera import Camera
from jxreg.errors import InputError
from jxreg.evaluation import Outcome, Protocol, Summary
from jxreg.io import load_camera, load_pose, load_tfm
from jxreg.io.pose_file import read_json
from jxreg.io.registration_file import NAME, load_registration

_RESULTS = "folders with registration.json, or pose files (.json, .tfm)"


class Run(NamedTuple):
    """One result with its truth."""

    name: str
    pose: SE3 | None
    truth: SE3
    start: SE3 | None = None
    camera: Camera | None = None
    status: str | None = None
    score: float | None = None


class Judged(NamedTuple):
    """All results."""

    names: tuple[str, ...]
    statuses: tuple[str | None, ...]
    scores: np.ndarray
    initial_mtre: np.ndarray
    outcomes: Outcome
    summary: Summary


def read_runs(results: Sequence[Path], truth: Path) -> list[Run]:
    """Reads results and the truth of each.

    Raises:
        InputError: A file is refused, a folder holds no result, or a result has no truth.
    """
    found = dict(_named(results))
    if not found:
        raise InputError("RESULTS", "no result", _RESULTS, "name them after evaluate")
    truths = {name: _truth_of(name, truth) for name in found}
    loaded = {path: _read_pose(path) for path in set(truths.values())}
    return [_read_run(name, path, *loaded[truths[name]]) for name, path in found.items()]


def judge(runs: list[Run], landmarks: ArrayLike, protocol: Protocol) -> Judged:
    """Errors of each run, and what they show together.

    Raises:
        InputError: mPD is asked for and a camera is not known.
    """
    if protocol.metric == "mpd" and any(run.camera is None for run in runs):
        name = next(run.name for run in runs if run.camera is None)
        fix = "choose --metric mrpd, or give pose files with a camera"
        raise InputError(name, "no camera, hence no mPD", "the SDD of each image", fix)
    points = jnp.asarray(landmarks, float)
    stacked = _stacked([run.pose for run in runs])
    truths = _stacked([run.truth for run in runs])
    sdd = jnp.asarray([np.nan if run.camera is None else float(run.camera.sdd) for run in runs])
    outcomes = _outcomes(stacked, truths, points, sdd)
    initial = np.asarray(_initial(_stacked([run.start for run in runs]), truths, points))
    statuses = tuple(run.status for run in runs)
    scores = np.array([np.nan if run.score is None else run.score for run in runs])
    known = None not in statuses
    accepted = jnp.asarray([status == "OK" for status in statuses]) if known else None
    starts = jnp.asarray(initial) if np.isfinite(initial).any() else None
    summary = evaluation.summarize(outcomes, protocol, starts, accepted, jnp.asarray(scores, float))
    names = tuple(run.name for run in runs)
    return Judged(names, statuses, scores, initial, outcomes, summary)


def csv_text(judged: Judged, protocol: Protocol) -> str:
    """A line for each run; empty cells for what is not known."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = "run status score initial_mtre_mm mtre_mm mpd_mm mrpd_mm rotation_degrees".split()
    writer.writerow([*head, "x_mm", "y_mm", "depth_mm", "good"])
    columns = np.column_stack([judged.scores, judged.initial_mtre, *judged.outcomes])
    good = np.asarray(getattr(judged.outcomes, protocol.metric)) < protocol.good_mm
    for name, status, row, fine in zip(judged.names, judged.statuses, columns, good, strict=True):
        cells = [f"{value:.6g}" if np.isfinite(value) else "" for value in row]
        writer.writerow([name, status or "", *cells, int(fine)])
    return text.getvalue()


@jax.jit
def _outcomes(poses: SE3, truths: SE3, landmarks, sdd) -> Outcome:
    def one(pose, truth, sdd):
        return evaluation.outcome(pose, truth, landmarks, Camera(jnp.eye(3), sdd, (1, 1)))

    return jax.vmap(one)(poses, truths, sdd)


_initial = jax.jit(jax.vmap(metrics.mtre, (0, 0, None)))


def _stacked(poses: Sequence[SE3 | None]) -> SE3:
    nothing = jnp.full(7, jnp.nan)
    return SE3(jnp.stack([nothing if pose is None else pose.wxyz_xyz for pose in poses]))


def _named(results: Sequence[Path]):
    """Name and file of each result."""
    seen = {}
    for given in results:
        if not given.is_dir():
            paths = [given]
        else:
            paths = sorted(given.rglob(NAME)) or sorted(given.glob("*.json"))
        if not paths:
            raise InputError(str(given), "no registration.json in it", _RESULTS, "check the path")
        for path in paths:
            name = path.resolve().parent.name if path.name == NAME else path.stem
            if name in seen:
                fix = "evaluate them apart, or rename one"
                found = f"a second result called {name!r}, besides {seen[name]}"
                raise InputError(str(path), found, "a name of its own for each result", fix)
            seen[name] = path
            yield name, path


def _truth_of(name: str, truth: Path) -> Path:
    if not truth.is_dir():
        return truth
    places = [truth / f"{name}.json", truth / f"{name}.tfm", truth / name / "pose.json"]
    for path in places:
        if path.is_file():
            return path
    expected = f"{name}.json, {name}.tfm or {name}/pose.json"
    raise InputError(str(truth), f"no true pose for {name!r}", expected, "add it to the folder")


def _read_pose(path: Path) -> tuple[SE3, Camera | None]:
    """A pose and, if the file has one, its camera."""
    if path.suffix == ".tfm":
        return load_tfm(path), None
    pose = load_pose(path)
    return pose, load_camera(path) if "camera" in read_json(path, _RESULTS) else None


def _read_run(name: str, path: Path, truth: SE3, camera: Camera | None) -> Run:
    if path.suffix == ".json" and path.is_file():
        entry = read_json(path, _RESULTS)
        if isinstance(entry, dict) and entry.get("format") == "jxreg-registration":
            found = load_registration(path)
            return Run(
                name, found.pose, truth, found.start, found.camera, found.status, found.score
            )
    pose, own = _read_pose(path)
    return Run(name, pose, truth, camera=own or camera)
