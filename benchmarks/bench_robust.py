"""What faults of an X-ray cost, and what finding them gives back, on simulated X-rays of real CTs.

    python benchmarks/bench_robust.py chest.nii.gz pelvis.mha --cases 10

Protocol: views, starts and X-rays as in bench_register.py; the CT is cropped along the patient by
30 mm at each end. Each X-ray is spoiled in one way: with a dense cylinder (5-10 % of the pixels),
a rod across the image, screws and wires, shutters, lettering; stored inverted or as a logarithm. It
is read as a file without a header is, and registered in four ways: as it is, with what
`jxreg.preprocessing` finds masked (metal too, and an inverted image turned), with the weights of
`robust_weights`, and with both.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from bench_register import CAMERA, OFFSET, START, VIEW, bone_landmarks, crop_ends
from outcome import outcome, setting, summary
from PIL import Image, ImageDraw
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn
from simulated_xray import InTheBeam, expose, materials

import jxreg
from jxreg.io.exposure import Exposure
from jxreg.io.frame_content import frame_content
from jxreg.pose import from_carm, perturb
from jxreg.preprocessing import NOTHING, Detect

SHAPE = CAMERA.image_size
MM = 1.4 * 700 / 1020
"""A pixel at the isocenter [mm]."""
FAULTS = ("none", "cylinder", "rod", "screws", "shutters", "lettering", "inverted", "logarithm")
FOUND = Detect(metal=True, inverted=True)
WAYS = {
    "as it is": (NOTHING, None),
    "detected": (FOUND, None),
    "robust": (NOTHING, 1.0),
    "both": (FOUND, 1.0),
}
"""What is looked for, and `Level.robust`."""


def rod(middle, degrees: float, length: float, radius: float):
    """Chord [px] of a rod in the plane of the image; all in pixels."""
    along = np.array([np.sin(np.radians(degrees)), np.cos(np.radians(degrees))])
    away = np.stack(np.mgrid[: SHAPE[0], : SHAPE[1]], -1) - np.asarray(middle)
    t = np.clip(away @ along, -length / 2, length / 2)
    distance = np.linalg.norm(away - t[..., None] * along, axis=-1)
    return 2 * np.sqrt(np.maximum(radius**2 - distance**2, 0))


def steel_of(fault: str, random) -> np.ndarray | None:
    """Path length through steel [mm]."""

    def place(reach):
        return np.array(SHAPE) / 2 + random.uniform(-reach, reach, 2)

    def turn():
        return random.uniform(0, 360)

    if fault == "cylinder":
        thick = rod(place(40), turn(), random.uniform(70, 110), random.uniform(20, 26))
    elif fault == "rod":
        thick = rod(place(40), turn(), 1000, random.uniform(7, 11))
    elif fault == "screws":
        parts = [rod(place(70), turn(), random.uniform(30, 60), 2.5) for _ in range(4)]
        parts += [rod(place(70), turn(), random.uniform(100, 200), 1.0) for _ in range(2)]
        thick = np.sum(parts, 0)
    else:
        return None
    return np.minimum(thick * MM, 12.0).astype(np.float32)


def shutters(random) -> np.ndarray:
    """1 within a turned rectangle."""
    v, u = np.mgrid[: SHAPE[0], : SHAPE[1]]
    middle, half = np.array(SHAPE) / 2 + random.uniform(-15, 15, 2), random.uniform(75, 105, 2)
    turn = random.uniform(-0.35, 0.35)
    y = (v - middle[0]) * np.cos(turn) + (u - middle[1]) * np.sin(turn)
    x = (u - middle[1]) * np.cos(turn) - (v - middle[0]) * np.sin(turn)
    edge = np.minimum(half[0] - np.abs(y), half[1] - np.abs(x))
    return np.clip(edge / 2 + 0.5, 0, 1).astype(np.float32)


def lettered(grey: np.ndarray) -> np.ndarray:
    """The image with lines of text burnt in, as a workstation exports it."""
    canvas = Image.new("L", (SHAPE[1], SHAPE[0]), 0)
    draw = ImageDraw.Draw(canvas)
    for row, text in ((8, "PATIENT 0001"), (26, "LAO 30 CRA 15"), (110, "90 KV 3 MA"), (232, "R")):
        draw.text((70, row), text, fill=255, font_size=16)
    return np.where(np.asarray(canvas) > 127, 4095, grey).astype(np.float32)


def stored(fault: str, grey: np.ndarray) -> np.ndarray:
    """What stands in the file."""
    if fault == "lettering":
        return lettered(grey)
    if fault == "inverted":
        return 4095 - grey
    if fault == "logarithm":
        return np.round(4095 * np.log(np.maximum(grey, 1)) / np.log(4095)).astype(np.float32)
    return grey


def read(pixels: np.ndarray, detect: Detect) -> tuple[jxreg.Frame, tuple[str, ...]]:
    """A frame with its mask, as `load_frames` makes it of a 12-bit file, and what was found."""
    content = frame_content(Exposure(pixels[None], "linear", 1.0, 4096), detect)
    mask = np.ones_like(content.image) if content.mask is None else content.mask
    return jxreg.Frame(jnp.asarray(content.image[0]), CAMERA, jnp.asarray(mask[0])), content.notes


def make_cases(ct: jxreg.Volume, fault: str, count: int, seed: int):
    """True pose, start and stored pixels of each case; the views are the same for all faults."""
    views, things = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    two, make = materials(ct), jax.jit(expose)
    for number in range(count):
        angles, offset = views.uniform(-VIEW, VIEW), views.uniform(-OFFSET, OFFSET, 3)
        place = {"source_to_isocenter": 700.0, "isocenter": ct.isocenter, "offset": offset}
        pose = from_carm(*angles, **place)
        start = perturb(pose, jnp.asarray(views.uniform(-START, START), float), ct.isocenter)
        steel = steel_of(fault, things)
        beam = InTheBeam(
            None if steel is None else jnp.asarray(steel),
            jnp.asarray(shutters(things)) if fault == "shutters" else None,
        )
        key = jax.random.key(1000 * seed + number)
        grey = np.asarray(make(key, two, CAMERA, pose, beam=beam), np.float32)
        yield pose, start, stored(fault, grey)


def configuration(robust: float | None) -> jxreg.RegisterConfig:
    """The default, with weights at each level or without."""
    config = jxreg.RegisterConfig()
    return replace(config, levels=tuple(replace(lv, robust=robust) for lv in config.levels))


def run(registered, landmarks, cases, way: str, progress) -> list[dict]:
    """Registers every case in one way."""
    detect, robust = WAYS[way]
    config, rows = configuration(robust), []
    for truth, start, pixels in cases:
        frame, notes = read(pixels, detect)
        result = jxreg.register(registered, frame, start, config=config)
        row = outcome(result, truth, landmarks, registered.isocenter)
        rows.append(row | {"masked": 1 - float(frame.mask.mean()), "notes": notes})
        progress()
    return rows


def main() -> None:
    """Prints a line for each CT, fault and way; writes everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("volumes", nargs="+", type=Path)
    parser.add_argument("--cases", type=int, default=10)
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=FAULTS)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--crop", type=float, default=30.0, help="[mm]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("bench_robust.json"))
    options = parser.parse_args()
    report = setting(__doc__)
    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        total = len(options.volumes) * len(options.faults) * len(options.ways) * options.cases
        task = progress.add_task("register", total=total)
        for path in options.volumes:
            ct = jxreg.load_volume(path, crop_air=False)
            registered = crop_ends(ct, options.crop)
            landmarks = bone_landmarks(registered)
            for fault in options.faults:
                cases = list(make_cases(ct, fault, options.cases, options.seed))
                for way in options.ways:
                    rows = run(registered, landmarks, cases, way, lambda: progress.advance(task))
                    line = {"cases": len(rows), **summary(rows)}
                    good = sum(row["mrpd_mm"] < 1 for row in rows)
                    words = f"{good} of {len(rows)} below 1 mm, {line['ok_and_bad']} wrong OK"
                    median = f"median {line['median_mrpd_mm']:.2f} mm"
                    progress.console.print(f"{path.name} {fault}, {way}: {words}, {median}")
                    entry = {"volume": path.name, "fault": fault, "way": way, **line, "rows": rows}
                    report["runs"].append(entry)
                    options.out.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
