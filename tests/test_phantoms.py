"""Phantoms: closed forms against known values, quadrature and finite differences."""

import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.integrate import quad

from jxreg import phantoms
from jxreg.camera import Camera, detector_points
from jxreg.errors import InputError
from jxreg.phantoms import Phantom
from jxreg.pose import from_carm

TURN = (0.3, -0.5, 0.8)


def turned():
    return jaxlie.SO3.exp(jnp.array(TURN))


def one_of_each() -> dict[str, Phantom]:
    return {
        "ellipsoid": (phantoms.ellipsoid((3, -4, 5), (20, 12, 31), 0.02, turned()),),
        "box": (phantoms.box((3, -4, 5), (20, 12, 31), 0.02, turned()),),
        "cylinder": (phantoms.cylinder((3, -4, 5), (20, 12, 31), 0.02, turned()),),
        "rod": (phantoms.rod((10, 15, 20), (-5, -10, -22), 13, 0.02),),
        "gaussian": (phantoms.gaussian((3, -4, 5), (20, 12, 31), 0.02, turned()),),
        "shell": phantoms.shell((3, -4, 5), (20, 12, 31), 3, 0.02, turned()),
    }


def rays(n, seed=0):
    """Segments between points 40 to 300 mm away on either side of the shapes."""
    rng = np.random.default_rng(seed)
    starts = rng.normal(size=(n, 3))
    starts *= rng.uniform(40, 300, (n, 1)) / np.linalg.norm(starts, axis=1, keepdims=True)
    aims = rng.normal(scale=9, size=(n, 3))
    return starts, starts + (aims - starts) * rng.uniform(1.2, 3, (n, 1))


def view(size=(24, 32), primary=25.0):
    camera = Camera.from_sdd(1020.0, size, (300 / size[0], 300 / size[0]))
    pose = from_carm(primary, 10.0, 5.0, source_to_isocenter=700.0, isocenter=jnp.zeros(3))
    return camera, pose


def moved(phantom, transform):
    return jax.tree.map(
        lambda part: transform @ part if isinstance(part, jaxlie.SE3) else part,
        phantom,
        is_leaf=lambda part: isinstance(part, jaxlie.SE3),
    )


@pytest.mark.parametrize(
    "shape, thickness",
    [
        (phantoms.ellipsoid, (20.0, 24.0, 30.0)),
        (phantoms.box, (20.0, 24.0, 30.0)),
        (phantoms.cylinder, (20.0, 24.0, 30.0)),
    ],
)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_through_the_centre_it_is_mu_times_thickness(shape, thickness, axis):
    center = np.array([5.0, -7.0, 11.0])
    phantom = (shape(center, np.array(thickness) / 2, 0.02),)
    step = 500.0 * np.eye(3)[axis]
    value = phantoms.line_integral(phantom, jnp.array(center - step), jnp.array(center + step))
    assert np.isclose(value, 0.02 * thickness[axis], rtol=1e-5)


def test_a_chord_of_a_sphere_beside_its_centre():
    ball = (phantoms.ellipsoid((0, 0, 0), (13, 13, 13), 1.0),)
    value = phantoms.line_integral(ball, jnp.array([5.0, 0, -800]), jnp.array([5.0, 0, 200]))
    assert np.isclose(value, 24.0, rtol=1e-5)  # 2 sqrt(13^2 - 5^2)


def test_a_rod_along_the_ray_is_as_thick_as_it_is_long():
    for end in ([0.0, 0.0, 40.0], [0.0, 0.0, -40.0], [24.0, 0.0, 32.0], [-40.0, 0.0, 0.0]):
        end = jnp.array(end)
        phantom = (phantoms.rod(jnp.zeros(3), end, 3, 1.0),)
        value = phantoms.line_integral(phantom, -5 * end, 5 * end)
        assert np.isclose(value, 40.0, rtol=1e-4), end


def test_a_gaussian_integrates_to_its_whole_mass():
    """Parallel rays over a plane: mu (2 pi)^(3/2) sigma_x sigma_y sigma_z."""
    blob = (phantoms.gaussian((0, 0, 0), (3, 4, 5), 0.02, turned()),)
    grid = jnp.linspace(-35.0, 35.0, 71)
    x, y = jnp.meshgrid(grid, grid)
    low = jnp.stack([x, y, jnp.full_like(x, -90)], -1).reshape(-1, 3)
    high = low.at[:, 2].set(90)
    values = jax.vmap(phantoms.line_integral, in_axes=(None, 0, 0))(blob, low, high)
    assert np.isclose(values.sum(), 0.02 * (2 * np.pi) ** 1.5 * 60, rtol=1e-5)


@pytest.mark.parametrize("name", one_of_each())
def test_line_integrals_equal_quadrature_of_mu(name):
    with jax.enable_x64(True):
        phantom = one_of_each()[name]
        nodes = (jnp.arange(40001) + 0.5)[:, None] / 40001
        dense = jax.vmap(phantoms.mu_at, in_axes=(None, 0))
        for start, end in zip(*rays(12), strict=True):
            value = phantoms.line_integral(phantom, jnp.array(start), jnp.array(end))
            length = np.linalg.norm(end - start)
            truth = length * float(dense(phantom, start + nodes * (end - start)).mean())
            # A sharp edge is met to half a node, and there are up to four.
            assert abs(float(value) - truth) <= 4 * 0.02 * length / 40001


def test_a_gaussian_equals_adaptive_quadrature_also_when_the_segment_ends_in_it():
    with jax.enable_x64(True):
        blob = one_of_each()["gaussian"]
        start, end = jnp.array([90.0, 30, -60]), jnp.array([-8.0, 5, 10])
        truth, _ = quad(lambda t: float(phantoms.mu_at(blob, start + t * (end - start))), 0, 1)
        truth *= float(jnp.linalg.norm(end - start))
        assert np.isclose(phantoms.line_integral(blob, start, end), truth, rtol=1e-9)


@pytest.mark.parametrize("name", one_of_each())
def test_a_segment_is_the_sum_of_its_halves(name):
    phantom = one_of_each()[name]
    integral = jax.vmap(phantoms.line_integral, in_axes=(None, 0, 0))
    starts, ends = (jnp.array(p, jnp.float32) for p in rays(20, seed=1))
    middle = starts + 0.55 * (ends - starts)
    halves = integral(phantom, starts, middle) + integral(phantom, middle, ends)
    # float32, from 300 mm away: 300 * 6e-8 / 12 of the size, twice the square root at the rim
    np.testing.assert_allclose(integral(phantom, starts, ends), halves, atol=2e-3)


@pytest.mark.parametrize("name", one_of_each())
def test_a_ray_that_misses_or_ends_before_sees_nothing(name):
    phantom = one_of_each()[name]
    start = jnp.array([0.0, 0.0, -700.0])
    for end in ([0.0, 0.0, -250.0], [900.0, 0.0, 300.0], [0.0, 0.0, -1500.0]):
        value, slope = jax.value_and_grad(phantoms.line_integral, argnums=2)(
            phantom, start, jnp.array(end)
        )
        assert abs(value) < 1e-7
        assert np.isfinite(slope).all()


@pytest.mark.parametrize("axis", [(0.0, 0.0, 1.0), (0.0, 1.0, 0.0)])
@pytest.mark.parametrize("x", [0.0, 3.0, 5.0, 7.0])
def test_rays_along_an_axis_and_in_a_face_are_finite_with_finite_gradients(x, axis):
    step = 100 * jnp.array(axis)
    start, end = jnp.array([x, 0.0, 0.0]) - step, jnp.array([x, 0.0, 0.0]) + step
    round_chord = 2 * np.sqrt(max(25 - x**2, 0))
    box = (phantoms.box((0, 0, 0), (5, 5, 5), 1.0),)
    drum = (phantoms.cylinder((0, 0, 0), (5, 5, 5), 1.0),)
    for phantom, expected in ((box, 10.0), (drum, 10.0 if axis[2] else round_chord)):
        value, slope = jax.value_and_grad(phantoms.line_integral, argnums=(0, 1, 2))(
            phantom, start, end
        )
        if x != 5:  # in a face, any value from outside to inside is right
            assert np.isclose(value, expected if x < 5 else 0, atol=1e-4)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))


@pytest.mark.parametrize("name", one_of_each())
def test_gradients_equal_central_differences(name):
    with jax.enable_x64(True):
        phantom = one_of_each()[name]
        _, rebuild = ravel_pytree((phantom, jnp.zeros(3), jnp.zeros(3)))

        def function(flat):
            return phantoms.line_integral(*rebuild(flat))

        @jax.jit
        def both_gradients(flat):
            h = 1e-5 * jnp.eye(flat.size)
            numeric = (jax.vmap(function)(flat + h) - jax.vmap(function)(flat - h)) / 2e-5
            return jax.grad(function)(flat), numeric

        for start, end in zip(*rays(6, seed=2), strict=True):
            arguments = (phantom, jnp.array(start), jnp.array(end))
            if phantoms.line_integral(*arguments) < 1e-3:
                continue
            flat, _ = ravel_pytree(arguments)
            gradient, numeric = both_gradients(flat)
            np.testing.assert_allclose(gradient, numeric, atol=1e-6 * float(abs(numeric).max()))


def test_pose_gradient_of_the_exact_drr_equals_central_differences():
    with jax.enable_x64(True):
        phantom = one_of_each()["gaussian"] + one_of_each()["ellipsoid"]
        camera, pose = view((8, 8))
        weights = jnp.array(np.random.default_rng(0).normal(size=(8, 8)))

        @jax.jit
        def score(twist):
            image = phantoms.exact_drr(phantom, camera, jaxlie.SE3.exp(twist) @ pose)
            return jnp.sum(weights * image)

        gradient = jax.grad(score)(jnp.zeros(6))
        h = 1e-5 * jnp.eye(6)
        numeric = jnp.array([(score(e) - score(-e)) / 2e-5 for e in h])
        np.testing.assert_allclose(gradient, numeric, atol=1e-6 * float(abs(numeric).max()))


def test_drr_pixels_are_the_integrals_to_the_detector_points():
    phantom = phantoms.pelvis_and_spine()
    camera, pose = view()
    image = phantoms.exact_drr(phantom, camera, pose)
    assert image.shape == (2, 24, 32)
    to_world = pose.inverse()
    end = to_world.apply(detector_points(camera, jnp.array([[20.0, 7.0]]))[0])
    expected = phantoms.line_integral(phantom, to_world.translation(), end)
    np.testing.assert_allclose(image[:, 7, 20], expected, rtol=1e-5)
    summed = phantoms.exact_drr(phantoms.total(phantom), camera, pose)
    np.testing.assert_allclose(summed, image.sum(0), rtol=1e-5)


def test_jit_equals_eager_and_vmap_equals_a_loop():
    phantom = phantoms.total(phantoms.skull())
    camera, pose = view((8, 10))
    poses = [view(primary=primary)[1] for primary in (0.0, 40.0, 90.0)]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *poses)
    images = jax.vmap(phantoms.exact_drr, in_axes=(None, None, 0))(phantom, camera, batch)
    for image, pose in zip(images, poses, strict=True):
        # float32: chords of bone next to the rim differ by the order of the operations
        np.testing.assert_allclose(image, phantoms.exact_drr(phantom, camera, pose), atol=1e-3)
    with jax.disable_jit():
        eager = phantoms.exact_drr(phantom[:6], camera, pose)
    np.testing.assert_allclose(eager, phantoms.exact_drr(phantom[:6], camera, pose), atol=1e-3)


@pytest.mark.parametrize("make", [phantoms.pelvis_and_spine, phantoms.skull])
def test_single_precision_agrees_with_double(make):
    camera, pose = view()
    single = phantoms.exact_drr(make(), camera, pose)
    with jax.enable_x64(True):
        double = phantoms.exact_drr(make(), *view())
        assert double.dtype == jnp.float64
    np.testing.assert_allclose(single, double, atol=2e-3)


def test_moving_patient_and_camera_together_changes_nothing():
    with jax.enable_x64(True):
        phantom, (camera, pose) = phantoms.skull(), view()
        transform = jaxlie.SE3.exp(jnp.array([20.0, -30, 50, 0.4, -0.2, 1.0]))
        image = phantoms.exact_drr(phantom, camera, pose)
        both = phantoms.exact_drr(moved(phantom, transform), camera, pose @ transform.inverse())
        np.testing.assert_allclose(image, both, atol=1e-9)


OBLIQUE = np.array(
    [[1.9, 0.4, 0.1, -50], [-0.3, 2.1, 0.5, -45], [0.2, -0.6, 2.5, -60], [0, 0, 0, 1]]
)


@pytest.mark.parametrize("name", one_of_each())
def test_voxels_hold_the_mean_over_their_volume(name):
    phantom = one_of_each()[name]
    volume = phantoms.voxelise(phantom, (48, 44, 46), OBLIQUE, supersampling=4)
    rng = np.random.default_rng(3)
    mu = np.asarray(volume.mu)
    partly = np.argwhere((mu > 0.1 * mu.max()) & (mu < 0.9 * mu.max()))
    for index in rng.permutation(partly)[:5]:
        samples = index + rng.uniform(-0.5, 0.5, (20000, 3))
        points = samples @ OBLIQUE[:3, :3].T + OBLIQUE[:3, 3]
        truth = jax.vmap(phantoms.mu_at, in_axes=(None, 0))(phantom, jnp.array(points)).mean()
        assert abs(mu[tuple(index)] - truth) < 0.07 * 0.02  # 4^3 samples: a plane is met to 1/16


@pytest.mark.parametrize(
    "name, volume_mm3",
    [
        ("ellipsoid", 4 / 3 * np.pi * 20 * 12 * 31),
        ("box", 8 * 20 * 12 * 31),
        ("cylinder", 2 * np.pi * 20 * 12 * 31),
        ("gaussian", (2 * np.pi) ** 1.5 * 20 * 12 * 31),
        ("shell", 4 / 3 * np.pi * (20 * 12 * 31 - 17 * 9 * 28)),
    ],
)
def test_voxelisation_keeps_the_mass(name, volume_mm3):
    phantom = one_of_each()[name]
    shape, affine = phantoms.grid_around(phantom, 2.5)
    volume = phantoms.voxelise(phantom, shape, affine, supersampling=3)
    assert np.isclose(float(volume.mu.sum()) * 2.5**3, 0.02 * volume_mm3, rtol=2e-3)


def test_voxelisation_does_not_depend_on_the_order_of_the_axes():
    phantom = phantoms.total(phantoms.skull())
    shape, affine = phantoms.grid_around(phantom, 7.7)  # no sample lies exactly in a face
    plain = np.asarray(phantoms.voxelise(phantom, shape, affine).mu)
    x, y, z = shape
    # index (k, i, j) with j reversed
    turned_affine = affine @ np.array([[0, 1, 0, 0], [0, 0, -1, y - 1], [1, 0, 0, 0], [0, 0, 0, 1]])
    other = np.asarray(phantoms.voxelise(phantom, (z, x, y), turned_affine).mu)
    np.testing.assert_allclose(other, plain.transpose(2, 0, 1)[:, :, ::-1], atol=1e-6)


def test_a_grid_elsewhere_is_air_and_a_coarse_one_has_channels():
    phantom = phantoms.pelvis_and_spine()
    far = np.diag([5.0, 5, 5, 1])
    far[:3, 3] = 2000
    volume = phantoms.voxelise(phantom, (4, 5, 6), far)
    assert volume.mu.shape == (2, 4, 5, 6)
    assert not np.asarray(volume.mu).any()


@pytest.mark.parametrize("make", [phantoms.pelvis_and_spine, phantoms.skull])
def test_anatomy_is_physical(make):
    """No voxel has negative attenuation, and no two bones overlap."""
    phantom = make()
    volume = phantoms.voxelise(phantom, *phantoms.grid_around(phantom, 3.0))
    soft, bone = np.asarray(volume.mu)
    assert soft.min() > -1e-4
    assert bone.min() > -1e-6
    assert 0.9 * phantoms.MU_BONE < bone.max() <= 1.0001 * phantoms.MU_BONE
    assert soft.max() < 1.1 * 0.02059
    border = [np.take(soft + bone, edge, axis) for axis in range(3) for edge in (0, -1)]
    assert max(face.max() for face in border) < 0.011  # half voxels of the flat ends, at most


@pytest.mark.parametrize("make", [phantoms.pelvis_and_spine, phantoms.skull])
def test_anatomy_is_not_symmetric(make):
    """A mirror image of the anatomy is no rotated one: left and right differ in bone and tissue."""
    phantom = make()
    _, affine = phantoms.grid_around(phantom, 4.0)
    n = int(np.ceil(-2 * affine[0, 3] / 4.0)) + 1
    affine[0, 3] = -4.0 * (n - 1) / 2
    volume = phantoms.voxelise(phantom, (n, *phantoms.grid_around(phantom, 4.0)[0][1:]), affine)
    for material in np.asarray(volume.mu):
        assert abs(material - material[::-1]).sum() > 0.005 * material.sum()


def test_what_is_refused():
    with pytest.raises(InputError, match="size"):
        phantoms.ellipsoid((0, 0, 0), (1, 0, 1), 1.0)
    with pytest.raises(InputError, match="supersampling"):
        phantoms.voxelise(one_of_each()["box"], (4, 4, 4), np.eye(4), supersampling=0)
