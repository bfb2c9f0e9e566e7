"""From signal to the numbers of a file (gain, offset, quantisation), and on to a display."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float


class Readout(NamedTuple):
    """Amplifier and converter: number = gain x signal + offset, in whole steps from 0 to `top`."""

    gain: ArrayLike
    """Numbers per unit of the signal; an image of it is a fixed pattern."""
    offset: ArrayLike = 0.0
    """Number without radiation; may be an image too."""
    top: ArrayLike = 65535.0
    """Largest number, where the detector saturates."""


def full_scale(reference: Float[Array, "rows columns"], bits: int = 16, used: float = 0.8):
    """Readout of a number of bits whose open field fills the share `used` of the range."""
    top = float(2**bits - 1)
    return Readout(gain=used * top / jnp.max(reference), top=top)


def digitised(
    signal: Float[Array, "rows columns"], readout: Readout
) -> Float[Array, "rows columns"]:
    """Numbers of the converter, whole.

    Rounding passes gradients on as if it were not there; saturation stops them. Rounding adds a
    variance of 1/12.
    """
    exact = jnp.clip(readout.gain * signal + readout.offset, 0.0, readout.top)
    return exact + jax.lax.stop_gradient(jnp.round(exact) - exact)


def undigitised(
    numbers: Float[Array, "rows columns"], readout: Readout
) -> Float[Array, "rows columns"]:
    """Signal from the numbers, as a calibration of gain and offset gives it."""
    return (numbers - readout.offset) / readout.gain


def linear_display(
    image: Float[Array, "rows columns"], center: ArrayLike, width: ArrayLike
) -> Float[Array, "rows columns"]:
    """Brightness by a window: 0 below center - width / 2, 1 above center + width / 2."""
    return jnp.clip((image - center) / width + 0.5, 0.0, 1.0)


def sigmoid_display(
    image: Float[Array, "rows columns"], center: ArrayLike, width: ArrayLike
) -> Float[Array, "rows columns"]:
    """Brightness from 0 to 1 by the sigmoid of DICOM (PS3.3 C.11.2.1.3.1)."""
    return jax.nn.sigmoid(4 * (image - center) / width)


def table_display(
    image: Float[Array, "rows columns"], values: Float[Array, " n"], shown: Float[Array, " n"]
) -> Float[Array, "rows columns"]:
    """Brightness by a lookup table, linear between its entries and constant beyond its ends.

    Args:
        image: Any image.
        values: Values of the image, ascending.
        shown: Brightness of each.
    """
    return jnp.interp(image, values, shown)
