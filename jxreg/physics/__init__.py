"""X-ray physics on arrays: materials, spectra, and what is left of a beam behind an object."""

from jxreg.physics.beam import Beam, attenuate, attenuation, beam_of, monochromatic
from jxreg.physics.materials import Material, mass_attenuation, material
from jxreg.physics.nodes import reduced
from jxreg.physics.spectra import Spectrum, half_value_layer, mean_energy, tube_spectrum

__all__ = [
    "Beam",
    "Material",
    "Spectrum",
    "attenuate",
    "attenuation",
    "beam_of",
    "half_value_layer",
    "mass_attenuation",
    "material",
    "mean_energy",
    "monochromatic",
    "reduced",
    "tube_spectrum",
]
