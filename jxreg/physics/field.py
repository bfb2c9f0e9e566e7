"""Which radiation meets the detector where nothing is in the way: distance, heel, collimator.

Each is an image of factors; they multiply.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import erf
from jaxtyping import Array, ArrayLike, Float

from jxreg.camera import Camera, detector_points, pixel_grid, pixel_spacing

_OPEN = 1e6
"""A blade this far from the centre is not there [mm]."""
_SHARP = 1e-6
"""Standard deviation that stands for a hard edge [mm]."""


class Heel(NamedTuple):
    """Self-absorption in the anode: X-rays that leave nearly along its face have a longer way out.

    Geometry alone: at a depth d in the target (along its normal) an X-ray that leaves at an angle
    f towards the anode crosses d / sin(target angle - f) of it. Its spectrum stays as it is.
    """

    target_degrees: ArrayLike = 12.0
    """Angle between the anode's face and the central ray [deg]."""
    depth: ArrayLike = 0.04
    """Mean depth of emission in units of the mean free path."""
    anode_degrees: ArrayLike = 0.0
    """Where the anode is, seen on the detector: 0 along the camera's x axis, 90 down [deg]."""


class Collimator(NamedTuple):
    """Blades and iris in front of the tube, as they show on the detector."""

    half_width: ArrayLike = _OPEN
    """From the centre to the left and right blades [mm]."""
    half_height: ArrayLike = _OPEN
    """From the centre to the upper and lower blades [mm]."""
    radius: ArrayLike = _OPEN
    """Of the iris [mm]."""
    center: tuple[ArrayLike, ArrayLike] = (0.0, 0.0)
    """From the point below the source, right and down [mm]."""
    turn_degrees: ArrayLike = 0.0
    """Turn of the blades from x to y [deg]."""
    penumbra: ArrayLike = 0.5
    """Standard deviation of the soft edge [mm]; 0 is a hard one."""
    leak: ArrayLike = 0.002
    """Share of the radiation that passes through the blades."""


@jax.jit
def photons_per_pixel(camera: Camera) -> Float[Array, "rows columns"]:
    """Photons a pixel for one photon per mm2 at 1 m: pixel area, inverse square, obliquity."""
    down, across = pixel_spacing(camera)
    x, y, z = _points(camera)
    square = x**2 + y**2 + z**2
    return down * across * 1e6 / square * (z / jnp.sqrt(square))


@jax.jit
def heel_factor(camera: Camera, heel: Heel) -> Float[Array, "rows columns"]:
    """Intensity relative to the central ray; 0 in the shadow of the anode."""
    x, y, z = _points(camera)
    towards, target = (
        jnp.deg2rad(jnp.asarray(angle, z.dtype))
        for angle in (heel.anode_degrees, heel.target_degrees)
    )
    off_axis = jnp.arctan2(x * jnp.cos(towards) + y * jnp.sin(towards), z)
    out = jnp.sin(target - off_axis)
    lit = out > 0
    path = 1 / jnp.where(lit, out, 1.0) - 1 / jnp.sin(target)
    return jnp.where(lit, jnp.exp(-jnp.asarray(heel.depth, z.dtype) * path), 0.0)


@jax.jit
def collimator_factor(camera: Camera, collimator: Collimator) -> Float[Array, "rows columns"]:
    """Share of the radiation that passes blades and iris, from `leak` to 1."""
    x, y, _ = _points(camera)
    x, y = x - collimator.center[0], y - collimator.center[1]
    turn = jnp.deg2rad(jnp.asarray(collimator.turn_degrees, x.dtype))
    right = x * jnp.cos(turn) + y * jnp.sin(turn)
    down = y * jnp.cos(turn) - x * jnp.sin(turn)
    square = x**2 + y**2
    off = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)
    opened = jnp.ones_like(x)
    for distance, limit in (
        (right, collimator.half_width),
        (-right, collimator.half_width),
        (down, collimator.half_height),
        (-down, collimator.half_height),
        (off, collimator.radius),
    ):
        inside = (limit - distance) / (jnp.sqrt(2.0) * jnp.maximum(collimator.penumbra, _SHARP))
        opened = opened * (1 + erf(inside)) / 2
    leak = jnp.asarray(collimator.leak, x.dtype)
    return leak + (1 - leak) * opened


def _points(camera: Camera) -> tuple[Array, Array, Array]:
    """Where the pixels are in the camera frame [mm], each coordinate an image."""
    x, y, z = detector_points(camera, pixel_grid(camera)).T
    rows, columns = camera.image_size
    return x.reshape(rows, columns), y.reshape(rows, columns), z.reshape(rows, columns)
