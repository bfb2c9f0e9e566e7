"""Poses of other systems, each exact both ways: DiffDRR and xvr, nanodrr, xReg, ITK, OpenCV.

All of them are turned into the pose of jxreg, `camera_from_world` with the world in RAS and the
camera axes x right, y down, z forward (`jxreg.pose`). What differs elsewhere, and is undone here:

========  ==================  ======  ==================================  =======================
system    matrix              world   camera axes (x, y, z)               a mirrored image is
========  ==================  ======  ==================================  =======================
DiffDRR   world from camera   RAS,    left, up, forward; with `PA` right, `reverse_x_axis`, a pose
and xvr   before `reorient`   moved   up, forward (determinant -1)        of determinant -1
nanodrr   world from camera   RAS     right, down, forward                a determinant of -1
xReg      camera from world   LPS     columns, rows, towards or from the  the sign of the focal
                                      source                              lengths
OpenCV    camera from world   any     right, down, forward                not foreseen
ITK       moving from fixed   LPS     none: a transform, not a camera     none
========  ==================  ======  ==================================  =======================

A reflection never enters a pose. Where the other system has one, the functions return it beside the
pose as `mirrored`, to be given to the camera: `Camera.from_sdd(..., mirrored=mirrored)`.

The geometry of a DICOM positioner is `jxreg.pose.from_carm`; a 3 x 4 projection matrix is
`jxreg.camera.from_projection`.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxlie import SE3, SO3
from jaxtyping import Array, ArrayLike, Bool, Float

from jxreg.errors import InputError
from jxreg.lie import exp, log
from jxreg.pose import Point
from jxreg.precision import product

Orientation = str | None
"""DiffDRR's frame-of-reference change: "AP", "PA" or None."""

_REORIENT = {
    "AP": ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, 1.0, 0.0)),
    "PA": ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 1.0, 0.0)),
    None: ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
}
_LPS_FROM_RAS = (-1.0, -1.0, 1.0, 1.0)


class MirroredPose(NamedTuple):
    """A pose and the reflection that another system had mixed into it."""

    pose: SE3
    """The proper rigid part, `camera_from_world`."""
    mirrored: Bool[Array, ""]
    """Whether the image is a mirror image of what the source sees."""


class DiffDRRPose(NamedTuple):
    """What DiffDRR and xvr need to render an image."""

    matrix: Float[Array, "4 4"]
    """`RigidTransform.matrix`: [R | R t], world from camera before `reorient`."""
    reverse_x_axis: Bool[Array, ""]
    """The detector's flag of the same name."""


class XRegCamera(NamedTuple):
    """Extrinsic and intrinsic matrix of an xReg camera model."""

    extrinsic: Float[Array, "4 4"]
    """Camera from world, the world in LPS [mm]."""
    intrinsic: Float[Array, "3 3"]
    """Pixel from camera ray [px]; negative focal lengths where z points to the source."""


class ITKRigid(NamedTuple):
    """A rigid ITK transform in LPS: x becomes linear (x - center) + center + translation."""

    linear: Float[Array, "3 3"]
    """Rotation matrix."""
    translation: Float[Array, "3"]
    """Translation [mm]."""
    center: Float[Array, "3"]
    """Fixed point of the rotation [mm], the fixed parameters of the transform."""


def from_diffdrr(
    matrix: ArrayLike,
    *,
    orientation: Orientation = "AP",
    reverse_x_axis: bool | Bool[Array, ""],
    center: Point,
) -> MirroredPose:
    """Pose of DiffDRR or xvr, and whether their image is mirrored.

    DiffDRR moves the center of the volume to the origin of its world; xvr saves poses in that
    moved world. The shift is therefore an argument: the RAS point at the center of the volume's
    grid, index (n - 1) / 2 along each axis, or zeros if the volume was read uncentered.

    Args:
        matrix: `RigidTransform.matrix`, 4 x 4; see `orbit_matrix` to make it of a rotation and a
            translation. Its determinant may be -1, as in the oldest data sets.
        orientation: The `orientation` with which the volume was read.
        reverse_x_axis: The detector's flag. Its default is True in DiffDRR, and False in the
            command line of xvr.
        center: What DiffDRR subtracts from the world [mm].

    Raises:
        InputError: An unknown orientation.
    """
    matrix = _rigid("matrix", matrix, mirror=True)
    reorient = _reorient(orientation)
    linear = product(matrix[:3, :3], reorient)
    sign = _determinant_sign(linear)
    axes = linear * jnp.stack([-sign, -jnp.ones_like(sign), jnp.ones_like(sign)])
    source = matrix[:3, 3] + jnp.asarray(center, matrix.dtype)
    return MirroredPose(_pose_of_source(axes, source), (sign > 0) != jnp.asarray(reverse_x_axis))


def to_diffdrr(
    pose: SE3,
    mirrored: bool | Bool[Array, ""],
    *,
    orientation: Orientation = "AP",
    center: Point,
) -> DiffDRRPose:
    """Pose for DiffDRR or xvr: the inverse of `from_diffdrr`.

    The matrix has determinant +1 for every orientation, so that of two inputs of `from_diffdrr`
    that mean the same image the proper one comes back.

    Args:
        pose: Pose, `camera_from_world`.
        mirrored: Whether the image is a mirror image (`jxreg.camera.is_mirrored`).
        orientation: The `orientation` with which the volume will be read.
        center: What DiffDRR will subtract from the world [mm].

    Raises:
        InputError: An unknown orientation.
    """
    reorient = _reorient(orientation)
    sign = _determinant_sign(reorient)
    axes, source = _source_of_pose(pose)
    axes = axes * jnp.stack([-sign, -jnp.ones_like(sign), jnp.ones_like(sign)])
    matrix = _affine(product(axes, reorient.T), source - jnp.asarray(center, source.dtype))
    return DiffDRRPose(matrix, (sign > 0) != jnp.asarray(mirrored))


def from_nanodrr(rt_inv: ArrayLike) -> MirroredPose:
    """Pose of nanodrr's `rt_inv`, world from camera; its PA views have determinant -1."""
    matrix = _rigid("rt_inv", rt_inv, mirror=True)
    sign = _determinant_sign(matrix[:3, :3])
    axes = matrix[:3, :3] * jnp.stack([sign, jnp.ones_like(sign), jnp.ones_like(sign)])
    return MirroredPose(_pose_of_source(axes, matrix[:3, 3]), sign < 0)


def to_nanodrr(pose: SE3, mirrored: bool | Bool[Array, ""]) -> Float[Array, "4 4"]:
    """Matrix `rt_inv` of nanodrr: the inverse of `from_nanodrr`."""
    axes, source = _source_of_pose(pose)
    sign = jnp.where(jnp.asarray(mirrored), -1.0, 1.0).astype(axes.dtype)
    return _affine(axes.at[:, 0].multiply(sign), source)


def orbit_matrix(rotation: ArrayLike, translation: Point) -> Float[Array, "4 4"]:
    """The matrix [R | R t] that DiffDRR, xvr and nanodrr make of a rotation and a translation.

    The translation is in camera axes, so that the camera orbits the origin when R changes.
    """
    rotation = jnp.asarray(rotation, float)
    return _affine(rotation, product(rotation, jnp.asarray(translation, rotation.dtype)))


def orbit_translation(matrix: ArrayLike) -> Float[Array, "3"]:
    """The translation t [mm] of a matrix [R | R t]; the rotation is its left upper block."""
    matrix = jnp.asarray(matrix, float)
    return product(matrix[:3, :3].T, matrix[:3, 3])


def zxy_rotation(angles_degrees: Point) -> Float[Array, "3 3"]:
    """Rotation Rz(a) Rx(b) Ry(g) of the Euler angles of xvr and nanodrr [deg].

    In their AP orientation the angles are about the long axis, towards the head, and in the image
    plane.
    """
    a, b, g = jnp.deg2rad(jnp.asarray(angles_degrees, float))
    rotation = SO3.from_z_radians(a) @ SO3.from_x_radians(b) @ SO3.from_y_radians(g)
    return rotation.as_matrix()


def zxy_degrees(rotation: ArrayLike) -> Float[Array, "3"]:
    """Euler angles [deg] of a rotation matrix: the inverse of `zxy_rotation` for |b| < 90."""
    r = jnp.asarray(rotation, float)
    a = jnp.arctan2(-r[0, 1], r[1, 1])
    b = jnp.arctan2(r[2, 1], jnp.hypot(r[0, 1], r[1, 1]))
    g = jnp.arctan2(-r[2, 0], r[2, 2])
    return jnp.rad2deg(jnp.stack([a, b, g]))


def from_xreg(extrinsic: ArrayLike, intrinsic: ArrayLike) -> tuple[SE3, Float[Array, "3 3"]]:
    """Pose and intrinsic matrix of an xReg camera, as in DeepFluoro.

    Where the focal lengths are negative (`origin-at-focal-pt-det-neg-z`) the camera's z axis points
    to the source while x and y run along the columns and the rows: the image is a mirror image, and
    the returned K has K[0, 0] < 0 and K[1, 1] > 0. Every world point goes to the same pixel as by
    K [R | t] of xReg.

    DeepFluoro gives one extrinsic for all frames and moves the volume instead: pass
    `extrinsic @ inverse(cam_to_pelvis_vol)`.

    Args:
        extrinsic: Camera from world, 4 x 4, the world in LPS [mm].
        intrinsic: K, 3 x 3 [px]; both focal lengths of one sign.

    Raises:
        InputError: The extrinsic is not rigid.
    """
    matrix = _rigid("extrinsic", extrinsic)
    intrinsic = jnp.asarray(intrinsic, float)
    sign = jnp.sign(intrinsic[1, 1]).astype(matrix.dtype)
    matrix = _turn(matrix, sign) * _lps(matrix)
    return _pose(matrix[:3, :3], matrix[:3, 3]), intrinsic.at[:2, 1].multiply(sign)


def to_xreg(pose: SE3, intrinsic: ArrayLike) -> XRegCamera:
    """Camera of xReg: the inverse of `from_xreg`.

    Args:
        pose: Pose, `camera_from_world`.
        intrinsic: K, 3 x 3 [px], with K[1, 1] > 0. A mirrored image, K[0, 0] < 0, gets the frame
            with negative focal lengths.
    """
    intrinsic = jnp.asarray(intrinsic, float)
    matrix = pose.as_matrix()
    sign = jnp.sign(intrinsic[0, 0]).astype(matrix.dtype)
    extrinsic = _turn(matrix, sign) * _lps(matrix)
    return XRegCamera(extrinsic, intrinsic.at[:2, 1].multiply(sign))


def pose_to_lps_matrix(pose: SE3) -> Float[Array, "4 4"]:
    """Camera from world with the world in LPS (DICOM, ITK); the camera's axes stay."""
    matrix = pose.as_matrix()
    return matrix * _lps(matrix)


def pose_from_lps_matrix(matrix: ArrayLike) -> SE3:
    """Pose of a matrix camera from world whose world is in LPS (DICOM, ITK)."""
    matrix = _rigid("matrix", matrix)
    matrix = matrix * _lps(matrix)
    return _pose(matrix[:3, :3], matrix[:3, 3])


def from_itk(linear: ArrayLike, translation: Point, center: Point) -> SE3:
    """Rigid motion in RAS of an ITK transform, which is in LPS on both sides.

    ITK and its files (`.tfm`) map points of the fixed image to the moving image. So a pose for the
    world of the moving image becomes one for the fixed image by `pose @ from_itk(...)`.

    Args:
        linear: Rotation matrix of the transform (`GetMatrix`), 3 x 3.
        translation: Its translation [mm].
        center: Its center of rotation [mm].
    """
    linear = _rigid("linear", linear)
    translation, center = (jnp.asarray(v, linear.dtype) for v in (translation, center))
    offset = translation + center - product(linear, center)
    lps = _lps(linear)[:3]
    return _pose(lps[:, None] * linear * lps, lps * offset)


def to_itk(motion: SE3, center: Point = (0.0, 0.0, 0.0)) -> ITKRigid:
    """Parameters of the ITK transform of a rigid motion in RAS: the inverse of `from_itk`.

    3D Slicer shows the inverse of the transform in a file as "to parent": a model drawn in camera
    axes appears in the patient under `to_itk(pose)`.
    """
    matrix = motion.as_matrix()
    lps = _lps(matrix)[:3]
    linear, offset = lps[:, None] * matrix[:3, :3] * lps, lps * matrix[:3, 3]
    center = jnp.asarray(center, matrix.dtype)
    return ITKRigid(linear, offset - center + product(linear, center), center)


def from_opencv(rvec: Point, tvec: Point) -> SE3:
    """Pose of OpenCV's rotation and translation vector (`solvePnP`, `calibrateCamera`).

    The axes of both cameras agree; the world is that of the points given to OpenCV, here RAS [mm].
    """
    rvec, tvec = jnp.asarray(rvec, float), jnp.asarray(tvec, float)
    rotation = exp(jnp.concatenate([jnp.zeros_like(rvec), rvec])).rotation()
    return SE3.from_rotation_and_translation(rotation, tvec)


def to_opencv(pose: SE3) -> tuple[Float[Array, "3"], Float[Array, "3"]]:
    """Rotation vector [rad] and translation vector [mm] of OpenCV."""
    return log(pose)[3:], pose.translation()


def _reorient(orientation: Orientation) -> Float[Array, "3 3"]:
    if orientation not in _REORIENT:
        found = f"{orientation!r}"
        raise InputError("orientation", found, "'AP', 'PA' or None", "give that of the volume")
    return jnp.asarray(_REORIENT[orientation])


def _rigid(name: str, value: ArrayLike, *, mirror: bool = False) -> Float[Array, "n n"]:
    """Array of a matrix of which the caller may be sure that its 3 x 3 part is a rotation.

    With `mirror` it may be a reflection too.

    Inside compiled code there are no values to look at, and nothing is checked.
    """
    if not isinstance(value, Tracer):
        matrix = np.asarray(value, np.float64)
        linear = matrix[..., :3, :3] if matrix.ndim > 1 else np.zeros((0, 0))
        good = linear.shape == (3, 3) and np.isfinite(matrix).all()
        if not good or np.abs(linear.T @ linear - np.eye(3)).max() > 1e-4:
            raise InputError(
                name,
                f"{matrix.tolist()}",
                "a finite matrix whose 3 x 3 part is orthogonal",
                "remove scale and shear; pass one matrix at a time (jax.vmap for more)",
            )
        if not mirror and np.linalg.det(linear) < 0:
            raise InputError(
                name,
                "a matrix that mirrors (determinant below 0)",
                "a proper rotation",
                "mirror the image instead: Camera with mirrored=True",
            )
    return jnp.asarray(value, float)


def _turn(matrix: Float[Array, "4 4"], sign: Float[Array, ""]) -> Float[Array, "4 4"]:
    """The matrix after a half turn of its camera about y where sign is -1."""
    one = jnp.ones_like(sign)
    return jnp.stack([sign, one, sign, one])[:, None] * matrix


def _lps(like: Array) -> Float[Array, "4"]:
    return jnp.asarray(_LPS_FROM_RAS, like.dtype)


def _determinant_sign(matrix: Float[Array, "3 3"]) -> Float[Array, ""]:
    return jnp.sign(jnp.sum(jnp.cross(matrix[0], matrix[1]) * matrix[2]))


def _affine(linear: Float[Array, "3 3"], offset: Float[Array, "3"]) -> Float[Array, "4 4"]:
    return jnp.eye(4, dtype=linear.dtype).at[:3, :3].set(linear).at[:3, 3].set(offset)


def _pose(rotation: Float[Array, "3 3"], translation: Float[Array, "3"]) -> SE3:
    return SE3.from_rotation_and_translation(SO3.from_matrix(rotation), translation)


def _pose_of_source(axes: Float[Array, "3 3"], source: Float[Array, "3"]) -> SE3:
    """Pose of a camera whose axes in the world are the columns, and whose source is there."""
    return _pose(axes.T, -product(axes.T, source))


def _source_of_pose(pose: SE3) -> tuple[Float[Array, "3 3"], Float[Array, "3"]]:
    world_from_camera = pose.inverse()
    return world_from_camera.rotation().as_matrix(), world_from_camera.translation()
