"""Renderers: closed forms, an independent traversal, and what must not change the image.

One grid and one detector serve most tests, because most of their time is compilation.
"""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
import pytest
from drr_oracles import (
    INTEGRATE,
    KINDS,
    axis_orders,
    centred,
    exact_image,
    looking_along,
    random_volume,
    rendered,
    rms,
    view,
)

from jxreg import drr, phantoms
from jxreg.camera import pixel_grid
from jxreg.drr import accumulate
from jxreg.phantoms import exact_drr, voxelise
from jxreg.pose import perturb
from jxreg.volume import Volume

pytestmark = pytest.mark.usefixtures("float64")


def blobs():
    """A dozen Gaussians within 45 mm; smooth, so that errors have an order."""
    rng = np.random.default_rng(3)
    shapes = []
    for _ in range(12):
        center = rng.normal(size=3)
        center *= 45 * rng.uniform() ** (1 / 3) / np.linalg.norm(center)
        turn = jaxlie.SO3.exp(jnp.asarray(rng.normal(size=3)))
        mu = rng.uniform(0.005, 0.02)
        shapes.append(phantoms.gaussian(center, rng.uniform(12, 20, 3), mu, turn))
    return tuple(shapes)


@functools.cache
def exact_blobs():
    return np.array(exact_drr(blobs(), *view((24, 32), width=240.0)))


@functools.cache
def voxel_blobs(n: int) -> Volume:
    affine = centred((n, n, n), np.diag([218 / n, 218 / n, 218 / n, 1.0]))
    return replace(voxelise(blobs(), (n, n, n), affine, supersampling=1), coarser=())


def error_of_blobs(n: int, kind: str) -> np.ndarray:
    """Error relative to the largest value, on n^3 voxels of 218 / n mm."""
    image = rendered(voxel_blobs(n), *view((24, 32), width=240.0), kind)
    return (np.array(image) - exact_blobs()) / exact_blobs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_gaussian_blobs_converge_with_second_order(kind):
    """Half the voxel, a quarter of the error: interpolation and quadrature are of second order."""
    coarse, fine = rms(error_of_blobs(32, kind)), rms(error_of_blobs(64, kind))
    assert 3.5 < coarse / fine < 4.7
    assert fine < 1.2e-3  # four times the bound at 128^3


@pytest.mark.slow
def test_gaussian_blobs_at_128():
    assert rms(error_of_blobs(128, "trilinear")) <= 3e-4


@pytest.mark.parametrize("kind", KINDS)
def test_sharp_shapes_up_to_their_voxels(kind):
    """An oblique box and an ellipsoid; the error is that of partial voxels at their faces."""
    turn = jaxlie.SO3.exp(jnp.array([0.3, -0.5, 0.8]))
    phantom = (
        phantoms.ellipsoid((0.0, 0.0, 0.0), (50.0, 35.0, 42.0), 0.01, turn),
        phantoms.box((10.0, -5.0, 8.0), (14.0, 18.0, 11.0), 0.02, turn),
    )
    camera, pose = view((24, 32), width=240.0)
    affine = centred((64, 64, 64), np.diag([1.7, 1.7, 1.7, 1.0]))
    volume = replace(voxelise(phantom, (64, 64, 64), affine, supersampling=3), coarser=())
    exact = np.array(exact_drr(phantom, camera, pose))
    assert rms(np.array(rendered(volume, camera, pose, kind)) - exact) < 0.012 * exact.max()


@pytest.mark.parametrize("kind, tolerance", [("siddon", 1e-9), ("joseph", 1e-7), ("fine", 1e-3)])
def test_a_box_integrates_to_mu_times_its_thickness(kind, tolerance):
    """Parallel rays through a box of whole voxels, away from its faces.

    Siddon and Joseph are exact but for rays that are not quite parallel; the march samples ramps of
    a voxel at the faces.
    """
    mu = np.zeros((11, 13, 9))
    mu[3:9, 3:10, 2:7] = 0.02
    volume = Volume.from_array(mu, centred(mu.shape, np.diag([2.0, 2.5, 3.0, 1.0])), pyramid_mm=())
    for axis, thickness in enumerate((12.0, 17.5, 15.0)):
        camera, pose = looking_along(axis, (8, 10))
        image = np.array(rendered(volume, camera, pose, kind))
        np.testing.assert_allclose(image, 0.02 * thickness, rtol=tolerance)


# Views that a traversal may stumble over: oblique; along a grid axis; from inside the volume.
VIEWS = {
    "oblique": {},
    "steep": {"primary": 90.0, "secondary": 0.0, "roll": 0.0},
    "from inside": {"sad": 8.0, "width": 500.0},
    "detector inside": {"sad": 590.0, "width": 30.0},
}


@pytest.mark.parametrize("name", VIEWS)
def test_siddon_equals_an_independent_traversal(name):
    camera, pose = view(**VIEWS[name])
    volume = random_volume()
    expected = exact_image(volume, camera, pose)
    assert expected.max() > 0.1
    np.testing.assert_allclose(rendered(volume, camera, pose, "siddon"), expected, atol=1e-10)


def test_siddon_equals_an_independent_traversal_in_float32():
    """The source is 400 mm away: float32 has places of 3e-5 mm along a ray, and chords are 3 mm.

    Few rays, those along an edge, may gain or lose more, since crossings are ill-conditioned there.
    """
    with jax.enable_x64(False):
        (camera, pose), volume = view(), random_volume()
        expected = exact_image(volume, camera, pose)
        error = np.array(rendered(volume, camera, pose, "siddon")) - expected
    assert rms(error) < 2e-5 * expected.max()
    assert np.median(np.abs(error)) < 5e-6 * expected.max()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_siddon_along_an_axis_of_the_grid(axis):
    """The central ray has two components that are exactly zero."""
    affine = centred((11, 13, 9), np.eye(4))
    affine[:3, 3] += 0.25  # no ray in a face
    volume = replace(random_volume(), affine=jnp.asarray(affine))
    camera, pose = looking_along(axis, (8, 10), distance=300.0, pixel=0.8)
    middle = camera.intrinsic.at[0, 2].set(5.0).at[1, 2].set(4.0)
    camera = replace(camera, intrinsic=middle)
    expected = exact_image(volume, camera, pose)
    assert expected[4, 5] > 0
    np.testing.assert_allclose(rendered(volume, camera, pose, "siddon"), expected, atol=1e-10)


def test_siddon_on_a_ray_within_a_face_takes_one_of_its_sides():
    mu = np.full((11, 13, 9), 0.03)
    mu[:6] = 0.01
    affine = centred(mu.shape, np.eye(4))
    affine[0, 3] -= 0.5  # the plane x = 0 lies between two voxels
    volume = Volume.from_array(mu, affine, pyramid_mm=())
    camera, pose = looking_along(2, (8, 10), distance=300.0, pixel=0.01)
    camera = replace(camera, intrinsic=camera.intrinsic.at[0, 2].set(5.0).at[1, 2].set(4.0))
    value = float(rendered(volume, camera, pose, "siddon")[4, 5])
    assert min(abs(value - 0.09), abs(value - 0.27)) < 1e-9


def test_a_fine_march_is_the_limit_of_joseph_and_of_coarse_steps():
    """All sample one field; on white noise, the roughest there is, they differ by percents."""
    camera, pose = view()
    volume = replace(random_volume(), affine=jnp.asarray(centred((11, 13, 9), 2 * np.eye(4))))
    volume = replace(volume, affine=volume.affine.at[3, 3].set(1.0))
    fine = np.array(rendered(volume, camera, pose, "fine"))
    for kind in ("joseph", "trilinear"):
        assert rms(np.array(rendered(volume, camera, pose, kind)) - fine) < 0.03 * fine.max()


@pytest.mark.parametrize("kind", ["trilinear", "siddon"])
def test_none_of_the_48_orders_of_the_axes_matters(kind):
    camera, pose = view()
    volume = random_volume((9, 9, 9))
    expected = np.array(rendered(volume, camera, pose, kind))
    for other in axis_orders(volume):
        image = rendered(other, camera, pose, kind)
        np.testing.assert_allclose(image, expected, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_the_axes_of_a_grid_of_unequal_sides_may_be_exchanged(kind):
    camera, pose = view()
    volume = random_volume()
    other = list(axis_orders(volume))[8 * 4 + 5]  # z, x, y; two of them reversed
    assert other.mu.shape == (9, 11, 13)
    expected = rendered(volume, camera, pose, kind)
    np.testing.assert_allclose(rendered(other, camera, pose, kind), expected, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_channels_are_integrated_apart(kind):
    camera, pose = view()
    volume = random_volume(channels=(3,))
    together = np.array(rendered(volume, camera, pose, kind))
    assert together.shape == (3, 8, 10)
    for mu, image in zip(volume.mu, together, strict=True):
        apart = rendered(replace(volume, mu=mu), camera, pose, kind)
        np.testing.assert_allclose(image, apart, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_some_rays_equal_those_of_the_image_and_eager_equals_jit(kind):
    camera, pose = view()
    volume = random_volume()
    chosen = jnp.array([33, 47, 44, 52])

    def some(volume):
        return drr.render_rays(volume, camera, pose, pixel_grid(camera)[chosen], INTEGRATE[kind])

    rays = (some if kind == "joseph" else jax.jit(some))(volume)  # eagerly once: it takes seconds
    image = rendered(volume, camera, pose, kind)
    assert (np.array(rays) > 0).all()
    np.testing.assert_allclose(rays, image.ravel()[chosen], atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_air_and_empty_views_are_exactly_zero(kind):
    camera, pose = view()
    volume = random_volume()
    air = replace(volume, mu=jnp.zeros_like(volume.mu))
    assert (np.array(rendered(air, camera, pose, kind)) == 0).all()
    for shift in ((0.0, 500.0, 0.0), (0.0, 0.0, -1000.0), (0.0, 0.0, 400.0)):
        moved = jaxlie.SE3.from_translation(jnp.array(shift)) @ pose  # aside, behind, beyond
        assert (np.array(rendered(volume, camera, moved, kind)) == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_moving_patient_and_camera_together_changes_nothing(kind):
    camera, pose = view()
    volume = random_volume()
    motion = jaxlie.SE3.exp(jnp.array([20.0, -30.0, 12.0, 0.3, 0.9, -0.4]))
    moved = replace(volume, affine=motion.as_matrix() @ volume.affine)
    image = rendered(moved, camera, pose @ motion.inverse(), kind)
    np.testing.assert_allclose(image, rendered(volume, camera, pose, kind), atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_equals_a_loop_and_a_lane_of_nan_stays_alone(kind):
    """Views from front, side and below: three main directions in one batch."""
    camera, volume = view()[0], random_volume()
    poses = [view(primary=p, secondary=s)[1].wxyz_xyz for p, s in ((0, 0), (85, 5), (10, 80))]
    batch = jax.jit(jax.vmap(lambda p: drr.render(volume, camera, jaxlie.SE3(p), INTEGRATE[kind])))
    images = np.array(batch(jnp.stack(poses)))
    for image, wxyz_xyz in zip(images, poses, strict=True):
        one = rendered(volume, camera, jaxlie.SE3(wxyz_xyz), kind)
        np.testing.assert_allclose(image, one, atol=1e-11)
    broken = np.array(batch(jnp.stack(poses).at[1].set(jnp.nan)))
    np.testing.assert_array_equal(broken[[0, 2]], images[[0, 2]])
    assert not (broken[1] > 0).any()


def test_the_step_is_the_smallest_spacing():
    camera, pose = view()
    affine = jnp.asarray(centred((11, 13, 9), np.diag([2.0, 3.0, 2.5, 1.0])))
    volume = replace(random_volume(), affine=affine)
    told = jax.jit(lambda v: drr.render(v, camera, pose, drr.trilinear(2.0)))(volume)
    np.testing.assert_allclose(rendered(volume, camera, pose, "trilinear"), told, atol=1e-12)


def test_a_batch_of_large_images_is_a_loop_over_images(monkeypatch):
    volume = random_volume((9, 11, 7))
    camera, pose = view((9, 17), width=60.0)
    shifts, gains = jnp.array([0.0, 2.5]), jnp.array([1.0, 0.5, 2.0])

    def image(shift, gain):
        moved = perturb(pose, jnp.zeros(6).at[0].set(shift), volume.isocenter)
        return drr.render(replace(volume, mu=gain * volume.mu), camera, moved, drr.joseph())

    def look(shift, gain):
        return image(shift, gain), jax.jacfwd(image)(shift, gain)

    def nested():  # a new function, since a compiled one does not know of LARGE
        return jax.jit(lambda s, g: jax.vmap(lambda s: jax.vmap(lambda g: look(s, g))(g))(s))

    together = nested()
    expected = together(shifts, gains)
    monkeypatch.setattr(accumulate, "LARGE", 1)
    apart = nested()
    for a, b in zip(apart(shifts, gains), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()))
    loops = [f.lower(shifts, gains).as_text().count("stablehlo.while") for f in (together, apart)]
    assert loops[1] > loops[0]
