"""Detectors: what they make of a photon of each energy."""

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf
from jaxtyping import Array, ArrayLike, Float

from jxreg.physics.materials import Material, mass_attenuation, material
from jxreg.physics.signal import Response

_K_EDGES = (33.169, 35.985)
"""Of iodine and caesium [keV]."""
_SHARP_KEV = 1e-6
"""Resolution that stands for a hard threshold."""


def scintillator(
    energies: ArrayLike,
    thickness_mm: ArrayLike = 0.55,
    packing: ArrayLike = 0.8,
    swank: ArrayLike = 0.85,
    escape_kev: ArrayLike = 0.0,
    absorber: Material | None = None,
) -> Response:
    """Energy-integrating flat panel; its signal is the energy deposited [keV].

    Of photons at right angles: 15 degrees off, the way through the scintillator is 3.5 % longer.

    Args:
        energies: Of the bins [keV].
        thickness_mm: Of the scintillator.
        packing: Share of the thickness that is filled; needles leave gaps.
        swank: Swank factor, mean^2 / mean of squares of the light of one photon.
        escape_kev: Mean energy that leaves with fluorescence, for a photon above the K-edges of
            iodine and caesium; each has half of it.
        absorber: By default caesium iodide, 4.51 g/cm3.
    """
    absorber = material("CsI", 4.51) if absorber is None else absorber
    kev = np.asarray(energies, np.float64)
    escaping = sum((kev > edge) / len(_K_EDGES) for edge in _K_EDGES)
    deposited = jnp.asarray(kev) - escape_kev * jnp.asarray(escaping)
    return Response(_absorbed(absorber, kev, thickness_mm, packing), deposited, swank)


def ideal(energies: ArrayLike) -> Response:
    """Energy-integrating, and every photon gives all its energy [keV]."""
    energies = jnp.asarray(energies, float)
    return Response(jnp.ones_like(energies), energies)


def counting(
    energies: ArrayLike,
    threshold_kev: ArrayLike = 0.0,
    resolution_kev: ArrayLike = 1.0,
    absorber: Material | None = None,
    thickness_mm: ArrayLike = 1.0,
) -> Response:
    """Photon-counting; its signal is the number of photons above a threshold.

    Args:
        energies: Of the bins [keV].
        threshold_kev: Energy above which a photon counts.
        resolution_kev: Standard deviation of the energy as it is measured; 0 is a hard threshold.
        absorber: Of the sensor; None stops every photon.
        thickness_mm: Of the sensor.
    """
    kev = jnp.asarray(energies, float)
    width = jnp.sqrt(2.0) * jnp.maximum(resolution_kev, _SHARP_KEV)
    seen = (1 + erf((kev - threshold_kev) / width)) / 2
    if absorber is not None:
        seen = seen * _absorbed(absorber, np.asarray(energies, np.float64), thickness_mm, 1.0)
    return Response(seen, jnp.ones_like(kev))


def _absorbed(absorber: Material, energies, thickness_mm, packing) -> Float[Array, " bins"]:
    kappa = jnp.asarray(mass_attenuation(absorber, energies), float)
    area = 0.1 * absorber.density * thickness_mm * packing
    return -jnp.expm1(-kappa * area)
