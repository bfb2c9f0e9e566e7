"""Makes a differentiable quadrature of what its samples are, for every kind of machine."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jxreg.drr import kernel
from jxreg.drr.accumulate import (
    Corners,
    Sample,
    Shape,
    Span,
    blocks,
    flat_load,
    image_by_image,
    loop,
    range_of,
    word_load,
)
from jxreg.drr.line import LineRays, March, Words

LARGEST_INDEX = 2**31


class Quadrature(NamedTuple):
    """One sample of every ray, written once for each way that a volume is stored."""

    plain: Sample
    """From the volume as it is."""
    packed: Sample
    """From its words, in their unit."""
    corners: Corners
    span: Span


def march(quadrature: Quadrature) -> March:
    """The sums, slopes and transpose of a quadrature."""

    def value(field, rays):
        return _sums(quadrature, field, rays, False)

    def moments(field, rays):
        return _sums(quadrature, field, rays, True)

    return March(value, moments, functools.partial(_scatter, quadrature))


def _sums(quadrature: Quadrature, field, rays: LineRays, moments: bool) -> Any:
    words = isinstance(field, Words)
    sample = quadrature.packed if words else quadrature.plain
    stored = field.packed.words if words else field
    shape = field.shape if words else field.shape[-3:]
    load = word_load if words else flat_load

    def on(machine):
        def sums(stored, rays, among):
            return machine(sample, load(stored), shape, rays, among, moments)

        return sums

    def on_cuda(stored, rays, _):
        return kernel.sums(sample, quadrature.span, shape, stored, rays, moments=moments)

    has_kernel = words and kernel.AVAILABLE and stored.size < LARGEST_INDEX
    machines = {"cpu": image_by_image(on(loop)), "default": on(blocks)}
    cuda = {"cuda": on_cuda} if has_kernel else {}
    sums = jax.custom_jvp(functools.partial(jax.lax.platform_dependent, **machines, **cuda))

    @sums.defjvp
    def second_derivatives(primals, tangents):  # neither a kernel nor a rule for batches has any
        plain = functools.partial(jax.lax.platform_dependent, cpu=on(loop), default=on(blocks))
        return jax.jvp(plain, primals, tangents)

    sums = sums(stored, rays, range_of(*quadrature.span(shape, rays)))
    return jax.tree.map(lambda x: x * field.packed.scale[:, None], sums) if words else sums


def _scatter(
    quadrature: Quadrature, cotangent: Float[Array, "c n"], rays: LineRays, shape: Shape
) -> Float[Array, "c x y z"]:
    """Gives what each ray carries back to the voxels that it sampled."""
    among = range_of(*quadrature.span(shape, rays))

    def turns(cotangent, rays, among):
        def body(k, mu):
            for index, weight in quadrature.corners(shape, rays, k):
                mu = mu.at[:, index].add(weight * cotangent)
            return mu

        size = shape[0] * shape[1] * shape[2]
        zeros = jnp.zeros((cotangent.shape[0], size), cotangent.dtype)
        return jax.lax.fori_loop(among.start, among.stop, body, zeros)

    cuda = {}
    size = cotangent.shape[0] * shape[0] * shape[1] * shape[2]
    if kernel.AVAILABLE and cotangent.dtype == jnp.float32 and size < LARGEST_INDEX:

        def on_cuda(cotangent, rays, _):
            return kernel.scatter(quadrature.corners, quadrature.span, shape, cotangent, rays)

        cuda = {"cuda": on_cuda}
    mu = jax.lax.platform_dependent(cotangent, rays, among, default=turns, **cuda)
    return mu.reshape(-1, *shape)
