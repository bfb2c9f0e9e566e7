"""What an X-ray image shows that is no usable anatomy, found in the image itself.

findings       what was found: a mask and a report in words
field          straight shutters, turned or not, and the round field of an intensifier
curves         the lines and circles that bound a field
border         constant dark regions, dead rows and columns
metal          implants, screws, wires, lead markers
lettering      burnt-in text
contrast       inverted or not, linear or logarithmic
"""

from jxreg.detect import NOTHING, Detect
from jxreg.preprocessing.border import border_mask, collimation_mask
from jxreg.preprocessing.contrast import brightness, dark_air, noise_law
from jxreg.preprocessing.field import Field, open_field
from jxreg.preprocessing.findings import Findings, examine, looks_inverted
from jxreg.preprocessing.lettering import lettering_mask
from jxreg.preprocessing.metal import metal_mask

__all__ = [
    "NOTHING",
    "Detect",
    "Field",
    "Findings",
    "border_mask",
    "brightness",
    "collimation_mask",
    "dark_air",
    "examine",
    "lettering_mask",
    "looks_inverted",
    "metal_mask",
    "noise_law",
    "open_field",
]
