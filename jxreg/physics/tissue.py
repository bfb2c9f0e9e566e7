"""From Hounsfield units to materials: how much of what is in a voxel.

A CT of effective energy E_ct says mu = mu_water(E_ct) (1 + HU / 1000). Given the mass fractions f_m
of a voxel's materials, its density rho = mu / sum_m f_m kappa_m(E_ct) makes it attenuate just that:
so at E_ct the material image is the plain one exactly, and another spectrum only changes how
attenuation goes with energy. Bone is a smooth ramp of its mass fraction rather than a threshold,
since spongy bone is a mixture.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from jxreg.physics.materials import Material, mass_attenuation, material

ENERGY_CT = 70.0
"""Effective energy of a CT at 120 kVp [keV]."""
AIR_BELOW, BONE_ABOVE = -800.0, 350.0
"""Thresholds of the preset `deepdrr` [HU]."""
_SHARP = 1e-6
"""Width of a ramp that stands for a threshold [HU]."""


class Thresholds(NamedTuple):
    """Where the ramps between materials are [HU]; every number has a gradient."""

    bone_from: ArrayLike = 150.0
    """Soft tissue alone up to here."""
    bone_to: ArrayLike = 1500.0
    """Cortical bone alone from here on."""
    metal_from: ArrayLike = 2500.0
    """No metal up to here."""
    metal_to: ArrayLike = 3000.0
    """Metal alone from here on."""


def fractions(
    hu: Float[Array, "..."], thresholds: Thresholds = Thresholds(), *, metal: bool = False
) -> Float[Array, "m ..."]:
    """Mass fractions of soft tissue, bone and, if it is asked for, metal; they add up to 1."""
    bone = smooth_step(hu, thresholds.bone_from, thresholds.bone_to)
    if not metal:
        return jnp.stack([1 - bone, bone])
    share = smooth_step(hu, thresholds.metal_from, thresholds.metal_to)
    return jnp.stack([(1 - bone) * (1 - share), bone * (1 - share), share])


def densities(
    hu: Float[Array, "..."],
    fractions: Float[Array, "m ..."],
    materials: tuple[Material, ...],
    energy_ct: float = ENERGY_CT,
) -> Float[Array, "m ..."]:
    """Density [g/cm^3] of each material that attenuates at E_ct as the CT says.

    Args:
        hu: Hounsfield units; below -1000 is air.
        fractions: Mass fraction of each material.
        materials: What they are of.
        energy_ct: Effective energy of the CT [keV].
    """
    mu = at_energy(material("water"), energy_ct) * jnp.maximum(0.0, 1 + hu / 1000)
    kappa = [at_energy(one, energy_ct) for one in materials]
    mean = sum(f * k for f, k in zip(fractions, kappa, strict=True))
    return fractions * (mu / mean)


def contrast_densities(
    hu: Float[Array, "..."], above: ArrayLike, energy_ct: float = ENERGY_CT
) -> Float[Array, "2 ..."]:
    """Soft tissue and iodine [g/cm^3]: what attenuates more than `above` [HU] is iodine.

    Together they attenuate at E_ct as the CT says. One mg/ml of iodine is about 25 HU.
    """
    tissue = jnp.minimum(hu, above)
    water = at_energy(material("water"), energy_ct)
    soft = water * jnp.maximum(0.0, 1 + tissue / 1000) / at_energy(material("soft"), energy_ct)
    iodine = water * (hu - tissue) / 1000 / at_energy(material("iodine"), energy_ct)
    return jnp.stack([soft, iodine])


def hard_densities(hu: Float[Array, "..."]) -> Float[Array, "3 ..."]:
    """Air, soft tissue and bone [g/cm^3] by thresholds, as DeepDRR (Unberath et al., 2018) has it.

    Its density is piecewise linear in the Hounsfield unit (after Schneider et al., Phys Med Biol
    41, 1996) whatever the material, so that at E_ct the image is not that of the CT.
    """
    density = jnp.maximum(0.0, jnp.minimum(0.001029 * hu + 1.030, 0.0005886 * hu + 1.030))
    air, bone = hu <= AIR_BELOW, hu > BONE_ABOVE
    return jnp.stack([air, ~(air | bone), bone]) * density


def smooth_step(x: Float[Array, "..."], low: ArrayLike, high: ArrayLike) -> Float[Array, "..."]:
    """From 0 at `low` to 1 at `high`, with slope 0 at both; a step above `low` if `high` is not."""
    width = jnp.maximum(jnp.asarray(high) - low, _SHARP)
    t = jnp.clip((x - low) / width, 0, 1)
    return t * t * (3 - 2 * t)


def at_energy(of: Material, energy: float) -> float:
    """Mass attenuation coefficient [cm^2/g] at one energy [keV]."""
    return float(mass_attenuation(of, np.array(energy)))
