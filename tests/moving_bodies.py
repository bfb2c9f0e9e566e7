"""Two small bodies of spheres and rods, their volume and label map, and X-rays of them."""

import jax.numpy as jnp
import numpy as np
from jaxlie import SE3

from jxreg import phantoms
from jxreg.camera import Camera
from jxreg.frame import Frame
from jxreg.io.labels import Labels
from jxreg.pose import from_carm
from jxreg.volume import Volume

CAMERA = Camera.from_sdd(1000.0, (64, 64), (3.0, 3.0))
SPACING = 2.5
ORIGIN = np.zeros(3)


def body(x: float, turn: float) -> phantoms.Phantom:
    """Bone-like: nothing in it is alike on two sides; its box is the same whatever the turn."""
    centre = jnp.array([x, 0.0, 0.0])
    corners = [
        phantoms.ellipsoid(centre + jnp.array(p), (4.0, 4.0, 4.0), 0.03)
        for p in ([-20.0, -20, -30], [20.0, 20, 30])
    ]
    c, s = np.cos(turn), np.sin(turn)
    inside = [
        phantoms.ellipsoid(centre + jnp.array([6 * c, 6 * s, 12.0]), (12.0, 7.0, 9.0), 0.04),
        phantoms.ellipsoid(centre + jnp.array([-8 * s, 5 * c, -15.0]), (6.0, 11.0, 7.0), 0.05),
        phantoms.box(centre + jnp.array([4 * s, -9.0, -2.0]), (3.0, 5.0, 14.0), 0.04),
    ]
    return tuple(corners + inside)


BODIES = body(-27.5, 0.4), body(27.5, 2.0)


def scan() -> tuple[Volume, Labels]:
    """The volume of both, and which voxels are of which: 1 on the left, 2 on the right."""
    both = BODIES[0] + BODIES[1]
    volume = phantoms.voxelise(both, *phantoms.grid_around(both, SPACING, 4 * SPACING))
    mu = np.asarray(volume.mu)
    x = np.arange(mu.shape[0])[:, None, None] * SPACING + float(volume.affine[0, 3])
    return volume, Labels(np.where(mu > 0, np.where(x < 0, 1, 2), 0), {2: "right"})


def camera_at(degrees: float) -> SE3:
    """`camera_from_rig` of a C-arm at an angle; the rig is the world of the scan."""
    return from_carm(degrees, source_to_isocenter=700.0, isocenter=jnp.asarray(ORIGIN, float))


def xray(bodies, poses, camera_from_rig: SE3, camera: Camera = CAMERA) -> Frame:
    """The bodies as a camera sees them, each at its pose `rig_from_world`; in closed form."""
    parts = [
        phantoms.exact_drr(body, camera, camera_from_rig @ pose)
        for body, pose in zip(bodies, poses, strict=True)
    ]
    return Frame(sum(parts[1:], parts[0]), camera)


def landmarks(x: float):
    """Points on a body whose middle is at x."""
    return jnp.array([[x - 15, 0, 0], [x + 15, 0, 0], [x, 15.0, 20], [x, -15, -20]])
