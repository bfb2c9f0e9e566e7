"""exp and log against the matrix exponential, from no rotation at all to half a turn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jaxlie import SE3, SO3

from jxreg.lie import displacement, exp, log, safe_norm

SMALL = [0.0, 1e-12, 1e-9, 1e-7, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 0.1, 0.2, 0.3]
LARGE = [0.99, 1.0, 1.01, 2.0, 3.0, np.pi - 1e-3, np.pi - 1e-5, np.pi - 1e-7]
ANGLES = SMALL + LARGE
AXIS = np.array([0.48, -0.6, 0.64])
VELOCITY = np.array([80.0, -30.0, 55.0])

# The values are about 100 mm: three units in the last place of float32 are 2.4e-5 mm.
PRECISION = {"float32": 2.5e-5, "float64": 2e-12}


def generator(twist):
    """The 4 x 4 matrix whose exponential the motion is."""
    (x, y, z), w = twist[:3], twist[3:]
    matrix = np.zeros((4, 4))
    matrix[:3, :3] = [[0, -w[2], w[1]], [w[2], 0, -w[0]], [-w[1], w[0], 0]]
    matrix[:3, 3] = x, y, z
    return matrix


def twist_of(angle, dtype):
    """A twist as the type stores it, so that the reference sees the same numbers."""
    return np.concatenate([VELOCITY, AXIS * angle]).astype(dtype).astype(np.float64)


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    with jax.enable_x64(request.param == "float64"):
        yield request.param


def matrix_of(twist):
    return exp(twist).as_matrix()[:3]


def round_trip(twist):
    return log(exp(twist))


jacobian_of_exp = jax.jit(jax.jacrev(matrix_of))
jacobian_of_round_trip = jax.jit(jax.jacrev(round_trip))
round_trip_compiled = jax.jit(round_trip)
matrix_compiled = jax.jit(matrix_of)


@pytest.mark.parametrize("angle", ANGLES)
def test_exp_and_its_derivatives_equal_the_matrix_exponential(angle, dtype):
    twist = twist_of(angle, dtype)
    stored = jnp.asarray(twist, dtype)

    np.testing.assert_allclose(
        matrix_compiled(stored),
        scipy.linalg.expm(generator(twist))[:3],
        atol=PRECISION[dtype],
        rtol=0,
    )
    reference = np.stack(
        [
            scipy.linalg.expm_frechet(generator(twist), generator(unit), compute_expm=False)[:3]
            for unit in np.eye(6)
        ],
        -1,
    )
    np.testing.assert_allclose(jacobian_of_exp(stored), reference, atol=PRECISION[dtype], rtol=0)


@pytest.mark.parametrize("angle", ANGLES)
def test_log_undoes_exp_with_the_unit_matrix_as_derivative(angle, dtype):
    twist = twist_of(angle, dtype)
    value = round_trip_compiled(jnp.asarray(twist, dtype))
    jacobian = jacobian_of_round_trip(jnp.asarray(twist, dtype))

    precision = 2 * PRECISION[dtype]  # two roundings instead of one
    np.testing.assert_allclose(value[:3], twist[:3], atol=precision, rtol=0)
    np.testing.assert_allclose(value[3:], twist[3:], atol=precision / 100, rtol=0)
    np.testing.assert_allclose(jacobian, np.eye(6), atol=precision, rtol=0)


@pytest.mark.parametrize("angle", [1e-12, 1e-7, 1e-4, 3e-3])
def test_a_small_rotation_keeps_its_digits_in_float32(angle):
    rotation = round_trip_compiled(jnp.asarray(twist_of(angle, "float32"), jnp.float32))[3:]
    np.testing.assert_allclose(rotation, AXIS * angle, rtol=5e-7)


def test_the_limits_of_a_half_turn_are_finite():
    half_turn = SE3(jnp.array([0.0, 0.6, 0.0, 0.8, 10.0, 20.0, 30.0]))
    rotation = log(half_turn)[3:]
    np.testing.assert_allclose(rotation, np.pi * np.array([0.6, 0, 0.8]), rtol=1e-6)
    jacobian = jax.jit(jax.jacrev(lambda values: log(SE3(values))))(half_turn.wxyz_xyz)
    assert np.isfinite(jacobian).all()


def test_the_sign_of_the_quaternion_does_not_matter():
    motion = exp(jnp.array([1.0, 2.0, 3.0, 0.4, -0.5, 2.9]))
    negated = SE3(motion.wxyz_xyz * jnp.array([-1.0] * 4 + [1.0] * 3))
    np.testing.assert_allclose(log(negated), log(motion), rtol=1e-6)


@pytest.mark.parametrize("degrees", [0.29, 0.11, 0.057, 0.006, 0.0])
def test_a_small_angle_does_not_move_a_long_translation(degrees):
    """Clamping the squared angle in a numerator only costs 6 to 425 mm here, and NaN at zero."""
    twist = np.array([0.0, 850.0, 0.0, np.deg2rad(degrees), 0.0, 0.0], np.float32)
    expected = scipy.linalg.expm(generator(twist.astype(np.float64)))[:3, 3]
    np.testing.assert_allclose(exp(jnp.asarray(twist)).translation(), expected, atol=1e-4)


def test_second_derivatives_at_zero_are_those_of_the_series():
    """To second order the translation is v + w x v / 2 and the rotation 1 + [w] + [w]^2 / 2."""
    with jax.enable_x64(True):
        hessian = jax.jit(jax.jacfwd(jax.jacfwd(matrix_of)))(jnp.zeros(6))
    units = [generator(unit) for unit in np.eye(6)]
    for i in range(6):
        for j in range(6):
            expected = (units[i] @ units[j] + units[j] @ units[i])[:3] / 2
            np.testing.assert_allclose(hessian[:, :, i, j], expected, atol=1e-15)


def test_displacement_of_a_tiny_rotation_keeps_its_digits():
    rotation = exp(jnp.array([0.0, 0.0, 0.0, 0.0, 0.0, 1e-7])).rotation()
    moved = displacement(rotation, jnp.array([1000.0, 0.0, 0.0]))
    np.testing.assert_allclose(moved, [-5e-12, 1e-4, 0.0], rtol=1e-6)


def test_displacement_is_the_rotated_minus_the_point():
    rotation, point = SO3.from_x_radians(2.0) @ SO3.from_y_radians(1.0), jnp.array([3.0, -2.0, 9.0])
    np.testing.assert_allclose(
        displacement(rotation, point), rotation.apply(point) - point, atol=2e-6
    )


def test_safe_norm_has_no_gradient_at_zero():
    assert safe_norm(jnp.zeros(3)) == 0
    np.testing.assert_array_equal(jax.grad(safe_norm)(jnp.zeros(3)), np.zeros(3))
    np.testing.assert_allclose(jax.grad(safe_norm)(jnp.array([3e-7, 4e-7])), [0.6, 0.8], rtol=1e-6)


@pytest.mark.parametrize("function", [exp, round_trip])
def test_jit_equals_eager_and_vmap_equals_a_loop(function):
    twists = jax.random.normal(jax.random.key(0), (3, 6)) * 0.5
    looped = [function(twist) for twist in twists]
    for batch in (jax.vmap(function)(twists), jax.vmap(jax.jit(function))(twists)):
        for i, one in enumerate(looped):
            jax.tree.map(
                lambda a, b, i=i: np.testing.assert_allclose(a[i], b, atol=1e-6), batch, one
            )
