"""What to look for in an X-ray image; apart, so that the command line need import no more."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Detect:
    """What is looked for in an image; what is found is masked, and told."""

    field: bool = True
    """Shutters and a round field: dark and even regions behind sharp edges."""
    border: bool = True
    """Constant rows and columns around the image."""
    text: bool = True
    """Letters and digits burnt in."""
    metal: bool = False
    """Implants, screws, wires and lead markers, in images that are linear in intensity. Off, since
    in an image with enhanced contrast, as workstations export it, a cortex looks like metal."""
    scale: bool = True
    """Whether a file that does not tell is linear or logarithmic, by its noise."""
    polarity: bool = True
    """Whether the image looks inverted, where its tags do not tell: a note says so."""
    inverted: bool = False
    """Turn an image that looks inverted."""


NOTHING = Detect(*[False] * 7)
"""The image as the file tells, and no more."""
