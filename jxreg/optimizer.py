"""The optimizer of a training: Adam with a rate that warms up and decays, and clipped gradients."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

if TYPE_CHECKING:
    import optax


@dataclass(frozen=True)
class OptimizerConfig:
    """How weights follow the gradient. Counts are of batches, whatever `accumulate` says."""

    rate: float = 1e-3
    """Peak of the rate."""
    warmup: int = 100
    """Batches over which the rate rises from 0, linearly."""
    last: float = 0.0
    """Rate at the end as a fraction of the peak; a half cosine leads there."""
    clip: float = 0.01
    """Largest norm of a unit's gradient, as a fraction of the norm of its weights (adaptive
    gradient clipping, Brock et al., ICML 2021); 0 for none."""
    decay: float = 0.0
    """Weight decay, apart from the gradient (AdamW)."""
    accumulate: int = 1
    """Batches whose mean gradient makes one step."""
    average: float = 0.0
    """Decay, a batch, of the exponential average of the weights that is validated and exported; 0
    for the weights themselves."""


def rate_at(config: OptimizerConfig, steps: int, step: ArrayLike) -> Float[Array, ""]:
    """Learning rate of a batch: linear warm-up, then half a cosine.

    Args:
        config: Peak, warm-up and last rate.
        steps: Batches of the whole training.
        step: Number of the batch; 0 the first one, whose rate is above 0 already.
    """
    done = jnp.asarray(step, float) + 1
    rising = done / max(config.warmup, 1)
    share = jnp.clip((done - config.warmup) / max(steps - config.warmup, 1), 0.0, 1.0)
    falling = config.last + (1 - config.last) * 0.5 * (1 + jnp.cos(jnp.pi * share))
    return config.rate * jnp.minimum(rising, falling)


def make_optimizer(config: OptimizerConfig, steps: int) -> "optax.GradientTransformation":
    """The chain: clip, Adam, decay, rate; accumulated over batches if asked to.

    Args:
        config: What to chain.
        steps: Batches of the whole training.
    """
    import optax

    each = config.accumulate
    links = [optax.adaptive_grad_clip(config.clip)] if config.clip else []
    links.append(optax.scale_by_adam())
    if config.decay:
        links.append(optax.add_decayed_weights(config.decay))
    links.append(
        optax.scale_by_learning_rate(lambda step: rate_at(config, steps, step * each + each - 1))
    )
    chain = optax.chain(*links)
    if each == 1:
        return chain
    return optax.MultiSteps(chain, each).gradient_transformation()


def averaged(average: Any, params: Any, step: Int[Array, ""], decay: float) -> Any:
    """The exponential average of weights after one more batch.

    In the first batches the decay is lower, (1 + n) / (10 + n), so that the average does not keep
    weights of the start.
    """
    n = step.astype(float)
    now = 1 - jnp.minimum(decay, (1 + n) / (10 + n))
    return jax.tree.map(lambda a, p: a + now.astype(a.dtype) * (p - a), average, params)
