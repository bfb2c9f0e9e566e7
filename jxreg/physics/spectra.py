"""Spectra of tungsten tubes: how many photons of which energy leave through the filters."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float

from jxreg.errors import InputError
from jxreg.physics.materials import (
    TABLES,
    Material,
    energy_transfer,
    mass_attenuation,
    material,
)

Filter = tuple[Material | str, float]
"""Material and thickness [mm]."""
LOWEST_KVP, HIGHEST_KVP = 40.0, 150.0
FEWEST_PHOTONS = 1e-20
"""Per mm^2 at 1 m: with fewer, single precision would lose the image."""


class Spectrum(NamedTuple):
    """Photons by energy, in bins of 1 keV."""

    energies: Float[np.ndarray, " n"] | Float[Array, " n"]
    """Middle of each bin [keV]."""
    photons: Float[np.ndarray, " n"] | Float[Array, " n"]
    """In each bin, per mm^2 at 1 m from the focal spot."""


class Tube(NamedTuple):
    """The table of tubes without a filter, 1 mAs."""

    kilovolts: Float[np.ndarray, " kilovolts"]
    energies: Float[np.ndarray, " n"]
    bremsstrahlung: Float[np.ndarray, "kilovolts n"]
    characteristic: Float[np.ndarray, "kilovolts n"]


def tube_spectrum(
    kvp: float, filters: Sequence[Filter] = (("aluminium", 3.0),), mas: float = 1.0
) -> Spectrum:
    """Spectrum of a tungsten tube (anode angle 12 degrees) behind some filters.

    Between tabulated voltages (5 kV apart) the bremsstrahlung is interpolated at the same share of
    the highest energy, the characteristic lines at their own.

    Source: SpekPy (Poludniowski et al., Med Phys 48, 2021), tabulated by `tables/generate.py`.

    Args:
        kvp: Tube voltage [kV], 40 to 150.
        filters: Material and thickness [mm] of each; all filtration counts, the tube's own too.
        mas: Tube current times exposure time [mAs].

    Raises:
        InputError: Voltage, thickness or mAs are out of range, or nothing passes the filters.
    """
    _check(kvp, mas)
    tube = _tube()
    photons = mas * _unfiltered(tube, kvp)
    within = photons > 0
    energies, photons = tube.energies[within], photons[within]
    return filtered(Spectrum(energies, photons), filters)


def filtered(spectrum: Spectrum, filters: Sequence[Filter]) -> Spectrum:
    """The spectrum behind filters: material and thickness [mm] of each.

    Raises:
        InputError: A thickness is below 0, or nothing passes.
    """
    photons = np.asarray(spectrum.photons, np.float64)
    for of, thickness_mm in filters:
        of = material(of) if isinstance(of, str) else of
        if not (np.isfinite(thickness_mm) and thickness_mm >= 0):
            raise InputError(
                f"filter of {of.name}",
                f"{thickness_mm} mm",
                "a thickness of at least 0",
                "correct it",
            )
        area = 0.1 * of.density * thickness_mm
        photons = photons * np.exp(-area * mass_attenuation(of, spectrum.energies))
    if not photons.sum() > FEWEST_PHOTONS:
        raise InputError(
            "filters",
            f"{photons.sum():.1e} photons per mm^2 behind them",
            f"more than {FEWEST_PHOTONS:g}",
            "thickness is in mm, exposure in mAs",
        )
    return Spectrum(spectrum.energies, photons)


def mean_energy(spectrum: Spectrum) -> float:
    """Mean energy of a photon [keV]."""
    energies, photons = np.asarray(spectrum.energies), np.asarray(spectrum.photons)
    return float((energies * photons).sum() / photons.sum())


def air_kerma(spectrum: Spectrum) -> float:
    """Kerma in air at 1 m from the focal spot [uGy]."""
    energies, photons = np.asarray(spectrum.energies), np.asarray(spectrum.photons)
    kev_per_gram = (photons * energies * energy_transfer(material("air"), energies)).sum() * 100
    return float(kev_per_gram * 1.602177e-16 * 1e3 * 1e6)


def half_value_layer(
    spectrum: Spectrum, of: Material | str = "aluminium", share: float = 0.5
) -> float:
    """Thickness [mm] that leaves a share of the air kerma.

    The second half-value layer is `half_value_layer(s, share=0.25) - half_value_layer(s)`.

    Args:
        spectrum: The beam.
        of: What the layer is made of.
        share: What is left of the kerma; half by default.

    Raises:
        InputError: The share is not between 0 and 1, or there is no beam.
    """
    from scipy.optimize import brentq

    energies, photons = np.asarray(spectrum.energies), np.asarray(spectrum.photons)
    if not (0 < share <= 1 and photons.sum() > 0):
        raise InputError(
            "half-value layer",
            f"a share of {share:g} of {photons.sum():g} photons",
            "a share above 0 and up to 1, and a beam",
            "correct it",
        )
    of = material(of) if isinstance(of, str) else of
    kerma = photons * energies * energy_transfer(material("air"), energies)
    mu = 0.1 * of.density * mass_attenuation(of, energies)

    def left(thickness_mm: float) -> float:
        return float((kerma * np.exp(-mu * thickness_mm)).sum() / kerma.sum()) - share

    return float(brentq(left, 0.0, -np.log(share) / mu.min(), xtol=1e-6))  # type: ignore


@functools.cache
def _tube() -> Tube:
    with (TABLES / "spectra.npz").open("rb") as file, np.load(file) as table:
        return Tube(*(np.asarray(table[name], np.float64) for name in Tube._fields))


def _unfiltered(tube: Tube, kvp: float) -> Float[np.ndarray, " n"]:
    above = int(np.clip(np.searchsorted(tube.kilovolts, kvp), 1, tube.kilovolts.size - 1))
    low, high = tube.kilovolts[above - 1], tube.kilovolts[above]
    part = (kvp - low) / (high - low)
    photons = np.zeros_like(tube.energies)
    for weight, row in ((1 - part, above - 1), (part, above)):
        stretch = tube.kilovolts[row] / kvp
        at = np.interp(stretch * tube.energies, tube.energies, tube.bremsstrahlung[row])
        photons += weight * (stretch * at + tube.characteristic[row])
    return np.where(tube.energies < kvp, photons, 0.0)


def _check(kvp: float, mas: float) -> None:
    if not LOWEST_KVP <= kvp <= HIGHEST_KVP:
        raise InputError(
            "kvp",
            f"{kvp}",
            f"{LOWEST_KVP:g} to {HIGHEST_KVP:g} kV",
            "give the tube voltage in kilovolts",
        )
    if not (np.isfinite(mas) and mas > 0):
        raise InputError("mas", f"{mas}", "a positive number [mAs]", "correct it")
