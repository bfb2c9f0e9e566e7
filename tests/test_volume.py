"""Volumes: refusals, Hounsfield units, and grids that change while the world stays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jxreg import volume as volumes
from jxreg.errors import InputError
from jxreg.volume import MU_WATER, Volume

SHAPE = (9, 10, 11)
# Oblique, sheared, left-handed, anisotropic.
SHEARED = np.array(
    [[0.9, 0.2, -0.1, -30.0], [-0.15, 1.4, 0.3, 12.0], [0.05, -0.4, -2.1, 55.0], [0, 0, 0, 1]]
)
examples = settings(max_examples=30, deadline=None)


pytestmark = pytest.mark.usefixtures("float64")


def noise(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).uniform(0.01, 0.03, shape)


def plain(mu=None, affine=SHEARED, **options) -> Volume:
    options = {"pyramid_mm": ()} | options
    return Volume.from_array(noise() if mu is None else mu, affine, **options)


def world(volume: Volume, index) -> np.ndarray:
    affine = np.array(volume.affine)
    return np.asarray(index) @ affine[:3, :3].T + affine[:3, 3]


def mass(volume: Volume) -> float:
    """Sum of mu times the size of a voxel [mm^2]."""
    cell = abs(np.linalg.det(np.array(volume.affine)[:3, :3]))
    return float(np.array(volume.mu).sum() * cell)


def centroid(volume: Volume) -> np.ndarray:
    mu = np.array(volume.mu)
    index = np.stack(np.meshgrid(*map(np.arange, mu.shape), indexing="ij"), -1)
    return (mu[..., None] * world(volume, index)).sum((0, 1, 2)) / mu.sum()


@pytest.mark.parametrize(
    "mu, affine, subject",
    [
        (np.zeros((4, 4)), np.eye(4), "volume"),
        (np.zeros((2, 2, 4, 4, 4)), np.eye(4), "volume"),
        (np.zeros((4, 4, 1)), np.eye(4), "volume"),
        (np.zeros((4, 0, 4)), np.eye(4), "volume"),
        (np.full((4, 4, 4), np.nan), np.eye(4), "volume"),
        (np.full((4, 4, 4), np.inf), np.eye(4), "volume"),
        (np.zeros((4, 4, 4)), np.eye(3), "affine"),
        (np.zeros((4, 4, 4)), np.full((4, 4), np.nan), "affine"),
        (np.zeros((4, 4, 4)), np.diag([1.0, 0.0, 1.0, 1.0]), "affine"),
        (np.zeros((4, 4, 4)), np.eye(4)[[0, 0, 2, 3]], "affine"),
    ],
)
def test_arrays_and_affines_that_are_no_volume_are_refused(mu, affine, subject):
    with pytest.raises(InputError, match=f"^{subject}: .*expected") as refusal:
        Volume.from_array(mu, affine)
    assert "\n" not in str(refusal.value)


def test_one_bad_voxel_is_counted():
    mu = noise()
    mu[1, 2, 3] = np.nan
    with pytest.raises(InputError, match="1 voxels"):
        Volume.from_array(mu, np.eye(4))


def test_the_isocenter_is_the_centre_of_the_grid_unless_told():
    np.testing.assert_allclose(plain().isocenter, world(plain(), [4, 4.5, 5]), rtol=1e-14)
    given = np.array([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(plain(isocenter=given).isocenter, given)


@pytest.mark.parametrize("xp", [np, jnp])
def test_hounsfield_units(xp):
    hu = xp.asarray([-3024.0, -1000.0, -500.0, 0.0, 1000.0])
    expected = MU_WATER * np.array([0.0, 0.0, 0.5, 1.0, 2.0])
    np.testing.assert_allclose(volumes.mu_from_hu(hu), expected, rtol=1e-6)
    np.testing.assert_allclose(volumes.mu_from_hu(hu, 0.02), expected * 0.02 / MU_WATER, rtol=1e-6)


@examples
@given(st.integers(0, 10_000))
def test_index_from_world_inverts_any_affine(seed):
    rng = np.random.default_rng(seed)
    affine = np.eye(4)
    affine[:3] = rng.normal(size=(3, 4)) * [1, 1, 1, 200]
    if np.linalg.cond(affine[:3, :3]) > 50:
        return
    volume = Volume(jnp.zeros((2, 2, 2)), jnp.asarray(affine), jnp.zeros(3))
    expected = np.linalg.inv(affine)
    np.testing.assert_allclose(volumes.index_from_world(volume), expected, rtol=1e-9, atol=1e-9)


def test_spacing_is_the_length_of_the_columns():
    expected = np.sqrt((SHEARED[:3, :3] ** 2).sum(0))
    np.testing.assert_allclose(volumes.spacing(SHEARED), expected, rtol=1e-14)


@pytest.mark.parametrize("channels", [(), (2,)])
def test_crop_keeps_the_world(channels):
    volume = plain(noise((*channels, *SHAPE)))
    cropped = volumes.crop(volume, (1, 2, 3), (7, 10, 8))
    np.testing.assert_array_equal(cropped.mu, volume.mu[..., 1:7, 2:10, 3:8])
    np.testing.assert_allclose(world(cropped, [0.5, -1, 2]), world(volume, [1.5, 1, 5]), atol=1e-12)
    np.testing.assert_array_equal(cropped.isocenter, volume.isocenter)


def test_crop_air_removes_only_air():
    mu = np.zeros((12, 13, 14))
    mu[4:8, 6, 0:3] = 0.02
    volume = plain(mu)
    cropped = volumes.crop_air(volume, margin=2)
    assert cropped.mu.shape == (8, 5, 5)
    assert mass(cropped) == pytest.approx(mass(volume), rel=1e-12)
    np.testing.assert_allclose(centroid(cropped), centroid(volume), atol=1e-11)
    tight = volumes.crop_air(volume, margin=0)
    assert tight.mu.shape == (4, 2, 3)  # never thinner than two voxels
    assert mass(tight) == pytest.approx(mass(volume), rel=1e-12)


def test_crop_air_keeps_a_thin_object_at_the_far_border():
    mu = np.zeros((12, 13, 14))
    mu[11, 12, 13] = 0.02
    volume = plain(mu)
    cropped = volumes.crop_air(volume, margin=0)
    assert min(cropped.mu.shape) == 2
    np.testing.assert_allclose(centroid(cropped), centroid(volume), atol=1e-11)


def test_crop_air_of_air_is_the_same():
    volume = plain(np.zeros(SHAPE))
    assert volumes.crop_air(volume) is volume


@pytest.mark.parametrize("factors", [(2, 2, 2), (3, 1, 2), (4, 7, 20), (1, 1, 1)])
def test_pooling_keeps_mass_and_place(factors):
    """The last slices are air here; a remainder is filled with copies of them."""
    inner = np.zeros(SHAPE)
    inner[:-1, :-1, :-1] = 1
    volume = plain(noise() * inner)
    pooled = volumes.pool(volume, factors)
    assert pooled.mu.shape == tuple(-(-n // f) for n, f in zip(SHAPE, factors, strict=True))
    assert mass(pooled) == pytest.approx(mass(volume), rel=1e-12)
    middle_of_block = np.array([2, 0, 1]) * factors + (np.array(factors) - 1) / 2
    np.testing.assert_allclose(world(pooled, [2, 0, 1]), world(volume, middle_of_block), atol=1e-11)
    np.testing.assert_array_equal(pooled.isocenter, volume.isocenter)


def test_a_remainder_keeps_the_attenuation_of_the_last_slice():
    """A face that cuts through the anatomy must not fade at coarse levels."""
    volume = Volume.from_array(np.full((9, 8, 8), 0.02), np.eye(4), pyramid_mm=())
    pooled = volumes.pool(volume, (8, 8, 8))
    np.testing.assert_allclose(pooled.mu, 0.02, rtol=1e-6)
    assert pooled.mu.shape == (2, 1, 1)


def test_a_pooled_voxel_is_the_mean_of_its_block():
    volume = plain()
    pooled = volumes.pool(volume, (2, 3, 4))
    np.testing.assert_allclose(pooled.mu[1, 2, 1], volume.mu[2:4, 6:9, 4:8].mean(), rtol=1e-12)


def test_channels_are_pooled_apart():
    mu = noise((3, *SHAPE))
    pooled = volumes.pool(plain(mu), (2, 2, 3)).mu
    apart = [volumes.pool(plain(m), (2, 2, 3)).mu for m in mu]
    np.testing.assert_allclose(pooled, apart, rtol=1e-12)


def test_pooling_factors_come_from_the_spacing():
    affine = np.diag([-0.7, 1.0, 5.0, 1.0])
    assert volumes.pooling_factors(affine, 3.0) == (4, 3, 1)
    assert volumes.pooling_factors(affine, 0.1) == (1, 1, 1)


def test_the_pyramid_lies_where_the_volume_lies():
    mu = np.kron(noise((2, 2, 3)), np.ones((6, 6, 4)))  # constant in each block of any level
    volume = plain(mu, np.diag([1.0, 1.0, 1.5, 1.0]), pyramid_mm=(6.0, 3.0))
    assert [v.mu.shape for v in volume.coarser] == [(4, 4, 6), (2, 2, 3)]
    for level in volume.coarser:
        assert mass(level) == pytest.approx(mass(volume), rel=1e-12)
        np.testing.assert_allclose(centroid(level), centroid(volume), atol=1e-11)
        assert level.coarser == ()


def test_a_crop_rebuilds_the_pyramid():
    volume = plain(noise((12, 12, 12)), np.diag([1.0, 1.0, 1.0, 1.0]), pyramid_mm=(3.0, 6.0))
    cropped = volumes.crop(volume, (0, 0, 6), (12, 12, 12))
    assert [v.mu.shape for v in cropped.coarser] == [(4, 4, 2), (2, 2, 1)]
    for level in cropped.coarser:
        assert mass(level) == pytest.approx(mass(cropped), rel=1e-12)


def test_resampling_to_the_own_grid_changes_nothing():
    volume = plain(noise((2, *SHAPE)))
    same = volumes.resample(volume, SHAPE, volume.affine)
    np.testing.assert_allclose(same.mu, volume.mu, rtol=1e-10)
    np.testing.assert_array_equal(same.affine, volume.affine)


def test_resampling_to_a_shifted_grid_shifts_the_voxels():
    volume = plain()
    shifted = SHEARED.copy()
    shifted[:3, 3] += SHEARED[:3, :3] @ [1, -2, 0]
    moved = np.array(volumes.resample(volume, SHAPE, shifted).mu)
    np.testing.assert_allclose(moved[:-1, 2:], volume.mu[1:, :-2], rtol=1e-9)
    np.testing.assert_allclose(moved[-1], 0, atol=1e-12)  # air outside
    np.testing.assert_allclose(moved[:, :2], 0, atol=1e-12)


def test_resampling_a_linear_field_is_exact():
    affine = np.diag([2.0, 3.0, 1.5, 1.0])
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
    slope = np.array([1e-3, -2e-4, 5e-4])
    volume = plain(0.02 + world(plain(affine=affine), index) @ slope, affine)
    finer = np.diag([0.8, 0.7, 0.9, 1.0])
    finer[:3, 3] = [3.0, 4.0, 2.0]
    resampled = volumes.resample(volume, (7, 8, 9), finer)
    inner = np.stack(np.meshgrid(*map(np.arange, (7, 8, 9)), indexing="ij"), -1)
    np.testing.assert_allclose(resampled.mu, 0.02 + world(resampled, inner) @ slope, rtol=1e-10)


def test_volumes_are_float32_by_default():
    with jax.enable_x64(False):
        volume = Volume.from_array(noise().astype(np.float64), SHEARED)
        leaves = jax.tree.leaves(volume)
    assert {leaf.dtype for leaf in leaves} == {np.dtype("float32"), np.dtype("uint32")}


def test_integers_and_booleans_become_attenuation():
    volume = Volume.from_array(np.ones((4, 4, 4), np.int16), np.eye(4), pyramid_mm=())
    assert volume.mu.dtype == jnp.float64
