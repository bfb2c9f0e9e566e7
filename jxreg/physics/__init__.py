"""X-ray physics on arrays: materials, spectra, and what is left of a beam behind an object."""

from jxreg.physics.materials import Material, mass_attenuation, material
from jxreg.physics.spectra import Spectrum, half_value_layer, mean_energy, tube_spectrum

__all__ = [
    "Material",
    "Spectrum",
    "half_value_layer",
    "mass_attenuation",
    "material",
    "mean_energy",
    "tube_spectrum",
]
