"""The pinhole camera of a C-arm: intrinsics, rays, projection, crop and rescale.

Camera axes: x to the right (columns), y down (rows), z forward from the X-ray source to the
detector; the source is the origin and the detector is the plane z = SDD. A pixel (u, v) is
(column, row), and integer coordinates are pixel centres, so that the centred principal point is
((columns - 1) / 2, (rows - 1) / 2).

An image that is displayed mirrored has a negative focal length along that image axis: the mirror
lives in the intrinsic matrix, never in a pose.
"""

from dataclasses import dataclass, replace
from typing import Self, no_type_check

import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike, Bool, Float

from jxreg.errors import InputError
from jxreg.precision import full_precision


@no_type_check  # JAX rebuilds pytrees from tracers, None and batched leaves
@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Camera:
    """Pinhole model of a C-arm: X-ray source at the origin, detector at z = SDD."""

    intrinsic: Float[Array, "*batch 3 3"]
    """Pixel from camera ray, the matrix K [px]."""
    sdd: Float[Array, "*batch"]
    """Source-to-detector distance [mm]."""
    image_size: tuple[int, int] = jax.tree.static()
    """Rows, columns; static, so that another size compiles anew."""

    @classmethod
    def from_sdd(
        cls,
        sdd: ArrayLike,
        image_size: tuple[int, int],
        pixel_spacing: tuple[ArrayLike, ArrayLike],
        principal_point: tuple[ArrayLike, ArrayLike] | None = None,
        *,
        mirrored: bool = False,
    ) -> Self:
        """Camera from what a DICOM header or a data sheet says.

        Args:
            sdd: Source-to-detector distance [mm].
            image_size: Rows, columns.
            pixel_spacing: Distance of rows and of columns on the detector [mm].
            principal_point: Pixel (u, v) below the source; by default the centre of the image.
            mirrored: The image is displayed mirrored (columns run against the camera's x axis).

        Raises:
            InputError: A distance is not positive and finite, or the size is not positive.
        """
        rows, columns = _checked_size(image_size)
        row_mm, column_mm = pixel_spacing
        for name, value in (("sdd", sdd), ("pixel_spacing", row_mm), ("pixel_spacing", column_mm)):
            _check_positive(name, value)
        centre = ((columns - 1) / 2, (rows - 1) / 2)
        u, v = centre if principal_point is None else principal_point
        sdd = jnp.asarray(sdd, float)
        sign = -1.0 if mirrored else 1.0
        zero, one = jnp.zeros_like(sdd), jnp.ones_like(sdd)
        intrinsic = jnp.stack(
            [
                jnp.stack([sign * sdd / jnp.asarray(column_mm, float), zero, u * one], -1),
                jnp.stack([zero, sdd / jnp.asarray(row_mm, float), v * one], -1),
                jnp.stack([zero, zero, one], -1),
            ],
            -2,
        )
        return cls(intrinsic, sdd, (rows, columns))

    @classmethod
    def from_intrinsic(
        cls, intrinsic: ArrayLike, sdd: ArrayLike, image_size: tuple[int, int]
    ) -> Self:
        """Camera from a calibrated matrix K [px].

        A calibration in pixels alone does not know the SDD. It scales the detector, and with it
        distances measured on the detector (mPD), but neither the image nor the pose.

        Raises:
            InputError: K is not an upper triangular 3 x 3 matrix with K[2, 2] = 1, or SDD or the
                size is not positive.
        """
        _check_positive("sdd", sdd)
        matrix = jnp.asarray(intrinsic, float)
        if not isinstance(matrix, Tracer):
            _check_intrinsic(np.asarray(matrix))
        return cls(matrix, jnp.asarray(sdd, float), _checked_size(image_size))


def pixel_spacing(camera: Camera) -> Float[Array, "2"]:
    """Distance of rows and of columns on the detector [mm]."""
    focal_length = jnp.stack([camera.intrinsic[1, 1], camera.intrinsic[0, 0]])
    return camera.sdd / jnp.abs(focal_length)


def principal_point(camera: Camera) -> Float[Array, "2"]:
    """Pixel (u, v) where the axis from the source meets the detector at a right angle."""
    return camera.intrinsic[:2, 2]


def is_mirrored(camera: Camera) -> Bool[Array, ""]:
    """Whether the image is a mirror image of what the source sees."""
    return camera.intrinsic[0, 0] * camera.intrinsic[1, 1] < 0


def pixel_grid(camera: Camera) -> Float[Array, "pixels 2"]:
    """Coordinates (u, v) of all pixels, row by row."""
    rows, columns = camera.image_size
    v, u = jnp.meshgrid(
        jnp.arange(rows, dtype=float), jnp.arange(columns, dtype=float), indexing="ij"
    )
    return jnp.stack([u.ravel(), v.ravel()], -1).astype(camera.intrinsic.dtype)


def detector_points(camera: Camera, pixels: Float[Array, "n 2"]) -> Float[Array, "n 3"]:
    """Points on the detector in the camera frame [mm] of pixels (u, v): SDD K^-1 (u, v, 1)."""
    k = camera.intrinsic
    y = (pixels[:, 1] - k[1, 2]) / k[1, 1]
    x = (pixels[:, 0] - k[0, 2] - k[0, 1] * y) / k[0, 0]
    return camera.sdd * jnp.stack([x, y, jnp.ones_like(x)], -1)


@full_precision
def project_points(
    camera: Camera, pose: jaxlie.SE3, points_world: Float[Array, "n 3"]
) -> Float[Array, "n 2"]:
    """Pixels (u, v) of points in the world frame [mm].

    A point at the source's depth or behind it is projected by the same formula, x / z; whether a
    point is in front is the caller's question (z > 0 in the camera frame).
    """
    x, y, z = jnp.moveaxis(pose.apply(points_world), -1, 0)
    k = camera.intrinsic
    z = jnp.where(z == 0, jnp.finfo(z.dtype).tiny, z)
    u = (k[0, 0] * x + k[0, 1] * y) / z + k[0, 2]
    v = k[1, 1] * y / z + k[1, 2]
    return jnp.stack([u, v], -1)


@full_precision
def crop(camera: Camera, top: int, left: int, image_size: tuple[int, int]) -> Camera:
    """Camera of the window of `image_size` whose first pixel is (left, top).

    The window may reach over the border of the image: negative corners and large sizes are fine.
    """
    moved = _left_multiply(camera, _affine_2d(1.0, 1.0, -float(left), -float(top)))
    return replace(moved, image_size=_checked_size(image_size))


@full_precision
def downsample(camera: Camera, factor: int) -> Camera:
    """Camera of the image averaged over blocks of factor x factor pixels.

    A remainder at the lower and the right border becomes a partly filled block.
    """
    rows, columns = camera.image_size
    offset = (1 / factor - 1) / 2
    pooled = _left_multiply(camera, _affine_2d(1 / factor, 1 / factor, offset, offset))
    return replace(pooled, image_size=(-(-rows // factor), -(-columns // factor)))


@full_precision
def rescale(camera: Camera, image_size: tuple[int, int]) -> Camera:
    """Camera of the same field of view, edge to edge, sampled by `image_size` pixels."""
    rows, columns = _checked_size(image_size)
    sy, sx = rows / camera.image_size[0], columns / camera.image_size[1]
    scaled = _left_multiply(camera, _affine_2d(sx, sy, (sx - 1) / 2, (sy - 1) / 2))
    return replace(scaled, image_size=(rows, columns))


@full_precision
def window(
    camera: Camera, corner: Float[Array, "2"], side: Float[Array, ""], pixels: int
) -> Camera:
    """Camera of a square window of the image, sampled by pixels x pixels.

    Args:
        camera: Camera of the whole image.
        corner: Upper left outer corner (u, v) of the window in coordinates of the image, whose own
            outer corner is (-0.5, -0.5); traced.
        side: Side of the window in pixels of the image; traced.
        pixels: Rows and columns of the result; static.
    """
    scale = pixels / side
    move = jnp.eye(3, dtype=camera.intrinsic.dtype)
    move = move.at[0, 0].set(scale).at[1, 1].set(scale).at[:2, 2].set(-corner * scale - 0.5)
    return replace(camera, intrinsic=move @ camera.intrinsic, image_size=(pixels, pixels))


def with_lens(camera: Camera, lens: Float[Array, "3"]) -> Camera:
    """A camera whose detector is further away or shifted.

    Args:
        camera: The camera as it was thought to be.
        lens: Logarithm of the factor on its SDD, shift (u, v) of its principal point [mm].
    """
    row, column = pixel_spacing(camera)
    stretch = jnp.exp(lens[0])
    focal = camera.intrinsic[:2, :2] * stretch
    centre = camera.intrinsic[:2, 2] + lens[1:] / jnp.stack([column, row])
    intrinsic = camera.intrinsic.at[:2, :2].set(focal).at[:2, 2].set(centre)
    return replace(camera, intrinsic=intrinsic, sdd=camera.sdd * stretch)


@full_precision
def flip_horizontal(camera: Camera) -> Camera:
    """Camera of the image with its columns in reverse order."""
    return _left_multiply(camera, _affine_2d(-1.0, 1.0, camera.image_size[1] - 1.0, 0.0))


@full_precision
def flip_vertical(camera: Camera) -> Camera:
    """Camera of the image with its rows in reverse order."""
    return _left_multiply(camera, _affine_2d(1.0, -1.0, 0.0, camera.image_size[0] - 1.0))


@full_precision
def to_projection(camera: Camera, pose: jaxlie.SE3) -> Float[Array, "3 4"]:
    """Projection matrix K [R | t]: homogeneous pixel (u, v, 1) from world point [mm]."""
    return camera.intrinsic @ pose.as_matrix()[:3]


def from_projection(
    matrix: ArrayLike,
    image_size: tuple[int, int],
    *,
    sdd: ArrayLike,
    in_front: ArrayLike | None = None,
) -> tuple[Camera, jaxlie.SE3]:
    """Camera and pose from any 3x4 projection matrix (RQ decomposition).

    A projection matrix is defined up to a scale, and it does not know the SDD (see
    `Camera.from_intrinsic`). The pose is always a proper rotation and K[1, 1] > 0, K[2, 2] = 1, so
    that a mirrored image ends as K[0, 0] < 0.

    The opposite matrix gives the same pixels, from a camera that looks the other way and sees a
    mirrored image. Only a point known to be in front of the source tells the two apart.

    Args:
        matrix: Pixel from world, K [R | t] times any number.
        image_size: Rows, columns.
        sdd: Source-to-detector distance [mm].
        in_front: World point [mm] that the X-rays reach, such as the isocenter; it decides the
            sign of the matrix. By default the third row times a visible point is positive.

    Source: Hartley and Zisserman, Multiple View Geometry, 2nd ed., section 6.2.4.

    Raises:
        InputError: The matrix is not 3 x 4, not finite, or its left 3 x 3 block is singular.
    """
    matrix = np.asarray(matrix, np.float64)
    if matrix.shape != (3, 4) or not np.isfinite(matrix).all():
        raise InputError(
            "projection matrix",
            f"shape {matrix.shape} or values that are not finite",
            "3 x 4 finite numbers",
            "give K [R | t], pixel from world",
        )
    scale = np.linalg.norm(matrix[2, :3])
    if scale == 0 or np.linalg.cond(matrix[:, :3]) > 1e12:
        raise InputError(
            "projection matrix",
            "its left 3 x 3 block is singular",
            "a finite camera centre",
            "parallel projections are not supported",
        )
    behind = in_front is not None and matrix[2] @ np.append(np.asarray(in_front), 1.0) < 0
    matrix = matrix / (-scale if behind else scale)
    k, rotation = _rq(matrix[:, :3])
    translation = np.linalg.solve(k, matrix[:, 3])
    pose = jaxlie.SE3.from_matrix(jnp.asarray(_rigid(rotation, translation)))
    return Camera.from_intrinsic(k, sdd, image_size), pose


def _rq(m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Upper triangular K with K[2, 2] = 1, K[1, 1] > 0 and proper rotation R with K R = m."""
    reverse = np.eye(3)[::-1]
    q, r = np.linalg.qr((reverse @ m).T)
    k, rotation = reverse @ r.T @ reverse, reverse @ q.T
    signs = np.sign(np.diag(k))
    signs[0] *= np.linalg.det(rotation) * np.prod(signs)  # the mirror, if any, goes to K[0, 0]
    k, rotation = k * signs, signs[:, None] * rotation
    return k / k[2, 2], rotation


def _rigid(rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation, translation
    return matrix


def _affine_2d(sx: float, sy: float, tx: float, ty: float) -> np.ndarray:
    return np.array([[sx, 0, tx], [0, sy, ty], [0, 0, 1.0]])


def _left_multiply(camera: Camera, pixel_from_pixel: np.ndarray) -> Camera:
    matrix = jnp.asarray(pixel_from_pixel, camera.intrinsic.dtype)
    return replace(camera, intrinsic=jnp.einsum("ij,...jk->...ik", matrix, camera.intrinsic))


def _checked_size(image_size: tuple[int, int]) -> tuple[int, int]:
    rows, columns = (int(n) for n in image_size)
    if rows < 1 or columns < 1:
        raise InputError(
            "image_size", f"{rows} x {columns}", "positive rows and columns", "give (rows, columns)"
        )
    return rows, columns


def _check_positive(name: str, value: ArrayLike) -> None:
    if isinstance(value, Tracer):
        return
    value = np.asarray(value, np.float64)
    if not (np.isfinite(value).all() and (value > 0).all()):
        raise InputError(name, f"{value}", "a positive, finite length in mm", "correct the value")


def _check_intrinsic(matrix: np.ndarray) -> None:
    good = matrix.shape[-2:] == (3, 3) and np.isfinite(matrix).all()
    if good:
        lower = np.stack([matrix[..., 1, 0], matrix[..., 2, 0], matrix[..., 2, 1]])
        focal = np.stack([matrix[..., 0, 0], matrix[..., 1, 1]])
        good = bool((lower == 0).all() and (focal != 0).all() and (matrix[..., 2, 2] == 1).all())
    if not good:
        raise InputError(
            "intrinsic",
            f"{matrix.tolist()}",
            "[[fx, skew, u0], [0, fy, v0], [0, 0, 1]] in pixels",
            "divide by K[2, 2]; flips belong to the sign of fx and fy",
        )
