"""The plain and the polychromatic renderer in the loop, on X-rays of a spectrum that neither knows.

    python benchmarks/bench_polychromatic.py chest.nii.gz head.nii.gz pelvis.nii.gz --cases 30

Views and starts as in `bench_register`. The X-ray is made by Siddon chords through soft tissue and
bone with a spectrum of 48 bins whose voltage and filter vary from case to case, seen by a
scintillator, with scatter, blur, quantum noise and 12 bits; what is bone in it is decided by other
thresholds, for a CT of another energy. Both registrations have the default configuration; one is
given the CT, the other the CT with materials and a beam of 90 kV and 3 mm of aluminium, which no
X-ray was made with. Runs are written as they are finished, and a second call goes on where the
first one was stopped.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import timing
from bench_register import CAMERA, OFFSET, START, VIEW, bone_landmarks, crop_ends
from outcome import outcome, resumed, run_volumes, setting, summary
from rich.console import Console
from simulated_xray import Acquisition, detected, scattered

import jxreg
from jxreg import drr, metrics, simulation
from jxreg.frame import attenuation
from jxreg.physics import beam_of, intensity, material, tube_spectrum
from jxreg.physics.response import scintillator
from jxreg.physics.tissue import Thresholds
from jxreg.pose import from_carm, perturb
from jxreg.volume import Beam

LOOP_KVP = 90.0
KVP = 70.0, 120.0
"""Voltages of the X-rays [kV], drawn evenly; so is the aluminium."""
ALUMINIUM = 2.5, 5.0
MATERIALS = material("soft"), material("bone")
IN_THE_XRAY = Thresholds(bone_from=250.0, bone_to=1100.0)
ENERGY_CT = 65.0
RENDERERS = "monochromatic", "polychromatic"
ACQUISITION = Acquisition()
SCATTER = 0.1, 0.6
"""Scatter over the primary signal in the patient's shadow."""


def response(energies) -> np.ndarray:
    """Of a panel with 0.55 mm of caesium iodide."""
    panel = scintillator(energies)
    return np.asarray(panel.absorbed * panel.signal, np.float64)


@jax.jit
def image_of(key, volume, pose, scatter):
    """Attenuation as a reader of a 12-bit linear detector would make it."""
    primary = jnp.exp(-simulation.project(volume, CAMERA, pose, drr.siddon()))
    stray = scatter * scattered(primary, ACQUISITION.scatter_width)
    grey = detected(key, primary + stray, ACQUISITION)
    return attenuation(grey, grey.max())


def xray_volume(ct: jxreg.Volume) -> jxreg.Volume:
    """What the X-rays are made of; its beam is replaced from case to case."""
    plain = jxreg.Volume(ct.mu, ct.affine, ct.isocenter)
    mixture = intensity.ct(simulation.hounsfield(ct.mu), IN_THE_XRAY, energy_ct=ENERGY_CT)
    return simulation.material_volume(plain, mixture, xray_beam(90.0, 3.0))


def xray_beam(kvp: float, aluminium_mm: float) -> Beam:
    """The 48 strongest bins, since another number of them compiles anew."""
    spectrum = tube_spectrum(kvp, (("aluminium", aluminium_mm),))
    full = beam_of(spectrum, MATERIALS, response(spectrum.energies))
    kept = np.sort(np.argsort(full.log_weights)[-48:])
    scales = simulation.area_scales(MATERIALS, ENERGY_CT)[:, None]
    kappa, log_weights = scales * full.kappa[:, kept], full.log_weights[kept]
    log_weights = log_weights - np.log(np.exp(log_weights).sum())
    return Beam(jnp.asarray(kappa, float), jnp.asarray(log_weights, float))


def in_the_loop(ct: jxreg.Volume) -> jxreg.Volume:
    """What the polychromatic registration is given."""
    spectrum = tube_spectrum(LOOP_KVP)
    return simulation.polychromatic(ct, spectrum, response(spectrum.energies))


def draw(random: np.random.Generator, isocenter):
    """Truth, start, beam and scatter of a case."""
    angles, offset = random.uniform(-VIEW, VIEW), random.uniform(-OFFSET, OFFSET, 3)
    twist = jnp.asarray(random.uniform(-START, START), float)
    truth = from_carm(*angles, source_to_isocenter=700.0, isocenter=isocenter, offset=offset)
    kvp, aluminium = random.uniform(*KVP), random.uniform(*ALUMINIUM)
    return truth, perturb(truth, twist, isocenter), (kvp, aluminium), random.uniform(*SCATTER)


def run(ct: jxreg.Volume, crop: float, count: int, seed: int, done: set[int]) -> Iterator[dict]:
    """A row for each case and renderer; every case is drawn, also those done before."""
    random, shown, registered = np.random.default_rng(seed), xray_volume(ct), crop_ends(ct, crop)
    given = dict(zip(RENDERERS, (registered, in_the_loop(registered)), strict=True))
    landmarks = bone_landmarks(registered)
    for number in range(count):
        truth, start, (kvp, aluminium), scatter = draw(random, ct.isocenter)
        if number in done:
            continue
        exposed = replace(shown, beam=xray_beam(kvp, aluminium))
        key = jax.random.key(1000 * seed + number)
        frame = jxreg.Frame(image_of(key, exposed, truth, scatter), CAMERA)
        for renderer, volume in given.items():
            result, seconds = timing.timed(jxreg.register, volume, frame, start)
            yield {
                "case": number,
                "renderer": renderer,
                "kvp": kvp,
                "aluminium_mm": aluminium,
                "scatter": scatter,
                "start_mtre_mm": float(metrics.mtre(start, truth, landmarks)),
                **outcome(result, truth, landmarks, volume.isocenter),
                "seconds": seconds,
            }


def lines(rows: list[dict]) -> list[dict]:
    """For each CT, and for all, what each renderer reaches, and how often either is nearer."""
    names = list(dict.fromkeys(row["ct"] for row in rows))
    return [line(name, rows) for name in [*names, *(["all"] if len(names) > 1 else [])]]


def line(name: str, rows: list[dict]) -> dict:
    """One CT, or all."""
    out: dict = {"ct": name}
    mine = [row for row in rows if name in (row["ct"], "all")]
    for renderer in RENDERERS:
        chosen = [row for row in mine if row["renderer"] == renderer]
        depth = np.abs([row["depth_mm"] for row in chosen])
        out[renderer] = {
            "cases": len(chosen),
            **summary(chosen),
            "median_depth_mm": float(np.median(depth)),
            "median_seconds": float(np.median([row["seconds"] for row in chosen])),
        }
    plain, poly = (
        np.array([row["mtre_mm"] for row in mine if row["renderer"] == renderer])
        for renderer in RENDERERS
    )
    out["polychromatic_nearer"] = float((poly < plain).mean())
    return out


def main() -> None:
    """Shows a line for each CT; writes everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("volumes", nargs="+", type=Path)
    parser.add_argument("--cases", type=int, default=30)
    parser.add_argument("--crop", type=float, default=0.0, help="cut off at each end [mm]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("bench_polychromatic.json"))
    options, console = parser.parse_args(), Console()
    new = setting(__doc__) | timing.machine() | {"seed": options.seed, "crop_mm": options.crop}
    report = resumed(options.out, new, ("config", "seed", "crop_mm"))

    def rows_of(ct: jxreg.Volume, done: set[int]) -> Iterator[dict]:
        return run(ct, options.crop, options.cases, options.seed, done)

    run_volumes(options, report, rows_of, len(RENDERERS), console)
    report["summary"] = lines(report["runs"])
    timing.write(options.out, json.dumps(report, indent=1))
    for one in report["summary"]:
        plain, poly = (one[renderer] for renderer in RENDERERS)
        said = (
            f"{one['ct']}: mTRE {plain['median_mtre_mm']:.3f} mm plain, "
            f"{poly['median_mtre_mm']:.3f} mm polychromatic; depth {plain['median_depth_mm']:.3f}, "
            f"{poly['median_depth_mm']:.3f} mm; nearer {100 * one['polychromatic_nearer']:.0f} %"
        )
        console.print(said, highlight=False)


if __name__ == "__main__":
    main()
