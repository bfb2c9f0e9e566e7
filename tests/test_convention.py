"""Other systems' poses, against their own formulas and against SimpleITK and SciPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxlie import SE3
from scipy.spatial.transform import Rotation

from jxreg import convention
from jxreg.camera import Camera, project_points
from jxreg.errors import InputError
from jxreg.pose import double_geodesic, from_carm, log_geodesic

CENTER = np.array([12.0, -34.0, 156.0])
POINTS = CENTER + np.random.default_rng(0).uniform(-80, 80, (10, 3))
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
ROWS, COLUMNS, SPACING, SDD = 200, 240, 1.5, 1020.0
TIGHT = 1e-9  # mm, px; values of about 1e3 in float64
ORIENTATIONS = ("AP", "PA", None)

examples = settings(max_examples=25, deadline=None)
angles = st.tuples(*[st.floats(-89, 89, allow_subnormal=False)] * 3)
carm = jax.jit(partial(from_carm, source_to_isocenter=700.0, isocenter=CENTER))


pytestmark = pytest.mark.usefixtures("float64")


def detector(mirrored):
    return Camera.from_sdd(SDD, (ROWS, COLUMNS), (SPACING, SPACING), mirrored=bool(mirrored))


def affine(linear, offset):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = linear, offset
    return matrix


def same(first, second):
    np.testing.assert_allclose(first.as_matrix(), second.as_matrix(), atol=TIGHT)


# DiffDRR and xvr. The reference is their definition: camera points go to the world by
# matrix @ reorient; y is up, rows run down, columns run along x, or against it if reversed;
# pixel centers are at half numbers.

REORIENT = {
    "AP": np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]),
    "PA": np.array([[1.0, 0, 0], [0, 0, 1], [0, 1, 0]]),
    None: np.eye(3),
}
PLACED = {"AP": (5.0, 700.0, -8.0), "PA": (5.0, -700.0, -8.0), None: (5.0, -8.0, -700.0)}


def diffdrr_pixels(matrix, orientation, reverse_x_axis):
    world_from_camera = matrix @ affine(REORIENT[orientation], np.zeros(3))
    points = np.c_[POINTS - CENTER, np.ones(len(POINTS))] @ np.linalg.inv(world_from_camera).T
    x, y, z = points[:, :3].T
    assert (z > 0).all()
    column = SDD / SPACING * x / z + COLUMNS / 2
    row = ROWS - (SDD / SPACING * y / z + ROWS / 2)
    return np.c_[COLUMNS - column if reverse_x_axis else column, row] - 0.5


@pytest.mark.parametrize("determinant", [1, -1])
@pytest.mark.parametrize("reverse_x_axis", [False, True])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_diffdrr_points_land_on_the_same_pixels(orientation, reverse_x_axis, determinant):
    rotation = Rotation.from_euler("ZXY", [20, -10, 15], degrees=True).as_matrix()
    matrix = np.array(convention.orbit_matrix(rotation, PLACED[orientation]))
    if determinant < 0:  # as the oldest chains had it, with a mirrored volume
        flip = REORIENT[orientation] @ np.diag([-1.0, 1, 1]) @ REORIENT[orientation].T
        matrix = matrix @ affine(flip, np.zeros(3))
    found = convention.from_diffdrr(
        matrix, orientation=orientation, reverse_x_axis=reverse_x_axis, center=CENTER
    )
    pixels = project_points(detector(found.mirrored), found.pose, jnp.asarray(POINTS))
    expected = diffdrr_pixels(matrix, orientation, reverse_x_axis)
    np.testing.assert_allclose(pixels, expected, atol=TIGHT)
    np.testing.assert_allclose(np.linalg.det(found.pose.as_matrix()), 1.0, rtol=1e-12)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_diffdrr_is_exact_both_ways(orientation, mirrored):
    pose = carm(170.0, 12.0, 5.0, offset=(3.0, 4.0, 5.0))
    there = convention.to_diffdrr(pose, mirrored, orientation=orientation, center=CENTER)
    np.testing.assert_allclose(np.linalg.det(there.matrix), 1.0, rtol=1e-12)
    back = convention.from_diffdrr(
        there.matrix,
        orientation=orientation,
        reverse_x_axis=there.reverse_x_axis,
        center=CENTER,
    )
    same(back.pose, pose)
    assert bool(back.mirrored) == mirrored
    again = convention.to_diffdrr(back.pose, back.mirrored, orientation=orientation, center=CENTER)
    np.testing.assert_allclose(again.matrix, there.matrix, atol=TIGHT)


@examples
@given(angles)
def test_xvr_ap_angles_are_those_of_a_carm_with_the_detector_behind(angles):
    primary, secondary, roll = angles
    matrix = convention.orbit_matrix(convention.zxy_rotation(angles), (0.0, 700.0, 0.0))
    found = convention.from_diffdrr(matrix, reverse_x_axis=False, center=CENTER)
    same(found.pose, carm(primary + 180, -secondary, roll))
    assert bool(found.mirrored)


@examples
@given(angles)
def test_zxy_angles_are_scipys_and_come_back(angles):
    rotation = convention.zxy_rotation(angles)
    expected = Rotation.from_euler("ZXY", angles, degrees=True).as_matrix()
    np.testing.assert_allclose(rotation, expected, atol=1e-14)
    np.testing.assert_allclose(convention.zxy_degrees(rotation), angles, atol=1e-9)


def test_orbit_matrix_keeps_the_distance_of_the_source_under_every_rotation():
    rotation = Rotation.from_euler("ZXY", [50, 40, 30], degrees=True).as_matrix()
    matrix = np.asarray(convention.orbit_matrix(rotation, (0.0, -750.0, 0.0)))
    np.testing.assert_allclose(np.linalg.norm(matrix[:3, 3]), 750.0)
    np.testing.assert_allclose(matrix[:3, 3], -750 * rotation[:, 1], atol=TIGHT)
    np.testing.assert_allclose(convention.orbit_translation(matrix), (0, -750, 0), atol=TIGHT)


def test_geodesics_equal_those_of_diffdrr():
    first, second = carm(170.0, 10.0, 5.0), carm(190.0, -4.0, 1.0, offset=(9.0, 8.0, 70.0))
    one, two = (
        np.asarray(convention.to_diffdrr(pose, False, center=CENTER).matrix)
        for pose in (first, second)
    )
    angle = Rotation.from_matrix(one[:3, :3].T @ two[:3, :3]).magnitude()
    shift = convention.orbit_translation(one) - convention.orbit_translation(two)
    expected = np.hypot(SDD / 2 * angle, np.linalg.norm(shift))
    found = double_geodesic(first, second, CENTER, radius=SDD / 2)
    np.testing.assert_allclose(found, expected, rtol=1e-12)

    relative = np.real(scipy.linalg.logm(np.linalg.inv(one) @ two))
    expected = np.sqrt((relative[:3, 3] ** 2).sum() + (relative[:3, :3] ** 2).sum() / 2)
    np.testing.assert_allclose(log_geodesic(first, second), expected, rtol=1e-8)


# nanodrr: rt_inv = T(isocenter) [R | R t] orientation; pixel = K rt_inv^-1, centers at halves.

NANODRR = {
    "AP": np.array([[-1.0, 0, 0], [0, 0, -1], [0, -1, 0]]),
    "PA": np.array([[-1.0, 0, 0], [0, 0, 1], [0, -1, 0]]),
    None: np.diag([-1.0, -1, 1]),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_nanodrr_points_land_on_the_same_pixels_and_come_back(orientation):
    rotation = Rotation.from_euler("ZXY", [20, -10, 15], degrees=True).as_matrix()
    orbit = np.asarray(convention.orbit_matrix(rotation, PLACED[orientation]))
    rt_inv = affine(np.eye(3), CENTER) @ orbit @ affine(NANODRR[orientation], np.zeros(3))
    found = convention.from_nanodrr(rt_inv)
    assert bool(found.mirrored) == (orientation == "PA")

    x, y, z = (np.c_[POINTS, np.ones(len(POINTS))] @ np.linalg.inv(rt_inv).T)[:, :3].T
    focal = SDD / SPACING
    expected = np.c_[focal * x / z + COLUMNS / 2, focal * y / z + ROWS / 2] - 0.5
    pixels = project_points(detector(found.mirrored), found.pose, jnp.asarray(POINTS))
    np.testing.assert_allclose(pixels, expected, atol=TIGHT)
    np.testing.assert_allclose(
        convention.to_nanodrr(found.pose, found.mirrored), rt_inv, atol=TIGHT
    )


# xReg and DeepFluoro: pixel = K E (world in LPS); negative focal lengths where z is to the source.


def xreg_camera(focal_length):
    intrinsic = np.array([[focal_length, 0, 767.5], [0, focal_length, 760.0], [0, 0, 1]])
    depth = np.sign(focal_length) * 640.0
    turn = Rotation.from_euler("xyz", [80, 10, -20], degrees=True).as_matrix()
    lps = (POINTS * [-1, -1, 1]).mean(0)
    return affine(turn, [4.0, -5.0, depth] - turn @ lps), intrinsic


@pytest.mark.parametrize("focal_length", [-5257.732, 5257.732])
def test_xreg_points_land_on_the_same_pixels_and_come_back(focal_length):
    extrinsic, intrinsic = xreg_camera(focal_length)
    pose, k = convention.from_xreg(extrinsic, intrinsic)

    homogeneous = np.c_[POINTS * [-1, -1, 1], np.ones(len(POINTS))] @ (intrinsic @ extrinsic[:3]).T
    expected = homogeneous[:, :2] / homogeneous[:, 2:]
    camera = Camera.from_intrinsic(k, SDD, (1536, 1536))
    pixels = project_points(camera, pose, jnp.asarray(POINTS))
    np.testing.assert_allclose(pixels, expected, atol=1e-8)
    assert (np.asarray(pose.apply(jnp.asarray(POINTS)))[:, 2] > 0).all()
    assert (k[0, 0] < 0) == (focal_length < 0)
    assert k[1, 1] > 0

    back = convention.to_xreg(pose, k)
    np.testing.assert_allclose(back.extrinsic, extrinsic, atol=TIGHT)
    np.testing.assert_allclose(back.intrinsic, intrinsic, atol=TIGHT)


def test_deepfluoro_as_diffdrr_reads_it_is_the_same_camera():
    """The published chain, right-most first, ends in the pose that `from_xreg` finds directly."""
    extrinsic, intrinsic = xreg_camera(-5257.732)
    turn = Rotation.from_euler("xyz", [5, -6, 7], degrees=True).as_matrix()
    cam_to_pelvis_vol = affine(turn, [7.0, 8.0, 9.0])
    camera_from_volume = extrinsic @ np.linalg.inv(cam_to_pelvis_vol)
    in_lps = affine(np.eye(3), -CENTER * [-1, -1, 1])
    chain = (
        LPS
        @ in_lps
        @ cam_to_pelvis_vol
        @ np.linalg.inv(extrinsic)
        @ np.diag([-1.0, -1, -1, 1])
        @ np.linalg.inv(affine(REORIENT["PA"], np.zeros(3)))
    )
    assert np.linalg.det(chain) > 0
    via_diffdrr = convention.from_diffdrr(
        chain, orientation="PA", reverse_x_axis=True, center=CENTER
    )
    direct, k = convention.from_xreg(camera_from_volume, intrinsic)
    same(via_diffdrr.pose, direct)
    assert bool(via_diffdrr.mirrored) == bool(k[0, 0] < 0)


# LPS, ITK, OpenCV


def test_lps_changes_the_world_and_not_the_camera():
    pose = carm(30.0, 20.0, 10.0)
    matrix = np.asarray(convention.pose_to_lps_matrix(pose))
    lps = np.c_[POINTS * [-1, -1, 1], np.ones(len(POINTS))]
    np.testing.assert_allclose((lps @ matrix.T)[:, :3], pose.apply(POINTS), atol=TIGHT)
    same(convention.pose_from_lps_matrix(matrix), pose)


@examples
@given(angles)
def test_itk_transforms_move_points_as_simpleitk_does(angles):
    itk = pytest.importorskip("SimpleITK")
    transform = itk.Euler3DTransform((10.0, -20.0, 30.0), *np.deg2rad(angles), (4.0, 5.0, 6.0))
    linear = np.reshape(transform.GetMatrix(), (3, 3))
    motion = convention.from_itk(linear, transform.GetTranslation(), transform.GetCenter())

    expected = np.array([transform.TransformPoint(point) for point in POINTS * [-1.0, -1, 1]])
    np.testing.assert_allclose(motion.apply(POINTS), expected * [-1, -1, 1], atol=TIGHT)

    back = convention.to_itk(motion, transform.GetCenter())
    written = itk.VersorRigid3DTransform()
    written.SetCenter(np.asarray(back.center).tolist())
    written.SetMatrix(np.ravel(back.linear).tolist(), 1e-12)
    written.SetTranslation(np.asarray(back.translation).tolist())
    again = np.array([written.TransformPoint(point) for point in POINTS * [-1.0, -1, 1]])
    np.testing.assert_allclose(again, expected, atol=TIGHT)


@pytest.mark.parametrize("angle", [0.0, 1e-7, 1.0, np.pi - 1e-7])
def test_opencv_vectors_are_the_rotation_vector_and_the_translation(angle):
    rvec = np.array([0.48, -0.6, 0.64]) * angle
    pose = convention.from_opencv(rvec, (1.0, 2.0, 700.0))
    expected = affine(Rotation.from_rotvec(rvec).as_matrix(), (1.0, 2.0, 700.0))
    np.testing.assert_allclose(pose.as_matrix(), expected, atol=1e-12)
    found, translation = convention.to_opencv(pose)
    np.testing.assert_allclose(found, rvec, atol=1e-14)
    np.testing.assert_allclose(translation, (1, 2, 700), atol=1e-12)


# Bad input and compilation


@pytest.mark.parametrize(
    "call",
    [
        lambda bad: convention.from_diffdrr(bad, reverse_x_axis=True, center=CENTER),
        convention.from_nanodrr,
        lambda bad: convention.from_xreg(bad, np.eye(3)),
        convention.pose_from_lps_matrix,
        lambda bad: convention.from_itk(bad[:3, :3], np.zeros(3), np.zeros(3)),
    ],
)
@pytest.mark.parametrize("bad", [2 * np.eye(4), np.full((4, 4), np.nan), np.zeros((5, 4, 4))])
def test_a_matrix_that_is_not_orthogonal_is_refused(call, bad):
    with pytest.raises(InputError, match="orthogonal"):
        call(bad)


@pytest.mark.parametrize(
    "call",
    [
        lambda bad: convention.from_xreg(bad, np.eye(3)),
        convention.pose_from_lps_matrix,
        lambda bad: convention.from_itk(bad[:3, :3], np.zeros(3), np.zeros(3)),
    ],
)
def test_a_reflection_is_refused_where_no_flag_could_take_it(call):
    with pytest.raises(InputError, match="mirrors"):
        call(np.diag([-1.0, 1.0, 1.0, 1.0]))


def test_an_unknown_orientation_is_refused():
    with pytest.raises(InputError, match="orientation"):
        convention.to_diffdrr(carm(), False, orientation="LAT", center=CENTER)


def round_trips(pose, mirrored):
    """Every conversion there and back, of one pose."""
    diffdrr = convention.to_diffdrr(pose, mirrored, orientation="PA", center=CENTER)
    there = convention.from_diffdrr(
        diffdrr.matrix, orientation="PA", reverse_x_axis=diffdrr.reverse_x_axis, center=CENTER
    )
    nanodrr = convention.from_nanodrr(convention.to_nanodrr(there.pose, there.mirrored))
    k = jnp.diag(jnp.array([1.0, 900.0, 1.0])).at[0, 0].set(jnp.where(mirrored, -900.0, 900.0))
    xreg, k = convention.from_xreg(*convention.to_xreg(nanodrr.pose, k))
    itk = convention.from_itk(*convention.to_itk(xreg, CENTER))
    lps = convention.pose_from_lps_matrix(convention.pose_to_lps_matrix(itk))
    return convention.from_opencv(*convention.to_opencv(lps)), nanodrr.mirrored, k


def test_all_conversions_compile_and_map():
    poses = [carm(10.0, 20.0, 30.0), carm(-150.0, 5.0)]
    flags = jnp.array([True, False])
    batch = jax.jit(jax.vmap(round_trips))(jax.tree.map(lambda *a: jnp.stack(a), *poses), flags)
    for i, pose in enumerate(poses):
        eager = round_trips(pose, flags[i])
        for mapped, one in zip(jax.tree.leaves(batch), jax.tree.leaves(eager), strict=True):
            np.testing.assert_allclose(mapped[i], one, atol=TIGHT)
        same(eager[0], pose)
        assert bool(eager[1]) == bool(flags[i])


@pytest.mark.parametrize("primary", [0.0, 100.0, 180.0])
def test_conversions_through_a_matrix_keep_the_gradient(primary):
    pose = carm(primary, 20.0 if primary else 0.0)
    found = jacobian_there_and_back(pose.wxyz_xyz)
    expected = jacobian_of_matrix(pose.wxyz_xyz)
    # Along the quaternion's length the maps may differ: compare on the sphere of unit quaternions.
    unit = np.asarray(pose.wxyz_xyz)[:4]
    tangent = np.eye(7)
    tangent[:4, :4] -= np.outer(unit, unit)
    np.testing.assert_allclose(found @ tangent, expected @ tangent, atol=1e-8)


def there_and_back(values):
    rt_inv = convention.to_nanodrr(SE3(values), True)
    return convention.from_nanodrr(rt_inv).pose.as_matrix()


jacobian_there_and_back = jax.jit(jax.jacfwd(there_and_back))
jacobian_of_matrix = jax.jit(jax.jacfwd(lambda values: SE3(values).as_matrix()))
