"""From the files of a command line to the frames to register, each with its start."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jxreg.cli.options import CameraOptions, PoseOptions, check_pose
from jxreg.cli.starts import StartOptions, start_of

if TYPE_CHECKING:
    import jaxlie

    from jxreg.candidates import Found
    from jxreg.frame import Frame
    from jxreg.volume import Volume


class Task(NamedTuple):
    """One frame to register."""

    name: str
    """Folder of its results."""
    title: str
    path: Path
    frame: "Frame"
    start: "jaxlie.SE3 | Found | None"
    """None until the image has been searched, or shown to a network."""
    start_source: str
    notes: tuple[str, ...]


def read_tasks(
    volume: "Volume",
    xrays: tuple[Path, ...],
    pose: PoseOptions,
    start: StartOptions,
    camera: CameraOptions,
    reading: dict[str, Any],
) -> list[Task]:
    """All frames of all files, each with its start.

    Raises:
        InputError: A file is refused, or what was given does not make a start.
    """
    from jxreg.io import load_frames

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
                source_to_isocenter=pose.source_to_isocenter,
                **reading,
            )
        notes = tuple(str(w.message) for w in caught if w.category.__name__ == "InputWarning")
        tasks += _tasks_of(volume, path, frames, pose, start, notes)
    return _named_apart(tasks)


def _tasks_of(
    volume, path: Path, frames, pose: PoseOptions, given: StartOptions, notes
) -> list[Task]:
    import jax

    tasks, count = [], frames.image.shape[0]
    for number in range(count):
        frame = jax.tree.map(lambda x, number=number: x[number], frames)
        start, source = start_of(volume, path, frame, pose, given)
        if start is not None:
            check_pose(str(path), start, frame.camera, volume)
        name = path.stem if count == 1 else f"{path.stem}-{number + 1:03d}"
        title = path.name if count == 1 else f"{path.name}, frame {number + 1}"
        tasks.append(Task(name, title, path, frame, start, source, notes))
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
