"""A task that trains in no time: a line through noisy points, and a run of it to be killed."""

import hashlib
import os
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

from jxreg.curriculum import Curriculum
from jxreg.optimizer import OptimizerConfig
from jxreg.training import Task, TrainConfig, fit

OFFSET = -0.5
CONFIG = TrainConfig(
    steps=48,
    batch=8,
    validate_every=8,
    block=3,
    optimizer=OptimizerConfig(rate=0.1, warmup=5, average=0.9),
    curriculum=Curriculum(first=0.5, stages=3),
)


def samples(keys, patient, level):
    """Points of a line whose slope is the patient's; the level is their range."""

    def one(key):
        place, noise = jax.random.uniform(key, 2, minval=-1.0)
        x = level * place
        return x, patient["slope"] * x + OFFSET + 0.2 * noise

    return jax.vmap(one)(keys)


def predicted(params, x):
    hidden = jnp.tanh(x[:, None] @ params["in"] + params["bias"])
    return (hidden @ params["out"])[:, 0]


def init(key):
    first, second = jax.random.split(key)
    return {
        "in": jax.random.normal(first, (1, 8)),
        "bias": jnp.zeros(8),
        "out": 0.1 * jax.random.normal(second, (8, 1)),
    }


def loss(params, keys, patient, level):
    x, y = samples(keys, patient, level)
    error = ((predicted(params, x) - y) ** 2).mean()
    return error, {"level_seen": level}


def validate(params, patient):
    x = jnp.linspace(-1.0, 1.0, 16)
    error = jnp.abs(predicted(params, x) - patient["slope"] * x - OFFSET).mean()
    return {"mtre": error}


TASK = Task(init, loss, validate)
PATIENTS = [{"slope": jnp.float32(1.5)}, {"slope": jnp.float32(1.2)}]


def checksum(params) -> str:
    """Of all weights."""
    leaves = jax.tree.leaves(params)
    return hashlib.sha256(b"".join(leaf.tobytes() for leaf in leaves)).hexdigest()


def main(folder: str, steps: str) -> None:
    """Trains in a folder and prints the checksum of the weights.

    Dies of SIGKILL after so many entries of the log; 0 for never.
    """
    left = int(steps)

    def report(entry):
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    print(checksum(fit(TASK, PATIENTS, CONFIG, folder=Path(folder), report=report).params))


if __name__ == "__main__":
    main(*sys.argv[1:])
