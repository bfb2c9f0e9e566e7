"""A rig of cameras and bodies: what its parameters mean."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxlie import SE3
from moving_bodies import CAMERA, camera_at

from jxreg.alignment import Prior
from jxreg.camera import project_points
from jxreg.pose import perturb
from jxreg.rig import Geometry, body_of, motion_of, rig_of, with_lens

PIVOTS = jnp.array([[-20.0, 0, 0], [20.0, 5, 0]])


def rig():
    tilted = perturb(SE3.identity(), jnp.array([1.0, 2, 3, 0.1, 0.2, 0.3]), PIVOTS[1])
    return rig_of((SE3.identity(), tilted), (camera_at(0.0), camera_at(90.0)))


def test_a_lens_stretches_about_the_shifted_principal_point():
    changed = with_lens(CAMERA, jnp.array([jnp.log(1.1), 6.0, -3.0]))
    point = jnp.array([[30.0, -12.0, 700.0]])
    before, after = (project_points(c, SE3.identity(), point)[0] for c in (CAMERA, changed))
    centre = CAMERA.intrinsic[:2, 2]
    shift = jnp.array([2.0, -1.0])  # pixels of 3 mm
    np.testing.assert_allclose(after - centre - shift, 1.1 * (before - centre), rtol=1e-4)
    np.testing.assert_allclose(changed.sdd, 1100.0, rtol=1e-5)


def test_a_step_moves_each_part_alone():
    geometry = Geometry(cameras=Prior(1.0, 1.0, 0.01), sdd=0.01)
    start = rig()
    motion = motion_of(start, PIVOTS, geometry)
    assert motion.scale.shape == (6 * 4 + 2,)  # two bodies, two cameras, two SDDs
    step = jnp.zeros(26).at[6:12].set(jnp.array([1.0, 0, 0, 0, 0.1, 0])).at[25].set(0.02)
    moved = jax.jit(motion.move)(start, step)
    same = body_of(moved, 0).inverse() @ body_of(start, 0)
    np.testing.assert_allclose(same.as_matrix(), np.eye(4), atol=1e-6)
    way = body_of(moved, 1).apply(PIVOTS[1]) - body_of(start, 1).apply(PIVOTS[1])
    np.testing.assert_allclose(way[1:], [0, 0], atol=0.06)  # exp bends the way a little
    np.testing.assert_allclose(way[0], 1.0, atol=0.01)
    np.testing.assert_allclose(moved.cameras.wxyz_xyz, start.cameras.wxyz_xyz, atol=1e-4)
    np.testing.assert_allclose(moved.lens, [[0, 0, 0], [0.02, 0, 0]])


def test_what_is_known_has_no_parameters():
    assert motion_of(rig(), PIVOTS, Geometry()).scale.shape == (12,)


def test_the_first_order_of_a_step_is_its_derivative():
    geometry = Geometry(cameras=Prior(1.0, 1.0, 0.01), principal_point=1.0)
    start = rig()
    motion = motion_of(start, PIVOTS, geometry)
    point = jnp.array([5.0, -7.0, 11.0])

    def seen(how, step):
        at = how(start, step)
        last = SE3(at.cameras.wxyz_xyz[1]) @ SE3(at.bodies.wxyz_xyz[1])
        return last.apply(point)

    columns = [
        jax.jit(jax.jacfwd(lambda step, how=how: seen(how, step)))(jnp.zeros(28))
        for how in (motion.move, motion.nudge)
    ]
    assert float(jnp.abs(columns[0]).max()) > 1
    np.testing.assert_allclose(columns[1], columns[0], atol=2e-3)  # mm a radian, of some 20
