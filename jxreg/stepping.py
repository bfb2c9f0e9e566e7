"""One batch after another on the devices: the compiled part of a training."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

from jxreg.errors import InputError
from jxreg.optimizer import OptimizerConfig, averaged, make_optimizer, rate_at

AXIS = "batch"
"""Name of the axis of devices that share a batch."""


Params = Any
"""A pytree of arrays."""
Loss = Callable[
    [Params, Key[Array, " batch"], Any, Float[Array, ""]],
    tuple[Float[Array, ""], dict[str, Float[Array, ""]]],
]


class Task(NamedTuple):
    """What is trained."""

    init: Callable[[PRNGKeyArray], Params]
    """Parameters of a key."""
    loss: Loss
    """Loss of a batch, and a dict of scalars to log: of parameters, keys (one a sample), the
    patient (a pytree of arrays), and the curriculum's level. All are means over the keys, so that
    the mean of two halves of a batch is that of the batch: a sample without weight counts as 0."""
    validate: Callable[[Params, Any], dict[str, Float[Array, ""]]]
    """Errors on the patient's fixed validation set, of parameters and patient."""


class Learner(NamedTuple):
    """What changes with every batch."""

    step: Int[Array, ""]
    params: Any
    average: Any
    """Exponential average of the parameters, or None."""
    optimizer: Any
    """State of the optimizer."""


class Tally(NamedTuple):
    """Sums over batches."""

    sums: dict[str, Float[Array, ""]]
    bad: Int[Array, ""]
    """Number of the first batch whose loss or gradient was not finite; -1 if there was none."""


class Machine(NamedTuple):
    """The compiled functions of a training."""

    begin: Callable[[Any], Learner]
    """Learner with these parameters, on all devices."""
    place: Callable[[Any], Any]
    """A patient, on all devices."""
    tally: Callable[[], Tally]
    """Nothing summed up yet."""
    advance: Callable[[Learner, Tally, Any, float, int], tuple[Learner, Tally]]
    """Some batches of one patient, at a level; the learner and the tally given are used up."""
    weights: Callable[[Learner], Any]
    """The parameters to validate and to export."""
    validate: Callable[[Any, Any], dict[str, Float[Array, ""]]]


class Plan(NamedTuple):
    """What decides what is compiled."""

    optimizer: OptimizerConfig
    steps: int
    batch: int
    seed: int


def compiled(task: Task, patient: Any, plan: Plan, loop: bool | None = None) -> Machine:
    """Prepares a training; functions compile when they are first called.

    Args:
        task: What is trained.
        patient: One of the patients; all have the same shapes.
        plan: What else matters.
        loop: Whether several batches run in one compiled loop; by default where it is no CPU.

    Raises:
        InputError: The batch cannot be shared out evenly.
    """
    devices = jax.local_devices()
    if plan.batch % len(devices):
        fix = f"take a multiple of {len(devices)} samples"
        raise InputError("batch", str(plan.batch), f"samples for {len(devices)} devices", fix)
    mesh = Mesh(np.array(devices), (AXIS,))
    update = functools.partial(_update, plan, _gradient(task, mesh))
    loop = jax.default_backend() != "cpu" if loop is None else loop

    def place(tree: Any) -> Any:
        return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))

    def begin(params: Any) -> Learner:
        average = jax.tree.map(jnp.copy, params) if plan.optimizer.average else None
        optimizer = make_optimizer(plan.optimizer, plan.steps).init(params)
        return place(Learner(jnp.int32(0), jax.tree.map(jnp.copy, params), average, optimizer))

    def tally() -> Tally:
        zeros = {name: jnp.zeros(each.shape, each.dtype) for name, each in kinds.items()}
        return place(Tally(zeros, jnp.int32(-1)))

    def one(learner: Learner, tally: Tally, patient: Any, level: Array) -> tuple[Learner, Tally]:
        learner, values, bad = update(learner, patient, level)
        first = jnp.where((tally.bad < 0) & bad, learner.step - 1, tally.bad)
        return learner, Tally(jax.tree.map(jnp.add, tally.sums, values), first)

    def several(learner: Learner, tally: Tally, patient: Any, level: Array, count: Array):
        def body(_, state):
            return one(state[0], state[1], patient, level)

        return jax.lax.fori_loop(0, count, body, (learner, tally))

    once = jax.jit(one, donate_argnums=(0, 1))
    many = jax.jit(several, donate_argnums=(0, 1))

    def advance(learner: Learner, tally: Tally, patient: Any, level: float, count: int):
        if loop:
            return many(learner, tally, patient, jnp.float32(level), jnp.int32(count))
        for _ in range(count):
            learner, tally = once(learner, tally, patient, jnp.float32(level))
        return learner, tally

    params = jax.eval_shape(task.init, jax.random.key(0))
    _, kinds, _ = jax.eval_shape(update, jax.eval_shape(begin, params), patient, jnp.ones(()))
    return Machine(begin, place, tally, advance, _weights, jax.jit(task.validate))


def _weights(learner: Learner) -> Any:
    return learner.params if learner.average is None else learner.average


def _gradient(task: Task, mesh: Mesh) -> Callable:
    """Values of a batch and the gradient of its loss, of parameters, keys, patient and level."""

    def here(params: Any, keys: Key[Array, " batch"], patient: Any, level: Array):
        (loss, values), gradient = jax.value_and_grad(task.loss, has_aux=True)(
            params, keys, patient, level
        )
        return {"loss": loss, **values}, gradient

    if mesh.size == 1:
        return here

    def mean(*arguments):
        return jax.lax.pmean(here(*arguments), AXIS)

    same, shared = PartitionSpec(), PartitionSpec(AXIS)
    return jax.shard_map(
        mean, mesh=mesh, in_specs=(same, shared, same, same), out_specs=same, check_vma=False
    )


def _update(
    plan: Plan, gradient: Callable, learner: Learner, patient: Any, level: Float[Array, ""]
) -> tuple[Learner, dict[str, Float[Array, ""]], Bool[Array, ""]]:
    """One batch: the learner after it, values to log, and whether anything was not finite."""
    import optax

    chain, config = make_optimizer(plan.optimizer, plan.steps), plan.optimizer
    key = jax.random.fold_in(jax.random.key(plan.seed), learner.step)
    values, slope = gradient(learner.params, jax.random.split(key, plan.batch), patient, level)
    norm = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(slope)))
    updates, optimizer = chain.update(slope, learner.optimizer, learner.params)
    params = optax.apply_updates(learner.params, updates)
    average = learner.average
    if average is not None:
        average = averaged(average, params, learner.step, config.average)
    rate = rate_at(config, plan.steps, learner.step)
    bad = ~(jnp.isfinite(values["loss"]) & jnp.isfinite(norm))
    values = {**values, "gradient": norm, "rate": rate}
    return Learner(learner.step + 1, params, average, optimizer), values, bad
