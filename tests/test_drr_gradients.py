"""Derivatives of the renderers in float64, against central differences.

The trilinear field is continuous, but its slope jumps where a sample passes from cell to cell; the
march, Joseph and Siddon are all piecewise smooth. So a central difference is right unless a kink
lies between its two ends: with steps of 1e-6 that is rare, and the pixels where it happens are told
by one-sided differences that do not agree.
"""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
import pytest
from drr_oracles import INTEGRATE, KINDS, random_volume, view

from jxreg import drr
from jxreg.camera import Camera
from jxreg.pose import perturb
from jxreg.volume import Volume

PARAMETERS = 6 + 4 + 1
SHAPE = (7, 8, 6)


pytestmark = pytest.mark.usefixtures("float64")


def scene():
    """A noise volume that fills the view, so that no pixel is on its silhouette alone."""
    return random_volume(SHAPE), *view((5, 6), width=60.0)


@functools.partial(jax.jit, static_argnums=0)  # traced once for all transformations below
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
def reverse(kind, starts, volume):
    """Reverse mode, for a batch of poses."""

    def jacobian(start):
        return jax.jacrev(lambda p: image(kind, p, start, volume))(jnp.zeros(PARAMETERS))

    return jax.vmap(jacobian)(starts)


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
def test_reverse_mode_equals_forward_mode_beside_empty_and_broken_lanes(kind):
    """Rays that miss have a zero gradient, and a lane of NaN leaves the others as they are."""
    volume, start = scene()[0], jnp.asarray(STARTS["moved"])
    lanes = jnp.stack([start, start.at[1].add(500.0), start])
    good = np.array(reverse(kind, lanes, volume))
    expected = np.array(forward(kind, start, volume))
    np.testing.assert_allclose(good[0], expected, rtol=1e-9, atol=1e-11 * np.abs(expected).max())
    np.testing.assert_array_equal(good[1], 0)
    broken = np.array(reverse(kind, lanes.at[2].set(jnp.nan), volume))
    np.testing.assert_array_equal(broken[:2], good[:2])


@functools.partial(jax.jit, static_argnums=0)
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


def loss(kind, mu, start):
    volume = replace(scene()[0], mu=mu)
    return (image(kind, jnp.zeros(PARAMETERS), start, volume) ** 2).sum()


@pytest.fixture(scope="module")
def of_each():
    """By kind: volumes, poses, and the gradient of the volume for each alone."""
    mu, poses = scene()[0].mu, jnp.stack([jnp.asarray(STARTS[name]) for name in ("moved", "here")])
    volumes = jnp.stack([mu, mu**2 * 30])

    @functools.cache
    def of_kind(kind):
        one = jax.jit(jax.grad(functools.partial(loss, kind)))
        return volumes, poses, [[one(v, p) for p in poses] for v in volumes]

    return of_kind


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_the_volume_batch_over_poses_and_volumes(of_each, kind):
    volumes, poses, expected = of_each(kind)
    both = jax.jit(jax.vmap(jax.grad(functools.partial(loss, kind))))(volumes, poses)
    for found, alone in zip(both, (expected[0][0], expected[1][1]), strict=True):
        np.testing.assert_allclose(found, alone, rtol=1e-10, atol=1e-12)


def test_gradients_of_one_volume_batch_over_poses_and_add_up_over_views(of_each):
    """Rules for batches know nothing of what a sample is: one quadrature stands for all."""
    kind = "siddon"
    (mu, _), poses, (expected, _) = of_each(kind)
    of_pose = functools.partial(loss, kind)
    batch = jax.jit(jax.vmap(jax.grad(of_pose), (None, 0)))(mu, poses)
    np.testing.assert_allclose(batch, jnp.stack(expected), rtol=1e-10, atol=1e-12)
    summed = jax.jit(jax.grad(lambda mu: jax.vmap(of_pose, (None, 0))(mu, poses).sum()))
    np.testing.assert_allclose(summed(mu), sum(expected), rtol=1e-10, atol=1e-12)


def temporary_bytes(function, *arguments) -> int:
    analysis = jax.jit(jax.grad(function)).lower(*arguments).compile().memory_analysis()
    if analysis is None:
        pytest.skip("this backend does not tell how much memory it takes")
    return analysis.temp_size_in_bytes


def test_gradients_take_memory_by_the_ray_and_not_by_the_sample():
    """Less than one number for each of the 320 samples of a ray, besides copies of the volume."""
    volume = random_volume((40, 40, 40), np.diag([2.0, 2.0, 2.0, 1.0]))
    camera, pose = view((64, 64), width=160.0)

    def loss_of(mu, wxyz_xyz):
        changed = Volume(mu, volume.affine, volume.isocenter)
        shown = drr.render(changed, camera, jaxlie.SE3(wxyz_xyz), drr.trilinear(0.25))
        return (shown**2).sum()

    rays, voxels = 64 * 64 * 8, volume.mu.nbytes
    of_pose = functools.partial(loss_of, volume.mu)
    assert temporary_bytes(of_pose, pose.wxyz_xyz) < 128 * rays
    of_volume = functools.partial(loss_of, wxyz_xyz=pose.wxyz_xyz)
    assert temporary_bytes(of_volume, volume.mu) < 128 * rays + 3 * voxels
