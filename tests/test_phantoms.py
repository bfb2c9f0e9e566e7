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


KINDS = ("ellipsoid", "box", "cylinder", "rod", "gaussian", "shell")


def one_of_each() -> Phantom:
    """One shape of each kind at one place, each of a material of its own, 0.02 / mm."""
    mu = iter(0.02 * np.eye(len(KINDS)))
    place = (3, -4, 5), (20, 12, 31)
    return (
        phantoms.ellipsoid(*place, next(mu), turned()),
        phantoms.box(*place, next(mu), turned()),
        phantoms.cylinder(*place, next(mu), turned()),
        phantoms.rod((10, 15, 20), (-5, -10, -22), 13, next(mu)),
        phantoms.gaussian(*place, next(mu), turned()),
        *phantoms.shell(*place, 3, next(mu), turned()),
    )


integrals = jax.jit(jax.vmap(phantoms.line_integral, in_axes=(None, 0, 0)))
samples = jax.jit(jax.vmap(phantoms.mu_at, in_axes=(None, 0)))


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
    values = integrals(blob, low, high)
    assert np.isclose(values.sum(), 0.02 * (2 * np.pi) ** 1.5 * 60, rtol=1e-5)


def test_line_integrals_equal_quadrature_of_mu():
    with jax.enable_x64(True):
        phantom = one_of_each()
        nodes = (jnp.arange(20001) + 0.5)[:, None] / 20001
        starts, ends = (jnp.array(points) for points in rays(12))
        lengths = jnp.linalg.norm(ends - starts, axis=1)
        values = integrals(phantom, starts, ends)
        assert ((values > 0.1).sum(0) >= 6).all()
        for start, end, length, value in zip(starts, ends, lengths, values, strict=True):
            truth = length * samples(phantom, start + nodes * (end - start)).mean(0)
            # A sharp edge is met to half a node, and there are up to four.
            np.testing.assert_allclose(value, truth, atol=4 * 0.02 * length / 20001)


def test_a_gaussian_equals_adaptive_quadrature_also_when_the_segment_ends_in_it():
    with jax.enable_x64(True):
        blob = (phantoms.gaussian((3, -4, 5), (20, 12, 31), 0.02, turned()),)
        start, end = jnp.array([90.0, 30, -60]), jnp.array([-8.0, 5, 10])
        truth, _ = quad(lambda t: float(phantoms.mu_at(blob, start + t * (end - start))), 0, 1)
        truth *= float(jnp.linalg.norm(end - start))
        assert np.isclose(phantoms.line_integral(blob, start, end), truth, rtol=1e-9)


def test_a_segment_is_the_sum_of_its_halves():
    phantom = one_of_each()
    starts, ends = (jnp.array(points, jnp.float32) for points in rays(20, seed=1))
    middle = starts + 0.55 * (ends - starts)
    halves = integrals(phantom, starts, middle) + integrals(phantom, middle, ends)
    # float32, from 300 mm away: 300 * 6e-8 / 12 of the size, twice the square root at the rim
    np.testing.assert_allclose(integrals(phantom, starts, ends), halves, atol=2e-3)


def test_a_ray_that_misses_or_ends_before_sees_nothing():
    phantom = one_of_each()
    start = jnp.array([0.0, 0.0, -700.0])
    ends = jnp.array([[0.0, 0.0, -250.0], [900.0, 0.0, 300.0], [0.0, 0.0, -1500.0]])
    assert (abs(integrals(phantom, jnp.stack([start] * 3), ends)) < 1e-7).all()

    def total(end):
        return phantoms.line_integral(phantom, start, end).sum()

    assert np.isfinite(jax.jit(jax.vmap(jax.grad(total)))(ends)).all()


def test_rays_along_an_axis_and_in_a_face_are_finite_with_finite_gradients():
    size = (5, 5, 5)
    phantom = (phantoms.box((0, 0, 0), size, (1, 0)), phantoms.cylinder((0, 0, 0), size, (0, 1)))

    @jax.jit
    def value_and_gradient(start, end):
        value, pull_back = jax.vjp(phantoms.line_integral, phantom, start, end)
        return value, pull_back(jnp.ones(2))

    for x in (0.0, 3.0, 5.0, 7.0):
        chord = 2 * np.sqrt(max(25 - x**2, 0))
        for step, round_chord in (([0.0, 0, 100], 10.0), ([0.0, 100, 0], chord)):
            middle = jnp.array([x, 0.0, 0.0])
            value, slope = value_and_gradient(middle - jnp.array(step), middle + jnp.array(step))
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))
            if x != 5:  # in a face, any value from outside to inside is right
                expected = [10.0, round_chord] if x < 5 else [0.0, 0.0]
                np.testing.assert_allclose(value, expected, atol=1e-4)


def test_gradients_equal_central_differences():
    """With respect to places, orientations, sizes and attenuations, and both ends of the ray."""
    with jax.enable_x64(True):
        phantom = one_of_each()
        weights = jnp.array([1.0, -2.0, 3.0, 0.7, -1.3, 2.1])
        _, rebuild = ravel_pytree((phantom, jnp.zeros(3), jnp.zeros(3)))

        def function(flat):
            return weights @ phantoms.line_integral(*rebuild(flat))

        gradient_at, many = jax.jit(jax.grad(function)), jax.jit(jax.vmap(function))

        for start, end in zip(*rays(8, seed=2), strict=True):
            flat, _ = ravel_pytree((phantom, jnp.array(start), jnp.array(end)))
            step = 1e-5 * jnp.eye(flat.size)
            high, low = many(jnp.stack([flat + step, flat - step]).reshape(-1, flat.size)).reshape(
                2, -1
            )
            gradient, numeric = gradient_at(flat), (high - low) / 2e-5
            np.testing.assert_allclose(gradient, numeric, atol=1e-6 * float(abs(numeric).max()))


def test_pose_gradient_of_the_exact_drr_equals_central_differences():
    with jax.enable_x64(True):
        blob = (phantoms.gaussian((3, -4, 5), (40, 32, 61), 0.02, turned()),)
        camera, pose = view((8, 8))
        weights = jnp.array(np.random.default_rng(0).normal(size=(8, 8)))

        @jax.jit
        def score(twist):
            image = phantoms.exact_drr(blob, camera, jaxlie.SE3.exp(twist) @ pose)
            return jnp.sum(weights * image)

        gradient = jax.jit(jax.grad(score))(jnp.zeros(6))
        h = 1e-5 * jnp.eye(6)
        numeric = jnp.array([(score(e) - score(-e)) / 2e-5 for e in h])
        np.testing.assert_allclose(gradient, numeric, atol=1e-6 * float(abs(numeric).max()))


def ball_and_box() -> Phantom:
    return (
        phantoms.ellipsoid((3, -4, 5), (40, 32, 61), 0.02, turned()),
        phantoms.box((9, 8, 7), (20, 12, 31), 0.03, turned()),
    )


def test_drr_pixels_are_the_integrals_to_the_detector_points():
    camera, pose = view((8, 10))
    image = phantoms.exact_drr(ball_and_box(), camera, pose)
    assert image.shape == (8, 10)
    to_world = pose.inverse()
    end = to_world.apply(detector_points(camera, jnp.array([[6.0, 3.0]]))[0])
    expected = phantoms.line_integral(ball_and_box(), to_world.translation(), end)
    assert expected > 0.3
    np.testing.assert_allclose(image[3, 6], expected, rtol=1e-5)


def test_jit_equals_eager_and_vmap_equals_a_loop():
    phantom = ball_and_box()
    camera, pose = view((8, 10))
    poses = [view(primary=primary)[1] for primary in (0.0, 40.0, 90.0)]
    batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *poses)
    images = jax.vmap(phantoms.exact_drr, in_axes=(None, None, 0))(phantom, camera, batch)
    for many, pose in zip(images, poses, strict=True):
        image = phantoms.exact_drr(phantom, camera, pose)
        # float32: chords next to the rim differ by the order of the operations
        np.testing.assert_allclose(many, image, atol=1e-3)
    with jax.disable_jit():
        eager = phantoms.exact_drr(phantom, camera, pose)
    np.testing.assert_allclose(eager, image, atol=1e-3)


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
        phantom, (camera, pose) = ball_and_box(), view((8, 10))
        transform = jaxlie.SE3.exp(jnp.array([20.0, -30, 50, 0.4, -0.2, 1.0]))
        image = phantoms.exact_drr(phantom, camera, pose)
        assert image.max() > 2
        both = phantoms.exact_drr(moved(phantom, transform), camera, pose @ transform.inverse())
        np.testing.assert_allclose(image, both, atol=1e-9)


OBLIQUE = np.array(
    [[1.9, 0.4, 0.1, -50], [-0.3, 2.1, 0.5, -45], [0.2, -0.6, 2.5, -60], [0, 0, 0, 1]]
)


def test_voxels_hold_the_mean_over_their_volume():
    phantom = one_of_each()
    volume = phantoms.voxelise(phantom, (48, 44, 46), OBLIQUE, supersampling=4)
    rng = np.random.default_rng(3)
    for material, mu in enumerate(np.asarray(volume.mu)):
        partly = np.argwhere((mu > 0.1 * mu.max()) & (mu < 0.9 * mu.max()))
        for index in rng.permutation(partly)[:5]:
            inside = index + rng.uniform(-0.5, 0.5, (20000, 3))
            points = jnp.array(inside @ OBLIQUE[:3, :3].T + OBLIQUE[:3, 3], jnp.float32)
            truth = samples(phantom, points)[:, material].mean()
            assert abs(mu[tuple(index)] - truth) < 0.07 * 0.02  # 4^3 samples: planes to 1/16


def test_voxelisation_keeps_the_mass():
    phantom = one_of_each()
    shape, affine = phantoms.grid_around(phantom, 2.5)
    volume = phantoms.voxelise(phantom, shape, affine, supersampling=3)
    size, rod_length = 20 * 12 * 31, np.sqrt(15**2 + 25**2 + 42**2)
    expected = [
        4 / 3 * np.pi * size,
        8 * size,
        2 * np.pi * size,
        np.pi * 13**2 * rod_length,
        (2 * np.pi) ** 1.5 * size,
        4 / 3 * np.pi * (size - 17 * 9 * 28),
    ]
    mass = np.asarray(volume.mu, np.float64).sum((1, 2, 3)) * 2.5**3
    np.testing.assert_allclose(mass / 0.02, expected, rtol=3e-3)


def test_voxelisation_does_not_depend_on_the_order_of_the_axes():
    phantom = phantoms.total(phantoms.skull())
    shape, affine = phantoms.grid_around(phantom, 7.7)  # no sample lies exactly in a face
    plain = np.asarray(phantoms.voxelise(phantom, shape, affine).mu)
    x, y, z = shape
    # index (k, i, j) with j reversed
    turned_affine = affine @ np.array([[0, 1, 0, 0], [0, 0, -1, y - 1], [1, 0, 0, 0], [0, 0, 0, 1]])
    other = np.asarray(phantoms.voxelise(phantom, (z, x, y), turned_affine).mu)
    np.testing.assert_allclose(other, plain.transpose(2, 0, 1)[:, :, ::-1], atol=1e-6)


def test_materials_add_up():
    phantom = phantoms.skull()
    grid = phantoms.grid_around(phantom, 8.0)
    summed = phantoms.voxelise(phantoms.total(phantom), *grid)
    each = phantoms.voxelise(phantom, *grid)
    np.testing.assert_allclose(summed.mu, each.mu.sum(0), atol=1e-7)


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
        phantoms.voxelise(one_of_each(), (4, 4, 4), np.eye(4), supersampling=0)
