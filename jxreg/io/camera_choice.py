"""A camera from a file, and numbers that the user gives beside it."""

from collections.abc import Sequence
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike

from jxreg.camera import Camera, is_mirrored, pixel_spacing, principal_point
from jxreg.errors import InputError

Spacing = ArrayLike | Sequence[ArrayLike]
Point = tuple[ArrayLike, ArrayLike]


def refuse_numbers(
    subject: str, sdd: ArrayLike | None, spacing: Spacing | None, point: Point | None
) -> None:
    """Refuses numbers of a geometry beside a camera that was chosen explicitly.

    Raises:
        InputError: Any of them is given.
    """
    names = ("sdd= (--sdd)", "pixel_spacing= (--pixel-spacing)")
    names += ("principal_point= (--principal-point)",)
    given = [n for n, v in zip(names, (sdd, spacing, point), strict=True) if v is not None]
    if given:
        raise InputError(
            subject,
            f"{' and '.join(given)} together with camera= (--camera)",
            "one geometry",
            "leave one of them out, or edit the camera file",
        )


def overruled(
    camera: Camera,
    *,
    sdd: ArrayLike | None = None,
    spacing: Spacing | None = None,
    point: Point | None = None,
    mirrored: bool | None = None,
) -> Camera:
    """The camera with some of its numbers replaced, as if they were edited in its file.

    Args:
        camera: As a file gives it.
        sdd: Source-to-detector distance [mm]; the pixel spacing stays.
        spacing: Distance of rows and of columns on the detector [mm], or one for both.
        point: Pixel (u, v) of the central ray.
        mirrored: Whether the image is a mirror image; the central ray stays at its pixel.

    Raises:
        InputError: A number is impossible.
    """
    if sdd is None and spacing is None and point is None:
        if mirrored is None or bool(is_mirrored(camera)) == mirrored:
            return camera
        signs = jnp.array([[-1.0, -1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
        return replace(camera, intrinsic=camera.intrinsic * signs)
    spacing = pixel_spacing(camera) if spacing is None else spacing
    row, column = np.broadcast_to(np.asarray(spacing, np.float64), (2,)).tolist()
    u, v = principal_point(camera) if point is None else point
    return Camera.from_sdd(
        camera.sdd if sdd is None else sdd,
        camera.image_size,
        (row, column),
        (u, v),
        mirrored=bool(is_mirrored(camera)) if mirrored is None else mirrored,
    )
