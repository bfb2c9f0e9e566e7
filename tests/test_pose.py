"""Poses: what C-arm angles mean, groups and round trips, distances, random draws."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxlie import SE3, SO3
from scipy.spatial.transform import Rotation

from jxreg import pose as poses
from jxreg.errors import InputError
from jxreg.pose import CArm, from_carm, from_matrix, perturb, to_carm, twist_between

ISOCENTER = (12.0, -34.0, 56.0)
DISTANCE = 750.0
TIGHT = 1e-9  # mm and rad; values of about 1e3 in float64

carm = jax.jit(partial(from_carm, source_to_isocenter=DISTANCE, isocenter=ISOCENTER))
read_carm = jax.jit(partial(to_carm, source_to_isocenter=DISTANCE, isocenter=ISOCENTER))
moved = jax.jit(perturb)
path = jax.jit(poses.interpolate)
between = jax.jit(twist_between)
behind = jax.jit(poses.antipodal)
examples = settings(max_examples=40, deadline=None)


pytestmark = pytest.mark.usefixtures("float64")


def degrees(limit):
    return st.floats(-limit, limit, allow_subnormal=False)


def vectors(limit):
    return st.tuples(*[st.floats(-limit, limit, allow_subnormal=False)] * 3).map(np.array)


angles = st.tuples(degrees(180), degrees(85), degrees(180))
twists = st.tuples(vectors(100), vectors(1.8)).map(np.concatenate)  # 1.8 sqrt(3) < pi


def rotation_z(degrees):
    return Rotation.from_euler("z", degrees, degrees=True).as_matrix()


def rotation_x(degrees):
    return Rotation.from_euler("x", degrees, degrees=True).as_matrix()


def generator(twist):
    (x, y, z), w = twist[:3], twist[3:]
    matrix = np.zeros((4, 4))
    matrix[:3, :3] = [[0, -w[2], w[1]], [w[2], 0, -w[0]], [-w[1], w[0], 0]]
    matrix[:3, 3] = x, y, z
    return matrix


def shift(vector):
    matrix = np.eye(4)
    matrix[:3, 3] = vector
    return matrix


def axes_in_world(pose):
    """Columns: where the camera's x (right), y (down) and z (to the detector) point in RAS."""
    return np.asarray(pose.rotation().as_matrix()).T


# C-arm angles


def test_at_zero_angles_the_detector_is_in_front_of_the_patient():
    pose = carm()
    np.testing.assert_allclose(axes_in_world(pose), [[1, 0, 0], [0, 0, 1], [0, -1, 0]], atol=1e-15)
    source = pose.inverse().translation()
    np.testing.assert_allclose(source, np.add(ISOCENTER, [0, -DISTANCE, 0]), atol=1e-12)
    np.testing.assert_allclose(pose.apply(jnp.array(ISOCENTER)), [0, 0, DISTANCE], atol=1e-12)


@pytest.mark.parametrize(
    ("primary", "secondary", "detector"),
    [
        (90, 0, (-1, 0, 0)),  # LAO: to the patient's left
        (-90, 0, (1, 0, 0)),  # RAO: to the right
        (180, 0, (0, -1, 0)),  # behind: an AP view
        (0, 30, (0, np.sqrt(0.75), 0.5)),  # CRA: to the head
        (0, -30, (0, np.sqrt(0.75), -0.5)),  # CAU: to the feet
    ],
)
def test_positive_angles_move_the_detector_left_and_to_the_head(primary, secondary, detector):
    pose = carm(primary, secondary)
    np.testing.assert_allclose(axes_in_world(pose)[:, 2], detector, atol=1e-15)


def test_roll_turns_the_patient_in_the_image_from_right_to_down():
    right_of_the_isocenter = jnp.array(ISOCENTER) + jnp.array([10.0, 0, 0])
    seen = carm(roll_degrees=90.0).apply(right_of_the_isocenter)
    np.testing.assert_allclose(seen, [0, 10, DISTANCE], atol=1e-12)


@examples
@given(angles, vectors(50))
def test_from_carm_is_the_product_of_the_three_rotations(angles, offset):
    primary, secondary, roll = angles
    pose = carm(primary, secondary, roll, offset=offset)
    axes = rotation_z(primary) @ rotation_x(secondary) @ [[1, 0, 0], [0, 0, 1], [0, -1, 0]]
    np.testing.assert_allclose(pose.rotation().as_matrix(), rotation_z(roll) @ axes.T, atol=1e-14)
    isocenter = pose.apply(jnp.array(ISOCENTER))
    np.testing.assert_allclose(isocenter, offset + [0, 0, DISTANCE], atol=TIGHT)


@examples
@given(angles, vectors(50))
def test_to_carm_undoes_from_carm(angles, offset):
    read = read_carm(carm(*angles, offset=offset))
    found = np.rad2deg([read.primary, read.secondary, read.roll])
    np.testing.assert_allclose((found - angles + 180) % 360, [180] * 3, atol=TIGHT)
    assert (found > -180).all()
    assert (found <= 180 + 1e-12).all()
    np.testing.assert_allclose(read.offset, offset, atol=TIGHT)
    assert read.source_to_isocenter == DISTANCE


@pytest.mark.parametrize("primary", [-179.9, -90, 0, 90, 180])
def test_to_carm_of_float32_keeps_a_ten_thousandth_of_a_degree(primary):
    with jax.enable_x64(False):
        read = to_carm(
            from_carm(primary, 20.0, -5.0, source_to_isocenter=700.0, isocenter=ISOCENTER),
            source_to_isocenter=700.0,
            isocenter=ISOCENTER,
        )
        assert read.primary.dtype == jnp.float32
    error = (np.rad2deg(np.float64(read.primary)) - primary + 180) % 360 - 180
    assert abs(error) < 1e-4
    np.testing.assert_allclose(read.offset, np.zeros(3), atol=2e-4)


@pytest.mark.parametrize("angles", [(0.0, 0.0, 0.0), (180.0, 0.0, 0.0), (35.0, -20.0, 10.0)])
def test_angles_and_offset_there_and_back_have_the_unit_matrix_as_derivative(angles):
    there = jnp.array([*angles, 3.0, 4.0, 5.0])
    np.testing.assert_allclose(slope_there_and_back(there), np.eye(6), atol=TIGHT)


def carm_there_and_back(numbers):
    read = read_carm(carm(*numbers[:3], offset=numbers[3:]))
    angles = jnp.rad2deg(jnp.stack([read.primary, read.secondary, read.roll]))
    return jnp.concatenate([angles, read.offset])


slope_there_and_back = jax.jit(jax.jacfwd(carm_there_and_back))


@pytest.mark.parametrize("angles", [(180.0, 0.0, 0.0), (-180.0, 10.0, 5.0), (0.0, 20.0, 180.0)])
@pytest.mark.parametrize("wide", [False, True])
def test_a_half_turn_reads_plus_180_degrees(angles, wide):
    with jax.enable_x64(wide):
        read = read_carm(carm(*angles))
    found = np.rad2deg([read.primary, read.roll])
    expected = np.where(np.abs([angles[0], angles[2]]) == 180, 180, [angles[0], angles[2]])
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_to_carm_is_a_pytree_of_its_own_kind():
    read = jax.vmap(read_carm)(jax.vmap(carm)(jnp.array([0.0, 10.0, 20.0])))
    assert isinstance(read, CArm)
    assert read.offset.shape == (3, 3)


# Twists


@examples
@given(angles, twists, vectors(200))
def test_perturb_is_the_motion_about_the_pivot(angles, twist, pivot):
    start = carm(*angles)
    p = np.asarray(start.apply(jnp.array(pivot)))
    expected = shift(p) @ scipy.linalg.expm(generator(twist)) @ shift(-p) @ start.as_matrix()
    np.testing.assert_allclose(moved(start, twist, pivot).as_matrix(), expected, atol=TIGHT)


@examples
@given(angles, twists, vectors(200))
def test_twist_between_undoes_perturb(angles, twist, pivot):
    start = carm(*angles)
    np.testing.assert_allclose(
        between(start, moved(start, twist, pivot), pivot), twist, atol=TIGHT, rtol=0
    )


@examples
@given(angles, angles, vectors(200))
def test_perturb_undoes_twist_between(first, second, pivot):
    start, end = carm(*first), carm(*second)
    there = moved(start, between(start, end, pivot), pivot)
    np.testing.assert_allclose(there.as_matrix(), end.as_matrix(), atol=1e-8)


@examples
@given(angles, vectors(1.8), vectors(200))
def test_a_pure_rotation_leaves_the_pivot_where_it_is(angles, rotation, pivot):
    start = carm(*angles)
    end = moved(start, np.concatenate([np.zeros(3), rotation]), pivot)
    np.testing.assert_allclose(end.apply(pivot), start.apply(pivot), atol=TIGHT)


@examples
@given(angles, vectors(200), vectors(100))
def test_a_symmetric_patient_looks_the_same_from_the_antipodal_view(angles, pivot, way):
    """Its points stay across the beam and change sides along it."""
    pose = carm(*angles)
    other = behind(pose, pivot)
    here = pose.apply(pivot + way) - pose.apply(pivot)
    there = other.apply(pivot + way * np.array([-1.0, 1.0, 1.0])) - pose.apply(pivot)
    np.testing.assert_allclose(there, here * np.array([1.0, 1.0, -1.0]), atol=TIGHT)


def test_a_zero_twist_changes_nothing_but_rounding():
    start = carm(30.0, 20.0, 10.0)
    end = perturb(start, jnp.zeros(6), ISOCENTER)
    np.testing.assert_array_equal(end.translation(), start.translation())
    np.testing.assert_allclose(end.rotation().wxyz, start.rotation().wxyz, rtol=3e-16)


def test_thousand_float32_steps_stay_rigid():
    with jax.enable_x64(False):
        start = from_carm(30.0, 20.0, source_to_isocenter=DISTANCE, isocenter=ISOCENTER)
        step = jnp.array([0.1, -0.1, 0.1, 1e-3, 2e-3, -1e-3])

        def move(pose, _):
            return perturb(pose, step, ISOCENTER), None

        end, _ = jax.jit(lambda pose: jax.lax.scan(move, pose, length=1000))(start)
        norm = jnp.linalg.norm(end.rotation().wxyz)
    np.testing.assert_allclose(norm, 1.0, rtol=2e-7)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-7, 1e-3, 1.0, 3.0, np.pi - 1e-3, np.pi - 1e-7])
def test_gradient_through_a_perturbed_pose_equals_central_differences(angle):
    start = carm(25.0, -10.0, 5.0)
    landmark, weights = jnp.array([40.0, 20.0, 90.0]), jnp.array([0.3, -0.5, 0.8])
    twist = np.array([3.0, -20.0, 7.0, 0.48 * angle, -0.6 * angle, 0.64 * angle])

    slope = slope_through_perturb(twist, start, landmark, weights)
    expected = central_differences(
        lambda twist: seen_through_perturb(twist, start, landmark, weights), twist, 1e-5
    )
    np.testing.assert_allclose(slope, expected, rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize("angle", [1e-9, 1e-7, 1e-3, 1.0, 3.0, np.pi - 1e-3])
def test_gradient_of_twist_between_equals_central_differences(angle):
    start = carm(25.0, -10.0, 5.0)
    rotation = np.array([0.48, -0.6, 0.64]) * angle
    end = moved(start, np.concatenate([[3.0, -20.0, 7.0], rotation]), ISOCENTER)
    weights = jnp.array([0.3, -0.5, 0.8, 90.0, -30.0, 60.0])

    slope = slope_of_twist(end.wxyz_xyz, start, weights)
    expected = central_differences(
        lambda values: twist_seen(values, start, weights), np.asarray(end.wxyz_xyz), 1e-6
    )
    np.testing.assert_allclose(slope, expected, rtol=1e-6, atol=1e-5)


@jax.jit
def seen_through_perturb(twist, start, landmark, weights):
    return perturb(start, twist, ISOCENTER).apply(landmark) @ weights


slope_through_perturb = jax.jit(jax.grad(seen_through_perturb))


@jax.jit
def twist_seen(values, start, weights):
    return twist_between(start, SE3(values), ISOCENTER) @ weights


slope_of_twist = jax.jit(jax.grad(twist_seen))


def central_differences(function, at, step):
    return np.array(
        [(function(at + step * e) - function(at - step * e)) / (2 * step) for e in np.eye(len(at))]
    )


# Distances


def test_geodesics_have_the_published_check_values():
    turned = SE3.from_rotation(SO3.from_x_radians(0.1))
    shifted = SE3.from_translation(jnp.ones(3))
    both = SE3.from_rotation_and_translation(turned.rotation(), jnp.ones(3))
    here, origin = SE3.identity(), np.zeros(3)
    np.testing.assert_allclose(poses.rotation_arc(here, turned, 510.0), 51.0, rtol=1e-12)
    double = partial(poses.double_geodesic, pivot=origin, radius=510.0)
    np.testing.assert_allclose(double(here, shifted), 1.7321, atol=5e-5)
    np.testing.assert_allclose(double(here, both), 51.0294, atol=5e-5)
    across = 0.05 / np.sin(0.05)  # how much longer the arc is than its chord
    expected = np.sqrt(1 + 2 * across**2 + 0.1**2)  # 1.7354; DiffPose, with its epsilons, 1.7355
    np.testing.assert_allclose(poses.log_geodesic(here, both), expected, rtol=1e-12)


@examples
@given(angles, twists)
def test_distances_are_symmetric_and_do_not_depend_on_the_world(angles, twist):
    first = carm(*angles)
    second = moved(first, twist, ISOCENTER)
    world_from_new = carm(40.0, 30.0, 20.0)
    isocenter = jnp.array(ISOCENTER)
    new_isocenter = world_from_new.inverse().apply(isocenter)
    there = distances(first, second, isocenter)
    np.testing.assert_allclose(there, distances(second, first, isocenter), atol=TIGHT)
    np.testing.assert_allclose(
        there,
        distances(first @ world_from_new, second @ world_from_new, new_isocenter),
        atol=TIGHT,
    )
    np.testing.assert_allclose(there[0], np.linalg.norm(twist[3:]), atol=TIGHT)


@jax.jit
def distances(first, second, pivot):
    return jnp.array(
        [
            poses.rotation_angle(first, second),
            poses.double_geodesic(first, second, pivot, radius=510.0),
            poses.log_geodesic(first, second),
        ]
    )


@pytest.mark.parametrize("angle", [1e-12, 1e-7, 1e-4, 1e-2, 1.0, 3.0, 3.1415925])
def test_rotation_angle_keeps_its_digits_in_float32(angle):
    with jax.enable_x64(False):
        twist = jnp.array([0.0, 0.0, 0.0, 0.6 * angle, 0.0, 0.8 * angle])
        turned = perturb(SE3.identity(), twist, jnp.zeros(3))
        found = poses.rotation_angle(SE3.identity(), turned)
        assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, angle, rtol=4e-7)


def angle_of(scale, axis, start):
    turned = perturb(start, jnp.concatenate([jnp.zeros(3), scale * axis]), ISOCENTER)
    return poses.rotation_angle(start, turned)


slope_of_angle = jax.jit(jax.grad(angle_of))


@pytest.mark.parametrize(
    ("angle", "slope"), [(0.0, 0.0), (1e-7, 1.0), (0.5, 1.0), (3.14159, 1.0), (4.0, -1.0)]
)
def test_rotation_angle_has_the_right_slope(angle, slope):
    axis, start = jnp.array([0.48, -0.6, 0.64]), carm(25.0, -10.0, 5.0)
    start = SE3.identity() if angle == 0 else start  # there the relative quaternion is exactly 1
    found = slope_of_angle(angle, axis, start)
    # At 1e-7 the vector part of a general quaternion has nine digits left.
    np.testing.assert_allclose(found, slope, atol=1e-8)


@pytest.mark.parametrize(
    "distance",
    [
        poses.rotation_angle,
        partial(poses.rotation_arc, radius=500.0),
        partial(poses.double_geodesic, pivot=ISOCENTER, radius=500.0),
        poses.log_geodesic,
    ],
)
def test_distances_of_a_pose_to_itself_have_no_gradient(distance):
    # These numbers are exact in binary, so that the difference is exactly zero.
    here = SE3(jnp.array([0.5, 0.5, -0.5, 0.5, 10.0, -20.0, 700.0]))
    value, slope = jax.value_and_grad(lambda v: distance(here, SE3(v)))(here.wxyz_xyz)
    assert value == 0
    np.testing.assert_array_equal(slope, np.zeros(7))


# Paths


@examples
@given(angles, twists, st.floats(0.0, 1.0))
def test_interpolation_runs_at_constant_speed_from_end_to_end(angles, twist, fraction):
    first = carm(*angles)
    second = moved(first, twist, ISOCENTER)
    np.testing.assert_allclose(path(first, second, 0.0).as_matrix(), first.as_matrix(), atol=TIGHT)
    np.testing.assert_allclose(path(first, second, 1.0).as_matrix(), second.as_matrix(), atol=TIGHT)
    part = between(first, path(first, second, fraction), ISOCENTER)
    np.testing.assert_allclose(part, fraction * twist, atol=1e-8)


# Random poses


def test_random_carm_fills_its_ranges_and_nothing_else():
    draw = partial(
        poses.random_carm,
        primary_degrees=(-170.0, 190.0),
        secondary_degrees=(-45.0, 45.0),
        roll_degrees=(5.0, 15.0),
        source_to_isocenter=(700.0, 800.0),
        isocenter=ISOCENTER,
        offset=((-10.0, -20.0, 0.0), (10.0, 20.0, 0.0)),
    )
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = jax.jit(jax.vmap(lambda key: read_carm(draw(key))))(keys)
    secondary, roll = np.rad2deg(drawn.secondary), np.rad2deg(drawn.roll)
    for values, low, high in [
        (np.rad2deg(drawn.primary), -180, 180),
        (secondary, -45, 45),
        (roll, 5, 15),
        (drawn.offset[:, 0], -10, 10),
        (drawn.offset[:, 1], -20, 20),
        (drawn.offset[:, 2], -50, 50),  # what the distance differs from 750
    ]:
        values = np.asarray(values)
        assert values.min() >= low - 1e-9
        assert values.max() <= high + 1e-9
        # five standard errors of the mean and of the spread of 4000 uniform numbers
        assert abs(values.mean() - (low + high) / 2) < 5 * (high - low) / np.sqrt(12 * 4000)
        np.testing.assert_allclose(values.std(), (high - low) / np.sqrt(12), rtol=0.04)


SCALE = np.array([10.0, 20.0, 30.0, 0.2, 0.1, 0.25])
MEAN = np.array([5.0, -40.0, 3.0, 0.05, -0.1, 0.0])


@pytest.mark.parametrize("draw", [poses.random_twist, poses.random_offset])
def test_gaussian_poses_have_the_mean_and_the_spread_asked_for(draw):
    start = carm(180.0, 10.0)
    keys = jax.random.split(jax.random.key(1), 4000)

    def offsets(key):
        end = draw(key, start, ISOCENTER, SCALE, MEAN)
        twist = twist_between(start, end, ISOCENTER)
        seen = end.apply(jnp.array(ISOCENTER)) - start.apply(jnp.array(ISOCENTER))
        return jnp.concatenate([seen, twist[3:]]), twist

    seen, twist = (np.asarray(v) for v in jax.jit(jax.vmap(offsets))(keys))
    drawn = twist if draw is poses.random_twist else seen
    assert (np.abs(drawn.mean(0) - MEAN) < 5 * SCALE / np.sqrt(4000)).all()
    np.testing.assert_allclose(drawn.std(0), SCALE, rtol=0.06)  # five standard errors
    # The two differ: the other one's translation bends with the rotation.
    other = seen if draw is poses.random_twist else twist
    assert np.abs(other[:, :3] - drawn[:, :3]).max() > 1.0


def test_random_mixture_draws_each_part_as_often_as_its_weight():
    parts = [
        partial(poses.random_twist, pose=carm(angle), pivot=ISOCENTER, scale=np.zeros(6))
        for angle in (0.0, 90.0)
    ]
    keys = jax.random.split(jax.random.key(2), 2000)
    draw = jax.jit(jax.vmap(lambda k: read_carm(poses.random_mixture(k, parts, (0.25, 0.75)))))
    primary = np.rad2deg(draw(keys).primary)
    assert (np.isclose(primary, 0.0) | np.isclose(primary, 90.0)).all()
    assert abs(np.isclose(primary, 90.0).mean() - 0.75) < 5 * np.sqrt(0.25 * 0.75 / 2000)


# Matrices


@examples
@given(angles)
def test_from_matrix_undoes_as_matrix(angles):
    matrix = carm(*angles).as_matrix()
    np.testing.assert_allclose(from_matrix(matrix).as_matrix(), matrix, atol=TIGHT)


def test_from_matrix_repairs_rounding():
    rounded = np.round(carm(33.0, 22.0, 11.0).as_matrix(), 5)
    rotation = np.asarray(from_matrix(rounded).rotation().as_matrix())
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-15)
    np.testing.assert_allclose(rotation, rounded[:3, :3], atol=1e-5)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.eye(3), "shape"),
        (np.full((4, 4), np.nan), "finite"),
        (shift([5.0, 6.0, 7.0]).T, "last row"),
        (np.diag([-1.0, 1, 1, 1]), "mirror"),
        (np.diag([0.5, 0.5, 0.5, 1]), "scales"),
        (np.diag([1.001, 1, 1, 1]), "scales"),
    ],
)
def test_from_matrix_refuses_what_is_not_rigid_in_one_line(matrix, message):
    with pytest.raises(InputError, match=message) as error:
        from_matrix(matrix)
    assert "\n" not in str(error.value)


# Every public function compiles and maps


def every_function(key, pose):
    """What each public function makes of a key and a pose."""
    pivot = np.array(ISOCENTER)
    other = perturb(pose, jax.random.normal(key, (6,)), pivot)
    ranges = {"primary_degrees": (0.0, 9.0), "source_to_isocenter": (700.0, 800.0)}
    draw = partial(poses.random_carm, isocenter=pivot, **ranges)
    return {
        "from_carm": from_carm(*other.translation(), source_to_isocenter=700.0, isocenter=pivot),
        "to_carm": to_carm(pose, source_to_isocenter=DISTANCE, isocenter=pivot),
        "perturb": other,
        "twist_between": twist_between(pose, other, pivot),
        "interpolate": poses.interpolate(pose, other, 0.3),
        "rotation_angle": poses.rotation_angle(pose, other),
        "rotation_arc": poses.rotation_arc(pose, other, 500.0),
        "double_geodesic": poses.double_geodesic(pose, other, pivot, radius=500.0),
        "log_geodesic": poses.log_geodesic(pose, other, radius=500.0),
        "random_twist": poses.random_twist(key, pose, pivot, SCALE),
        "random_offset": poses.random_offset(key, pose, pivot, SCALE),
        "random_carm": draw(key),
        "random_mixture": poses.random_mixture(key, [draw, draw]),
    }


def test_jit_equals_eager_and_vmap_equals_a_loop():
    keys = jax.random.split(jax.random.key(3), 2)
    starts = [carm(10.0, 20.0, 30.0), carm(-150.0, 5.0)]
    compiled = jax.jit(every_function)
    one = [compiled(keys[i], starts[i]) for i in range(2)]
    with jax.disable_jit():
        eager = every_function(keys[0], starts[0])
    batch = jax.vmap(compiled)(keys, jax.tree.map(lambda *a: jnp.stack(a), *starts))
    for name in one[0]:
        close(eager[name], one[0][name], name)
        for i in range(2):
            close(jax.tree.map(lambda a, i=i: a[i], batch[name]), one[i][name], name)


def close(first, second, name):
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(a, b, atol=TIGHT, err_msg=name)
