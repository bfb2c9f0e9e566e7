"""Images, masks and windows that the tests of the similarities share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy.ndimage import gaussian_filter

ROWS, COLUMNS = 28, 24


def blobs(seed, rows=ROWS, columns=COLUMNS, dtype=np.float32):
    """Smooth structure and a little noise, standard deviation 1."""
    rng = np.random.default_rng(seed)
    image = gaussian_filter(rng.normal(size=(rows, columns)), 2.0)
    image = image / image.std() + 0.1 * rng.normal(size=(rows, columns))
    return (image / image.std()).astype(dtype)


def pair(dtype=np.float32):
    """A moving and a fixed image that are alike, not the same."""
    return blobs(0, dtype=dtype), (0.8 * blobs(0) + 0.4 * blobs(1)).astype(dtype)


def half_mask(dtype=np.float32):
    """Four rows and a corner masked out, one column with half the weight."""
    mask = np.ones((ROWS, COLUMNS), dtype)
    mask[:4], mask[-6:, -5:], mask[:, 12] = 0, 0, mask[:, 12] / 2
    return mask


def jnp_pair():
    return tuple(jnp.asarray(image) for image in pair())


@functools.cache  # the same function again is not compiled again
def quick_jit(function):
    """`jax.jit` with little optimization: here compiling takes far longer than running."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def compiled(function, *images, **options):
    return quick_jit(functools.partial(function, **options))(*images)


def all_patches(image, size):
    """Every window of `size` x `size`, as a row of pixels."""
    return np.lib.stride_tricks.sliding_window_view(image, (size, size)).reshape(-1, size * size)
