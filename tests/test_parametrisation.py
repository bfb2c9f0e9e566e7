"""Eight ways to write a rigid motion: there and back, and their derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jaxlie import SE3, SO3
from scipy.spatial.transform import Rotation
from similarity_images import quick_jit

from jxreg.lie import exp
from jxreg.parametrisation import PARAMETRISATIONS

NAMES = [name for name in PARAMETRISATIONS if name != "so3_log"]
SIZES = {"se3_log": 6, "axis_angle": 6, "euler": 6, "quaternion": 7, "rotation_6d": 9}
SHIFT = [80.0, -30.0, 55.0]
SAMPLES = ("anywhere", "near", "hardly", "none")


_exps = quick_jit(jax.vmap(exp))


def motions(sample: str, dtype) -> SE3:
    """Twenty motions: uniform rotations, within 0.3 rad, within 1e-7 rad, and none at all."""
    random = np.random.default_rng(5)
    if sample == "anywhere":
        rotation = random.normal(size=(20, 4))
        rotation = rotation / np.linalg.norm(rotation, axis=1, keepdims=True)
        shift = random.normal(0, 100, (20, 3))
        return SE3(jnp.asarray(np.concatenate([rotation, shift], 1), dtype))
    size = {"near": 0.1, "hardly": 1e-7, "none": 0.0}[sample]
    twists = np.concatenate([random.normal(0, 100, (20, 3)), random.normal(0, size, (20, 3))], 1)
    return _exps(jnp.asarray(twists, dtype))


@functools.cache
def there_and_back(name: str):
    """Motions to numbers and back, compiled once for each way to write them."""
    entry = PARAMETRISATIONS[name]
    return quick_jit(jax.vmap(lambda motion: entry.motion(entry.numbers(motion))))


def difference(one: SE3, other: SE3):
    """Largest difference of entries of the two rotation matrices, and of the translations [mm]."""
    turn = jnp.abs(one.rotation().as_matrix() - other.rotation().as_matrix()).max()
    return float(turn), float(jnp.abs(one.translation() - other.translation()).max())


@pytest.mark.parametrize("name", PARAMETRISATIONS)
def test_a_vector_has_as_many_numbers_as_it_says(name):
    entry = PARAMETRISATIONS[name]
    assert entry.size == SIZES.get(name, 6 if name == "so3_log" else 13)
    assert jax.eval_shape(entry.numbers, SE3.identity()).shape == (entry.size,)
    assert jax.eval_shape(entry.motion, jnp.zeros(entry.size)).wxyz_xyz.shape == (7,)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_there_and_back(name, dtype):
    """To rounding: of entries up to 1 and, in mm, of a logarithm up to 300."""
    turn_mm = {"float32": (3e-6, 1e-3), "float64": (1e-13, 1e-10)}[dtype]
    with jax.enable_x64(dtype == "float64"):
        for sample in SAMPLES:
            given = motions(sample, dtype)
            found = there_and_back(name)(given)
            assert found.wxyz_xyz.dtype == dtype
            turn, mm = difference(found, given)
            assert turn < turn_mm[0], sample
            assert mm < turn_mm[1], sample


@pytest.mark.parametrize("name", NAMES)
def test_a_tiny_rotation_keeps_its_digits(name):
    """Of 1e-7 rad, where the matrix of float64 still has nine."""
    with jax.enable_x64(True):
        given = motions("hardly", jnp.float64)
        found = there_and_back(name)(given)
        sign = jnp.sign(found.wxyz_xyz[:, :1] * given.wxyz_xyz[:, :1])
        vector = (sign * found.wxyz_xyz)[:, 1:4]
        np.testing.assert_allclose(vector, given.wxyz_xyz[:, 1:4], atol=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_derivatives_are_those_of_differences(name):
    """At the numbers of no motion too, where logarithms, angles and eigenvalues are singular."""
    with jax.enable_x64(True):
        entry = PARAMETRISATIONS[name]

        def matrix(numbers):
            return entry.motion(numbers).as_matrix()[:3]

        forward, matrices = quick_jit(jax.jacfwd(matrix)), quick_jit(jax.vmap(matrix))
        step = 1e-6
        for sample in ("none", "near", "anywhere"):
            motion = jax.tree.map(lambda x: x[3], motions(sample, jnp.float64))
            numbers = entry.numbers(motion)
            away = step * jnp.eye(entry.size)
            quotient = (matrices(numbers + away) - matrices(numbers - away)) / (2 * step)
            # Curvature of a shift of 100 mm times the square of the step, and rounding over it.
            np.testing.assert_allclose(forward(numbers), jnp.moveaxis(quotient, 0, -1), atol=2e-7)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_float32_are_finite_at_no_motion_and_at_zero(name):
    entry = PARAMETRISATIONS[name]
    gradient = quick_jit(jax.jacrev(lambda numbers: entry.motion(numbers).wxyz_xyz))
    assert np.isfinite(gradient(entry.numbers(SE3.identity()))).all()
    if name != "rotation_10d":  # all rotations are as near to a matrix of zeros
        zeros = jnp.zeros(entry.size)
        assert np.isfinite(gradient(zeros)).all()
        np.testing.assert_array_equal(entry.motion(zeros).wxyz_xyz, SE3.identity().wxyz_xyz)


def test_angles_are_those_of_scipy():
    angles = np.array([0.4, -0.9, 2.5], np.float32)
    rotation = PARAMETRISATIONS["euler"].motion(jnp.asarray([*SHIFT, *angles])).rotation()
    expected = Rotation.from_euler("ZXY", angles).as_matrix()
    np.testing.assert_allclose(rotation.as_matrix(), expected, atol=1e-6)


def rotation_of(name: str, numbers) -> np.ndarray:
    motion = PARAMETRISATIONS[name].motion(jnp.asarray([*SHIFT, *np.ravel(numbers)], jnp.float32))
    np.testing.assert_array_equal(motion.translation(), SHIFT)
    return np.asarray(motion.rotation().as_matrix(), np.float64)


def test_any_numbers_are_a_rotation():
    """Quaternions of any length, skewed columns, and symmetric matrices that are no q q^T."""
    random = np.random.default_rng(1)
    wxyz = random.normal(size=4)
    expected = np.asarray(SO3(jnp.asarray(wxyz / np.linalg.norm(wxyz), jnp.float32)).as_matrix())
    np.testing.assert_allclose(rotation_of("quaternion", 3 * wxyz), expected, atol=1e-6)

    columns = random.normal(size=(3, 2))
    q, r = scipy.linalg.qr(columns, mode="economic")
    two = q * np.sign(np.diag(r))
    expected = np.column_stack([two, np.cross(two[:, 0], two[:, 1])])
    np.testing.assert_allclose(rotation_of("rotation_6d", columns.T), expected, atol=1e-6)

    matrix = random.normal(size=(4, 4))
    matrix = matrix + matrix.T
    upper = matrix[np.triu_indices(4)]
    least = np.linalg.eigh(matrix)[1][:, 0]
    expected = np.asarray(SO3(jnp.asarray(least, jnp.float32)).as_matrix())
    np.testing.assert_allclose(rotation_of("rotation_10d", upper), expected, atol=1e-5)

    longest = matrix[:, np.linalg.norm(matrix, axis=0).argmax()]
    expected = np.asarray(
        SO3(jnp.asarray(longest / np.linalg.norm(longest), jnp.float32)).as_matrix()
    )
    np.testing.assert_allclose(rotation_of("quaternion_adjugate", upper), expected, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_compiled_equals_eager_and_a_batch_equals_a_loop(name):
    entry = PARAMETRISATIONS[name]
    numbers = jax.random.normal(jax.random.key(2), (3, entry.size))
    batch = quick_jit(jax.vmap(lambda each: entry.motion(each).as_matrix()))(numbers)
    for one, found in zip(numbers, batch, strict=True):
        np.testing.assert_allclose(found, entry.motion(one).as_matrix(), atol=1e-5)
