"""Quantum and electronic noise, from explicit keys.

Reparameterised, the noise is a standard normal field times the standard deviation: an image is a
differentiable function of everything but the key. Below some 20 photons a pixel a normal
distribution is visibly not that of a Poisson process (it is symmetric, and goes below zero);
`sampled_signal` draws every bin of the spectrum, and has no gradients.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from jxreg.physics.blur import Spread, correlated
from jxreg.physics.signal import Response, mean_weights


def quantum_noise(
    key: PRNGKeyArray,
    variance: Float[Array, "rows columns"],
    spacing: Float[Array, "2"] | None = None,
    texture: Spread | None = None,
) -> Float[Array, "rows columns"]:
    """Normal noise of mean zero and a given variance.

    Args:
        key: Random key.
        variance: Of each pixel.
        spacing: Distance of rows and of columns on the detector [mm]; for a texture.
        texture: Spread of one quantum, which makes neighbours alike; the variance stays.
    """
    white = jax.random.normal(key, variance.shape, variance.dtype)
    if texture is not None and spacing is not None:
        white = correlated(white, spacing, texture)
    return _root(variance) * white


def electronic_noise(
    key: PRNGKeyArray, like: Float[Array, "rows columns"], deviation: ArrayLike
) -> Float[Array, "rows columns"]:
    """White normal noise of the electronics, in the unit of the signal."""
    return jnp.asarray(deviation, like.dtype) * jax.random.normal(key, like.shape, like.dtype)


def noisy_attenuation(
    key: PRNGKeyArray,
    attenuation: Float[Array, "rows columns"],
    mean: Float[Array, "rows columns"],
    variance: Float[Array, "rows columns"],
) -> Float[Array, "rows columns"]:
    """Attenuation with noise to first order: variance / mean^2, without a logarithm of noise.

    Where nothing arrives there is none.
    """
    some = mean > 0
    relative = jnp.where(some, _root(variance) / jnp.where(some, mean, 1.0), 0.0)
    return attenuation + relative * jax.random.normal(key, mean.shape, mean.dtype)


def sampled_signal(
    key: PRNGKeyArray,
    areas: Float[Array, "materials rows columns"],
    kappa: Float[Array, "materials bins"],
    photons: Float[Array, " bins"],
    response: Response,
    lit: Float[Array, "rows columns"],
    scatter: Float[Array, "rows columns"] | None = None,
    focus: Callable[[Array], Array] = lambda primary: primary,
) -> Float[Array, "rows columns"]:
    """One draw of the signal, exactly: a Poisson number of photons for each bin and pixel.

    Scatter is drawn with the spectrum of the open beam. What the light of a photon adds (a Swank
    factor below 1) is normal, with its variance. Not differentiable.

    Args:
        key: Random key.
        areas: Mass of each material on the ray, per area [g/cm2].
        kappa: Mass attenuation of each material in each bin [cm2/g].
        photons: Photons of each bin, per mm2 at 1 m.
        response: Of the detector.
        lit: Photons a pixel for one per mm2 at 1 m, heel and collimator included.
        scatter: Mean signal that scatter adds.
        focus: What is done to the primary photons of a bin: focal spot, grid.
    """
    air = mean_weights(photons, response).sum()
    stray = jnp.zeros_like(lit) if scatter is None else scatter / air
    drawing, lighting = jax.random.split(key)

    def add(sums, item):
        index, coefficients, photon, absorbed, signal = item
        primary = focus(lit * jnp.exp(-jnp.tensordot(coefficients, areas, 1, precision="highest")))
        rate = photon * absorbed * jnp.maximum(primary + stray, 0.0)
        count = jax.random.poisson(jax.random.fold_in(drawing, index), rate).astype(lit.dtype)
        return (sums[0] + signal * count, sums[1] + signal**2 * count), None

    bins = jnp.arange(photons.shape[0])
    columns = (kappa.T, photons, response.absorbed, response.signal)
    items = (bins, *(column.astype(lit.dtype) for column in columns))
    (total, squares), _ = jax.lax.scan(add, (jnp.zeros_like(lit), jnp.zeros_like(lit)), items)
    excess = jnp.asarray(1 / jnp.asarray(response.swank) - 1, lit.dtype)
    return total + quantum_noise(lighting, excess * squares)


def _root(variance: Array) -> Array:
    """Square root, whose gradient at zero is zero."""
    some = variance > 0
    return jnp.where(some, jnp.sqrt(jnp.where(some, variance, 1.0)), 0.0)
