"""Digitally reconstructed radiographs: line integrals of a volume for every pixel of a camera."""

import jaxlie
from jaxtyping import Array, Float

from jxreg.camera import Camera, pixel_grid
from jxreg.drr.marching import Integrate, trilinear
from jxreg.drr.rays import voxel_rays
from jxreg.precision import full_precision
from jxreg.volume import Volume


def render(
    volume: Volume, camera: Camera, pose: jaxlie.SE3, integrate: Integrate | None = None
) -> Float[Array, "*channels rows columns"]:
    """DRR of a volume: the line integral of mu from the source to every pixel.

    Args:
        volume: Attenuation [1/mm]; channels (labels, materials) are integrated in one march.
        camera: Geometry of the detector.
        pose: Extrinsic, `camera_from_world`.
        integrate: Quadrature, `trilinear()` by default, or `joseph()`, or `siddon()`.

    Returns:
        Dimensionless attenuation; air is 0, nothing is rescaled.
    """
    values = render_rays(volume, camera, pose, pixel_grid(camera), integrate)
    return values.reshape(*values.shape[:-1], *camera.image_size)


@full_precision
def render_rays(
    volume: Volume,
    camera: Camera,
    pose: jaxlie.SE3,
    pixels: Float[Array, "n 2"],
    integrate: Integrate | None = None,
) -> Float[Array, "*channels n"]:
    """The DRR at some pixels only (sparse rendering).

    Args:
        volume: As in `render`.
        camera: As in `render`.
        pose: As in `render`.
        pixels: Coordinates (u, v) of the wanted pixels; they need not be integers.
        integrate: As in `render`.
    """
    integrate = trilinear() if integrate is None else integrate
    values = integrate(volume, voxel_rays(volume, camera, pose, pixels))
    return values.reshape(*volume.mu.shape[:-3], pixels.shape[0])
