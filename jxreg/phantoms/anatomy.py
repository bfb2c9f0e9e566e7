"""A pelvis with lumbar spine and a skull, made of shapes: coarse anatomy, exact X-rays.

Both have two materials, soft tissue and bone, with the attenuation of each at 60 keV [1/mm]. Bones
replace the soft tissue that they lie in, and bones do not overlap, so that either material's line
integral is the true one. Neither phantom is symmetric, so that each view has one pose.

The origin is near the hips, or in the middle of the head; axes are RAS+ [mm].
"""

import jax.numpy as jnp
import jaxlie
import numpy as np

from jxreg.phantoms.shapes import Phantom, box, cylinder, ellipsoid, gaussian, rod, shell
from jxreg.volume import MU_WATER

MU_BONE = 0.0605
"""Linear attenuation of cortical bone at 60 keV [1/mm] (NIST, ICRU-44, 1.92 g/cm^3)."""

_SOFT = np.array([MU_WATER, 0.0])
_BONE = np.array([-MU_WATER, MU_BONE])
"""Added to soft tissue, makes cortical bone; a fraction of it makes a mixture."""
_MARROW = -0.8 * _BONE
"""Added to cortical bone, makes trabecular bone with a bone fraction of 0.2."""


def pelvis_and_spine() -> Phantom:
    """Abdomen and pelvis, 330 x 210 x 380 mm: lumbar spine, sacrum, hips and proximal femora."""
    body = cylinder((0, 0, 0), (165, 105, 190), _SOFT)
    return (body, *_organs(), *_spine(), *_sacrum(), *_hip(1.0), *_hip(-1.0))


def skull() -> Phantom:
    """Head, 172 x 224 x 268 mm, with cranium, skull base, face, mandible and cervical spine."""
    head = ellipsoid((0, -3, -18), (86, 112, 134), _SOFT)
    return (head, *_cranium(), *_face(), *_mandible(), *_neck())


def _rotation(x_degrees=0.0, y_degrees=0.0, z_degrees=0.0) -> jaxlie.SO3:
    """About x first, then y, then z."""
    x, y, z = np.radians([x_degrees, y_degrees, z_degrees])
    return jaxlie.SO3.from_rpy_radians(x, y, z)


def _vector(xyz):
    return jnp.asarray(xyz, float)


def _organs() -> Phantom:
    """Bowel gas, a full bladder and the lower liver: soft detail that differs from side to side."""
    return (
        ellipsoid((45, 55, 40), (22, 14, 13), -0.95 * _SOFT),
        ellipsoid((-30, 62, 75), (13, 10, 18), -0.95 * _SOFT),
        ellipsoid((-62, 45, 10), (12, 10, 30), -0.8 * _SOFT, _rotation(y_degrees=15)),
        gaussian((4, 32, -80), (22, 16, 16), 0.05 * _SOFT),
        ellipsoid((72, 20, 130), (62, 60, 45), 0.04 * _SOFT),
    )


def _spine() -> Phantom:
    """Five lumbar vertebrae with a slight scoliosis, and an osteophyte on the left of the third."""
    shapes = []
    for level in range(5):
        center = (6 * np.sin(0.9 * level), -38 + 6 * np.sin(0.8 * level), 24 + 36 * level)
        tilt = _rotation(x_degrees=12 - 6 * level, y_degrees=5 * np.cos(0.9 * level))
        shapes += _vertebra(center, tilt, scale=1.0 - 0.03 * level)
    osteophyte = ellipsoid((-25, -20, 110), (4, 6, 5), _BONE)
    return (*shapes, osteophyte)


def _vertebra(center, tilt: jaxlie.SO3, scale: float) -> Phantom:
    def at(*offset):
        return _vector(center) + tilt.apply(scale * _vector(offset))

    def side(sign):
        return (
            ellipsoid(at(sign * 14, -24.5, 3), scale * _vector((5, 6.5, 6)), 0.7 * _BONE, tilt),
            rod(at(sign * 21, -33, 3), at(sign * 44, -37, 6), 4 * scale, 0.7 * _BONE),
        )

    return (
        cylinder(at(0, 0, 0), scale * _vector((25, 18, 13)), _BONE, tilt),
        cylinder(at(0, 0, 0), scale * _vector((23, 16, 11.5)), _MARROW, tilt),
        ellipsoid(at(0, -47, -5), scale * _vector((4, 16, 9)), 0.8 * _BONE, tilt),
        *side(1),
        *side(-1),
    )


def _sacrum() -> Phantom:
    """A shell that leans back, marrow in it, and three pairs of foramina in the marrow."""
    center, lean = _vector((2, -64, -38)), _rotation(x_degrees=-25)

    def foramen(x, z):
        return ellipsoid(center + lean.apply(_vector((x, 0, z))), (4, 9, 4), -0.2 * _BONE)

    return (
        ellipsoid(center, (46, 16, 46), _BONE, lean),
        ellipsoid(center, (43.5, 13.5, 43.5), _MARROW, lean),
        *(foramen(sign * 17, z) for sign in (-1, 1) for z in (-18, 0, 18)),
    )


def _hip(sign: float) -> Phantom:
    """Half of the pelvis and its femur; `sign` +1 is the patient's right, a little different."""
    adduction = 4.0 if sign > 0 else -3.0

    def at(x, y, z):
        return _vector((sign * x, y, z))

    flare = _rotation(y_degrees=sign * 12, z_degrees=sign * 32)
    head = at(88, 5, -86)
    neck_end = at(127, -2 - adduction, -119)
    neck = (neck_end - head) / jnp.linalg.norm(neck_end - head)
    shaft = at(130, -3, -140), at(118 - adduction, 2, -183)
    return (
        ellipsoid(at(95, -22, 10), (6, 46, 54), _BONE, flare),
        ellipsoid(at(95, -22, 10), (4, 44, 52), _MARROW, flare),
        ellipsoid(at(84, 4, -55), (25, 22, 4.5), 0.9 * _BONE, _rotation(y_degrees=sign * 18)),
        *shell(head, (23, 23, 23), 2.0, 0.8 * _BONE),
        ellipsoid(head, (21, 21, 21), 0.25 * _BONE),
        rod(head + 23.5 * neck, neck_end, 13, _BONE),
        rod(head + 23.5 * neck, neck_end, 10.5, _MARROW),
        ellipsoid(at(146, -10, -108), (8, 12, 14), 0.4 * _BONE),
        rod(*shaft, 15, _BONE),
        rod(*shaft, 9, -_BONE),
        rod(at(58, 27, -86), at(8, 49, -92), 7, 0.5 * _BONE),
        rod(at(9, 46, -108), at(40, 8, -136), 6, 0.5 * _BONE),
        ellipsoid(at(56, -16, -130), (12, 13, 24), 0.5 * _BONE, _rotation(x_degrees=-10)),
    )


def _cranium() -> Phantom:
    """The skull cap as a shell, the dense parts of the base, a calcified pineal gland."""
    return (
        *shell((0, -8, 25), (74, 92, 70), 6.0, _BONE),
        ellipsoid((32, -18, -12), (21, 8, 9), 0.9 * _BONE, _rotation(z_degrees=-38)),
        ellipsoid((-32, -19, -11), (20, 8, 8), 0.9 * _BONE, _rotation(z_degrees=42)),
        ellipsoid((0, 26, -17), (30, 20, 2.5), 0.8 * _BONE),
        box((0, -5, -20), (7, 3, 5), 0.8 * _BONE),
        ellipsoid((-3, -10, 32), (3, 2, 2), _BONE),
        gaussian((-22, 15, 35), (9, 20, 9), -0.02 * _SOFT),
        ellipsoid((56, -30, -39), (9, 12, 14), 0.6 * _BONE),
        ellipsoid((-56, -31, -37), (7, 10, 11), 0.6 * _BONE),
    )


def _face() -> Phantom:
    """Orbits, sinuses (the right one half filled), septum, palate, teeth with a gap, cheekbones."""

    def orbit(x):
        return shell((x, 66, -35), (19, 19, 19), 2.0, 0.7 * _BONE)

    def sinus(x, air):
        walls = shell((x, 58, -70), (13, 15, 14), 1.5, 0.8 * _BONE)
        return (*walls, ellipsoid((x, 58, -70), (11.5, 13.5, 12.5), -air * _SOFT))

    def tooth(x):
        return box((x, 66 - 0.03 * x**2, -95.5), (3, 3.5, 4), _BONE)

    def cheek(sign, thickness):
        return rod((sign * 49, 57, -53), (sign * 60, 15, -46), thickness, 0.9 * _BONE)

    return (
        *(shape for x in (32, -32) for shape in orbit(x)),
        *sinus(24, 0.4),
        *sinus(-24, 0.98),
        box((0, 68, -60), (1.5, 15, 22), 0.6 * _BONE),
        box((0, 55, -88), (24, 20, 2.5), 0.7 * _BONE),
        *(tooth(x) for x in (-20, -12, -4, 4, 20)),
        cheek(1, 4.0),
        cheek(-1, 3.6),
    )


def _mandible() -> Phantom:
    def half(sign, droop):
        return (
            rod((sign * 8, 59, -112), (sign * 42, 35, -105 - droop), 6, 0.6 * _BONE),
            rod((sign * 48, 26, -98 - droop), (sign * 50, 12, -54), 5, 0.7 * _BONE),
        )

    return (*half(1, 0.0), *half(-1, 3.0))


def _neck() -> Phantom:
    """C2 with its dens, to C5."""
    shapes = [rod((1, -12, -58), (1, -12, -49), 4, 0.8 * _BONE)]
    for level in range(4):
        x, y, z = 0.6 * level, -14 + 0.8 * level, -67 - 18 * level
        shapes += [
            cylinder((x, y, z), (13, 10, 7.5), 0.9 * _BONE),
            cylinder((x, y, z), (11.5, 8.5, 6.5), -0.5 * _BONE),
            ellipsoid((x, y - 40, z - 4), (4, 13, 5), 0.7 * _BONE),
        ]
    return tuple(shapes)
