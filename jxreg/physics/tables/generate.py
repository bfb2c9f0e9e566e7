"""Makes the tables of this folder from public libraries: run it where the extra `tables` is.

`attenuation.npz` holds mass attenuation coefficients (Elam, Ravel & Sieber, Radiat Phys Chem 63,
2002, through xraydb), each energy once for all elements and each absorption edge as two energies
just below and above it. It stores differences of the rounded logarithm, 2 x 10^-5 apart, which take
a third of the room of the numbers. `spectra.npz` holds what leaves a tungsten anode at 12 degrees
(spekpy, its default model), bremsstrahlung and characteristic lines apart, without any filter.

Platinum between its K edge and 100 keV follows a spline of that source that sags by up to 3 %.

The files are the same whenever the libraries are: nothing in them tells when they were made.
"""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import spekpy  # type: ignore
import xraydb  # type: ignore

ELEMENTS = (
    "H C N O F Na Mg Al Si P S Cl Ar K Ca Ti V Cr Mn Fe Co Ni Cu Zn Mo Ag I Cs Ba Gd Ta W Pt Au Pb"
).split()
LOWEST, HIGHEST = 10.0, 150.0  # keV
POINTS = 400
NODES = (15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 80.0, 100.0)
"""Energies at which the libraries' own tables have a node, and bend [keV]."""
BESIDE_EDGE = 1e-5
"""Distance of the two energies from their edge, as a fraction of it."""
LOG_STEP = 2e-5
KILOVOLTS = np.arange(40.0, 151.0, 5.0)
ANODE_DEGREES = 12.0
FOLDER = Path(__file__).parent


def energies() -> np.ndarray:
    """Even in the logarithm, and both sides of every edge [keV]."""
    even = np.geomspace(LOWEST, HIGHEST, POINTS)
    edges = np.array(
        [
            jump(symbol, edge.energy) / 1e3
            for symbol in ELEMENTS
            for edge in xraydb.xray_edges(symbol).values()
            if LOWEST < edge.energy / 1e3 < HIGHEST
        ]
    )
    beside = np.concatenate([edges * (1 - BESIDE_EDGE), edges * (1 + BESIDE_EDGE)])
    return np.sort(np.concatenate([even, NODES, beside]))


def jump(symbol: str, nominal: float) -> float:
    """Where the coefficients jump [eV]: within 10 eV of the edge's listed energy."""
    low, high = nominal - 10, nominal + 10
    while high - low > 0.01:
        middle = (low + high) / 2
        before, here, after = np.log(xraydb.mu_elam(symbol, np.array([low, middle, high])))
        low, high = (middle, high) if after - here > here - before else (low, middle)
    return (low + high) / 2


def attenuation() -> dict[str, np.ndarray]:
    """Logarithms of the coefficients [cm^2/g], in steps, as differences along the energy."""
    grid = energies()
    kinds = {"total": "total", "photo": "photo", "incoherent": "incoh"}
    made = {"elements": np.array(ELEMENTS), "energies": grid, "log_step": np.array(LOG_STEP)}
    for name, kind in kinds.items():
        each = np.stack([xraydb.mu_elam(symbol, 1e3 * grid, kind=kind) for symbol in ELEMENTS])
        made[name] = np.diff(np.rint(np.log(each) / LOG_STEP).astype(np.int32), axis=1, prepend=0)
    return made


def spectra() -> dict[str, np.ndarray]:
    """Photons per mm^2, mAs and bin of 1 keV at 1 m from the focal spot."""
    middle = np.arange(LOWEST + 0.5, HIGHEST)
    made: dict[str, np.ndarray] = {"kilovolts": KILOVOLTS, "energies": middle}
    for name in ("bremsstrahlung", "characteristic"):
        wanted = {"brem": name == "bremsstrahlung", "char": name == "characteristic"}
        rows = np.zeros((KILOVOLTS.size, middle.size), np.float32)
        for row, kilovolts in enumerate(KILOVOLTS.tolist()):
            source = spekpy.Spek(kvp=kilovolts, th=ANODE_DEGREES, dk=1.0, **wanted)
            energy, photons = source.get_spectrum(diff=False)
            inside = (energy > LOWEST) & (energy < HIGHEST)
            column = np.rint(energy[inside] - middle[0]).astype(int)
            rows[row, column] = np.asarray(photons)[inside] / 100
        made[name] = rows
    return made


def main() -> None:
    """Writes both files."""
    used = {name: version(name) for name in ("xraydb", "spekpy")}
    header = {"libraries": used, "anode": "tungsten", "anode_degrees": ANODE_DEGREES}
    for name, made in (("attenuation", attenuation()), ("spectra", spectra())):
        path = FOLDER / f"{name}.npz"
        made["header"] = np.array(json.dumps(header))
        np.savez_compressed(path, **made)  # type: ignore
        print(path.name, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
