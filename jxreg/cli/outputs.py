"""The files of one registration: pose, record, DRR, report."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import jaxlie
    import numpy as np
    from jaxtyping import Float

    from jxreg.frame import Frame
    from jxreg.register import RegisterConfig, Registration
    from jxreg.report import Context
    from jxreg.volume import Volume

LONGEST_SIDE = 1024
"""Larger images are averaged down to this for the DRR and the report [px]."""

RESULT_FILES = ("pose.json", "pose.tfm", "drr.npy", "drr.png")
"""What a frame has only if it has a pose."""


class Case(NamedTuple):
    """One registered frame and what is known about it."""

    volume: "Volume"
    frame: "Frame"
    start: "jaxlie.SE3"
    result: "Registration"
    context: "Context"


def config_entries(config: "RegisterConfig") -> dict[str, Any]:
    """A configuration as JSON values; `config_from` is the inverse."""
    return dataclasses.asdict(config)


def level_names(config: "RegisterConfig") -> tuple[str, ...]:
    """How the report calls the levels, of which `Trace.level` is the number."""
    return tuple(
        f"{level.pixels} px, {(config.similarity or level.similarity).replace('_', ' ')}"
        for level in config.levels + config.found
    )


def write_case(folder: Path, case: Case) -> dict[str, Any]:
    """Writes all files of one frame and returns its record; `registration.json` comes last.

    A frame without a result (no signal, out of view, not finite) gets no pose and no DRR, and those
    of an earlier run are removed, so that no script takes them for results.

    Raises:
        InputError: A file cannot be written.
    """
    import numpy as np

    from jxreg import plot
    from jxreg.io import save_pose, save_tfm, write_atomic, write_npy, write_png
    from jxreg.io.pose_file import json_bytes
    from jxreg.report import registration_record, report_html

    frame = displayed(case.frame)
    before, after = rendered_pair(case.volume, frame, case.start, case.result.pose)
    record = registration_record(
        case.result, case.start, case.frame.camera, case.volume.isocenter, case.context
    )
    trace = record["trace"]
    pictures = plot.pictures(frame.image, frame.mask, before, after)
    curve = plot.similarity_figure(
        _numbers(trace["similarity"]),
        _numbers(trace["step_mm"]),
        np.asarray(case.result.trace.level),
        case.context.levels,
    )
    page = report_html(record, pictures | {"curve": plot.svg(curve)})
    for name in (*RESULT_FILES, "registration.json"):
        (folder / name).unlink(missing_ok=True)
    if has_pose(case.result):
        save_pose(folder / "pose.json", case.result.pose, case.frame.camera)
        save_tfm(folder / "pose.tfm", case.result.pose)
        write_npy(folder / "drr.npy", after)
        write_png(folder / "drr.png", after)
    write_atomic(folder / "report.html", page.encode())
    write_atomic(folder / "registration.json", json_bytes(record))
    return record


def has_pose(result: "Registration") -> bool:
    """Whether a registration has a result, however doubtful."""
    from jxreg.register import HOPELESS

    return int(result.status) not in HOPELESS


def displayed(frame: "Frame") -> "Frame":
    """The frame at the resolution of the report."""
    from jxreg.frame import downsample

    return downsample(frame, -(-max(frame.camera.image_size) // LONGEST_SIDE))


def rendered_pair(volume, frame, start, end):
    """DRRs of two poses, compiled once."""
    import jax
    import numpy as np

    from jxreg import drr

    render = jax.jit(drr.render)
    return tuple(np.asarray(render(volume, frame.camera, pose)) for pose in (start, end))


def _numbers(values: list) -> "Float[np.ndarray, ' steps']":
    import numpy as np

    return np.array([np.nan if value is None else value for value in values], float)
