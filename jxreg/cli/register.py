"""`jxreg register`: where did the C-arm stand?"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from jxreg.cli.options import (
    CameraOptions,
    ImageOptions,
    PoseOptions,
    VolumeOptions,
    check_pose_options,
    read_volume,
)
from jxreg.cli.starts import StartOptions, check_start_options, finders, with_search
from jxreg.detect import Detect

if TYPE_CHECKING:
    import jaxlie

    from jxreg.candidates import Found
    from jxreg.cli.starts import Finder
    from jxreg.cli.tasks import Task
    from jxreg.register import RegisterConfig, Registration
    from jxreg.volume import Volume

NOT_PASSED = 4
PART_NOT_PASSED = 5
CHUNK = 8
"""Frames that are registered at once."""


def run_register(
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
    """Register X-ray images to a CT: find the pose of the C-arm for each of them.

    It begins at the pose file, angles or landmarks given here, or where a network says, else at the
    positioner angles in the DICOM header, else it searches the range of a C-arm without a start.
    With --far or --part it searches around that start first.
    Results go to OUT, or to one folder in it for each frame: report.html, registration.json,
    pose.json, pose.tfm (for 3D Slicer), drr.npy and drr.png.
    Exit code 4: the result did not pass its own checks; 5: some of several did not.

    Args:
        volume: CT: NIfTI, NRRD, MHA, or a folder of DICOM slices.
        xrays: X-ray images: DICOM (single or multi-frame), PNG, TIFF, NPY.
        out: Folder for the results.
        pose: The start, as a pose.
        start: The start, otherwise.
        camera: Geometry of images that do not tell it themselves; numbers overrule the header, or
            the camera file beside the image.
        image: What the images' numbers mean.
        detect: What to look for in the images, and mask.
        reading: What to take from the volume's file, and what its numbers mean.
        config: Configuration (JSON), as in the `config` of a registration.json; or such a file.
    """
    from jxreg.cli.config_file import read_config
    from jxreg.cli.console import progress_console, step
    from jxreg.cli.tasks import read_tasks, tell_notes, with_start

    check_pose_options(pose)
    check_start_options(pose, start)
    chosen = with_search(read_config(config), start)
    console, seconds = progress_console(), {}
    with step(console, f"read {len(xrays)} X-ray file{'s'[: len(xrays) != 1]}", seconds):
        tasks = read_tasks(xrays, camera, image, detect, pose.source_to_isocenter)
    with step(console, f"read {volume.name}", seconds):
        loaded = read_volume(volume, reading)
    tasks = [with_start(loaded, task, pose, start) for task in tasks]
    tell_notes(console, tasks)
    records = _register_and_write(console, volume, loaded, tasks, start, chosen, out, seconds)
    return _summary(records, out)


def _register_and_write(console, path, volume, tasks, start, config, out, seconds) -> list[dict]:
    from jxreg.cli.console import step
    from jxreg.cli.outputs import Case, config_entries, level_names, write_case
    from jxreg.cli.provenance import input_entry, make_folder
    from jxreg.report import Context

    sums = {p: input_entry("X-ray", p) for p in {task.path for task in tasks}}
    inputs = input_entry("volume", path)
    make_folder(out)  # now, so that no registration is lost to a folder that cannot be written
    folders = {t.name: make_folder(out if len(tasks) == 1 else out / t.name) for t in tasks}
    records, (find, again) = [], finders(start, config)
    for chunk in chunks_alike(tasks):
        count, spent = len(chunk), dict(seconds)
        what = chunk[0].title if count == 1 else f"{count} frames, from {chunk[0].title}"
        with step(console, f"register {what}", spent):
            chunk = _with_starts(volume, chunk, start, find, config)
            results = register_chunk(volume, chunk, config)
            if again is not None:
                results = _retried(volume, chunk, results, again, config)
        spent["register"] = spent.pop(f"register {what}") / count
        for task, result in zip(chunk, results, strict=True):
            context = Context(
                title=f"{task.title} to {path.resolve().name}",
                start_source=task.start_source,
                inputs=(inputs, sums[task.path]),
                config=config_entries(config),
                levels=level_names(config),
                seconds=spent,
                notes=task.notes,
            )
            folder = folders[task.name]
            with step(console, f"write {folder}"):
                case = Case(volume, task.frame, _begin(task.start), result, context)
                records.append(write_case(folder, case) | {"folder": folder})
    return records


def _with_starts(
    volume: "Volume",
    tasks: "list[Task]",
    given: StartOptions,
    find: "Finder",
    config: "RegisterConfig",
) -> "list[Task]":
    """The tasks of a chunk, with starts found in their images if they have none, or around them."""
    import jax

    from jxreg.global_search import search
    from jxreg.register import begin, search_of

    def started(task: "Task") -> "Task":
        if task.start is None:
            start = begin(volume, task.frame, find, config)
        elif given.around:
            start = search(volume, task.frame, _begin(task.start), config=search_of(config))
            what = "search for a part" if given.part else "search"
            task = task._replace(start_source=f"{what} around {task.start_source}")
        else:
            return task
        return task._replace(start=jax.block_until_ready(start))

    return [started(task) for task in tasks]


def _retried(
    volume: "Volume",
    tasks: "list[Task]",
    results: "list[Registration]",
    again: "Finder",
    config: "RegisterConfig",
) -> "list[Registration]":
    """The results; those that are not OK begin again, one by one."""
    import jax

    from jxreg.register import retried

    return [
        jax.block_until_ready(retried(result, volume, task.frame, again, config))
        for task, result in zip(tasks, results, strict=True)
    ]


def _begin(start: "jaxlie.SE3 | Found | None") -> Any:
    """The pose that a start stands for."""
    from jxreg.candidates import Found, best_of

    return best_of(start) if isinstance(start, Found) else start


def chunks_alike(tasks: "list[Task]") -> "list[list[Task]]":
    """Frames and starts of one kind together, at most `CHUNK` at a time, in the order of files."""
    import jax

    groups: dict[Any, list[Task]] = {}
    for task in tasks:
        leaves, tree = jax.tree.flatten((task.frame, task.start))
        groups.setdefault((tree, *(leaf.shape for leaf in leaves)), []).append(task)
    return [g[i : i + CHUNK] for g in groups.values() for i in range(0, len(g), CHUNK)]


def register_chunk(
    volume: "Volume", tasks: "list[Task]", config: "RegisterConfig"
) -> "list[Registration]":
    """Registers frames of one shape, several under one `vmap`."""
    import jax
    import jax.numpy as jnp

    from jxreg.register import register

    if len(tasks) == 1:
        return [
            jax.block_until_ready(register(volume, tasks[0].frame, tasks[0].start, config=config))
        ]
    frames, starts = (
        jax.tree.map(lambda *leaves: jnp.stack(leaves), *items)
        for items in ([t.frame for t in tasks], [t.start for t in tasks])
    )

    def one(frame, start):
        return register(volume, frame, start, config=config)

    results = jax.block_until_ready(jax.vmap(one)(frames, starts))
    return [jax.tree.map(lambda x, i=i: x[i], results) for i in range(len(tasks))]


def _summary(records: list[dict], out: Path) -> int:
    """Prints the results and gives the exit code."""
    from jxreg.cli.console import print_registration, result_console
    from jxreg.io import write_atomic
    from jxreg.report import batch_html

    console = result_console()
    for record in records:
        print_registration(console, record)
        console.print(f"{record['folder'] / 'report.html'}", markup=False, soft_wrap=True)
    failed = sum(record["status"] != "OK" for record in records)
    if len(records) > 1:
        links = [f"{record['folder'].name}/report.html" for record in records]
        write_atomic(out / "index.html", batch_html(records, links).encode())
        console.print(
            f"\n{len(records) - failed} of {len(records)} passed their checks; {out / 'index.html'}"
        )
    return exit_code(failed, len(records))


def exit_code(failed: int, count: int) -> int:
    """Of so many frames, of which some did not pass their checks."""
    if not failed:
        return 0
    return NOT_PASSED if failed == count else PART_NOT_PASSED
