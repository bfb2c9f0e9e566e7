"""What a network may be told of the camera, so that one network serves any C-arm."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jxreg.camera import Camera, is_mirrored, pixel_spacing, principal_point

INTRINSICS = 5
"""How many numbers `intrinsics` gives."""

_TYPICAL = 4.0
"""SDD over the width of the detector of a usual C-arm."""


def intrinsics(camera: Camera) -> Float[Array, "5"]:
    """A camera in five numbers without units; zeros for a usual one.

    SDD and pixel size count by their ratio only: detectors that differ in both alike give the same
    image, and the same pose belongs to it.

    Returns:
        Binary logarithm of SDD / (width of the detector) / 4 and of the same with its height; how
        far the principal point is right of and below the centre, in widths and heights; 1 for an
        image that is displayed mirrored.
    """
    rows, columns = camera.image_size
    size = jnp.array([columns, rows])
    extent = size * pixel_spacing(camera)[::-1]
    off_centre = (principal_point(camera) - (size - 1) / 2) / size
    mirrored = is_mirrored(camera).astype(extent.dtype)
    return jnp.concatenate([jnp.log2(camera.sdd / extent / _TYPICAL), off_centre, mirrored[None]])


class Modulation(nnx.Module):
    """Scales and shifts features by a vector; at first it leaves them as they are.

    Source: Perez et al., AAAI 2018 (FiLM), once, before the head.
    """

    def __init__(self, size: int, features: int, rngs: nnx.Rngs, hidden: int = 32):
        self.first = nnx.Linear(size, hidden, rngs=rngs)
        self.second = nnx.Linear(
            hidden, 2 * features, kernel_init=nnx.initializers.zeros_init(), rngs=rngs
        )

    def __call__(
        self, maps: Float[Array, "*places c"], vector: Float[Array, " n"]
    ) -> Float[Array, "*places c"]:
        gain, shift = jnp.split(self.second(jax.nn.silu(self.first(vector))), 2)
        return maps * (1 + gain) + shift
