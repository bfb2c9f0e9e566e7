"""Implants and tools: closed forms against geometry, sampling and finite differences."""

import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jxreg.camera import Camera, detector_points, pixel_grid
from jxreg.errors import InputError
from jxreg.physics import objects
from jxreg.pose import from_carm

pytestmark = pytest.mark.usefixtures("float64")


def view(rows=8, columns=10):
    camera = Camera.from_sdd(1000.0, (rows, columns), (14.0, 14.0))
    pose = from_carm(20.0, 10.0, source_to_isocenter=700.0, isocenter=(0.0, 0.0, 0.0))
    return camera, pose


def one_of_each():
    turn = jaxlie.SO3.exp(jnp.array([0.3, -0.5, 0.8]))
    return [
        objects.sphere((3.0, -4.0, 5.0), 21.0),
        objects.box((10.0, 0.0, -8.0), (12.0, 17.0, 9.0), turn),
        objects.cylinder((-20.0, 5.0, -30.0), (15.0, -10.0, 25.0), 7.0),
        objects.capsule((25.0, 10.0, -20.0), (-5.0, 20.0, 22.0), 6.0),
        objects.ellipsoid((-15.0, 0.0, 10.0), (9.0, 20.0, 14.0), turn),
    ]


def along_rays(camera, pose, samples):
    """World points in the middle of equal steps on every ray, and the length of a step."""
    ends = detector_points(camera, pixel_grid(camera))
    t = (jnp.arange(samples) + 0.5) / samples
    world_from_camera = pose.inverse()
    points = world_from_camera.apply((t[:, None, None] * ends).reshape(-1, 3))
    return points, jnp.linalg.norm(ends, axis=-1) / samples


def test_through_the_middle_the_way_is_what_geometry_says():
    camera = Camera.from_sdd(1000.0, (1, 1), (1.0, 1.0))
    pose = from_carm(0.0, 0.0, source_to_isocenter=700.0, isocenter=(0.0, 0.0, 0.0))  # along +y
    tilt = np.radians(25)
    far = (0.0, 30 * np.cos(tilt), 30 * np.sin(tilt))
    near = tuple(-x for x in far)
    solids = [
        objects.sphere((3.0, 40.0, 0.0), 5.0),
        objects.box((0.0, 10.0, 0.0), (2.0, 7.0, 3.0)),
        objects.cylinder(near, far, 4.0),
        objects.cylinder(*((tuple(np.array([0.0, 0.0, z]))) for z in (-50.0, 50.0)), 4.0),
        objects.capsule(near, far, 4.0),
        objects.capsule((0.0, -9.0, 0.0), (0.0, 9.0, 0.0), 2.5),
    ]
    found = objects.crossings(solids, camera, pose)
    across = 8.0 / np.sin(tilt)
    np.testing.assert_allclose(
        objects.path_lengths(found)[:, 0, 0], [8.0, 14.0, across, 8.0, across, 23.0], rtol=1e-12
    )
    enter, leave = objects.entry_and_exit(found)
    np.testing.assert_allclose(enter[:2, 0, 0], [736.0, 703.0], rtol=1e-12)
    np.testing.assert_allclose(leave[:2, 0, 0], [744.0, 717.0], rtol=1e-12)


def test_way_mask_and_priority_agree_with_counting_points():
    camera, pose = view()
    solids, samples = one_of_each(), 4000
    found = objects.crossings(solids, camera, pose)
    points, step = along_rays(camera, pose, samples)
    there = np.asarray(jax.jit(lambda x: jnp.stack([objects.inside(s, x) for s in solids]))(points))
    there = there.reshape(len(solids), samples, *camera.image_size)
    step = np.asarray(step).reshape(camera.image_size)
    np.testing.assert_allclose(objects.path_lengths(found), there.sum(1) * step, atol=0.52)
    np.testing.assert_array_equal(objects.masks(found), objects.path_lengths(found) > 0)
    assert np.isnan(objects.entry_and_exit(found)[0][~np.asarray(objects.masks(found))]).all()
    for ranks in (None, (2, 1, 1, 2, 1)):
        lowest = np.array(objects.checked_ranks(len(solids), ranks))[:, None, None, None]
        first = np.where(there, lowest, 99).min(0)
        winner = there & (lowest == first)
        owned = (winner / np.maximum(winner.sum(0), 1)).sum(1) * step
        assert (owned.max((1, 2)) > 5).all()  # the case tests something
        mine = objects.owned_lengths(found, ranks)
        np.testing.assert_allclose(mine, owned, atol=5 * 0.26)
    union = there.any(0).sum(0) * step
    np.testing.assert_allclose(objects.path_lengths(objects.covered(found)).sum(0), union, atol=1.3)


def test_the_union_is_what_the_objects_own_and_its_parts_are_apart():
    found = objects.crossings(one_of_each(), *view())
    parts = objects.covered(found)
    total = objects.path_lengths(parts).sum(0)
    for ranks in (None, (3, 1, 2, 5, 4), (1, 1, 1, 1, 1)):
        np.testing.assert_allclose(objects.owned_lengths(found, ranks).sum(0), total, atol=1e-9)
    assert (parts.enter[1:] >= parts.leave[:-1] - 1e-15).all()


def test_an_inner_ball_replaces_what_is_around_it():
    camera = Camera.from_sdd(1000.0, (1, 1), (1.0, 1.0))
    pose = from_carm(0.0, 0.0, source_to_isocenter=700.0, isocenter=(0.0, 0.0, 0.0))
    outer, inner = objects.sphere((0.0, 0.0, 0.0), 10.0), objects.sphere((0.0, 4.0, 0.0), 3.0)
    found = objects.crossings([outer, inner], camera, pose)
    np.testing.assert_allclose(objects.owned_lengths(found)[:, 0, 0], [14.0, 6.0])
    np.testing.assert_allclose(objects.owned_lengths(found, (1, 2))[:, 0, 0], [20.0, 0.0])
    np.testing.assert_allclose(objects.owned_lengths(found, (1, 1))[:, 0, 0], [17.0, 3.0])
    with pytest.raises(InputError, match="as many as objects"):
        objects.owned_lengths(found, (1,))
    with pytest.raises(InputError, match="positive lengths"):
        objects.sphere((0.0, 0.0, 0.0), -1.0)


def test_gradients_agree_with_finite_differences():
    camera, pose = view()
    solids = one_of_each()[2:4]  # cylinder and capsule
    flat, restore = ravel_pytree((solids, pose))
    weights = jax.random.normal(jax.random.key(0), (2, *camera.image_size))

    @jax.jit
    @jax.value_and_grad
    def loss(flat):
        solids, pose = restore(flat)
        found = objects.crossings(solids, camera, pose)
        covered = objects.path_lengths(objects.covered(found)).sum(0)
        return jnp.sum(weights * objects.owned_lengths(found)) + jnp.sum(weights[0] * covered)

    for seed in range(2):
        along = jax.random.normal(jax.random.key(seed), flat.shape)
        step = 1e-6
        difference = (loss(flat + step * along)[0] - loss(flat - step * along)[0]) / (2 * step)
        assert float(loss(flat)[1] @ along) == pytest.approx(float(difference), rel=1e-5)


def test_single_precision_is_as_good_as_its_steps():
    camera, pose = view()
    double = objects.path_lengths(objects.crossings(one_of_each(), camera, pose))
    numbers = [jax.tree.map(np.asarray, part) for part in (one_of_each(), camera, pose)]
    with jax.enable_x64(False):
        single = [jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), part) for part in numbers]
        found = objects.path_lengths(objects.crossings(*single))
    assert found.dtype == jnp.float32
    rough = np.abs(np.asarray(found) - np.asarray(double))[np.asarray(double) > 0]
    assert np.median(rough) < 2e-4  # of 700 mm to the objects: two steps of a float32
    assert rough.max() < 3e-3  # where a ray grazes


def test_a_motion_of_the_world_and_of_the_camera_agree():
    camera, pose = view()
    motion = jaxlie.SE3.exp(jnp.array([5.0, -3.0, 2.0, 0.2, 0.1, -0.3]))
    solids = [objects.moved(solid, motion) for solid in one_of_each()]
    there, here = (
        objects.crossings(solids, camera, pose),
        objects.crossings(one_of_each(), camera, pose @ motion),
    )
    np.testing.assert_allclose(there.enter, here.enter, atol=1e-12)
