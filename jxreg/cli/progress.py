"""How far a training is: a bar on a terminal, a line for each validation in a log file."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from jxreg.training import TrainConfig


@contextmanager
def training_progress(
    console: "Console", config: "TrainConfig"
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Shows a training while the block runs.

    Args:
        console: Where.
        config: Of the training.

    Yields:
        What `training.fit` reports to.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    bar = Progress(
        TextColumn("train"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[words]}"),
        TextColumn("left"),
        Remaining(elapsed_when_finished=True),
        console=console,
        transient=True,
    )
    words: dict[str, str] = {}

    def report(entry: Mapping[str, Any]) -> None:
        if "validation" in entry:
            value = entry["validation"][config.metric]
            words["validation"] = f"{_name(config.metric)} {value:.1f} mm"
            best = ", the best" if entry["best"] else ""
            line = f"  batch {entry['step']}: {'  '.join(words.values())}{best}"
            console.print(f"{line}  {entry['seconds']:.0f} s", markup=False, soft_wrap=True)
        else:
            words["speed"] = f"{entry['frames_per_s']:.0f} frames/s"
            words["loss"] = f"loss {entry['loss']:.3g}"
        bar.update(task, completed=entry["step"], words="  ".join(words.values()))

    with bar:
        task = bar.add_task("train", total=config.steps, words="")
        yield report


def _name(metric: str) -> str:
    return "mTRE" if metric == "mtre" else metric
