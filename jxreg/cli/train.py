"""`jxreg train`: a network that finds the pose in X-rays of one patient, or of many."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from jxreg.cli.options import VolumeOptions, read_volume

if TYPE_CHECKING:
    from rich.console import Console

    from jxreg.recipes.recipe import Geometry
    from jxreg.training import Fitted


@dataclass(frozen=True)
class GeometryOptions:
    """What the network's X-rays are taken with, where it is not what the recipe says."""

    camera: Path | None = None
    """Camera file or pose file (JSON) whose field of view, distance and mirror the network gets."""
    sdd: float | None = None
    """Source-to-detector distance [mm]."""
    detector_mm: float | None = None
    """Side of the square detector [mm]."""
    pixels: int | None = None
    """Rows and columns of the network's images."""
    source_to_isocenter: float | None = None
    """Usual distance from the X-ray source to the isocenter [mm]."""
    primary_degrees: float | None = None
    """Middle of the range of views: LAO +, RAO -; 0 has the detector in front, 180 behind [deg]."""
    secondary_degrees: float | None = None
    """Cranial +, caudal - [deg]."""
    mirrored: bool = False
    """The display is mirrored."""


def run_train(
    volumes: tyro.conf.Positional[tuple[Path, ...]],
    /,
    out: Path,
    recipe: str = "jxreg",
    foundation: Annotated[Path | None, tyro.conf.arg(name="from")] = None,
    steps: int | None = None,
    batch: int | None = None,
    seed: int | None = None,
    work: Path | None = None,
    geometry: GeometryOptions = GeometryOptions(),
    config: Path | None = None,
    reading: VolumeOptions = VolumeOptions(),
) -> int:
    """Train a network to find the pose in X-rays of one patient, or of several.

    It renders its own images, so it needs nothing but CTs. OUT is one file with all that
    `jxreg register --net OUT` needs; no part of a CT is in it. What was killed goes on where it
    was when the same command is given again; the log, its plot and the checkpoints are in WORK.

    Args:
        volumes: CTs: NIfTI, NRRD, MHA, or folders of DICOM slices.
        out: The model file (.safetensors).
        recipe: What to train: `jxreg`, a small network for a laptop; or `diffpose`,
            `lxpose`, `psss` or `xvr`.
        foundation: Begin with this model file, trained on other CTs, and train but briefly.
        steps: Batches; the recipe says how many by default.
        batch: Images of a batch.
        seed: Of all that is random.
        work: Folder of checkpoints and log; by default OUT with .training at its end.
        geometry: What the X-rays are taken with.
        config: The recipe's configuration (JSON), or a part of it; options overrule it.
        reading: What to take from the volumes' files, and what their numbers mean.
    """
    from jxreg import recipes
    from jxreg.cli.console import progress_console, result_console, step
    from jxreg.cli.provenance import make_folder
    from jxreg.io.checksum import sha256
    from jxreg.recipes.model import save_model
    from jxreg.training import fit

    chosen, start, parent = _configured(recipe, foundation, config)
    chosen = _overruled(chosen, geometry, {"steps": steps, "batch": batch, "seed": seed})
    make_folder(out.parent)
    work = make_folder(out.with_name(f"{out.name}.training") if work is None else work)
    made = recipes.build(recipe, chosen)
    console, sums = progress_console(), [sha256(path) for path in volumes]
    with step(console, f"read {len(volumes)} volume{'s'[: len(volumes) != 1]}"):
        loaded = [read_volume(path, reading) for path in volumes]
    with step(console, "prepare volumes and validation set"):
        patients = made.prepare(loaded)
    del loaded
    identity = {"recipe": recipe, "config": dataclasses.asdict(chosen), "volumes": sums, **parent}
    fitted = _fitted(console, fit, made, patients, chosen.train, work, start, identity)
    save_model(out, recipe, chosen, fitted.params, _about(sums, parent, fitted))
    _draw(work)
    result_console().print(f"{out}: {_words(fitted)}", markup=False, soft_wrap=True)
    return 0


def _configured(recipe: str, foundation: Path | None, path: Path | None):
    """The configuration, the parameters to begin with, and what to tell of their file."""
    from jxreg import recipes
    from jxreg.cli.config_file import filled_from
    from jxreg.errors import InputError
    from jxreg.io.checksum import sha256
    from jxreg.io.model_file import load_model_file
    from jxreg.recipes.model import config_of
    from jxreg.recipes.recipe import finetuning

    if recipe not in recipes.RECIPES:
        known = ", ".join(recipes.RECIPES)
        raise InputError("--recipe", repr(recipe), f"one of {known}", "choose one of these")
    chosen, start, parent = recipes.default_config(recipe), None, {}
    if foundation is not None:
        start, header = load_model_file(foundation)
        if header.get("recipe") != recipe:
            found = f"a model of the recipe {header.get('recipe')!r}"
            raise InputError(str(foundation), found, f"one of {recipe!r}", "name its --recipe")
        chosen = config_of(str(foundation), header)
        chosen = dataclasses.replace(chosen, train=finetuning(chosen.train))
        parent = {"foundation_sha256": sha256(foundation)}
    return filled_from(chosen, path, "a configuration of a recipe (JSON)"), start, parent


def _overruled(chosen: Any, options: GeometryOptions, train: Mapping[str, int | None]) -> Any:
    """The configuration with what the command line says."""
    given = {name: value for name, value in train.items() if value is not None}
    return dataclasses.replace(
        chosen,
        geometry=_geometry(chosen.geometry, options),
        train=dataclasses.replace(chosen.train, **given),
    )


def _geometry(geometry: "Geometry", options: GeometryOptions) -> "Geometry":
    import numpy as np

    from jxreg.camera import is_mirrored, pixel_spacing
    from jxreg.errors import InputError
    from jxreg.io import load_camera

    names = ("sdd", "pixels", "source_to_isocenter", "primary_degrees", "secondary_degrees")
    given = {name: getattr(options, name) for name in names}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    for name in ("sdd", "pixels", "source_to_isocenter"):
        if not 0 < changes.get(name, 1) < float("inf"):
            option = f"--{name.replace('_', '-')}"
            raise InputError(option, str(changes[name]), "a positive number", "correct it")
    side = options.detector_mm
    mirrored = options.mirrored
    if options.camera is not None:
        camera = load_camera(options.camera)
        extent = np.asarray(pixel_spacing(camera)) * camera.image_size
        side = float(extent.max()) if side is None else side
        changes.setdefault("sdd", float(camera.sdd))
        mirrored = mirrored or bool(is_mirrored(camera))
    if mirrored:
        changes["mirrored"] = True
    if side is not None:
        changes["pixel_mm"] = side / changes.get("pixels", geometry.pixels)
    elif "pixels" in changes:
        changes["pixel_mm"] = geometry.pixel_mm * geometry.pixels / changes["pixels"]
    return dataclasses.replace(geometry, **changes)


def _fitted(console: "Console", fit, made, patients, config, work, start, identity) -> "Fitted":
    """Trains, with a line that says how far it is."""
    from jxreg.cli.progress import training_progress

    with training_progress(console, config) as report:
        return fit(
            made.task,
            patients,
            config,
            folder=work,
            start=start,
            identity=identity,
            report=report,
        )


def _about(sums: list[str], parent: Mapping[str, str], fitted: "Fitted") -> dict[str, Any]:
    """What a model file tells of its training."""
    from jxreg.report.record import versions

    standing = fitted.standing
    return {
        "volumes_sha256": sums,
        **parent,
        "training": {
            "steps": standing.step,
            "best_step": standing.best_step,
            "minutes": round(fitted.seconds / 60, 2),
            "best": standing.best,
        },
        "versions": versions(),
    }


def _draw(work: Path) -> None:
    from jxreg import plot
    from jxreg.io import write_atomic
    from jxreg.io.train_folder import LOG
    from jxreg.io.train_log import load_log

    write_atomic(work / "log.svg", plot.svg(plot.training_figure(load_log(work / LOG))))


def _words(fitted: "Fitted") -> str:
    best, minutes = fitted.standing.best, fitted.seconds / 60
    return f"mTRE {best:.1f} mm on the validation set, {minutes:.1f} minutes"
