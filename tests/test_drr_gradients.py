"""Derivatives of the renderers in float64, against central differences.

The trilinear field is continuous, but its slope jumps where a sample passes from cell to cell; the
march, Joseph and Siddon are all piecewise smooth. So a central difference is right unless a kink
lies between its two ends: with steps of 1e-6 that is rare, and the pixels where it happens are told
by one-sided differences that do not agree.
"""

import functools

import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
import pytest
from drr_oracles import random_volume, view

from jxreg import drr
from jxreg.camera import Camera
from jxreg.pose import perturb
from jxreg.volume import Volume

INTEGRATE = {"trilinear": drr.trilinear(), "siddon": drr.siddon(), "joseph": drr.joseph()}
KINDS = tuple(INTEGRATE)
PARAMETERS = 6 + 4 + 1
SHAPE = (7, 8, 6)


@pytest.fixture(autouse=True, scope="module")
def float64():
    with jax.enable_x64(True):
        yield


def scene():
    """A noise volume that fills the view, so that no pixel is on its silhouette alone."""
    return random_volume(SHAPE), *view((5, 6), width=60.0)


def image(kind, parameters, start, volume):
    """DRR from a twist, focal lengths, principal point, and SDD."""
    _, camera, pose = scene()
    twist, k, sdd = parameters[:6], parameters[6:10], parameters[10]
    pose = perturb(perturb(pose, start, jnp.zeros(3)), twist, jnp.zeros(3))
    zero = jnp.zeros(())
    intrinsic = jnp.stack(
        [
            jnp.stack([camera.intrinsic[0, 0] + k[0], zero, camera.intrinsic[0, 2] + k[1]]),
            jnp.stack([zero, camera.intrinsic[1, 1] + k[2], camera.intrinsic[1, 2] + k[3]]),
            jnp.array([0.0, 0.0, 1.0]),
        ]
    )
    # A detector further away with the same spacing: the focal length follows the SDD.
    scale = jnp.diag(jnp.stack([1 + sdd / camera.sdd, 1 + sdd / camera.sdd, jnp.ones(())]))
    focal = intrinsic.at[:2, :2].set(scale[:2, :2] @ intrinsic[:2, :2])
    moved = Camera(focal, camera.sdd + sdd, camera.image_size)
    return drr.render(volume, moved, pose, INTEGRATE[kind]).ravel()


@functools.partial(jax.jit, static_argnums=0)
def images(kind, parameters, start, volume):
    return jax.vmap(lambda p: image(kind, p, start, volume))(parameters)


@functools.partial(jax.jit, static_argnums=0)
def forward(kind, start, volume):
    return jax.jacfwd(lambda p: image(kind, p, start, volume))(jnp.zeros(PARAMETERS))


@functools.partial(jax.jit, static_argnums=0)
def reverse(kind, start, volume):
    return jax.jacrev(lambda p: image(kind, p, start, volume))(jnp.zeros(PARAMETERS))


def differences(kind, start, volume):
    """Central differences, and where the one-sided ones agree."""
    # Steps of 1e-5 mm at the patient: truncation about 1e-9, rounding 1e-10 of the slope.
    steps = np.array([1e-5] * 3 + [1e-7] * 3 + [1e-4, 1e-5, 1e-4, 1e-5, 1e-4])
    ends = np.concatenate([np.diag(steps), -np.diag(steps), np.zeros((1, PARAMETERS))])
    values = np.array(images(kind, jnp.asarray(ends), start, volume))
    plus, minus, here = values[:PARAMETERS], values[PARAMETERS:-1], values[-1]
    slope = (plus - minus) / (2 * steps[:, None])
    bend = np.abs(plus - 2 * here + minus) / steps[:, None]
    size = np.abs(slope).max(1, keepdims=True)
    return slope.T, (bend < 1e-4 * size).T


STARTS = {
    "here": np.zeros(6),
    "1e-7": np.array([1e-7, -1e-7, 1e-7, 1e-7, 1e-7, -1e-7]),
    "moved": np.array([1.7, -2.3, 4.1, 0.13, -0.21, 0.17]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", STARTS)
def test_pose_intrinsics_and_sdd_against_central_differences(kind, name):
    volume, start = scene()[0], jnp.asarray(STARTS[name])
    slope, smooth = differences(kind, start, volume)
    assert smooth.mean() > 0.95
    scale = np.abs(slope).max(0)
    assert (scale > 0).all()
    jacobian = np.array(forward(kind, start, volume))
    error = np.abs(jacobian - slope) / scale
    assert error[smooth].max() < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_forward_and_reverse_mode_agree(kind):
    volume, start = scene()[0], jnp.asarray(STARTS["moved"])
    a, b = forward(kind, start, volume), reverse(kind, start, volume)
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11 * np.abs(a).max())


def volume_loss(kind, mu, weights):
    volume, camera, pose = scene()
    shown = drr.render(Volume(mu, volume.affine, volume.isocenter), camera, pose, INTEGRATE[kind])
    return jnp.sum(weights * shown.ravel() ** 2)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_the_volume_against_central_differences(kind):
    """The loss is a square, so that its central difference is exact but for rounding."""
    rng = np.random.default_rng(5)
    mu = scene()[0].mu
    weights, direction = jnp.asarray(rng.normal(size=30)), jnp.asarray(rng.normal(size=SHAPE))

    @jax.jit
    def both(mu):
        loss = functools.partial(volume_loss, kind)
        gradient = jax.grad(loss)(mu, weights)
        along = [loss(mu + h * direction, weights) for h in (1e-4, -1e-4)]
        forward = jax.jvp(lambda m: loss(m, weights), (mu,), (direction,))[1]
        return gradient, (along[0] - along[1]) / 2e-4, forward

    gradient, difference, along = both(mu)
    assert float(jnp.vdot(gradient, direction)) == pytest.approx(float(difference), rel=1e-5)
    assert float(along) == pytest.approx(float(difference), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_lane_of_nan_does_not_touch_the_gradients_of_others(kind):
    volume, camera, pose = scene()

    def loss(wxyz_xyz):
        return drr.render(volume, camera, jaxlie.SE3(wxyz_xyz), INTEGRATE[kind]).sum()

    gradients = jax.jit(jax.vmap(jax.grad(loss)))
    lanes = jnp.stack([pose.wxyz_xyz, pose.wxyz_xyz.at[4].add(5.0), pose.wxyz_xyz])
    good = np.array(gradients(lanes))
    broken = np.array(gradients(lanes.at[2].set(jnp.nan)))
    assert np.isfinite(good).all()
    assert np.abs(good).max() > 0
    np.testing.assert_array_equal(broken[:2], good[:2])


def test_rays_that_miss_have_zero_gradient():
    volume, camera, pose = scene()
    aside = jaxlie.SE3.from_translation(jnp.array([0.0, 500.0, 0.0])) @ pose

    def loss(wxyz_xyz, kind):
        return drr.render(volume, camera, jaxlie.SE3(wxyz_xyz), INTEGRATE[kind]).sum()

    for kind in KINDS:
        gradient = jax.jit(jax.grad(loss), static_argnums=1)(aside.wxyz_xyz, kind)
        np.testing.assert_array_equal(gradient, 0)


def temporary_bytes(function, *arguments) -> int:
    analysis = jax.jit(jax.grad(function)).lower(*arguments).compile().memory_analysis()
    if analysis is None:
        pytest.skip("this backend does not tell how much memory it takes")
    return analysis.temp_size_in_bytes


def test_memory_of_the_gradients_does_not_grow_with_the_samples():
    """What a gradient needs is a few numbers a ray, besides the volume: not one a sample.

    The number of turns of the march is data, so a finer step cannot cost memory; what is checked
    is the total, which an unrolled or a recorded march would exceed.
    """
    volume = random_volume((40, 40, 40), np.diag([2.0, 2.0, 2.0, 1.0]))
    camera, pose = view((64, 64), width=160.0)

    def of_pose(wxyz_xyz, integrate):
        return (drr.render(volume, camera, jaxlie.SE3(wxyz_xyz), integrate) ** 2).sum()

    def of_volume(mu, integrate):
        changed = Volume(mu, volume.affine, volume.isocenter)
        return (drr.render(changed, camera, pose, integrate) ** 2).sum()

    rays, voxels = 64 * 64 * 8, volume.mu.nbytes
    for function, argument, volumes in ((of_pose, pose.wxyz_xyz, 0), (of_volume, volume.mu, 3)):
        coarse, fine = (
            temporary_bytes(functools.partial(function, integrate=drr.trilinear(step)), argument)
            for step in (1.0, 0.25)
        )
        assert fine <= 1.01 * coarse
        assert fine < 80 * rays + volumes * voxels  # a ray of 80 mm has 320 samples
