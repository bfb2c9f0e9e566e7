"""Sums of samples along rays, and of their slopes, in the form that each kind of machine likes.

A quadrature says what one sample of every ray is; here the samples are added up. On a CPU that is
a loop over samples with all rays in it: XLA fuses arithmetic and loads into one pass without
intermediates, but writes only one array a pass, so two real moments ride in one complex number.
Elsewhere a block of samples is loaded and summed at once, since each turn of a loop is a launch.
"""

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, UInt32

from jxreg.drr.line import LineRays

UNROLL = 4  # samples a loop turn: fewer turns, and enough work in each for XLA to use all cores
BLOCK = 32  # samples summed at once where launches cost
LARGE = 8192  # rays of an image from which on a loop over a batch is faster image by image
Load = Callable[[Int[Array, "..."]], Array]
"""What is stored at flat indices; channels, if any, become the first axis."""
Shape = tuple[int, ...]
"""Voxels along x, y and z."""


class Sampled(NamedTuple):
    """One sample of every ray."""

    value: Array
    slope: tuple[Array, ...]
    """Its derivatives with respect to the components of p."""
    s: Array
    """Coordinate along the ray: a component of q counts as s times that of p."""


Sample = Callable[[Load, Shape, LineRays, Array], Sampled]
"""Sample number k (any shape that broadcasts against rays) of a field of some shape."""
Corners = Callable[[Shape, LineRays, Array], Iterable[tuple[Array, Array]]]
"""Flat index and weight of each voxel that sample k is made of."""
Span = Callable[[Shape, LineRays], tuple[Array, Array]]
"""First sample, and one past the last, of each ray."""


class Range(NamedTuple):
    """The samples that any ray has."""

    start: Int[Array, ""]
    stop: Int[Array, ""]


def range_of(first: Int[Array, " n"], stop: Int[Array, " n"]) -> Range:
    """The union of the rays' samples; of a batch, that of all its items.

    So a batch shares one loop, in which nothing has to ask who is still going.
    """
    return Range(-_largest(-first), _largest(stop))


@jax.custom_batching.custom_vmap
def _largest(x: Int[Array, " n"]) -> Int[Array, ""]:
    return x.max(initial=jnp.iinfo(x.dtype).min)


@_largest.def_vmap
def _largest_of_batch(size, batched, x):
    return _largest(x.ravel()), False


def flat_load(field: Array) -> Load:
    """Loads from arrays with channels, indices in range; (c, ...) to (c, *index)."""
    flat = field.reshape(field.shape[0], -1)
    return lambda index: flat.at[:, index].get(
        mode="promise_in_bounds", wrap_negative_indices=False
    )


def word_load(words: UInt32[Array, "words c"]) -> Load:
    """Loads from words whose channels are neighbours."""

    def load(index):
        places = index[..., None]  # one number would become a slice, which XLA does not fuse
        found = words.at[places].get(mode="promise_in_bounds", wrap_negative_indices=False)
        return jnp.moveaxis(found[..., 0, :], -1, 0)

    return load


def loop(sample: Sample, load: Load, shape: Shape, rays: LineRays, among: Range, moments: bool):
    """All sums by a loop over samples: value, and pairs (slope, s slope) as complex numbers.

    A ray's channels are neighbours in the loop's arrays and share its arithmetic: a march of three
    takes 1.2 times as long as one, where a row of rays for each channel takes 1.5 times or more.
    """

    @functools.partial(jax.vmap, in_axes=(-1, -1, -1, None))
    def of_each(p, q, extra, k):
        one = sample(load, shape, LineRays(p, q, extra, rays.shared), k)
        pairs = tuple(jax.lax.complex(g, one.s * g) for g in one.slope) if moments else ()
        return one.value, *pairs

    parts = functools.partial(of_each, rays.p, rays.q, rays.extra)

    def body(turn, sums):
        k = among.start + turn * UNROLL
        many = [parts(k + j) for j in range(UNROLL)]
        return tuple(
            a + functools.reduce(jnp.add, b)
            for a, b in zip(sums, zip(*many, strict=True), strict=True)
        )

    made = jax.eval_shape(parts, among.start)
    zeros = tuple(jnp.zeros(x.shape, x.dtype) for x in made)
    turns = (among.stop - among.start + UNROLL - 1) // UNROLL
    total, *pairs = (x.T for x in jax.lax.fori_loop(0, turns, body, zeros))
    return (
        (total, jnp.stack([jnp.stack([f(x) for x in pairs]) for f in (jnp.real, jnp.imag)]))
        if moments
        else total
    )


def image_by_image(sums: Callable) -> Callable:
    """Sums whose batch, if the images are large, is a loop over them.

    One loop over samples for all images at once takes 1.4 to 1.8 times as long on a CPU (128 and
    200 pixels a side); that of small images is the faster one, since it has work for all cores.
    """
    one = jax.custom_batching.custom_vmap(sums)

    @one.def_vmap
    def _batch(size, batched, stored, rays: LineRays, among: Range):
        arguments, tree = jax.tree.flatten((stored, rays, among))
        moving = jax.tree.leaves(batched)

        def item(parts):
            left = iter(parts)
            mine = [next(left) if m else x for m, x in zip(moving, arguments, strict=True)]
            return one(*jax.tree.unflatten(tree, mine))

        parts = [x for m, x in zip(moving, arguments, strict=True) if m]
        if rays.p[0].shape[-1] >= LARGE:
            made = jax.lax.map(item, parts)
        else:
            axes = jax.tree.unflatten(tree, [0 if m else None for m in moving])
            made = jax.vmap(sums, axes, axis_size=size)(stored, rays, among)
        return made, jax.tree.map(lambda _: True, made)

    return one


def blocks(sample: Sample, load: Load, shape: Shape, rays: LineRays, among: Range, moments: bool):
    """The same sums, a block of samples at a time."""

    def parts(k):
        one = sample(load, shape, rays, k[:, None])
        if not moments:
            return (one.value.sum(-2),)
        plain = jnp.stack([g.sum(-2) for g in one.slope])
        weighted = jnp.stack([(one.s * g).sum(-2) for g in one.slope])
        return one.value.sum(-2), jnp.stack([plain, weighted])

    def body(turn, sums):
        k = among.start + turn * BLOCK + jnp.arange(BLOCK, dtype=jnp.int32)
        return jax.tree.map(jnp.add, sums, parts(k))

    made = jax.eval_shape(parts, jnp.arange(BLOCK, dtype=jnp.int32))
    zeros = tuple(jnp.zeros(x.shape, x.dtype) for x in made)
    turns = (among.stop - among.start + BLOCK - 1) // BLOCK
    sums = jax.lax.fori_loop(0, turns, body, zeros)
    return sums if moments else sums[0]
