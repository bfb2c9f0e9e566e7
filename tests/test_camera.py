"""Cameras: pixels of points, changes of the image that keep the geometry, projection matrices."""

import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jxreg import camera as cameras
from jxreg.camera import Camera, detector_points, project_points, with_lens
from jxreg.errors import InputError
from jxreg.pose import from_carm

SIZE = (37, 52)
ISOCENTER = np.array([3.0, -5.0, 8.0])
TIGHT = 1e-11  # px: pixels of about 1e2 in float64
POINTS = np.random.default_rng(0).uniform(-120, 120, (20, 3))

project = jax.jit(project_points)
examples = settings(max_examples=40, deadline=None)


pytestmark = pytest.mark.usefixtures("float64")


def skewed(mirrored: bool = False, size=SIZE) -> Camera:
    """Different spacings, a principal point off the centre, and skew."""
    camera = Camera.from_sdd(1020.0, size, (1.5, 1.25), (20.5, 13.25), mirrored=mirrored)
    return Camera.from_intrinsic(camera.intrinsic.at[0, 1].set(7.5), 1020.0, size)


def pose_at(primary=20.0, secondary=-10.0, roll=5.0):
    return from_carm(primary, secondary, roll, source_to_isocenter=700.0, isocenter=ISOCENTER)


def pixels_of(camera, points=POINTS):
    return np.array(project(camera, pose_at(), jnp.asarray(points)))


def test_a_point_lands_where_the_matrix_says():
    camera, pose = skewed(), pose_at()
    homogeneous = (
        np.c_[POINTS, np.ones(len(POINTS))] @ np.array(cameras.to_projection(camera, pose)).T
    )
    expected = homogeneous[:, :2] / homogeneous[:, 2:]
    np.testing.assert_allclose(pixels_of(camera), expected, atol=TIGHT)


def test_facts_of_a_camera_from_its_data_sheet():
    camera = Camera.from_sdd(1000.0, (10, 21), (0.5, 0.25))
    np.testing.assert_allclose(cameras.pixel_spacing(camera), [0.5, 0.25], rtol=1e-14)
    np.testing.assert_allclose(cameras.principal_point(camera), [10.0, 4.5], rtol=1e-14)
    assert not cameras.is_mirrored(camera)
    mirrored = Camera.from_sdd(1000.0, (10, 21), (0.5, 0.25), mirrored=True)
    assert cameras.is_mirrored(mirrored)
    np.testing.assert_allclose(cameras.pixel_spacing(mirrored), [0.5, 0.25], rtol=1e-14)


def test_the_corner_pixel_is_half_a_detector_from_the_axis():
    camera = Camera.from_sdd(1000.0, (10, 21), (0.5, 0.25))
    first = detector_points(camera, jnp.zeros((1, 2)))[0]
    np.testing.assert_allclose(first, [-2.5, -2.25, 1000.0], rtol=1e-14)


def test_the_grid_runs_row_by_row():
    grid = np.array(cameras.pixel_grid(Camera.from_sdd(1000.0, (2, 3), (1.0, 1.0))))
    np.testing.assert_array_equal(grid, [[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]])


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_pixel_s_detector_point_projects_to_that_pixel(mirrored):
    camera, pose = skewed(mirrored), pose_at()
    pixels = jnp.asarray(np.random.default_rng(1).uniform(-30, 90, (15, 2)))
    points = detector_points(camera, pixels)
    np.testing.assert_allclose(points[:, 2], 1020.0, rtol=1e-14)
    halfway = pose.inverse().apply(0.4 * points)
    np.testing.assert_allclose(project(camera, pose, halfway), pixels, atol=TIGHT)


# Each change of the image: the camera, and what it does to a pixel (u, v).
ROWS, COLUMNS = SIZE
CHANGES = {
    "crop": (lambda c: cameras.crop(c, 4, 9, (11, 17)), lambda u, v: (u - 9, v - 4), (11, 17)),
    "crop over the border": (
        lambda c: cameras.crop(c, -3, -5, (60, 70)),
        lambda u, v: (u + 5, v + 3),
        (60, 70),
    ),
    "downsample": (
        lambda c: cameras.downsample(c, 4),
        lambda u, v: ((u + 0.5) / 4 - 0.5, (v + 0.5) / 4 - 0.5),
        (10, 13),
    ),
    "rescale": (
        lambda c: cameras.rescale(c, (20, 91)),
        lambda u, v: ((u + 0.5) * 91 / COLUMNS - 0.5, (v + 0.5) * 20 / ROWS - 0.5),
        (20, 91),
    ),
    "window": (
        lambda c: cameras.window(c, jnp.array([-2.5, 6.0]), jnp.array(30.0), 24),
        lambda u, v: ((u + 2.5) * 24 / 30 - 0.5, (v - 6.0) * 24 / 30 - 0.5),
        (24, 24),
    ),
    "flip_horizontal": (cameras.flip_horizontal, lambda u, v: (COLUMNS - 1 - u, v), SIZE),
    "flip_vertical": (cameras.flip_vertical, lambda u, v: (u, ROWS - 1 - v), SIZE),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_changed_image_keeps_the_geometry(name, mirrored):
    change, pixel, size = CHANGES[name]
    camera = skewed(mirrored)
    changed = change(camera)
    assert changed.image_size == size
    assert changed.sdd == camera.sdd
    expected = np.stack(pixel(*pixels_of(camera).T), -1)
    np.testing.assert_allclose(pixels_of(changed), expected, atol=TIGHT)
    points = detector_points(camera, jnp.asarray(pixels_of(camera)))
    again = detector_points(changed, jnp.asarray(expected))
    np.testing.assert_allclose(again, points, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_image_keeps_the_geometry_in_float32(name):
    change, pixel, _ = CHANGES[name]
    with jax.enable_x64(False):
        camera = skewed()
        assert camera.intrinsic.dtype == jnp.float32
        before = np.array(project(camera, pose_at(), jnp.asarray(POINTS, jnp.float32)), np.float64)
        after = np.array(project(change(camera), pose_at(), jnp.asarray(POINTS, jnp.float32)))
    # Pixels of up to 300 after a division: a few roundings of 3e-5.
    np.testing.assert_allclose(after, np.stack(pixel(*before.T), -1), atol=3e-4)


def test_flips_are_their_own_inverse_and_mirror():
    camera = skewed()
    for flip in (cameras.flip_horizontal, cameras.flip_vertical):
        assert cameras.is_mirrored(flip(camera))
        np.testing.assert_allclose(flip(flip(camera)).intrinsic, camera.intrinsic, atol=TIGHT)
    both = cameras.flip_vertical(cameras.flip_horizontal(camera))
    assert not cameras.is_mirrored(both)


@examples
@given(
    st.tuples(st.integers(-20, 20), st.integers(-20, 20)),
    st.integers(1, 5),
    st.floats(400, 2000),
)
def test_downsampling_a_crop_of_whole_blocks_is_a_crop_of_the_downsampled(corner, factor, sdd):
    top, left = corner
    camera = Camera.from_sdd(sdd, (60, 60), (1.0, 0.7))
    size = (5 * factor, 7 * factor)
    first = cameras.downsample(cameras.crop(camera, top * factor, left * factor, size), factor)
    second = cameras.crop(cameras.downsample(camera, factor), top, left, (5, 7))
    assert first.image_size == second.image_size == (5, 7)
    np.testing.assert_allclose(first.intrinsic, second.intrinsic, rtol=1e-13, atol=1e-10)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("scale", [1.0, 37.5, 1e-6])
def test_a_projection_matrix_gives_back_camera_and_pose(mirrored, scale):
    camera, pose = skewed(mirrored), pose_at()
    matrix = scale * np.array(cameras.to_projection(camera, pose))
    found, found_pose = cameras.from_projection(matrix, SIZE, sdd=1020.0)
    np.testing.assert_allclose(found.intrinsic, camera.intrinsic, rtol=1e-11, atol=1e-9)
    np.testing.assert_allclose(found_pose.as_matrix(), pose.as_matrix(), rtol=1e-11, atol=1e-9)
    assert bool(cameras.is_mirrored(found)) is mirrored


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_sign_of_a_projection_matrix_follows_a_point_in_front(mirrored):
    """P and -P give every point the same pixel, but only one has the patient before the source."""
    camera, pose = skewed(mirrored), pose_at()
    matrix = -2.0 * np.array(cameras.to_projection(camera, pose))
    found, found_pose = cameras.from_projection(matrix, SIZE, sdd=1020.0, in_front=ISOCENTER)
    np.testing.assert_allclose(found.intrinsic, camera.intrinsic, rtol=1e-11, atol=1e-9)
    np.testing.assert_allclose(found_pose.as_matrix(), pose.as_matrix(), rtol=1e-11, atol=1e-9)


@examples
@given(st.integers(0, 10_000))
def test_any_projection_matrix_is_a_camera_and_a_proper_pose(seed):
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(3, 4)) * [1, 1, 1, 100]
    camera, pose = cameras.from_projection(matrix, SIZE, sdd=1000.0)
    rotation = np.array(pose.rotation().as_matrix())
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) > 0
    assert camera.intrinsic[1, 1] > 0
    assert camera.intrinsic[2, 2] == 1
    again = np.array(cameras.to_projection(camera, pose))
    scale = np.linalg.norm(matrix[2, :3])  # the sign is kept
    condition = np.linalg.cond(matrix[:, :3])
    np.testing.assert_allclose(
        again * scale, matrix, atol=1e-13 * condition * np.abs(again).max() * scale
    )


@pytest.mark.parametrize(
    "arguments",
    [
        (0.0, (4, 4), (1.0, 1.0)),
        (-5.0, (4, 4), (1.0, 1.0)),
        (np.nan, (4, 4), (1.0, 1.0)),
        (np.inf, (4, 4), (1.0, 1.0)),
        (1000.0, (4, 4), (0.0, 1.0)),
        (1000.0, (4, 4), (1.0, np.nan)),
        (1000.0, (0, 4), (1.0, 1.0)),
        (1000.0, (4, -1), (1.0, 1.0)),
    ],
)
def test_lengths_that_are_missing_or_not_positive_are_refused(arguments):
    with pytest.raises(InputError, match=r"expected .*positive"):
        Camera.from_sdd(*arguments)


@pytest.mark.parametrize(
    "matrix",
    [
        np.eye(4),
        [[1.0, 0, 0], [1, 1, 0], [0, 0, 1]],
        [[0.0, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[1.0, 0, 0], [0, 1, 0], [0, 0, 2]],
        [[np.nan, 0, 0], [0, 1, 0], [0, 0, 1]],
    ],
)
def test_matrices_that_are_not_intrinsic_are_refused(matrix):
    with pytest.raises(InputError, match="^intrinsic"):
        Camera.from_intrinsic(np.array(matrix), 1000.0, (4, 4))


@pytest.mark.parametrize(
    "matrix", [np.eye(3), np.full((3, 4), np.nan), np.zeros((3, 4)), np.eye(4)[[0, 1, 3]]]
)
def test_matrices_that_are_not_projections_are_refused(matrix):
    with pytest.raises(InputError, match="^projection matrix"):
        cameras.from_projection(matrix, (4, 4), sdd=1000.0)


def test_cameras_batch_and_differentiate():
    sdds = jnp.array([900.0, 1000.0, 1100.0])

    def pixel(sdd):
        camera = Camera.from_sdd(sdd, SIZE, (1.5, 1.25))
        camera = cameras.rescale(cameras.crop(cameras.flip_horizontal(camera), 1, 2, SIZE), (9, 9))
        return project_points(camera, pose_at(), jnp.asarray(POINTS))

    batch = jax.jit(jax.vmap(pixel))(sdds)
    np.testing.assert_allclose(batch[1], pixel(sdds[1]), atol=TIGHT)
    slope = jax.jit(jax.jacfwd(pixel))(sdds[1])  # the pixel is linear in the SDD
    np.testing.assert_allclose(slope, (batch[2] - batch[0]) / 200, atol=TIGHT)


def test_points_at_the_source_s_depth_stay_finite():
    camera, pose = skewed(), pose_at()
    source = pose.inverse().translation()
    assert np.isfinite(np.array(project(camera, pose, source[None]))).all()


def test_a_lens_stretches_about_the_shifted_principal_point():
    camera = Camera.from_sdd(1000.0, (96, 80), (3.0, 3.0))
    changed = with_lens(camera, jnp.array([jnp.log(1.1), 6.0, -3.0]))
    point = jnp.array([[30.0, -12.0, 700.0]])
    before, after = (project_points(c, jaxlie.SE3.identity(), point)[0] for c in (camera, changed))
    centre = camera.intrinsic[:2, 2]
    shift = jnp.array([2.0, -1.0])  # pixels of 3 mm
    np.testing.assert_allclose(after - centre - shift, 1.1 * (before - centre), rtol=1e-4)
    np.testing.assert_allclose(changed.sdd, 1100.0, rtol=1e-5)
