"""Automatic landmarks: surfaces of known area, even points, and the same ones for the same seed."""

import numpy as np
import pytest

import jxreg
from jxreg import surface
from jxreg.errors import InputError
from jxreg.volume import MU_WATER, mu_from_hu

AFFINE = np.array(
    [[0.0, -1.5, 0.0, 20.0], [2.0, 0.0, 0.3, -5.0], [0.0, 0.0, 1.0, 7.0], [0, 0, 0, 1.0]]
)
"""Permuted, mirrored and sheared."""


def ball(radius, shape=(24, 24, 24), centre=(11.3, 11.8, 12.1)):
    """Distance to the sphere [voxels], positive inside."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return radius - np.linalg.norm(index - np.array(centre), axis=-1)


def test_a_ball_has_the_area_of_a_sphere_and_its_vertices_lie_on_it():
    made = surface.isosurface(ball(8.0), np.eye(4), 0.0)
    radius = np.linalg.norm(made.vertices - [11.3, 11.8, 12.1], axis=1)
    assert np.abs(radius - 8).max() < 0.05
    assert surface.areas(made).sum() == pytest.approx(4 * np.pi * 64, rel=0.02)


def test_the_surface_is_closed():
    """Every side of a triangle belongs to two of them, and the Euler characteristic is a ball's."""
    random = np.random.default_rng(0).random((7, 6, 5))
    for field, level in ((ball(8.0), 0.0), (random, 0.7)):
        made = surface.isosurface(field, np.eye(4), level)
        sides = np.sort(made.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), 1)
        _, count = np.unique(sides, axis=0, return_counts=True)
        assert (count % 2 == 0).all()
        if field is not random:
            assert (count == 2).all()
            assert len(made.vertices) - len(count) + len(made.faces) == 2


def test_points_are_in_the_world_of_the_affine():
    plain = surface.isosurface(ball(5.0), np.eye(4), 0.0)
    made = surface.isosurface(ball(5.0), AFFINE, 0.0)
    np.testing.assert_allclose(made.vertices, plain.vertices @ AFFINE[:3, :3].T + AFFINE[:3, 3])
    np.testing.assert_array_equal(made.faces, plain.faces)


def test_a_structure_at_the_border_of_the_grid_is_closed_there():
    made = surface.isosurface(np.ones((4, 5, 6)), np.eye(4), 0.5)
    assert made.vertices.min() > -1
    np.testing.assert_allclose(made.vertices.max(0) - [3, 4, 5], -made.vertices.min(0))
    assert made.vertices.max(0)[0] > 3


@pytest.mark.reference
def test_the_surface_is_near_that_of_scikit_image():
    measure = pytest.importorskip("skimage.measure")
    field = ball(8.0) + 0.5 * np.sin(np.arange(24))[:, None, None]
    vertices, faces, *_ = measure.marching_cubes(field, 0.0)
    made = surface.isosurface(field, np.eye(4), 0.0)
    area = measure.mesh_surface_area(vertices, faces)
    assert surface.areas(made).sum() == pytest.approx(area, rel=0.02)
    theirs = surface.points_on(surface.Surface(np.asarray(vertices, float), faces), 500)
    ours = surface.points_on(made, 20_000)
    gaps = np.linalg.norm(theirs[:, None] - ours, axis=-1).min(1)
    assert gaps.max() < 0.5


def test_points_are_uniform_over_the_area():
    """A triangle of three times the area gets three times the points, evenly inside."""
    corners = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [10, 0, 0], [13, 0, 0], [10, 1, 0]])
    points = surface.points_on(surface.Surface(corners, np.array([[0, 1, 2], [3, 4, 5]])), 8000)
    first = points[points[:, 0] < 5]
    assert len(first) / 8000 == pytest.approx(0.25, abs=0.02)
    np.testing.assert_allclose(first.mean(0), [1 / 3, 1 / 3, 0], atol=0.02)
    assert (first[:, 0] + first[:, 1] <= 1).all()


def test_the_largest_part_is_by_area():
    two = np.maximum(ball(4.0, centre=(6, 6, 6)), ball(6.0, centre=(16, 16, 16)))
    part = surface.largest_part(surface.isosurface(two, np.eye(4), 0.0))
    assert surface.areas(part).sum() == pytest.approx(4 * np.pi * 36, rel=0.03)


def test_farthest_points_cover_a_line_and_beat_random_ones():
    line = np.stack([np.linspace(0, 8, 801), np.zeros(801), np.zeros(801)], 1)
    chosen = line[surface.farthest_points(line, 5), 0]
    np.testing.assert_allclose(np.sort(chosen), [0, 2, 4, 6, 8], atol=0.02)
    points = np.random.default_rng(0).normal(size=(500, 3))
    kept = points[surface.farthest_points(points, 20)]

    def closest(x):
        return np.sort(np.linalg.norm(x[:, None] - x, axis=-1), 1)[:, 1].min()

    assert closest(kept) > closest(points[:20])
    np.testing.assert_array_equal(kept[:7], points[surface.farthest_points(points, 7)])


@pytest.fixture(scope="module")
def volume():
    """A ball of bone of 10 mm within one of water, and a speck of bone."""
    index_from = np.linalg.norm(AFFINE[:3, :3], axis=0)
    place = np.stack(np.meshgrid(*map(np.arange, (20, 24, 30)), indexing="ij"), -1) * index_from
    distance = np.linalg.norm(place - place[10, 12, 15], axis=-1)
    mu = np.select([distance < 10, distance < 14], [2 * MU_WATER, MU_WATER], 0.0)
    mu[1, 1, 1] = 2 * MU_WATER
    return jxreg.Volume.from_array(mu.astype(np.float32), AFFINE, prepare=False)


def test_landmarks_lie_within_a_voxel_of_the_surface_and_repeat(volume):
    labels = np.asarray(volume.mu > mu_from_hu(np.array([500.0]))[0]).astype(np.uint8) * 5
    made = surface.automatic_landmarks(volume, 14, labels=labels, largest_only=True)
    index = (made - AFFINE[:3, 3]) @ np.linalg.inv(AFFINE[:3, :3]).T
    edge = np.argwhere(labels[1:-1, 1:-1, 1:-1]) + 1
    near = np.abs(index[:, None] - edge).max(-1).min(1)
    assert near.max() <= 1
    outside = np.argwhere(labels == 0)
    assert np.abs(index[:, None] - outside).max(-1).min(1).max() <= 1
    again = surface.automatic_landmarks(volume, 14, labels=labels, largest_only=True)
    np.testing.assert_array_equal(made, again)
    other = surface.automatic_landmarks(volume, 14, labels=labels, largest_only=True, seed=1)
    assert not np.array_equal(made, other)
    more = surface.automatic_landmarks(volume, 20, labels=labels, largest_only=True)
    np.testing.assert_array_equal(more[:14], made)


def test_a_threshold_is_in_hounsfield_units_and_finds_the_speck_too(volume):
    speck = AFFINE[:3, :3] @ np.ones(3) + AFFINE[:3, 3]

    def nearest(**options):
        made = surface.automatic_landmarks(volume, 30, above_hu=500.0, **options)
        return np.linalg.norm(made - speck, axis=1).min()

    assert nearest() < 2.0
    assert nearest(largest_only=True) > 5.0
    coarse = surface.automatic_landmarks(volume, 30, above_hu=500.0, voxel_mm=4.0)
    assert np.isfinite(coarse).all()


def test_what_has_no_surface_is_refused(volume):
    labels = np.zeros(volume.mu.shape, np.uint8)
    for options in (
        {},
        {"labels": labels, "above_hu": 300.0},
        {"labels": labels},
        {"labels": labels[1:]},
        {"above_hu": 5000.0},
    ):
        with pytest.raises(InputError):
            surface.automatic_landmarks(volume, 14, **options)
    with pytest.raises(InputError, match="one or more"):
        surface.automatic_landmarks(volume, 0, above_hu=300.0)
