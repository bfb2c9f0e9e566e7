"""From the files of a command line to the frames to register, each with its start."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jxreg.cli.options import CameraOptions, ImageOptions, PoseOptions, check_pose
from jxreg.cli.starts import StartOptions, start_of

if TYPE_CHECKING:
    import jaxlie
    from rich.console import Console

    from jxreg.candidates import Found
    from jxreg.detect import Detect
    from jxreg.frame import Frame
    from jxreg.volume import Volume


class Task(NamedTuple):
    """One frame to register."""

    name: str
    """Folder of its results."""
    title: str
    path: Path
    frame: "Frame"
    notes: tuple[str, ...]
    start: "jaxlie.SE3 | Found | None" = None
    """None until the image has been searched, or shown to a network."""
    start_source: str = ""


def read_tasks(
    xrays: tuple[Path, ...],
    camera: CameraOptions,
    image: ImageOptions,
    detect: "Detect",
    source_to_isocenter: float | None,
) -> list[Task]:
    """All frames of all files, without starts.

    Raises:
        InputError: No file is named, or one is refused.
    """
    from jxreg.errors import InputError
    from jxreg.io import load_frames

    if not xrays:
        fix = "name them after the volume"
        raise InputError("XRAYS", "no file", "one X-ray image or more", fix)
    tasks: list[Task] = []
    for path in xrays:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            frames = load_frames(
                path,
                camera=camera.camera,
                sdd=camera.sdd,
                pixel_spacing=camera.pixel_spacing,
                principal_point=camera.principal_point,
                source_to_isocenter=source_to_isocenter,
                mirrored={"auto": None, "yes": True, "no": False}[image.mirrored],
                intensity=image.intensity,
                invert=image.invert,
                detect=detect,
            )
        notes = tuple(str(w.message) for w in caught if w.category.__name__ == "InputWarning")
        tasks += _tasks_of(path, frames, notes)
    return _named_apart(tasks)


def with_start(volume: "Volume", task: Task, pose: PoseOptions, given: StartOptions) -> Task:
    """The frame with its start.

    Raises:
        InputError: What was given does not make a start.
    """
    start, source = start_of(volume, task.path, task.frame, pose, given)
    if start is not None:
        check_pose(str(task.path), start, task.frame.camera, volume)
    return task._replace(start=start, start_source=source)


def tell_notes(console: "Console", tasks: list[Task]) -> None:
    """Prints what the readers noticed, each once."""
    from jxreg.cli.console import printable

    for note in dict.fromkeys(note for task in tasks for note in task.notes):
        console.print(f"note: {printable(note)}", markup=False, soft_wrap=True)


def _tasks_of(path: Path, frames: "Frame", notes: tuple[str, ...]) -> list[Task]:
    import jax

    tasks, count = [], frames.image.shape[0]
    for number in range(count):
        frame = jax.tree.map(lambda x, number=number: x[number], frames)
        name = path.stem if count == 1 else f"{path.stem}-{number + 1:03d}"
        title = path.name if count == 1 else f"{path.name}, frame {number + 1}"
        tasks.append(Task(name, title, path, frame, notes))
    return tasks


def _named_apart(tasks: list[Task]) -> list[Task]:
    """Names that are plain file names, no two alike."""
    from jxreg.cli.provenance import safe_name

    taken: set[str] = set()
    named = []
    for task in tasks:
        base = name = safe_name(task.name)
        number = 2
        while name.lower() in taken:
            name, number = f"{base}_{number}", number + 1
        taken.add(name.lower())
        named.append(task._replace(name=name))
    return named
