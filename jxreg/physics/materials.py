"""What things are made of, and how much of an X-ray beam a gram of it takes out.

Coefficients come from a table made by `tables/generate.py`; between its energies they are
interpolated in the logarithm of both, to 10^-4, and nothing is interpolated across an absorption
edge. All of this is done once for a configuration, in NumPy and double precision.
"""

import functools
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Float

from jxreg.errors import InputError

Process = Literal["total", "photo", "incoherent"]
"""All interactions, the photoelectric effect, or incoherent (Compton) scattering."""
TABLES = files("jxreg.physics") / "tables"
ELECTRON_REST_KEV = 510.999
SUM_TOLERANCE = 2e-3
"""How far published mass fractions may be from adding up to 1."""


class Material(NamedTuple):
    """A homogeneous substance; hashable, so that it may be part of a static configuration."""

    name: str
    density: float
    """Of the pure substance [g/cm^3]."""
    fractions: tuple[tuple[str, float], ...]
    """Element symbol and its share of the mass; the shares add up to 1."""


class Coefficients(NamedTuple):
    """The table of elements."""

    energies: Float[np.ndarray, " n"]
    """Increasing [keV]; two just beside every edge."""
    log: dict[str, Float[np.ndarray, "elements n"]]
    """Logarithm of the mass attenuation coefficient [cm^2/g] of each process."""
    row: dict[str, int]
    """Where an element is."""


def material(description: str | Mapping[str, float], density: float | None = None) -> Material:
    """A material by name, formula or mass fractions.

    Args:
        description: A name of `names()`; a chemical formula, `"CsI"`; mass fractions in one word,
            `"H0.112O0.888"`, which are recognised by not being whole numbers; or mass fractions by
            element.
        density: Density [g/cm^3]; a named material has its own.

    Raises:
        InputError: The description is not understood, or what it leaves open is not given.
    """
    if isinstance(description, str):
        known = _named().get(description.strip().lower())
        if known is not None:
            return known if density is None else known._replace(density=_checked(density, known))
        name, fractions = description, _parsed(description)
    else:
        fractions = {str(symbol): float(share) for symbol, share in description.items()}
        name = "".join(f"{symbol}{share:g}" for symbol, share in fractions.items())
    fractions = _normalised(name, fractions)
    if density is None:
        raise InputError(
            f"material {name!r}",
            "no density",
            "its density [g/cm^3], since it is not one of the named materials",
            "give density=...",
        )
    return Material(name, _checked(density, name), fractions)


def names() -> tuple[str, ...]:
    """The materials that `material` knows by name."""
    return tuple(_named())


def mass_attenuation(
    material: Material, energies: ArrayLike, process: Process = "total"
) -> Float[np.ndarray, "..."]:
    """Mass attenuation coefficient [cm^2/g].

    Source: Elam, Ravel and Sieber, Radiat Phys Chem 63, 2002 (within 0.07 % of NIST XCOM); a
    mixture is the sum of its elements by mass.

    Args:
        material: The substance; its density does not matter.
        energies: Photon energies [keV], 10 to 150.
        process: All interactions or one of them.

    Raises:
        InputError: An energy is outside the table, or an element is (and xraydb is not installed).
    """
    energies = np.asarray(energies, np.float64)
    table = coefficients()
    if not ((energies >= table.energies[0]) & (energies <= table.energies[-1])).all():
        raise InputError(
            "energies",
            f"{energies.min():g} to {energies.max():g} keV",
            f"{table.energies[0]:g} to {table.energies[-1]:g} keV",
            "leave out what is beyond",
        )
    each = [share * _of_element(symbol, energies, process) for symbol, share in material.fractions]
    return np.asarray(np.sum(each, axis=0))


def energy_transfer(material: Material, energies: ArrayLike) -> Float[np.ndarray, "..."]:
    """Mass energy-transfer coefficient [cm^2/g] without fluorescence: kerma for each fluence.

    The photoelectric effect gives all its energy, a Compton scattering what the electron gets on
    average. Light elements (air, tissue) are right to 1.5 %; heavy ones lose fluorescence besides.
    """
    energies = np.asarray(energies, np.float64)
    recoil = mass_attenuation(material, energies, "incoherent") * recoil_share(energies)
    return mass_attenuation(material, energies, "photo") + recoil


def recoil_share(energies: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Mean share of its energy [keV] that a photon gives to a free electron in a scattering.

    Source: Klein and Nishina, Z Phys 52, 1929; integrated over the angle by Gauss-Legendre.
    """
    cosine, weight = np.polynomial.legendre.leggauss(32)
    alpha = np.asarray(energies, np.float64)[..., None] / ELECTRON_REST_KEV
    left = 1 / (1 + alpha * (1 - cosine))
    cross_section = weight * left**2 * (left + 1 / left - 1 + cosine**2)
    return 1 - (cross_section * left).sum(-1) / cross_section.sum(-1)


@functools.cache
def coefficients() -> Coefficients:
    """The table of elements, read once."""
    with (TABLES / "attenuation.npz").open("rb") as file, np.load(file) as table:
        step = float(table["log_step"])
        log = {
            name: step * np.cumsum(table[name], axis=1) for name in ("total", "photo", "incoherent")
        }
        row = {str(symbol): n for n, symbol in enumerate(table["elements"])}
        return Coefficients(table["energies"], log, row)


def provenance() -> dict:
    """Which libraries made the tables."""
    with (TABLES / "attenuation.npz").open("rb") as file, np.load(file) as table:
        return json.loads(str(table["header"]))


def _of_element(symbol: str, energies: Float[np.ndarray, "..."], process: Process):
    table = coefficients()
    if symbol not in table.row:
        return _from_xraydb(symbol, energies, process)
    log = table.log[process][table.row[symbol]]
    return np.exp(np.interp(np.log(energies), np.log(table.energies), log))


def _from_xraydb(symbol: str, energies: Float[np.ndarray, "..."], process: Process):
    try:
        import xraydb  # type: ignore

        kind = {"incoherent": "incoh"}.get(process, process)
        return xraydb.mu_elam(symbol, 1e3 * energies, kind=kind)
    except (ImportError, ValueError) as error:
        raise InputError(
            f"element {symbol!r}",
            "not in the table",
            " ".join(coefficients().row),
            "check the symbol; xraydb (the extra 'physics') has the elements up to 98",
        ) from error


@functools.cache
def _named() -> dict[str, Material]:
    """Materials of the table by each of their names."""
    known = {}
    for line in (TABLES / "materials.txt").read_text().splitlines():
        if line.startswith("#") or not line.strip():
            continue
        labels, numbers = line.split(":")
        density, *parts = numbers.split()
        shares = {s: float(w) for s, w in zip(parts[::2], parts[1::2], strict=True)}
        name, *others = (label.strip() for label in labels.split("|"))
        one = Material(name, float(density), _normalised(name, shares))
        known |= dict.fromkeys((name, *others), one)
    return known


def _parsed(formula: str) -> dict[str, float]:
    """Mass fractions of a formula, by atoms or by mass."""
    parts = re.findall(r"([A-Z][a-z]?)(\d+\.?\d*|\.\d+)?", formula)
    if not parts or "".join(symbol + number for symbol, number in parts) != formula.strip():
        raise InputError(
            "material",
            f"{formula!r}",
            "a name, a formula such as CsI, or mass fractions such as H0.112O0.888",
            f"names are {', '.join(names())}",
        )
    by_mass = any("." in number for _, number in parts)
    shares: dict[str, float] = {}
    for symbol, number in parts:
        amount = float(number or 1) * (1.0 if by_mass else _atomic_mass(symbol))
        shares[symbol] = shares.get(symbol, 0.0) + amount
    if by_mass:
        return shares
    total = sum(shares.values())
    return {symbol: mass / total for symbol, mass in shares.items()}


def _atomic_mass(symbol: str) -> float:
    masses = dict(
        line.split() for line in (TABLES / "atomic_masses.txt").read_text().splitlines()[1:]
    )
    if symbol not in masses:
        raise InputError(
            f"element {symbol!r}", "unknown", " ".join(masses), "give mass fractions instead"
        )
    return float(masses[symbol])


def _normalised(name: str, shares: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    total = sum(shares.values())
    if not (abs(total - 1) <= SUM_TOLERANCE and min(shares.values()) >= 0):
        raise InputError(
            f"material {name!r}",
            f"mass fractions that add up to {total:g}",
            f"fractions of the mass, 1 +- {SUM_TOLERANCE:g} together and none below 0",
            "correct them; whole numbers in a formula count atoms",
        )
    return tuple((symbol, share / total) for symbol, share in shares.items())


def _checked(density: float, of: object) -> float:
    if not (np.isfinite(density) and density > 0):
        raise InputError(
            f"density of {of}", f"{density}", "a positive number [g/cm^3]", "correct it"
        )
    return float(density)
