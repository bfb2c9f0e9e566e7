"""The engine that trains every network: one loop over a `Task`, resumable to the last bit.

A task is three functions; what differs between DiffPose, xvr, PSSS, LXPose and our own network is
in them (`jxreg.recipes`). All randomness of a batch comes from the seed and the batch's number, and
everything else that a next batch depends on is in the checkpoint. So a training that was killed and
goes on ends with the same weights as one that ran through, on the same machine and versions (on a
GPU with `XLA_FLAGS=--xla_gpu_deterministic_ops=true`).

On a CPU every batch is one call of a compiled function: convolutions inside a compiled loop are
many times slower there (a limitation of XLA). Calls are queued, so that the device does not wait
for Python. Elsewhere a compiled loop runs through a block of batches.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jxreg.curriculum import Curriculum, level_of, stage_at
from jxreg.errors import InputError
from jxreg.io.checkpoint import (
    keep_only,
    list_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from jxreg.io.train_folder import CHECKPOINTS, LOG, claim, resume
from jxreg.io.train_log import append, truncate
from jxreg.optimizer import OptimizerConfig
from jxreg.stepping import Learner, Machine, Plan, Task, compiled

__all__ = ["Fitted", "Standing", "Task", "TrainConfig", "check_alike", "fit"]


@dataclass(frozen=True)
class TrainConfig:
    """How long and how a task is trained."""

    steps: int = 2000
    """Batches."""
    batch: int = 16
    """Samples of a batch, shared out over the devices."""
    optimizer: OptimizerConfig = OptimizerConfig()
    curriculum: Curriculum = Curriculum()
    validate_every: int = 200
    """Batches between validations; after each a checkpoint is written."""
    metric: str = "mtre"
    """What the validation is judged by; lower is better."""
    keep: Literal["best", "last"] = "best"
    """Which weights are the result."""
    patience: int = 0
    """Validations in a row without a better one after which the training ends; 0 for never."""
    gain: float = 0.0
    """How much better a validation has to be to count for `patience` [unit of the metric]."""
    block: int = 20
    """Batches between lines of the log, and at most in one compiled loop."""
    switch: int = 1
    """Batches in a row of one patient, where there are several."""
    seed: int = 0


class Standing(NamedTuple):
    """What is known of a training so far; part of the checkpoint."""

    step: int
    """Batches done."""
    best: float
    """Best value of the metric so far."""
    best_step: int
    """Where that was; 0 before the first validation."""
    mark: float
    """The value that the next one has to be better than by `gain`."""
    stale: int
    """Validations since the mark was set, or a new level came."""
    stage: int
    """Of the curriculum."""


FRESH = Standing(0, np.inf, 0, np.inf, 0, 0)


class Fitted(NamedTuple):
    """What a training has made."""

    params: Any
    """The weights to use, as arrays of NumPy: the best or the last, averaged if asked to."""
    standing: Standing
    seconds: float
    """Time it took, earlier parts of it included [s]."""


def fit(
    task: Task,
    patients: Sequence[Any],
    config: TrainConfig,
    *,
    folder: Path | None = None,
    start: Any = None,
    identity: Mapping[str, Any] | None = None,
    report: Callable[[Mapping[str, Any]], None] = lambda entry: None,
) -> Fitted:
    """Trains, or goes on where a training in the folder was stopped.

    Args:
        task: What is trained.
        patients: Arguments for its loss, pytrees of arrays of the same shapes (`synthesis.padded`);
            a batch is of one patient, drawn at random.
        config: How.
        folder: Where checkpoints, `run.json` and `log.jsonl` go; None for nowhere.
        start: Parameters of another training to begin with (finetuning).
        identity: What else the training depends on, for JSON: a folder that holds a training with
            another one is refused.
        report: Gets every entry of the log.

    Raises:
        InputError: The configuration is impossible, the parameters to start with are of another
            network, patients differ in shape, or the folder holds another training.
        FloatingPointError: The loss or its gradient became NaN or infinite; the checkpoints of
            before are kept.
    """
    _check(config, patients)
    plan = Plan(config.optimizer, config.steps, config.batch, config.seed)
    machine = compiled(task, patients[0], plan)
    learner, standing, before = machine.begin(_started(task, config, start)), FRESH, 0.0
    if folder is not None:
        claim(folder, {"config": asdict(config), "identity": dict(identity or {})})
        learner, standing, before = _resumed(folder, learner)
    patients = [machine.place(patient) for patient in patients]
    begun, best = time.perf_counter() - before, None

    def note(entry: dict) -> None:
        entry = entry | {"seconds": time.perf_counter() - begun}
        if folder is not None:
            append(folder / LOG, entry)
        report(entry)

    while standing.step < config.steps and not _stalled(config, standing):
        learner, standing, entry = _stretch(machine, learner, standing, patients, config)
        note(entry)
        if standing.step % config.validate_every and standing.step < config.steps:
            continue
        values = _validated(machine, learner, patients)
        standing = _judged(standing, values[config.metric], config)
        better = standing.best_step == standing.step
        best = jax.device_get(machine.weights(learner)) if better else best
        note({"step": standing.step, "validation": values, "best": better})
        if folder is not None:
            _save(folder, learner, standing, time.perf_counter() - begun)
    if config.keep == "last":
        best = jax.device_get(machine.weights(learner))
    elif best is None and folder is not None:  # it was found before the training was stopped
        best = jax.device_get(machine.weights(_read(folder, standing.best_step, learner)))
    return Fitted(best, standing, time.perf_counter() - begun)


def _stretch(
    machine: Machine, learner: Learner, standing: Standing, patients: list, config: TrainConfig
) -> tuple[Learner, Standing, dict[str, Any]]:
    """Trains to the next multiple of `block` or `validate_every`, whichever comes first."""
    first, begun = standing.step, time.perf_counter()
    nearest = ((first // n + 1) * n for n in (config.block, config.validate_every))
    end = min(*nearest, config.steps)
    stage = max(standing.stage, stage_at(config.curriculum, first / config.steps))
    level = level_of(config.curriculum, stage)
    tally, step = machine.tally(), first
    while step < end:
        whose, count = _turn(step, end, len(patients), config)
        learner, tally = machine.advance(learner, tally, patients[whose], level, count)
        step += count
    sums, bad = jax.device_get(tally)
    if bad >= 0:
        raise FloatingPointError(
            f"the loss or its gradient is not finite in batch {bad + 1}; the checkpoints of before "
            "are kept; a lower rate, more warm-up or stronger clipping may help"
        )
    entry = {"step": end} | {name: float(total) / (end - first) for name, total in sums.items()}
    speed = (end - first) * config.batch / (time.perf_counter() - begun)
    entry |= {"level": level, "frames_per_s": speed}
    stale = standing.stale if stage == standing.stage else 0
    return learner, standing._replace(step=end, stage=stage, stale=stale), entry


def _turn(step: int, end: int, patients: int, config: TrainConfig) -> tuple[int, int]:
    """Whose turn it is at a batch, and for how many batches."""
    if patients == 1:
        return 0, end - step
    turn = step // config.switch
    drawn = np.random.default_rng([config.seed, turn]).integers(patients)
    return int(drawn), min((turn + 1) * config.switch, end) - step


def _validated(machine: Machine, learner: Learner, patients: list) -> dict[str, float]:
    """Mean over the patients of each value of the validation."""
    weights = machine.weights(learner)
    each = [jax.device_get(machine.validate(weights, patient)) for patient in patients]
    means = {name: np.mean([values[name] for values in each]) for name in each[0]}
    return {name: float(np.float32(mean)) for name, mean in means.items()}


def _judged(standing: Standing, value: float, config: TrainConfig) -> Standing:
    """What is known after a validation."""
    if value < standing.best or standing.best_step == 0:
        standing = standing._replace(best=value, best_step=standing.step)
    if value < standing.mark - config.gain:
        return standing._replace(mark=value, stale=0)
    standing = standing._replace(stale=standing.stale + 1)
    curriculum = config.curriculum
    if standing.stage < curriculum.stages - 1 and 0 < curriculum.patience <= standing.stale:
        return standing._replace(stage=standing.stage + 1, stale=0)
    return standing


def _stalled(config: TrainConfig, standing: Standing) -> bool:
    last = standing.stage >= config.curriculum.stages - 1
    return last and 0 < config.patience <= standing.stale


def _save(folder: Path, learner: Learner, standing: Standing, seconds: float) -> None:
    """Writes a checkpoint, and keeps the one before it and the best one besides."""
    kept = folder / CHECKPOINTS
    save_checkpoint(kept, standing.step, (learner, _stored(standing)), seconds)
    latest = [each.step for each in list_checkpoints(kept)][:2]
    keep_only(kept, {*latest, standing.best_step})


def _resumed(folder: Path, learner: Learner) -> tuple[Learner, Standing, float]:
    """Where a training was stopped; what it did after its last checkpoint is forgotten."""
    kept, standing, seconds = folder / CHECKPOINTS, FRESH, 0.0
    found = resume(kept, (learner, _stored(FRESH)))
    if found is not None:
        (learner, stored), checkpoint = found
        standing = Standing(*(leaf.item() for leaf in stored))
        seconds = checkpoint.seconds
    keep_only(kept, {each.step for each in list_checkpoints(kept) if each.step <= standing.step})
    truncate(folder / LOG, standing.step)
    return learner, standing, seconds


def _read(folder: Path, step: int, learner: Learner) -> Learner:
    """The learner of an earlier checkpoint."""
    kept = folder / CHECKPOINTS
    checkpoint = next(each for each in list_checkpoints(kept) if each.step == step)
    return load_checkpoint(kept, checkpoint, (learner, _stored(FRESH)))[0]


def _stored(standing: Standing) -> Standing:
    """As arrays. Values of the metric are rounded to float32 already, so that nothing is lost."""
    return jax.tree.map(lambda v: np.asarray(v, (np.int32, np.float32)[type(v) is float]), standing)


def _started(task: Task, config: TrainConfig, start: Any) -> Any:
    """Parameters to begin with: fresh ones, or those given if they are of this network."""
    key = jax.random.fold_in(jax.random.key(config.seed), config.steps)  # no batch has this one
    if start is None:
        return jax.jit(task.init)(key)
    check_alike(jax.eval_shape(task.init, key), start)
    return start


def check_alike(expected: Any, found: Any, subject: str = "parameters to start with") -> None:
    """Refuses parameters of another network.

    Args:
        expected: Parameters, or their shapes.
        found: Parameters.
        subject: Where they come from, for errors.

    Raises:
        InputError: It names the first array that differs.
    """
    ours, theirs = (
        {jax.tree_util.keystr(path): (leaf.shape, str(leaf.dtype)) for path, leaf in leaves}
        for leaves in map(jax.tree_util.tree_leaves_with_path, (expected, found))
    )
    differing = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    if differing:
        name, fix = differing[0], "take the recipe and options that it was trained with"
        count = f"{len(differing)} arrays differ, the first is {name}"
        found_, wanted = (str(each.get(name, "none")) for each in (theirs, ours))
        raise InputError(subject, f"{count}: {found_}", wanted, fix)


def _check(config: TrainConfig, patients: Sequence[Any]) -> None:
    def refuse(subject: str, found: Any, expected: str):
        raise InputError(subject, str(found), expected, "correct the training's configuration")

    for name in ("steps", "batch", "validate_every", "block", "switch"):
        if getattr(config, name) < 1:
            refuse(name, getattr(config, name), "1 or more")
    each = config.optimizer.accumulate
    if each < 1 or config.steps % each:
        refuse("accumulate", each, f"a divisor of the {config.steps} steps")
    if not patients:
        refuse("patients", "none", "one volume or more")
    kinds = {_kind(patient) for patient in patients}
    if len(kinds) > 1:
        fix = "pad the volumes to one shape (jxreg.synthesis.padded)"
        raise InputError("patients", "arrays of different shapes", "the same shapes", fix)


def _kind(patient: Any) -> Any:
    leaves, tree = jax.tree.flatten(patient)
    return tree, tuple((np.shape(leaf), str(jnp.result_type(leaf))) for leaf in leaves)
