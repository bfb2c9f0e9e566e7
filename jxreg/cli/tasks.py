"""From the files of a command line to the frames to register, each with its start."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jxreg.cli.options import CameraOptions, PoseOptions, check_pose, has_angles, pose_of

if TYPE_CHECKING:
    import jaxlie

    from jxreg.frame import Frame
    from jxreg.volume import Volume


class Task(NamedTuple):
    """One frame to register."""

    name: str
    """Folder of its results."""
    title: str
    path: Path
    frame: "Frame"
    start: "jaxlie.SE3"
    start_source: str
    notes: tuple[str, ...]


def read_tasks(
    volume: "Volume",
    xrays: tuple[Path, ...],
    pose: PoseOptions,
    camera: CameraOptions,
    reading: dict[str, Any],
) -> list[Task]:
    """All frames of all files, each with its start.

    Raises:
        InputError: A file is refused, or there is no start for it.
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
        tasks += _tasks_of(volume, path, frames, pose, notes)
    return _named_apart(tasks)


def _tasks_of(volume, path: Path, frames, pose: PoseOptions, notes) -> list[Task]:
    import jax

    tasks, count = [], frames.image.shape[0]
    for number in range(count):
        frame = jax.tree.map(lambda x, number=number: x[number], frames)
        start, source = _start(volume, path, frame, pose)
        check_pose(str(path), start, frame.camera, volume)
        name = path.stem if count == 1 else f"{path.stem}-{number + 1:03d}"
        title = path.name if count == 1 else f"{path.name}, frame {number + 1}"
        tasks.append(Task(name, title, path, frame, start, source, notes))
    return tasks


def _start(volume, path: Path, frame, options: PoseOptions) -> "tuple[jaxlie.SE3, str]":
    from jxreg.errors import InputError
    from jxreg.register import initial_pose

    if options.pose is not None:
        return pose_of(options, volume, 0.0), f"pose file {options.pose.name}"
    if has_angles(options):
        distance = options.source_to_isocenter
        if distance is None and frame.carm is not None:
            distance = float(frame.carm.source_to_isocenter)
        if distance is None:
            raise InputError(
                str(path),
                "angles, but no distance from source to isocenter",
                "a complete start",
                "give --source-to-isocenter [mm]",
            )
        return pose_of(options, volume, distance), "C-arm angles given by hand"
    if frame.carm is not None:
        return initial_pose(volume, frame), "positioner angles of the DICOM header"
    raise InputError(
        str(path),
        "no start, and no complete positioner angles with the image",
        "a start within about 30 mm and 10 degrees",
        "give --pose, or --primary-degrees, --secondary-degrees and --source-to-isocenter",
    )


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
