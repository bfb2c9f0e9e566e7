"""Robust weights: tools lose theirs, anatomy keeps its own, at the right pose and off it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jxreg.similarity import gradient_correlation, robust_weights
from jxreg.similarity.robust import weighted_quantile

SIZE = 64
weights_of = jax.jit(robust_weights, static_argnames="limit")


def anatomy(shift=0.0):
    """Bone-like rings and a smooth body."""
    v, u = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    u = u - shift
    radius = np.hypot(v, 1.3 * u)
    body = np.sqrt(np.maximum(1 - (radius / 40) ** 2, 0))
    ring = np.exp(-0.5 * ((radius - 15) / 2) ** 2)
    return jnp.asarray(body + 0.6 * ring, jnp.float32)


def tool():
    v, u = np.mgrid[:SIZE, :SIZE]
    return jnp.asarray((abs(v + 0.3 * u - 50) < 3) & (u > 10) & (u < 45), jnp.float32)


def edge_of_tool():
    down, across = np.gradient(np.asarray(tool()))
    return np.hypot(down, across) > 0.3


def test_a_tool_loses_its_weight_and_the_rest_keeps_it():
    weights = np.asarray(weights_of(anatomy(), anatomy() + 4 * tool()))
    assert np.median(weights[edge_of_tool()]) < 0.1
    far = np.asarray(tool()) == 0
    far &= ~edge_of_tool()
    assert np.mean(weights[far] > 0.9) > 0.9


@pytest.mark.parametrize("shift", [0.0, 2.0, 8.0])
def test_anatomy_keeps_its_weight_at_any_pose(shift):
    """Otherwise a wrong pose could drop what speaks against it."""
    weights = weights_of(anatomy(shift), anatomy())
    assert float(jnp.median(weights)) > 0.8
    assert float(weights.mean()) > 0.7


@pytest.mark.parametrize("limit", [0.5, 1.0])
def test_weights_at_the_limit(limit):
    """A residual of `limit` times the only edge there is weighs a quarter."""
    ramp = jnp.tile(jnp.arange(SIZE, dtype=jnp.float32), (SIZE, 1))
    bump = jnp.zeros_like(ramp).at[40:, :].add(0)
    fixed = ramp + jnp.where(jnp.arange(SIZE) > 58, limit * (jnp.arange(SIZE) - 58.0), 0) + bump
    weights = weights_of(ramp, fixed, limit=limit)
    np.testing.assert_allclose(weights[30, 61], 0.25, atol=1e-4)
    np.testing.assert_allclose(weights[30, 20], 1.0, atol=1e-4)


def test_unit_and_offset_do_not_matter():
    fixed = anatomy() + 4 * tool()
    one = weights_of(anatomy(1.0), fixed)
    np.testing.assert_allclose(weights_of(anatomy(1.0), 50 * fixed + 7), one, atol=1e-3)
    np.testing.assert_allclose(weights_of(0.02 * anatomy(1.0) - 3, fixed), one, atol=1e-3)


def test_what_is_masked_has_no_influence():
    fixed = anatomy(1.0)
    mask = jnp.ones((SIZE, SIZE)).at[:20].set(0)
    spoiled = fixed.at[:19].set(jnp.nan)
    weights = weights_of(anatomy(), spoiled, mask)
    np.testing.assert_allclose(weights[21:], weights_of(anatomy(), fixed, mask)[21:], atol=1e-6)
    assert bool(jnp.isfinite(weights).all())


def test_the_similarity_is_that_of_what_is_explained():
    """A tool hides the anatomy's edges from the similarity; weighted, only these are left."""
    fixed = anatomy() + 4 * tool()

    def score(shift, weighted):
        mask = weights_of(anatomy(shift), fixed) if weighted else jnp.ones_like(fixed)
        return float(gradient_correlation(anatomy(shift), fixed, mask))

    assert score(0.0, False) < 0.3
    assert score(0.0, True) > 0.95
    scores = [score(shift, True) for shift in (0.0, 1.0, 3.0, 8.0)]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] - scores[-1] > 2 * (score(0.0, False) - score(8.0, False))


def test_constant_images_and_batches():
    flat = jnp.ones((SIZE, SIZE))
    np.testing.assert_array_equal(robust_weights(flat, anatomy()), jnp.ones((SIZE, SIZE)))
    np.testing.assert_array_equal(robust_weights(flat, flat), jnp.ones((SIZE, SIZE)))
    fixed = jnp.stack([anatomy(), anatomy() + tool()])
    batch = jax.jit(jax.vmap(robust_weights, in_axes=(None, 0)))(anatomy(1.0), fixed)
    for one, image in zip(batch, fixed, strict=True):
        np.testing.assert_allclose(one, robust_weights(anatomy(1.0), image), atol=1e-5)
    gradient = jax.grad(lambda m: robust_weights(m, fixed[1]).sum())(anatomy(1.0))
    np.testing.assert_array_equal(gradient, jnp.zeros_like(gradient))


def test_weighted_quantile():
    values = jnp.array([5.0, 1.0, 2.0, 9.0])
    np.testing.assert_allclose(weighted_quantile(values, jnp.ones(4), 0.5), 2.0, rtol=1e-6)
    weights = jnp.array([1.0, 0.0, 0.5, 3.0])
    np.testing.assert_allclose(weighted_quantile(values, weights, 0.2), 5.0, rtol=1e-6)
