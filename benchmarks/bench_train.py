"""How fast networks train and answer: frames/s of synthesis and of steps, latency of image -> pose.

    python benchmarks/bench_train.py chest.nii.gz
    python benchmarks/bench_train.py chest.nii.gz --what latency --recipes jxreg lxpose --pixels 256
    python benchmarks/bench_train.py --table bench_train.json

`synthesis` draws poses and renders batches of training frames of the recipe `jxreg`: the DRR alone,
then with augmentation, then with spectrum, scatter and noise too. `training` is the whole step of a
recipe: frames, loss, gradient, update. `latency` is one X-ray of 256 x 256 pixels on the device to
the pose of `recipes.model.locator`, with `+ register` to that of `jxreg.register`; the weights are
zero, which says the reference pose and takes as long as any other, and the X-ray is taken 10 mm and
4 degrees from there. Every call is waited for; the first one, which compiles, is apart, also in CPU
time of all threads (both are less where JAX keeps compilations). On a CPU networks are given fewer
pixels than published: they are in the row. It goes on where it was stopped, by --seconds too;
`--calls 0 --batches 0` compiles only.
"""

import argparse
import functools
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import timing
from outcome import resumed, setting
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import jxreg
from jxreg import recipes
from jxreg.augmentation import JXREG, JXREG_EXPOSURE
from jxreg.pose import perturb
from jxreg.recipes import own
from jxreg.recipes.model import Model, starter
from jxreg.recipes.patients import Draw, draw_sample
from jxreg.recipes.recipe import Fixed, Patient, camera_of, reference_pose
from jxreg.stepping import Plan, compiled
from jxreg.synthesis import SynthesisConfig, training_volume

WHAT = ("synthesis", "training", "latency")
SYNTHESIS = {
    "render": SynthesisConfig(own.CONFIG.contrast),
    "render, augmentation": SynthesisConfig(own.CONFIG.contrast, augment=JXREG),
    "render, exposure, augmentation": SynthesisConfig(own.CONFIG.contrast, JXREG_EXPOSURE, JXREG),
}
REFINED = ("jxreg", "lxpose")
"""Recipes whose latency is measured with `register` as well."""
OFF = (6.0, -5.0, 6.0, 0.05, -0.03, 0.04)
"""From the reference pose to the X-ray [mm, rad]."""
XRAY = 256
ASKED_GPU_MS = 10.0
"""Of image -> pose at 256 x 256 on a GPU; LXPose says 20."""


class Size(NamedTuple):
    """Of the images and the batch of a recipe."""

    pixels: int
    batch: int


SMALL = Size(128, 8)
"""Of all recipes on a CPU but `jxreg`, which is made for one."""


class Job(NamedTuple):
    """One row."""

    what: str
    name: str
    size: Size
    frames: int
    """Images of a call."""
    make: Callable[[], Callable[[], Any]]
    """Prepares, and gives what is timed; this waits for what it computes."""

    @property
    def key(self) -> dict:
        return {"what": self.what, "name": self.name, **self.size._asdict()}


def sized(name: str, size: Size) -> Any:
    """The configuration of a recipe at a size, its field of view as it was."""
    config = recipes.default_config(name)
    geometry, train = config.geometry, replace(config.train, batch=size.batch)
    width = geometry.pixels * geometry.pixel_mm
    geometry = replace(geometry, pixels=size.pixels, pixel_mm=width / size.pixels)
    return replace(config, geometry=geometry, train=train)


def size_of(name: str, pixels: int | None, batch: int | None) -> Size:
    """What was asked for, or the recipe's own size; on a CPU a smaller one."""
    config = recipes.default_config(name)
    usual = Size(config.geometry.pixels, config.train.batch)
    if timing.on_cpu() and name != "jxreg":
        usual = SMALL
    return Size(pixels or usual.pixels, batch or usual.batch)


def patient_of(ct: jxreg.Volume, config: Any) -> Patient:
    """The CT as a recipe is trained on it, without the validation set."""
    geometry, pixels = config.geometry, config.geometry.pixels
    volume = training_volume(
        ct,
        camera_of(geometry),
        geometry.source_to_isocenter,
        voxels_per_pixel=config.patient.voxels_per_pixel,
    )
    spread = np.random.default_rng(0).uniform(-80.0, 80.0, (config.patient.landmarks, 3))
    nothing = Fixed(jnp.zeros((1, pixels, pixels)), reference_pose(geometry, ct.isocenter))
    return Patient(volume, volume.isocenter + jnp.asarray(spread, float), nothing)


def synthesis(ct: jxreg.Volume, name: str, size: Size) -> Callable[[], Any]:
    """Batches of training frames, with other keys in each."""
    config = sized("jxreg", size)
    draw, volume = Draw(config.geometry, config.poses, SYNTHESIS[name]), patient_of(ct, config)[0]
    number = iter(range(1_000_000))

    @jax.jit
    def frames(volume, number):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), number), size.batch)
        return jax.vmap(lambda key: draw_sample(key, volume, draw).frame.images)(keys)

    return lambda: jax.block_until_ready(frames(volume, next(number)))


def training(ct: jxreg.Volume, name: str, size: Size, steps: int) -> Callable[[], Any]:
    """Steps of a training, one after the other."""
    config = sized(name, size)
    recipe = recipes.build(name, config)
    plan = Plan(recipe.train.optimizer, recipe.train.steps, size.batch, 0)
    patient = patient_of(ct, config)
    machine = compiled(recipe.task, patient, plan)
    patient = machine.place(patient)
    state = machine.begin(jax.jit(recipe.task.init)(jax.random.key(0))), machine.tally()

    def run() -> None:
        nonlocal state
        state = jax.block_until_ready(machine.advance(*state, patient, 1.0, steps))

    return run


def latency(ct: jxreg.Volume, name: str, size: Size, refined: bool) -> Callable[[], Any]:
    """One image to its pose."""
    geometry = sized(name, size).geometry
    recipe = recipes.build(name, sized(name, size))
    params = jax.eval_shape(recipe.task.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), params)
    find = starter(Model(recipe, params, {}))
    camera = camera_of(
        replace(geometry, pixels=XRAY, pixel_mm=geometry.pixels * geometry.pixel_mm / XRAY)
    )
    pose = perturb(reference_pose(geometry, ct.isocenter), jnp.array(OFF), ct.isocenter)
    frame = jxreg.Frame(jax.jit(jxreg.render)(ct, camera, pose), camera)
    if refined:
        return lambda: jax.block_until_ready(jxreg.register(ct, frame, find))
    return lambda: jax.block_until_ready(find(ct, frame))


def jobs(ct: jxreg.Volume, options: argparse.Namespace) -> list[Job]:
    """All rows that are asked for."""
    wanted = []
    steps = 1 if timing.on_cpu() else 20
    if "synthesis" in options.what:
        size = size_of("jxreg", options.pixels, options.batch)
        for name in SYNTHESIS:
            make = functools.partial(synthesis, ct, name, size)
            wanted.append(Job("synthesis", name, size, size.batch, make))
    for name in options.recipes:
        size = size_of(name, options.pixels, options.batch)
        if "training" in options.what:
            make = functools.partial(training, ct, name, size, steps)
            wanted.append(Job("training", name, size, size.batch * steps, make))
        if "latency" in options.what:
            one = size._replace(batch=1)
            make = functools.partial(latency, ct, name, one, False)
            wanted.append(Job("latency", name, one, 1, make))
        if "latency" in options.what and name in REFINED:
            make = functools.partial(latency, ct, name, one, True)
            wanted.append(Job("latency", f"{name} + register", one, 1, make))
    return wanted


def measure(job: Job, row: dict, calls: int, until: float) -> None:
    """Adds calls to a row until it has as many, or the clock says so."""
    run = job.make()
    began = time.process_time()
    _, seconds = timing.timed(run)
    if "first_call_s" not in row:
        row |= {"first_call_s": seconds, "first_call_cpu_s": time.process_time() - began}
    run()
    while len(row["ms"]) < calls and time.monotonic() < until:
        row["ms"].append(round(timing.timed(run)[1] * 1e3, 6))
    if row["ms"]:
        row["median_ms"] = float(np.median(row["ms"]))
        row["p95_ms"] = float(np.percentile(row["ms"], 95))
        row["frames_per_s"] = job.frames * 1e3 / row["median_ms"]


def run_jobs(report: dict, wanted: list[Job], options: argparse.Namespace) -> None:
    """Adds what is missing to the report, and writes it after every row."""
    until = time.monotonic() + options.seconds
    here = {"device": jax.devices()[0].device_kind, "cores": timing.cores()}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for job in progress.track(wanted, description="measure"):
            calls = options.calls if job.what == "latency" else options.batches
            row = next((row for row in report["runs"] if job.key.items() <= row.items()), None)
            if row is None:
                row = {**job.key, **here, "ms": []}
                report["runs"].append(row)
            lacking = len(row["ms"]) < calls or "first_call_s" not in row
            if lacking and time.monotonic() < until:
                measure(job, row, calls, until)
                timing.write(options.out, json.dumps(report, indent=1))


def table(report: dict) -> Table:
    """A line for each row."""
    said = Table(title=f"{report['cpu']}, {report['accelerator'] or 'no accelerator'}", box=None)
    said.add_column("", no_wrap=True)
    for name in ("pixels", "batch", "calls", "median ms", "p95 ms", "frames/s", "first s", "CPU s"):
        said.add_column(name, justify="right", no_wrap=True)
    for row in report["runs"]:
        if row["ms"]:
            counts = (str(number) for number in (row["pixels"], row["batch"], len(row["ms"])))
            times = (f"{row[name]:.1f}" for name in ("median_ms", "p95_ms", "frames_per_s"))
            firsts = (f"{row[name]:.0f}" for name in ("first_call_s", "first_call_cpu_s"))
            said.add_row(f"{row['what']}: {row['name']}", *counts, *times, *firsts)
    return said


def main() -> None:
    """Measures what the file lacks, and shows the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("volume", type=Path, nargs="?")
    parser.add_argument("--what", nargs="+", choices=WHAT, default=WHAT)
    parser.add_argument("--recipes", nargs="+", choices=recipes.RECIPES, default=recipes.RECIPES)
    parser.add_argument("--pixels", type=int, help="of the networks")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--calls", type=int, default=200, help="of a latency")
    parser.add_argument("--batches", type=int, default=10, help="of synthesis and training")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--table", type=Path, help="show the table of a file, and no more")
    parser.add_argument("--out", type=Path, default=Path("bench_train.json"))
    options, console = parser.parse_args(), Console()
    if options.table is not None:
        console.print(table(json.loads(options.table.read_text())))
        return
    if options.volume is None:
        parser.error("name a CT")
    new = setting(__doc__ or "") | timing.machine() | {"ct": options.volume.name}
    report = resumed(options.out, new, ("device", "ct"))
    run_jobs(report, jobs(jxreg.load_volume(options.volume), options), options)
    console.print(table(report))
    if not timing.on_cpu():
        console.print(f"asked of image -> pose at 256 x 256: {ASKED_GPU_MS:g} ms", highlight=False)


if __name__ == "__main__":
    main()
