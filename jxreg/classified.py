"""Post-classification: values between voxels first, then what materials they mean.

`simulation.polychromatic` decides at each voxel what it is made of and interpolates the densities.
Here the Hounsfield units are interpolated along the ray, and each sample is classified. So borders
are as sharp as the thresholds make them, thresholds and values have gradients, and there is one
volume in memory whatever the materials; but between air and bone there always is some soft tissue.
"""

import math

import jax
import jax.numpy as jnp
import jaxlie
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float

from jxreg.camera import Camera, pixel_grid
from jxreg.drr.rays import clip_to_box, voxel_rays
from jxreg.physics.intensity import Model, ct
from jxreg.precision import full_precision
from jxreg.simulation import hounsfield
from jxreg.volume import Volume


@full_precision
def classified_areas(
    volume: Volume,
    camera: Camera,
    pose: jaxlie.SE3,
    model: Model = ct,
    *,
    per_voxel: float = 1.0,
) -> Float[Array, "m rows columns"]:
    """Area density [g/cm^2] of each material in every pixel, by classifying samples.

    The memory of the gradient grows with the rays, not with their samples.

    Args:
        volume: Attenuation of one channel, as from `load_volume`.
        camera: Geometry of the detector.
        pose: Extrinsic, `camera_from_world`.
        model: What values mean, of `physics.intensity`: one that looks at each value alone (`ct`,
            `cta`, `rotational_angiography`, `deepdrr`).
        per_voxel: Samples a voxel, along the diagonal of the grid; static.
    """
    shape = volume.mu.shape
    count = math.ceil(per_voxel * math.hypot(*(n + 1 for n in shape)))
    rays = voxel_rays(volume, camera, pose, pixel_grid(camera))
    dtype = rays.direction.dtype
    span = clip_to_box(rays, -jnp.ones(3, dtype), jnp.array(shape, dtype))
    width = jnp.maximum(span.leave - span.enter, 0.0)

    @jax.checkpoint
    def densities(k):
        t = span.enter + (k + 0.5) / count * width
        index = rays.origin[:, None] + t * rays.direction
        return model(hounsfield(map_coordinates(volume.mu, list(index), 1))).densities

    def add(total, k):
        return total + densities(k), None

    nothing = jnp.zeros_like(jax.eval_shape(densities, jnp.zeros((), dtype)))
    total, _ = jax.lax.scan(add, nothing, jnp.arange(count, dtype=dtype))
    return (0.1 * total * width * rays.length / count).reshape(-1, *camera.image_size)
