"""Random patches of an image and their similarity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jxreg.errors import InputError
from jxreg.similarity import gradient_ncc, ncc
from jxreg.sparse import draw_patches, sparse_similarity

ROWS, COLUMNS = 20, 33


@pytest.mark.parametrize("side", [1, 4, 13, 20])
def test_patches_are_whole_and_inside(side):
    weights = jnp.ones((ROWS, COLUMNS))
    pixels = np.asarray(draw_patches(jax.random.key(0), weights, 400, side))
    assert pixels.shape == (400, side, side, 2)
    corners = pixels[:, 0, 0]
    np.testing.assert_array_equal(corners.min(0), 0)
    np.testing.assert_array_equal(corners.max(0), [COLUMNS - side, ROWS - side])
    v, u = np.mgrid[:side, :side]
    np.testing.assert_array_equal(
        pixels - corners[:, None, None], np.broadcast_to(np.stack([u, v], -1), pixels.shape)
    )


def test_middles_are_drawn_by_weight():
    weights = np.zeros((ROWS, COLUMNS), np.float32)
    weights[7, 11], weights[12, 20], weights[0, 0] = 1.0, 3.0, 100.0  # the last is too near a side
    pixels = np.asarray(draw_patches(jax.random.key(1), jnp.asarray(weights), 2000, 5))
    middles = [tuple(middle) for middle in pixels[:, 2, 2]]
    assert set(middles) == {(11, 7), (20, 12)}
    # 2000 draws: the standard deviation of the share is 0.01.
    assert abs(middles.count((20, 12)) / 2000 - 0.75) < 0.04


@pytest.mark.parametrize("count, side", [(3, 21), (0, 5), (3, 0)])
def test_patches_that_do_not_fit_are_refused(count, side):
    with pytest.raises(InputError, match="patches: .* image of 20 x 33"):
        draw_patches(jax.random.key(0), jnp.ones((ROWS, COLUMNS)), count, side)


def images(shape):
    keys = jax.random.split(jax.random.key(3))
    moving, other = (jax.random.normal(key, shape) for key in keys)
    return moving, 0.7 * moving + 0.7 * other


def test_of_single_pixels_it_is_their_ncc():
    moving, fixed = images((50, 1, 1))
    mask = jnp.ones_like(moving)
    found = sparse_similarity(gradient_ncc, moving, fixed, mask)
    np.testing.assert_allclose(found, np.corrcoef(moving.ravel(), fixed.ravel())[0, 1], atol=1e-6)


def test_of_patches_it_is_half_their_mean_and_half_the_whole():
    moving, fixed = images((6, 5, 5))
    mask = jnp.ones_like(moving).at[2].set(0.0).at[3].set(0.5)
    found = sparse_similarity(ncc, moving, fixed, mask)
    seen = np.array([1, 1, 0, 0.5, 1, 1])
    each = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(moving, fixed, strict=True)]
    together = ncc(moving.reshape(30, 5), fixed.reshape(30, 5), mask.reshape(30, 5))
    expected = (np.average(each, weights=seen) + float(together)) / 2
    np.testing.assert_allclose(found, expected, atol=1e-6)
