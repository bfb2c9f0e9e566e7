"""The kernel for GPUs: equal to the loop where it is interpreted, and lowered where it is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drr_oracles import random_volume, view

from jxreg import drr
from jxreg.drr import kernel, marching, slicing
from jxreg.drr.accumulate import blocks, flat_load, loop, range_of, word_load
from jxreg.pose import perturb
from jxreg.volume import Volume, prepared

SHAPE = (9, 11, 7)
QUADRATURES = {"joseph": slicing.JOSEPH, "trilinear": marching.TRILINEAR}


def captured(kind, monkeypatch, volume, camera, pose):
    """The rays that a quadrature makes of a view."""
    module = {"joseph": slicing, "trilinear": marching}[kind]
    taken = []

    def take(march, mu, rays, packed=None):
        taken.append(rays)
        return jnp.zeros((mu.shape[0], rays.p.shape[1]))

    @jax.jit  # rather than each operation for itself
    def rays_of(volume, camera, pose):
        drr.render(volume, camera, pose, getattr(drr, kind)())
        return taken[0]

    monkeypatch.setattr(module, "line_sum", take)
    rays = rays_of(volume, camera, pose)
    monkeypatch.undo()
    return rays


def scene(channel_count=1):
    volume = random_volume(SHAPE)
    mu = jnp.abs(jnp.stack([volume.mu * (1 + i) for i in range(channel_count)]))
    volume = prepared(Volume(mu, volume.affine, volume.isocenter))
    return volume, *view((9, 17), width=60.0)  # 153 rays: not a multiple of the block


@pytest.mark.parametrize("kind", QUADRATURES)
def test_interpreted_kernel_equals_the_loop(kind, monkeypatch):
    volume, camera, pose = scene(2)
    rays = captured(kind, monkeypatch, volume, camera, pose)
    q, words = QUADRATURES[kind], volume.packed.words
    among = range_of(*q.span(SHAPE, rays))
    expected = loop(q.packed, word_load(words), SHAPE, rays, among, True)
    found = kernel.sums(q.packed, q.span, SHAPE, words, rays, moments=True, interpret=True)
    alone = kernel.sums(q.packed, q.span, SHAPE, words, rays, moments=False, interpret=True)
    for a, b in zip(found, expected, strict=True):
        # The same operations in another order: a few roundings of the largest sum.
        np.testing.assert_allclose(a, b, atol=2e-6 * float(jnp.abs(b).max()))
    np.testing.assert_array_equal(alone, found[0])


def test_interpreted_kernel_takes_batches(monkeypatch):
    volume, camera, pose = scene()
    rays = captured("joseph", monkeypatch, volume, camera, pose)
    q, words = QUADRATURES["joseph"], volume.packed.words
    shifts = jnp.array([0.0, 0.7, -1.3])

    def shifted(shift):
        moved = rays._replace(p=rays.p + shift)
        return kernel.sums(q.packed, q.span, SHAPE, words, moved, moments=False, interpret=True)

    together, apart = jax.vmap(shifted)(shifts), jnp.stack([shifted(s) for s in shifts])
    np.testing.assert_array_equal(together, apart)


@pytest.mark.parametrize("kind", QUADRATURES)
def test_sums_by_blocks_equal_the_loop(kind, monkeypatch):
    volume, camera, pose = scene(2)
    rays = captured(kind, monkeypatch, volume, camera, pose)
    q = QUADRATURES[kind]
    among = range_of(*q.span(SHAPE, rays))
    packed, plain = word_load(volume.packed.words), flat_load(volume.mu)
    for sample, load in ((q.packed, packed), (q.plain, plain)):
        expected = loop(sample, load, SHAPE, rays, among, True)
        found = blocks(sample, load, SHAPE, rays, among, True)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-6 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("channel_count", [1, 2])
@pytest.mark.parametrize("kind", QUADRATURES)
def test_interpreted_scatter_is_the_transpose(kind, channel_count, monkeypatch):
    volume, camera, pose = scene(channel_count)
    rays = captured(kind, monkeypatch, volume, camera, pose)
    q = QUADRATURES[kind]
    few = rays._replace(p=rays.p[:, ::13], q=rays.q[:, ::13], extra=rays.extra[:, ::13])
    size = (channel_count, few.p.shape[1])
    cotangent = jnp.asarray(np.random.default_rng(0).normal(size=size), jnp.float32)
    # Interpreted, an atomic addition forgets equal indices within a block: blocks of one ray.
    found = kernel.scatter(q.corners, q.span, SHAPE, cotangent, few, block_size=1, interpret=True)
    expected = drr.quadrature.march(q).transpose(cotangent, few, SHAPE)
    expected = expected.reshape(channel_count, -1)
    np.testing.assert_allclose(found, expected, atol=1e-6 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize("kind", ["joseph", "trilinear", "siddon"])
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_lowers_for_an_accelerator(kind, platform):
    volume, camera, pose = scene()

    def value_and_gradients(mu, twist):
        moved = perturb(pose, twist, volume.isocenter)
        image = drr.render(volume, camera, moved, getattr(drr, kind)())
        other = drr.render(
            Volume(mu, volume.affine, volume.isocenter), camera, moved, getattr(drr, kind)()
        )
        return (image**2).sum() + (other**2).sum()

    function = jax.jit(jax.value_and_grad(value_and_gradients, argnums=(0, 1)))
    lowered = function.trace(volume.mu, jnp.zeros(6)).lower(lowering_platforms=(platform,))
    has_kernel = "__gpu$xla.gpu.triton" in lowered.as_text()
    assert has_kernel == (platform == "cuda" and kind != "siddon")


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_a_batch_lowers_for_an_accelerator(platform):
    volume, camera, pose = scene()

    def image(twist):
        return drr.render(volume, camera, perturb(pose, twist, volume.isocenter), drr.joseph())

    batch = jax.jit(jax.vmap(jax.jacfwd(image)))
    batch.trace(jnp.zeros((3, 6))).lower(lowering_platforms=(platform,))


@pytest.mark.gpu
@pytest.mark.parametrize("channel_count", [1, 2])
@pytest.mark.parametrize("kind", [*QUADRATURES, "siddon"])
def test_on_a_gpu_equals_the_cpu(kind, channel_count):
    volume, camera, pose = scene(channel_count)

    def both(volume, twist):
        def image(mu, twist):
            moved = perturb(pose, twist, volume.isocenter)
            seen = volume if mu is None else Volume(mu, volume.affine, volume.isocenter)
            return drr.render(seen, camera, moved, getattr(drr, kind)())

        by_mu = jax.grad(lambda mu: (image(mu, twist) ** 2).sum())(volume.mu)
        return image(None, twist), jax.jacfwd(image, 1)(None, twist), by_mu

    twists = jnp.asarray(np.random.default_rng(1).normal(size=(3, 6)) * 0.01, jnp.float32)
    results = []
    for device in (jax.devices("gpu")[0], jax.devices("cpu")[0]):
        placed = jax.device_put((volume, twists), device)
        results.append(jax.jit(jax.vmap(both, in_axes=(None, 0)))(*placed))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()))
