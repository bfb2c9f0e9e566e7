"""The published systems at reduced scale: what each part of them is worth, in the papers' own form.

    python benchmarks/bench_ablation.py
    python benchmarks/bench_ablation.py --tables psss --seeds 5

Protocol: one CT (chest-lidc, in `$JXREG_DATA`), networks and schedules of `reduced.py`, several
seeds, each of weights and frames. All are judged on the same 128 frames that no training draws and
that chose no weights; they are line integrals without augmentation.

psss      A, A+B, A+C, A+B+C, (A+B+C)*, and what `jxreg.register` makes of the last, at 128 pixels
psss-set  the same, trained on a fixed set of 1000 images, as PSSS is on some set
lxpose    mPD of both stages: clean, with the eight augmentations, with another contrast of bone in
          the X-ray than in the DRR between, of shorter and longer schedules and of smaller ranges
diffpose  its eight parametrisations
patches   registration as in DiffPose of whole simulated X-rays of 256 x 256 pixels, or of 100, 250
          or 500 patches of 13 x 13 that are drawn anew in each of 200 steps; seeds are cases, whose
          starts are off by a fifth of the spread of training
xvr       500 batches on a CT that was left out: of the network trained on three others, of a fresh
          one, and the former as it was

Trainings are written as they are finished, and a second call goes on where the first one was
stopped. Minutes are of the process, all its threads together, compilation included.
"""

import argparse
import functools
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import accuracy
import jax
import jax.numpy as jnp
import numpy as np
import reduced
import timing
from jaxlie import SE3
from outcome import resumed, setting
from rich.console import Console
from rich.table import Table
from simulated_xray import materials, simulate

import jxreg
from jxreg import metrics, recipes
from jxreg.pose import moved, perturb
from jxreg.recipes import diffpose, psss
from jxreg.recipes.model import Model, starter
from jxreg.recipes.patients import landmarks_of
from jxreg.recipes.recipe import Geometry, Patient, Recipe, camera_of, finetuning, reference_pose
from jxreg.sampling import sample
from jxreg.stepping import Task
from jxreg.training import TrainConfig, fit

CT = "chest-lidc"
OTHERS = ("chest", "pelvis", "head")
REFINED = 32
"""Frames of each seed that are refined."""
SUCCESS_MM = 10.0
"""mTRE of a success, as in PSSS."""
Done = set[tuple[str, int]]


def psss_rows(table: str, seeds: range, done: Done) -> Iterator[dict]:
    """A row for each part of the ablation and seed, and one for the refinement."""
    configs, ct = reduced.TABLES[table], load(CT)
    patient = psss.build(configs["A"]).prepare([ct])[0]
    for seed in seeds:
        for name, config in configs.items():
            whole = name == "(A+B+C)*"
            if {(name, seed), *([(f"{name} + D", seed)] if whole else [])} <= done:
                continue
            made = psss.build(config)
            params, minutes = trained(made, [patient], config.train, seed)
            yield row(name, seed, minutes) | judged(made, params, patient)
            if whole:
                began = time.process_time()
                errors_ = refined(made, params, ct, seed)
                yield row(f"{name} + D", seed, (time.process_time() - began) / 60) | errors_


def lxpose_rows(seeds: range, done: Done) -> Iterator[dict]:
    """A row for each variant and seed, with the mPD of the first stage too."""
    ct = load(CT)
    for name, config in reduced.LXPOSE.items():
        missing = [seed for seed in seeds if (name, seed) not in done]
        if not missing:
            continue
        made = recipes.build("lxpose", config)
        plain = recipes.build("lxpose", replace(config, augmentation=False))
        patient = plain.prepare([ct])[0]
        for seed in missing:
            params, minutes = trained(made, [patient], config.train, seed)
            first = jax.jit(made.task.validate)(params, patient)["first_mpd"]
            errors = judged(made, params, patient) | {"first_mpd_mm": float(first)}
            yield row(name, seed, minutes) | errors


def diffpose_rows(seeds: range, done: Done) -> Iterator[dict]:
    """A row for each parametrisation and seed."""
    patient = None
    for seed in seeds:
        for name, config in reduced.DIFFPOSE.items():
            if (name, seed) in done:
                continue
            made = recipes.build("diffpose", config)
            patient = patient or made.prepare([load(CT)])[0]
            params, minutes = trained(made, [patient], config.train, seed)
            yield row(name, seed, minutes) | judged(made, params, patient)


def xvr_rows(seeds: range, done: Done) -> Iterator[dict]:
    """Three rows for each seed."""
    names, config = ("foundation", "finetuned", "scratch"), reduced.XVR
    missing = [seed for seed in seeds if any((name, seed) not in done for name in names)]
    if not missing:
        return
    made, brief = recipes.build("xvr", config), finetuning(config.train)
    *others, mine = made.prepare([load(name) for name in (*OTHERS, CT)])
    for seed in missing:
        foundation, minutes = trained(made, others, config.train, seed)
        yield row("foundation", seed, minutes) | judged(made, foundation, mine)
        for name, start in (("finetuned", foundation), ("scratch", None)):
            params, minutes = trained(made, [mine], brief, seed, start)
            yield row(name, seed, minutes) | judged(made, params, mine)


def patches_rows(seeds: range, done: Done) -> Iterator[dict]:
    """A row for each number of patches and case; `seconds` is None where it was compiled."""
    ct, geometry = load(CT), diffpose.CONFIG.geometry
    camera, points = camera_of(geometry), jnp.asarray(landmarks_of(ct, reduced.PATIENT))
    two, make = materials(ct), jax.jit(simulate)
    for name, config in reduced.PATCHES.items():
        missing = [case for case in range(2 * len(seeds)) if (name, case) not in done]
        for i, case in enumerate(missing):
            truth, start = start_of(case, geometry, ct)
            frame = jxreg.Frame(make(jax.random.key(case), two, camera, truth), camera)
            began = time.process_time()
            found = jax.block_until_ready(jxreg.register(ct, frame, start, config=config)).pose
            seconds = time.process_time() - began
            batched = (jax.tree.map(lambda x: x[None], pose) for pose in (found, truth))
            apart = float(metrics.mtre(start, truth, points))
            yield (
                row(name, case, seconds / 60)
                | errors(*batched, points, camera)
                | {
                    "first_mtre_mm": apart,
                    "seconds": seconds if i else None,
                }
            )


def start_of(case: int, geometry: Geometry, ct: jxreg.Volume) -> tuple[SE3, SE3]:
    """True pose of a case, and where its registration begins."""
    posed, off = jax.random.split(jax.random.key(case))
    poses, reference = diffpose.CONFIG.poses, reference_pose(geometry, ct.isocenter)
    truth = moved(reference, sample(posed, poses, 0.5), ct.isocenter)
    twist = 0.2 * jnp.array(poses.scale) * jax.random.normal(off, (6,))
    return truth, perturb(truth, twist, ct.isocenter)


TABLES: dict[str, Callable[[range, Done], Iterator[dict]]] = {
    "lxpose": lxpose_rows,
    "psss": functools.partial(psss_rows, "psss"),
    "psss-set": functools.partial(psss_rows, "psss-set"),
    "diffpose": diffpose_rows,
    "patches": patches_rows,
    "xvr": xvr_rows,
}


@functools.cache
def load(name: str) -> jxreg.Volume:
    """A CT by its name."""
    return jxreg.load_volume(accuracy.data_folder() / accuracy.CTS[name])


def trained(
    made: Recipe, patients: list[Patient], config: TrainConfig, seed: int, start: Any = None
) -> tuple[Any, float]:
    """Weights, and minutes. The seed is data, so that the next one need not be compiled."""
    began = time.process_time()
    if start is None:
        start = jax.jit(made.task.init, compiler_options=QUICK)(jax.random.key(seed))
    pairs = [(jnp.int32(seed), patient) for patient in patients]
    params = fit(seeded(made.task), pairs, config, start=start).params
    return params, (time.process_time() - began) / 60


QUICK = {"xla_backend_optimization_level": 0}
"""What is called once is compiled quickly."""


def seeded(task: Task) -> Task:
    """The task with patients that bring a seed for the frames."""

    def loss(params, keys, pair, level):
        seed, patient = pair
        keys = jax.vmap(lambda key: jax.random.fold_in(key, seed))(keys)
        return task.loss(params, keys, patient, level)

    return Task(task.init, loss, lambda params, pair: task.validate(params, pair[1]))


def row(variant: str, seed: int, minutes: float) -> dict:
    return {"variant": variant, "seed": seed, "minutes": minutes}


def judged(made: Recipe, params: Any, patient: Patient) -> dict:
    """Errors of a network on the frames that none was trained on, and of the reference pose."""
    locate = jax.jit(jax.vmap(made.locate, in_axes=(None, None, 0)))
    found = locate(params, patient.volume, patient.fixed.images)
    truths, points, camera = patient.fixed.poses, patient.landmarks, camera_of(made.geometry)
    at_rest = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (len(truths.wxyz_xyz), 7)),
        reference_pose(made.geometry, patient.volume.isocenter),
    )
    untrained = errors(at_rest, truths, points, camera)["mtre_mm"]
    return errors(found, truths, points, camera) | {"reference_mtre_mm": untrained}


def errors(found, truths, landmarks, camera) -> dict:
    """Means over frames, and success as in PSSS."""
    mtre = jax.vmap(metrics.mtre, in_axes=(0, 0, None))(found, truths, landmarks)
    mpd = jax.vmap(metrics.mpd, in_axes=(0, 0, None, None))(found, truths, landmarks, camera)
    return {
        "mtre_mm": float(mtre.mean()),
        "mtre_median_mm": float(jnp.median(mtre)),
        "mpd_mm": float(mpd.mean()),
        "success_10mm": float((mtre < SUCCESS_MM).mean()),
    }


def refined(made: Recipe, params: Any, ct: jxreg.Volume, seed: int) -> dict:
    """Errors of registrations that begin where the network says, and of the network there."""
    geometry = replace(made.geometry, pixels=128, pixel_mm=made.geometry.pixel_mm / 4)
    camera, reference = camera_of(geometry), reference_pose(geometry, ct.isocenter)
    start = starter(Model(made, params, {}))
    render, poses = jax.jit(jxreg.render), {"network": [], "refined": [], "truth": []}
    for key in jax.random.split(jax.random.key(1000 + seed), REFINED):
        truth = moved(
            reference, jax.jit(sample, static_argnums=1)(key, reduced.PSSS.poses), ct.isocenter
        )
        frame = jxreg.Frame(render(ct, camera, truth), camera)
        poses["network"].append(start(ct, frame))
        poses["refined"].append(jxreg.register(ct, frame, start).pose)
        poses["truth"].append(truth)
    stacked = {
        name: jax.tree.map(lambda *leaves: jnp.stack(leaves), *each) for name, each in poses.items()
    }
    points = jnp.asarray(landmarks_of(ct, reduced.PATIENT))
    before, after = (
        errors(stacked[name], stacked["truth"], points, camera) for name in ("network", "refined")
    )
    return after | {f"network_{name}": value for name, value in before.items()}


def lines(rows: list[dict]) -> dict[str, dict]:
    """Mean and spread over the seeds of each variant of one table."""
    said = {}
    for variant in dict.fromkeys(row["variant"] for row in rows):
        mine = [row for row in rows if row["variant"] == variant]
        numbers = [name for name in mine[0] if name not in ("table", "variant", "seed")]
        columns = {
            name: np.array([row[name] for row in mine if row[name] is not None]) for name in numbers
        }
        said[variant] = {"seeds": len(mine)} | {
            name: {"mean": float(x.mean()), "sd": float(x.std(ddof=1)) if len(x) > 1 else 0.0}
            for name, x in columns.items()
            if x.size
        }
    return said


def against_first(rows: list[dict]) -> dict[str, dict]:
    """Difference of mTRE of each variant to the first one of its table, paired by seed [mm]."""
    names = list(dict.fromkeys(row["variant"] for row in rows))
    of = {(row["variant"], row["seed"]): row["mtre_mm"] for row in rows}
    said = {}
    for name in names[1:]:
        pairs = [(of[name, s], of[names[0], s]) for n, s in of if n == name and (names[0], s) in of]
        apart = np.array([a - b for a, b in pairs])
        said[name] = {
            "mean": float(apart.mean()),
            "lower": int((apart < 0).sum()),
            "of": len(apart),
        }
    return said


def shown(name: str, rows: list[dict]) -> Table:
    """Mean and, in brackets, spread over the seeds."""
    table = Table(title=f"{name}: mean (deviation between seeds)", title_justify="left")
    for column in (
        "variant",
        "seeds",
        "mTRE",
        "mPD",
        "< 10 mm",
        "first mPD",
        "against first",
        "min",
    ):
        table.add_column(column, justify="left" if column == "variant" else "right")
    paired = against_first(rows)
    for variant, line in lines(rows).items():
        keys = ("mtre_mm", "mpd_mm", "first_mpd_mm", "minutes")
        mtre, mpd, first, minutes = (line.get(key) for key in keys)
        change = paired.get(variant)
        table.add_row(
            variant,
            str(line["seeds"]),
            f"{mtre['mean']:.2f} ({mtre['sd']:.2f})",
            f"{mpd['mean']:.2f} ({mpd['sd']:.2f})",
            f"{line['success_10mm']['mean']:.1%}",
            f"{first['mean']:.2f}, {1 - mpd['mean'] / first['mean']:.0%} lower" if first else "",
            f"{change['mean']:+.2f}, lower in {change['lower']} of {change['of']}"
            if change
            else "",
            f"{minutes['mean']:.1f}" if minutes else "",
        )
    return table


def main() -> None:
    """Runs what is not in the file yet; writes after every training."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("bench_ablation.json"))
    parser.add_argument("--cache", type=Path, help="folder of compiled code, to keep it")
    options, console = parser.parse_args(), Console(width=140)
    new = setting(__doc__ or "") | timing.machine() | {"ct": CT, "config": {}, "summary": {}}
    report = resumed(options.out, new, ("ct",))
    settings = {f"{n}: {v}": repr(c) for n in options.tables for v, c in reduced.TABLES[n].items()}
    changed = [n for n, each in settings.items() if report["config"].get(n, each) != each]
    if changed:
        raise SystemExit(f"{options.out}: other settings of {', '.join(changed)}; give --out")
    report["config"] |= settings
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", str(options.cache or folder))
        for name in options.tables:
            rows = [each for each in report["runs"] if each["table"] == name]
            done = {(each["variant"], each["seed"]) for each in rows}
            for each in TABLES[name](range(options.seeds), done):
                if (each["variant"], each["seed"]) not in done:
                    rows.append({"table": name, **each})
                    report["runs"].append(rows[-1])
                    console.print(rows[-1], highlight=False)
                report["summary"][name] = lines(rows)
                timing.write(options.out, json.dumps(report, indent=1))
    for name in TABLES:
        rows = [each for each in report["runs"] if each["table"] == name]
        if rows:
            console.print(shown(name, rows))


if __name__ == "__main__":
    main()
