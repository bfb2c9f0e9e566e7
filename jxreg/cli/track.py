"""`jxreg track`: the pose in every frame of a fluoroscopy run."""

import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import tyro

from jxreg.cli.options import (
    CameraOptions,
    ImageOptions,
    PoseOptions,
    VolumeOptions,
    check_pose_options,
    read_volume,
)
from jxreg.cli.register import exit_code
from jxreg.cli.starts import StartOptions, check_start_options, finders
from jxreg.detect import Detect

if TYPE_CHECKING:
    from rich.console import Console

    from jxreg.cli.starts import Finder
    from jxreg.cli.tasks import Task
    from jxreg.register import Registration
    from jxreg.tracking import TrackConfig
    from jxreg.volume import Volume


class Followed(NamedTuple):
    """One frame of a run."""

    task: "Task"
    result: "Registration"
    seconds: float
    """From the image to the pose; of the first frame with all that was compiled for it."""


def run_track(
    volume: tyro.conf.Positional[Path],
    xrays: tyro.conf.Positional[tuple[Path, ...]],
    /,
    out: Path,
    pose: PoseOptions = PoseOptions(),
    start: StartOptions = StartOptions(),
    camera: CameraOptions = CameraOptions(),
    image: ImageOptions = ImageOptions(),
    detect: Detect = Detect(),
    reading: VolumeOptions = VolumeOptions(),
    config: Path | None = None,
) -> int:
    """Follow the patient through a fluoroscopy run: find the pose of the C-arm in every frame.

    The first frame begins as in `jxreg register` (not --far or --part), every other one where the
    last good one ended. A frame that does not pass its checks is lost, and OUT says so. If the
    first frame began with a network (--net) or a search, a lost one is shown to that again, and the
    run goes on from there.
    Exit code 4: no frame passed its checks; 5: some did not.

    Args:
        volume: CT: NIfTI, NRRD, MHA, or a folder of DICOM slices.
        xrays: The run: multi-frame DICOM, or images of one size in their order (PNG, TIFF, NPY).
        out: The file for the poses (JSON): of each frame status, probability, pose, camera, time.
        pose: The start, as a pose.
        start: The start, otherwise.
        camera: Geometry of images that do not tell it themselves; numbers overrule the header, or
            the camera file beside the image.
        image: What the images' numbers mean.
        detect: What to look for in the images, and mask.
        reading: What to take from the volume's file, and what its numbers mean.
        config: Configuration (JSON), as in the `config` of such an OUT; or such a file.
    """
    from jxreg.cli.config_file import read_track_config
    from jxreg.cli.console import progress_console, step
    from jxreg.cli.provenance import make_folder
    from jxreg.cli.tasks import read_tasks, tell_notes, with_start
    from jxreg.io import write_atomic
    from jxreg.io.pose_file import json_bytes

    check_pose_options(pose)
    _refuse_around(start)
    check_start_options(pose, start)
    chosen = read_track_config(config)
    console = progress_console()
    make_folder(out.parent)
    with step(console, f"read {len(xrays)} X-ray file{'s'[: len(xrays) != 1]}"):
        tasks = read_tasks(xrays, camera, image, detect, pose.source_to_isocenter)
    with step(console, f"read {volume.name}"):
        loaded = read_volume(volume, reading)
    tell_notes(console, tasks)
    tasks[0] = with_start(loaded, tasks[0], pose, start)
    find = None
    if tasks[0].start is None:
        find, _ = finders(start, chosen.first or chosen.each)
    if start.net is not None and config is None:
        chosen = replace(chosen, searches=len(tasks))  # a network takes no time
    run = _follow(console, loaded, tasks, find, chosen)
    write_atomic(out, json_bytes(_record(volume, loaded, run, chosen)))
    return _summary(run, out)


def _refuse_around(start: StartOptions) -> None:
    from jxreg.errors import InputError

    if not start.around:
        return
    option = "--part" if start.part else "--far"
    fix = f"find it in the first frame by `jxreg register {option}`, and give its --pose"
    raise InputError(option, "given to `jxreg track`", "a start of the first frame", fix)


def _follow(
    console: "Console",
    volume: "Volume",
    tasks: "list[Task]",
    find: "Finder | None",
    config: "TrackConfig",
) -> list[Followed]:
    """Every frame, with a bar that says how far it is."""
    import jax

    from jxreg.cli.progress import counted
    from jxreg.tracking import follow

    run: list[Followed] = []
    first = tasks[0].start if find is None else find
    results = follow(volume, (task.frame for task in tasks), first, config=config, search=find)
    with counted(console, "track", len(tasks)) as update:
        for task in tasks:
            begun = time.perf_counter()
            result = jax.block_until_ready(next(results))
            run.append(Followed(task, result, time.perf_counter() - begun))
            update(len(run), f"{len(_lost(run))} lost")
    return run


def _lost(run: list[Followed]) -> list[Followed]:
    from jxreg.verdict import Status

    return [each for each in run if int(each.result.status) != Status.OK]


def _record(
    path: Path, volume: "Volume", run: list[Followed], config: "TrackConfig"
) -> dict[str, Any]:
    """What the file tells."""
    from jxreg.cli.provenance import input_entry
    from jxreg.report.record import plain, versions

    xrays = dict.fromkeys(each.task.path for each in run)
    inputs = [input_entry("volume", path), *(input_entry("X-ray", xray) for xray in xrays)]
    return plain(
        {
            "format": "jxreg-track",
            "version": 1,
            "world": "RAS",
            "unit": "mm",
            "isocenter": volume.isocenter,
            "start": run[0].task.start_source,
            "frames": [_entry(each) for each in run],
            "notes": list(dict.fromkeys(note for each in run for note in each.task.notes)),
            "inputs": inputs,
            "versions": versions(),
            "config": asdict(config),
        }
    )


def _entry(each: Followed) -> dict[str, Any]:
    """One frame; `camera_from_world` is null if it shows no patient."""
    from jxreg.cli.outputs import has_pose
    from jxreg.io.pose_file import camera_dict, rigid_matrix
    from jxreg.verdict import Status

    result = each.result
    return {
        "title": each.task.title,
        "status": Status(int(result.status)).name,
        "probability": result.probability,
        "similarity": result.similarity,
        "camera_from_world": rigid_matrix(result.pose) if has_pose(result) else None,
        "camera": camera_dict(each.task.frame.camera),
        "seconds": each.seconds,
    }


def _summary(run: list[Followed], out: Path) -> int:
    """Prints what became of the frames and gives the exit code."""
    import statistics

    from jxreg.cli.console import printable, result_console
    from jxreg.verdict import Status

    console, lost = result_console(), _lost(run)
    for each in lost:
        status = Status(int(each.result.status)).name
        console.print(f"{printable(each.task.title)}: {status}", markup=False, soft_wrap=True)
    each = statistics.median([each.seconds for each in run[1:] or run])
    good = f"{len(run) - len(lost)} of {len(run)} frames passed their checks"
    console.print(f"{out}: {good}, {each * 1e3:.0f} ms each", markup=False, soft_wrap=True)
    return exit_code(len(lost), len(run))
