"""Siddon's walk, ray by ray: ends inside, ties at edges and corners, thin grids, packed voxels."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drr_oracles import exact_chords

from jxreg.drr import siddon, traversal
from jxreg.drr.rays import VoxelRays
from jxreg.volume import Volume

SHAPE = (6, 5, 7)
pytestmark = pytest.mark.usefixtures("float64")


def field(shape=SHAPE, channels=(), seed=1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.0, 1.0, (*channels, *shape))


@functools.partial(jax.jit, static_argnums=3)
def integral(mu, start, ends, dtype=jnp.float64):
    """Integrals in index coordinates from one point to each of n others, (n, 3)."""
    mu, start, ends = (jnp.asarray(x, dtype) for x in (mu, start, ends))
    volume = Volume(mu, jnp.eye(4, dtype=dtype), jnp.zeros(3, dtype))
    way = (ends - start).T
    return siddon()(volume, VoxelRays(start, way, jnp.linalg.norm(way, axis=0)))


def expected(mu, start, ends) -> np.ndarray:
    return np.array([exact_chords(mu, np.eye(4), start, end) for end in ends])


def around(n=40, radius=9.0, seed=2) -> np.ndarray:
    """Points around the grid, in all octants."""
    points = np.random.default_rng(seed).normal(size=(n, 3))
    return radius * points / np.linalg.norm(points, axis=1, keepdims=True) + 2.5


STARTS = {"inside": (2.2, 1.7, 3.1), "outside": (-8.3, 9.1, -4.7), "at a plane": (-0.5, 0.7, 3.2)}


@pytest.mark.parametrize("name", STARTS)
@pytest.mark.parametrize("radius", [9.0, 1.9])
@pytest.mark.parametrize("dtype, tolerance", [(jnp.float64, 1e-12), (jnp.float32, 2e-5)])
def test_from_and_to_points_inside_and_outside(name, radius, dtype, tolerance):
    mu, start, ends = field(), np.array(STARTS[name]), around(radius=radius)
    found = integral(mu, start, ends, dtype)
    assert found.dtype == dtype
    np.testing.assert_allclose(found[0], expected(mu, start, ends), atol=tolerance * 10)


@pytest.mark.parametrize("name", ["inside", "outside"])
@pytest.mark.parametrize("radius", [9.0, 1.9])
def test_derivatives_with_either_end_inside_or_outside(name, radius):
    """Source and ends move; the rays run into all octants."""
    mu, start, ends = field(), np.array(STARTS[name]), around(radius=radius)

    def of(ends_start):
        return integral(mu, ends_start[0], ends_start[1:])[0]

    point, h = np.concatenate([start[None], ends]), 1e-7
    direction = np.random.default_rng(4).normal(size=point.shape)
    value, slope = jax.jvp(of, (point,), (direction,))
    plus, minus = of(point + h * direction), of(point - h * direction)
    smooth = np.abs(plus - 2 * value + minus) < 1e-3 * h
    assert smooth.mean() > 0.9
    np.testing.assert_allclose(slope[smooth], ((plus - minus) / (2 * h))[smooth], atol=1e-5)
    gradient = jax.grad(lambda p: of(p).sum())(point)
    assert float((gradient * direction).sum()) == pytest.approx(float(slope.sum()), rel=1e-9)


@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=3)))
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_diagonals_pass_exactly_through_corners_and_edges(signs, dtype):
    """Planes cross on the ray: voxels that it only touches have chords of zero length."""
    mu, signs = field((5, 5, 5)), np.array(signs)
    x, y, z = (np.arange(5)[::sign] for sign in signs)
    start, end = 2 - 8 * signs, 2 + 8 * signs
    corners, slope = jax.jvp(
        lambda s: integral(mu, s, end[None], dtype)[0, 0],
        (start.astype(dtype),),
        (np.ones(3, dtype),),
    )
    np.testing.assert_allclose(corners, mu[x, y, z].sum() * np.sqrt(3), rtol=1e-6)
    assert np.isfinite(slope)
    start[2] = end[2] = 3  # along edges of one layer
    edges = integral(mu, start, end[None], dtype)[0, 0]
    np.testing.assert_allclose(edges, mu[x, y, 3].sum() * np.sqrt(2), rtol=1e-6)


def test_derivatives_at_a_corner_are_those_of_one_order_of_its_planes():
    """Beside a corner the derivative has one of two values for each order; at it, one of them."""
    mu = field((4, 4, 1))
    start, end = np.array([-6.0, -6.0, 0.0]), np.array([[9.0, 9.0, 0.0]])
    slope = jax.jacfwd(lambda s: integral(mu, s, end)[0, 0])
    at = np.array(slope(start))
    sides = [np.array(slope(start + [0.0, y, 0.0])) for y in (1e-9, -1e-9)]
    assert min(np.abs(at - side)[:2].max() for side in sides) < 1e-6


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_rays_along_an_axis_and_beside_the_grid(axis):
    mu = field()
    start = np.array([2.0, 3.0, 4.0])
    start[axis] = -5.0
    inside, beside, before = (start.copy() for _ in range(3))
    inside[axis], before[axis] = 20.0, -2.0
    beside[axis], beside[(axis + 1) % 3] = 20.0, 400.0
    ends = np.stack([inside, beside, before])
    value, slope = jax.jvp(lambda s: integral(mu, s, ends)[0], (start,), (np.ones(3),))
    line = np.moveaxis(mu, axis, -1)[tuple(np.delete([2, 3, 4], axis))]
    np.testing.assert_allclose(value, [line.sum(), 0, 0], rtol=1e-12)
    assert np.isfinite(slope).all()
    assert (np.array(slope)[1:] == 0).all()


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 1), (2, 1, 17), (33, 1, 2)])
def test_thin_grids(shape):
    mu = field(shape)
    start, ends = np.array([-7.1, 3.3, -9.7]), np.random.default_rng(5).uniform(0, 1, (20, 3))
    ends = 2 * (ends * shape - 0.5) - start  # through a point in the grid
    np.testing.assert_allclose(integral(mu, start, ends)[0], expected(mu, start, ends), atol=1e-12)


def test_channels_have_their_own_derivatives():
    mu, start, ends = field(channels=(3,)), np.array(STARTS["outside"]), around(12)
    together = jax.jacfwd(lambda s: integral(mu, s, ends))(start)
    for one, slope in zip(mu, together, strict=True):
        apart = jax.jacfwd(lambda s, one=one: integral(one, s, ends)[0])(start)
        np.testing.assert_allclose(slope, apart, atol=1e-12)


@pytest.mark.parametrize(
    "shape", [(7, 5, 6), (512, 512, 133), (1, 1, 1), (1024, 1024, 2047), (1100, 1100, 1100)]
)
def test_a_packed_voxel_fits_31_bits_and_is_read_back(shape):
    """Also of a grid whose sizes, rounded up to powers of two, would take 33 bits."""
    corners = np.array(list(itertools.product(*[(0, n // 2, n - 1) for n in shape])), np.int32)
    packed = traversal._pack(shape, list(jnp.asarray(corners.T)))
    assert (np.array(packed) >= 0).all()
    for number in (packed, packed | traversal._DONE):
        read = np.stack([np.array(i) for i in traversal._unpack(shape, number)], axis=1)
        np.testing.assert_array_equal(read, corners)
    for dtype in (jnp.float32, jnp.float64):
        hidden = traversal._hidden(packed, jnp.ones((2, len(corners)), dtype))
        np.testing.assert_array_equal(traversal._bare(hidden.real[0]), packed)
