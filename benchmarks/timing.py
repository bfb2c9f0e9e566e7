"""How the benchmarks measure: alternated calls, peak memory, and what machine it was."""

import contextlib
import ctypes
import gc
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import jax

import jxreg
from jxreg.io.atomic import write_atomic

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
SHORTEST_MS = 20.0
"""A shorter call on an accelerator is repeated until it takes this long; waiting costs time too."""


class Call(NamedTuple):
    """One thing to time."""

    run: Callable[[], object]
    """Starts the work; it may come back before the work is done."""
    wait: Callable[[object], object] = jax.block_until_ready
    """Waits for what `run` returned."""
    times: int = 1
    """Measurements a round: several for what is much faster than the others."""


def timed(function: Callable, *arguments, **options):
    """What one call returns, and its wall time [s]."""
    began = time.perf_counter()
    result = jax.block_until_ready(function(*arguments, **options))
    return result, time.perf_counter() - began


def milliseconds(call: Call, repeats: int = 1) -> float:
    """Wall time of one call, from `repeats` calls that are started in a row [ms]."""
    result = None
    began = time.perf_counter()
    for _ in range(repeats):
        result = call.run()
    call.wait(result)
    return (time.perf_counter() - began) * 1e3 / repeats


def alternate(calls: Mapping[str, Call], rounds: int) -> dict[str, list[float]]:
    """Times [ms] of each call, all of them in turn in every round, so that they share the noise.

    Each must have been called before. On an accelerator short calls are started many at a time, as
    a program would that does not look at every image.
    """
    repeats, times = {}, {name: [] for name in calls}
    for name, call in calls.items():
        repeats[name] = 1 if on_cpu() else max(1, round(SHORTEST_MS / milliseconds(call)))
    for _ in range(rounds):
        for name, call in calls.items():
            times[name] += [milliseconds(call, repeats[name]) for _ in range(call.times)]
            gc.collect()
    return times


def summary(times: list[float], frames: int) -> dict:
    """Median and minimum [ms a frame]."""
    return {
        "median_ms": statistics.median(times) / frames,
        "minimum_ms": min(times) / frames,
        "calls": len(times),
    }


class First(NamedTuple):
    """What a first call was like."""

    result: object
    seconds: float
    grown: int
    """How far the memory of this process grew for it [bytes]."""


def first(call: Call) -> First:
    """Calls something for the first time and watches the memory of this process.

    By the kernel's high-water mark where it can be reset, else by a look every millisecond.
    """
    gc.collect()
    _return_freed()
    before, began = _status("VmRSS"), time.perf_counter()
    with _peak() as peak:
        result = call.run()
        call.wait(result)
    return First(result, time.perf_counter() - began, max(peak[0] - before, 0))


def _return_freed() -> None:
    """Gives freed memory back to the system, where the C library can, so that growth shows."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def _peak():
    """The largest resident size while this is open: a list of one number [bytes]."""
    peak, done = [0], threading.Event()
    try:
        CLEAR.write_text("5")
    except OSError:

        def watch():
            while not done.wait(1e-3):
                peak[0] = max(peak[0], _status("VmRSS"))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield peak
        finally:
            done.set()
            watcher.join()
        return
    yield peak
    peak[0] = _status("VmHWM")


def _status(field: str) -> int:
    """A size in this process's status [bytes]; 0 where the system does not tell."""
    if not STATUS.exists():
        return 0
    for line in STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return 0


def on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine() -> dict:
    """Processor, accelerator, and versions of everything that was timed."""
    model, flags = _cpuinfo("model name") or platform.processor(), _cpuinfo("flags").split()
    packages = ("jaxlib", "numpy", "torch", "nanodrr", "diffdrr")
    return {
        "cpu": f"{model or platform.machine()}, {cores()} cores",
        "avx512": "avx512f" in flags,
        "accelerator": None if on_cpu() else jax.devices()[0].device_kind,
        "versions": {
            "python": platform.python_version(),
            "jax": jax.__version__,
            "jxreg": jxreg.__version__,
            **{name: _version(name) for name in packages},
        },
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpuinfo(field: str) -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(field)), "")


def write(path: Path, text: str) -> None:
    """Writes a report whole or not at all."""
    write_atomic(path, text.encode())
