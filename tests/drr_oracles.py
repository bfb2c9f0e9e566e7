"""What the tests of the renderers compare with: NumPy integrals, random volumes, views."""

import functools
import itertools

import jax
import jax.numpy as jnp
import jaxlie
import numpy as np

from jxreg import drr
from jxreg.camera import Camera, detector_points, pixel_grid
from jxreg.pose import from_carm
from jxreg.volume import Volume

# Oblique and sheared, with three different spacings.
SHEARED = np.array(
    [[2.9, 0.4, -0.5, 0.0], [-0.3, 2.2, 0.6, 0.0], [0.5, -0.2, 3.6, 0.0], [0, 0, 0, 1]]
)
INTEGRATE = {
    "trilinear": drr.trilinear(),
    "fine": drr.trilinear(0.1),
    "siddon": drr.siddon(),
    "joseph": drr.joseph(),
}
KINDS = ("trilinear", "siddon", "joseph")


@functools.partial(jax.jit, static_argnums=3)
def rendered(volume, camera, pose, kind):
    """A DRR; compiled once for all tests that ask for the same sizes."""
    return drr.render(volume, camera, pose, INTEGRATE[kind])


def centred(shape, affine) -> np.ndarray:
    """The affine with the middle of the grid at the origin of the world."""
    affine = np.array(affine, np.float64)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def random_volume(shape=(11, 13, 9), affine=SHEARED, *, channels=(), seed=0) -> Volume:
    """White noise: nothing is smooth, so that an error in any voxel shows."""
    mu = np.random.default_rng(seed).uniform(0.0, 0.04, (*channels, *shape))
    return Volume.from_array(mu, centred(shape, affine), pyramid_mm=())


def view(size=(8, 10), primary=25.0, secondary=-15.0, roll=10.0, width=80.0, sad=400.0):
    """A camera whose detector is `width` mm wide, and a pose that sees the origin."""
    camera = Camera.from_sdd(600.0, size, (width / size[1], width / size[1]))
    pose = from_carm(primary, secondary, roll, source_to_isocenter=sad, isocenter=jnp.zeros(3))
    return camera, pose


def looking_along(axis: int, size, *, distance=1e6, pixel=0.5) -> tuple[Camera, jaxlie.SE3]:
    """A view along an axis of the world; by default rays are all but parallel.

    Args:
        axis: The axis that the camera looks along.
        size: Rows, columns.
        distance: From the source to the origin [mm].
        pixel: Spacing [mm], of a detector 100 mm beyond the origin.
    """
    from_camera = np.roll(np.eye(3), axis + 1, axis=0)  # the columns x, y, z of the camera
    rotation = jaxlie.SO3.from_matrix(jnp.asarray(from_camera.T))
    shift = jnp.array([0.0, 0.0, distance])
    pose = jaxlie.SE3.from_rotation_and_translation(rotation, shift)
    return Camera.from_sdd(distance + 100.0, size, (pixel, pixel)), pose


def segments(camera: Camera, pose: jaxlie.SE3) -> tuple[np.ndarray, np.ndarray]:
    """Source and detector points [mm, world] of all pixels, in float64."""
    ends = np.asarray(detector_points(camera, pixel_grid(camera)), np.float64)
    inverse = np.linalg.inv(np.asarray(pose.as_matrix(), np.float64))
    return inverse[:3, 3], ends @ inverse[:3, :3].T + inverse[:3, 3]


def exact_chords(mu: np.ndarray, affine: np.ndarray, start: np.ndarray, end: np.ndarray) -> float:
    """Integral through constant voxels: sort all crossings, look up each midpoint (Siddon 1985)."""
    inverse = np.linalg.inv(np.asarray(affine, np.float64))
    a, b = (inverse[:3, :3] @ p + inverse[:3, 3] for p in (start, end))
    direction = b - a
    crossings = [np.array([0.0, 1.0])]
    for axis, n in enumerate(mu.shape):
        if direction[axis] != 0:
            crossings.append((np.arange(n + 1) - 0.5 - a[axis]) / direction[axis])
    t = np.sort(np.clip(np.concatenate(crossings), 0, 1))
    voxel = np.floor(a + 0.5 * (t[1:] + t[:-1])[:, None] * direction + 0.5).astype(int)
    inside = ((voxel >= 0) & (voxel < mu.shape)).all(1)
    chords = np.diff(t)[inside] * np.linalg.norm(end - start)
    return float((mu[tuple(voxel[inside].T)] * chords).sum())


def exact_image(volume: Volume, camera: Camera, pose: jaxlie.SE3) -> np.ndarray:
    """DRR of constant voxels by `exact_chords`, ray by ray."""
    source, ends = segments(camera, pose)
    mu, affine = np.asarray(volume.mu, np.float64), np.asarray(volume.affine, np.float64)
    values = [exact_chords(mu, affine, source, end) for end in ends]
    return np.array(values).reshape(camera.image_size)


def axis_orders(volume: Volume):
    """The same volume, stored in each of the 48 orders and directions of its axes."""
    mu, affine = np.asarray(volume.mu), np.asarray(volume.affine, np.float64)
    for order in itertools.permutations(range(3)):
        for flips in itertools.product((False, True), repeat=3):
            stored, world_from_index = mu.transpose(order), affine[:, [*order, 3]].copy()
            for axis in np.flatnonzero(flips):
                stored = np.flip(stored, axis)
                world_from_index[:, 3] += world_from_index[:, axis] * (stored.shape[axis] - 1)
                world_from_index[:, axis] *= -1
            yield Volume.from_array(np.ascontiguousarray(stored), world_from_index, pyramid_mm=())


def rms(x) -> float:
    return float(np.sqrt(np.mean(np.square(x))))
