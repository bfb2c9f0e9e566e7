"""How far a training or a sequence is: a bar on a terminal."""

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
    """Shows a training while the block runs: a bar, and a line for each validation.

    Args:
        console: Where.
        config: Of the training.

    Yields:
        What `training.fit` reports to.
    """
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
        update(entry["step"], "  ".join(words.values()))

    with counted(console, "train", config.steps) as update:
        yield report


@contextmanager
def counted(console: "Console", what: str, total: int) -> Iterator[Callable[[int, str], None]]:
    """Shows a bar while the block runs.

    Args:
        console: Where.
        what: What is being done.
        total: How many there are.

    Yields:
        A function to tell how many are done, with words to show.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    bar = Progress(
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[words]}"),
        TextColumn("left"),
        Remaining(elapsed_when_finished=True),
        console=console,
        transient=True,
    )
    with bar:
        task = bar.add_task(what, total=total, words="")
        yield lambda done, words: bar.update(task, completed=done, words=words)


def _name(metric: str) -> str:
    return "mTRE" if metric == "mtre" else metric
