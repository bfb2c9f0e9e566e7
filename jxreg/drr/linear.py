"""A linear function with its transpose spelled out, under every transformation of JAX.

`jax.custom_derivatives.linear_call` does the same but cannot be batched (JAX 0.10).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, PyTree

Linear = Callable[..., Array]
"""(*residuals, operand) to an array, linear in the operand."""


def linear(forward: Linear, transposed: Linear, residuals: PyTree[Array], operand: Array) -> Array:
    """Applies `forward(residuals, operand)`, whose transpose is `transposed(residuals, cotangent)`.

    Batches of residuals with one operand have a transpose that sums over the batch, one item after
    another, so that its memory is that of one operand. Residuals are not differentiated.

    Args:
        forward: Linear in its second argument.
        transposed: Its transpose, linear in the second argument.
        residuals: What both depend on besides.
        operand: The array that `forward` is linear in.
    """
    leaves, tree = jax.tree.flatten(residuals)

    def flat(function):
        return lambda *items: function(jax.tree.unflatten(tree, items[:-1]), items[-1])

    return _linear.bind(*leaves, operand, forward=flat(forward), transposed=flat(transposed))


def _apply(*items, forward, transposed):
    return forward(*items)


def _shape(*items, forward, transposed):
    made = jax.eval_shape(forward, *[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in items])
    return ShapedArray(made.shape, made.dtype)


def _jvp(primals, tangents, *, forward, transposed):
    *residuals, _ = primals
    *others, tangent = tangents
    if any(type(t) is not ad.Zero for t in others):
        raise NotImplementedError("second derivatives in both the volume and the rays")
    out = _linear.bind(*primals, forward=forward, transposed=transposed)
    if type(tangent) is ad.Zero:
        return out, jnp.zeros_like(out)
    return out, _linear.bind(*residuals, tangent, forward=forward, transposed=transposed)


def _transpose(cotangent, *items, forward, transposed):
    *residuals, _ = items
    nothing = [None] * len(residuals)
    if type(cotangent) is ad.Zero:
        return [*nothing, None]
    back = _linear.bind(*residuals, cotangent, forward=transposed, transposed=forward)
    return [*nothing, back]


def _batch(items, axes, *, forward, transposed):
    *_, axis = axes
    many = jax.vmap(forward, in_axes=tuple(axes))

    def back(*items):
        if axis is not None:
            return jax.vmap(transposed, (*axes[:-1], 0), axis)(*items)
        (size,) = {x.shape[a] for x, a in zip(items, (*axes[:-1], 0), strict=True) if a is not None}

        def one(k):
            at = (*axes[:-1], 0)
            chosen = [
                x if a is None else jax.lax.dynamic_index_in_dim(x, k, a, keepdims=False)
                for x, a in zip(items, at, strict=True)
            ]
            return transposed(*chosen)

        start = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(one, 0))
        return jax.lax.fori_loop(0, size, lambda k, total: total + one(k), start)

    return _linear.bind(*items, forward=many, transposed=back), 0


_linear = Primitive("jxreg_linear")
_linear.def_impl(_apply)
_linear.def_abstract_eval(_shape)
mlir.register_lowering(_linear, mlir.lower_fun(_apply, multiple_results=False))
ad.primitive_jvps[_linear] = _jvp
ad.primitive_transposes[_linear] = _transpose
batching.primitive_batchers[_linear] = _batch
