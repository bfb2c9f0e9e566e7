"""Blur by sums of Gaussians: focal spot, detector, veiling glare, the spread of scatter.

On the pixel grid a Gaussian is the discrete one of Lindeberg (1990), whose frequency response is
exp(sigma^2 (cos w - 1)) on each axis. It is positive at every width, its variance is sigma^2
exactly, and it is the identity at width 0; a sampled or cut off Gaussian is none of these.

Source: Lindeberg, Scale-space for discrete signals, IEEE PAMI 12(3), 1990, section IV.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float


class Spread(NamedTuple):
    """A point spread function: a sum of Gaussians, each of unit volume times its weight."""

    sigmas: Float[Array, "gaussians 2"]
    """Standard deviations along rows' and columns' order (down, across), on the detector [mm]."""
    weights: Float[Array, " gaussians"]
    """Their sum is what becomes of a uniform image: 1 leaves it as it is."""


def gaussian(sigma: ArrayLike, across: ArrayLike | None = None) -> Spread:
    """One Gaussian, round, or with a second standard deviation across (along a row) [mm]."""
    down = jnp.asarray(sigma, float)
    across = down if across is None else jnp.asarray(across, float)
    return Spread(jnp.stack([down, across])[None], jnp.ones(1, down.dtype))


def with_tail(sigma: ArrayLike, tail: ArrayLike, tail_sigma: ArrayLike) -> Spread:
    """A narrow Gaussian and, with the weight `tail`, a wide one; both round [mm].

    With a `sigma` of 0 it is veiling glare: an image of which a part is spread far.
    """
    sigmas = jnp.stack([jnp.asarray(sigma, float), jnp.asarray(tail_sigma, float)])
    tail = jnp.asarray(tail, float)
    return Spread(jnp.stack([sigmas, sigmas], -1), jnp.stack([1 - tail, tail]))


def of_half_frequency(frequency: ArrayLike) -> Spread:
    """The Gaussian whose modulation transfer is one half at a frequency [1/mm]."""
    return gaussian(jnp.sqrt(jnp.log(2.0) / 2) / (jnp.pi * jnp.asarray(frequency, float)))


def focal_spot(
    width: ArrayLike, height: ArrayLike, source_to_object: ArrayLike, sdd: ArrayLike
) -> Spread:
    """Blur on the detector by the size of the focal spot, of an object at one depth.

    The spot is magnified by SDD / depth - 1.

    Args:
        width: Spot along a row of the image, full width at half maximum [mm].
        height: The same along a column [mm].
        source_to_object: Depth of the object from the source [mm].
        sdd: Source-to-detector distance [mm].
    """
    magnified = jnp.asarray(sdd, float) / jnp.asarray(source_to_object, float) - 1
    per_width = magnified / jnp.sqrt(8 * jnp.log(2.0))
    return gaussian(per_width * jnp.asarray(height), per_width * jnp.asarray(width))


def modulation(spread: Spread, frequency: Float[Array, " n"]) -> Float[Array, " n"]:
    """Modulation transfer along a row at spatial frequencies [1/mm], before sampling."""
    exponent = -2 * (jnp.pi * spread.sigmas[:, 1, None] * frequency) ** 2
    return (spread.weights[:, None] * jnp.exp(exponent)).sum(0)


@jax.jit
def blurred(
    image: Float[Array, "rows columns"], spacing: Float[Array, "2"], spread: Spread
) -> Float[Array, "rows columns"]:
    """An image after a point spread; beyond its border it goes on as its mirror image.

    So the sum over the image is kept, whatever the width.

    Args:
        image: Any image.
        spacing: Distance of rows and of columns [mm].
        spread: The point spread function.
    """
    rows, columns = image.shape
    mirrored = jnp.pad(image, ((0, rows), (0, columns)), mode="symmetric")
    return _filtered(mirrored, _response(mirrored, spacing, spread))[:rows, :columns]


@jax.jit
def correlated(
    noise: Float[Array, "rows columns"], spacing: Float[Array, "2"], spread: Spread
) -> Float[Array, "rows columns"]:
    """White noise made to have the texture of a point spread, with the variance it had.

    The kernel has unit energy instead of unit volume, and the grid is periodic, so that every pixel
    has the same variance.
    """
    response = _response(noise, spacing, spread)
    return _filtered(noise, response / jnp.sqrt(jnp.mean(response**2)))


@jax.jit
def energy(
    image: Float[Array, "rows columns"], spacing: Float[Array, "2"], spread: Spread
) -> Float[Array, ""]:
    """Sum of the squares of the kernel: what is left of the variance of white noise."""
    return jnp.mean(_response(image, spacing, spread) ** 2)


def _filtered(image, response) -> Float[Array, "rows columns"]:
    half = response[:, : image.shape[1] // 2 + 1]
    return jnp.fft.irfft2(half * jnp.fft.rfft2(image), image.shape).astype(image.dtype)


def _response(image, spacing, spread: Spread) -> Float[Array, "rows columns"]:
    """Frequency response at the frequencies of an image's Fourier transform."""
    down, across = (2 * jnp.pi * jnp.fft.fftfreq(n, dtype=image.dtype) for n in image.shape)
    variances = (spread.sigmas / spacing) ** 2
    rows = jnp.exp(variances[:, :1] * (jnp.cos(down) - 1))
    columns = jnp.exp(variances[:, 1:] * (jnp.cos(across) - 1))
    response = jnp.einsum("k,kr,kc->rc", spread.weights, rows, columns, precision="highest")
    return response.astype(image.dtype)
