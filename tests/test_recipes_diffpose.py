"""The recipe DiffPose: its loss, the gradient through the renderer, and eight parametrisations."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_patient import patient_of

from jxreg.parametrisation import PARAMETRISATIONS
from jxreg.recipes import diffpose

TINY = dataclasses.replace(
    diffpose.CONFIG,
    geometry=dataclasses.replace(diffpose.CONFIG.geometry, pixels=16, pixel_mm=17.4),
    blocks=(1,),
    width=4,
)
KEYS = jax.random.split(jax.random.key(3), 2)
LEVEL = jnp.float32(1.0)


@pytest.fixture(scope="module")
def patient():
    return patient_of(TINY.geometry)


@pytest.fixture(scope="module")
def params():
    return jax.jit(diffpose.network(TINY).init)(jax.random.key(0))


@pytest.fixture(scope="module")
def step(patient):
    """The image's part of the loss and its gradient; besides, the loss and the whole log."""
    loss = diffpose.build(TINY).task.loss

    def image(params):
        value, log = loss(params, KEYS, patient, LEVEL)
        return log["image"], (value, log)

    return jax.jit(jax.value_and_grad(image, has_aux=True))


def test_the_image_alone_teaches(step, params):
    """The gradient of 1 - NCC reaches the network through the renderer, and it is the right one."""
    (value, _), gradient = step(params)
    assert 0.05 < float(value) < 1.5
    assert set(gradient) == {"backbone", "head"}
    for name, part in gradient.items():
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(part)]
        assert all(np.isfinite(leaf).all() for leaf in leaves), name
        assert sum(np.abs(leaf).sum() for leaf in leaves) > 0, name

    def towards(size):
        """The loss after a step against the gradient of the head's shifts."""
        head = params["head"]["last"]
        bias = head["bias"] - size * gradient["head"]["last"]["bias"]
        return float(step(params | {"head": {"last": head | {"bias": bias}, "hidden": {}}})[0][0])

    slope = float((gradient["head"]["last"]["bias"] ** 2).sum())
    size = 2e-3 / slope
    change = (towards(size) - towards(-size)) / (2 * size)
    assert change == pytest.approx(-slope, rel=0.1)


def test_the_loss_is_the_published_sum(step, params):
    (_, (value, log)), _ = step(params)
    assert set(log) == {"image", "log", "double", "weight"}
    assert float(log["weight"]) == 1
    geodesics = float(log["log"] + log["double"])
    assert float(value) == pytest.approx(float(log["image"]) + 0.01 * geodesics, rel=1e-5)
    # An untrained network says no motion: what is drawn is some 130 mm and 0.3 rad away.
    assert 40 < float(log["double"]) < 500


def test_without_the_image_nothing_is_rendered_again(patient, params):
    loss = diffpose.build(dataclasses.replace(TINY, image_weight=0.0)).task.loss
    _, log = jax.eval_shape(loss, params, KEYS, patient, LEVEL)
    assert set(log) == {"log", "double", "weight"}


@pytest.mark.parametrize("name", PARAMETRISATIONS)
def test_any_parametrisation(name):
    net = diffpose.network(dataclasses.replace(TINY, parametrisation=name))
    params = jax.eval_shape(net.init, jax.random.key(0))
    size = PARAMETRISATIONS[name].size
    assert params["head"]["last"]["bias"].shape == (size,)
    said = jax.eval_shape(net.apply, params, jnp.zeros((1, 16, 16)))
    assert said.numbers.shape == (size,)
    assert said.motion.wxyz_xyz.shape == (7,)


def test_the_published_schedule():
    train = diffpose.CONFIG.train
    assert (train.steps, train.batch) == (1000 * 100, 8)
    assert (train.optimizer.rate, train.optimizer.warmup, train.optimizer.clip) == (1e-3, 500, 0.01)
    assert diffpose.CONFIG.blocks == (2, 2, 2, 2)
