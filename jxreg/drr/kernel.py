"""The marches as one kernel for NVIDIA GPUs: a block of rays walks together and keeps its sums.

The kernel is made of the same samples as the loop on a CPU; only loads and stores differ. It uses
the Triton backend of Pallas, of which JAX 0.11 says that it will go: without it (`AVAILABLE`) the
plain form runs on a GPU too.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

from jxreg.drr.accumulate import Corners, Sample, Shape, Span
from jxreg.drr.line import LineRays

try:
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    NEEDED = triton.load, triton.store, triton.atomic_add, triton.CompilerParams
except (ImportError, AttributeError):  # a JAX without this backend
    AVAILABLE = False
else:
    AVAILABLE = True

RAYS = 128
"""Rays of a block, one a thread of four warps."""


def sums(
    sample: Sample,
    span: Span,
    shape: Shape,
    words: UInt32[Array, "words c"],
    rays: LineRays,
    *,
    moments: bool,
    interpret: bool = False,
):
    """Sum over samples, and its moments (2, axes, c, n) if they are asked for.

    Args:
        sample: What to add up.
        span: Which samples a ray has.
        shape: Size of the grid.
        words: Where it reads.
        rays: The rays.
        moments: Whether to return (sum, moments) or the sum alone.
        interpret: Run without a GPU, to test.
    """
    (axes, count), dtype = rays.p.shape, rays.p.dtype
    channels = words.shape[1]
    inputs = _padded(rays, RAYS)
    wide = inputs[0].size // axes

    def run(words, p, q, extra, shared, *out):
        block, channel = pl.program_id(0), pl.program_id(1)
        mine = _rays(p, q, extra, shared, block, RAYS, wide)

        def body(k, sums):
            one = sample(lambda i: triton.load(words.at[i * channels + channel]), shape, mine, k)
            weighted = [one.s * slope for slope in one.slope]
            parts = (one.value, *one.slope, *weighted) if moments else (one.value,)
            return tuple(a + b for a, b in zip(sums, parts, strict=True))

        zeros = (jnp.zeros(RAYS, dtype),) * len(out)
        for store, total in zip(out, _over(span(shape, mine), body, zeros), strict=True):
            triton.store(store.at[pl.ds(channel * wide + block * RAYS, RAYS)], total)

    made = jax.ShapeDtypeStruct((channels * wide,), dtype)
    out = [made] * (1 + 2 * axes * moments)
    grid = wide // RAYS, channels
    total, *rest = (
        x.reshape(channels, wide)[:, :count]
        for x in _call(run, (words.ravel(), *inputs), out, grid, interpret)
    )
    return (total, jnp.stack(rest).reshape(2, axes, channels, count)) if moments else total


def scatter(
    corners: Corners,
    span: Span,
    shape: Shape,
    cotangent: Float[Array, "c n"],
    rays: LineRays,
    *,
    block_size: int = RAYS,
    interpret: bool = False,
) -> Float[Array, "c voxels"]:
    """Adds what each ray carries to the voxels that it sampled, by atomic additions.

    Args:
        corners: Voxels and weights of a sample.
        span: Which samples a ray has.
        shape: Size of the grid.
        cotangent: What each ray carries.
        rays: The rays.
        block_size: Rays of a block; interpreted, blocks of one are right (a larger one loses
            additions to the same voxel there).
        interpret: Run without a GPU, to test.
    """
    channels, size = cotangent.shape[0], shape[0] * shape[1] * shape[2]
    inputs = _padded(rays, block_size)
    wide = inputs[0].size // rays.p.shape[0]

    def run(_, cotangent, p, q, extra, shared, mu):
        block, channel = pl.program_id(0), pl.program_id(1)
        mine = _rays(p, q, extra, shared, block, block_size, wide)
        here = pl.ds(channel * wide + block * block_size, block_size)
        carried = triton.load(cotangent.at[here])

        def body(k, nothing):
            for index, weight in corners(shape, mine, k):
                triton.atomic_add(mu, (channel * size + index,), weight * carried)
            return nothing

        _over(span(shape, mine), body, 0)

    cotangent = jnp.pad(cotangent, ((0, 0), (0, wide - cotangent.shape[1]))).ravel()
    zeros = jnp.zeros(channels * size, cotangent.dtype)
    out = [jax.ShapeDtypeStruct(zeros.shape, zeros.dtype)]
    grid = wide // block_size, channels
    added = _call(run, (zeros, cotangent, *inputs), out, grid, interpret, {0: 0})[0]
    return added.reshape(channels, size)


def _call(run: Callable, inputs, out, grid: tuple[int, int], interpret: bool, aliases=None):
    anywhere = pl.BlockSpec(memory_space=pl.ANY)
    call = pl.pallas_call(
        run,
        out_shape=out,
        grid=grid,
        in_specs=[anywhere] * len(inputs),
        out_specs=[anywhere] * len(out),
        input_output_aliases=aliases or {},
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
    )
    return call(*inputs)


def _padded(rays: LineRays, size: int):
    """Rays to a multiple of the block by repeating the last one, flat, and the shared numbers."""

    def pad(x) -> Array:
        return jnp.pad(x, ((0, 0), (0, -x.shape[1] % size)), mode="edge").ravel()

    return pad(rays.p), pad(rays.q), pad(rays.extra), rays.shared


def _rays(p, q, extra, shared, block, size: int, wide: int) -> LineRays:
    """A block's rays, row by row, since what is loaded at once is a power of two numbers."""

    def rows(x):
        count = x.shape[0] // wide
        return tuple(triton.load(x.at[pl.ds(n * wide + block * size, size)]) for n in range(count))

    numbers = tuple(triton.load(shared.at[jnp.int32(n)]) for n in range(shared.shape[0]))
    return LineRays(rows(p), rows(q), rows(extra), numbers)  # type: ignore


def _over(span, body, start):
    first, stop = span
    return jax.lax.fori_loop(first.min(), stop.max(), body, start)
