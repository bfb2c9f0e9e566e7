"""The recipe PSSS: what each switch of its ablation changes, and one step of training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_patient import patient_of

from jxreg.curriculum import Curriculum
from jxreg.io.config_entries import filled
from jxreg.nets.efficientnet import B0
from jxreg.parametrisation import PARAMETRISATIONS
from jxreg.pose import moved
from jxreg.recipes import psss
from jxreg.recipes.patients import draw_sample
from jxreg.recipes.recipe import reference_pose
from jxreg.sampling import sample
from jxreg.stepping import Task

TINY = dataclasses.replace(
    psss.CONFIG,
    geometry=dataclasses.replace(psss.CONFIG.geometry, pixels=32, pixel_mm=13.5),
    physics=False,
    width=0.1,
    blocks=(1, 1, 0, 1, 0, 0, 0),
    decoder_width=16,
    attention_width=16,
    heads=2,
    hidden=(16,),
)
ROWS = psss.ablated(TINY)
KEYS = jax.random.split(jax.random.key(3), 2)


@pytest.fixture(scope="module")
def patient():
    return patient_of(TINY.geometry)


@pytest.fixture(scope="module")
def step(patient):
    """Loss, log and gradient of a step of the whole recipe at a level, from the same start."""
    task = psss.build(TINY).task
    shapes, rng = jax.eval_shape(task.init, jax.random.key(0)), np.random.default_rng(0)
    params = jax.tree.map(lambda s: rng.normal(0.0, 0.1, s.shape).astype(s.dtype), shapes)
    params["head"]["last"] = jax.tree.map(lambda x: 0.1 * x, params["head"]["last"])
    compiled = jax.jit(jax.value_and_grad(task.loss, has_aux=True))
    return lambda level: compiled(params, KEYS, patient, jnp.float32(level))


def test_a_step_reaches_every_part(step):
    (loss, log), gradient = step(1.0)
    assert np.isfinite(loss)
    assert float(log["weight"]) == 1
    expected = float(log["pose"]) + TINY.structure_weight * float(log["structure"])
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert set(gradient) == {"backbone", "decoder", "attention", "head"}
    for name, part in gradient.items():
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(part)]
        assert all(np.isfinite(leaf).all() for leaf in leaves), name
        assert sum(np.abs(leaf).sum() for leaf in leaves) > 0, name
    assert np.abs(gradient["attention"]["of_row"]).max() > 0


def test_the_default_is_efficientnet_b0():
    assert psss.stages_of(psss.CONFIG) == B0
    assert sum(stage.blocks for stage in psss.stages_of(TINY)) == 3


def test_each_switch_changes_its_part_alone():
    parts, plain = {"A+B": "decoder", "A+C": "attention"}, ROWS["A+B+C"]
    for name, part in parts.items():
        params = jax.eval_shape(psss.network(ROWS[name]).init, jax.random.key(0))
        assert set(params) == {"backbone", "head", part}
        assert dataclasses.replace(ROWS[name], decoder=True, attention=True) == plain
    assert (ROWS["A"].decoder, ROWS["A"].attention) == (False, False)
    starred = ROWS["(A+B+C)*"]
    assert starred.train.curriculum.stages > 1
    assert plain.train.curriculum == Curriculum()
    assert dataclasses.replace(starred, train=plain.train) == plain


def test_numbers_are_those_of_the_arm(patient):
    """What is learned are the numbers that were drawn; an arm that moves by +x sees -x."""
    drawn = jax.jit(jax.vmap(lambda key: sample(key, TINY.poses)))(jax.random.split(KEYS[0], 50))
    arm = jax.vmap(lambda motion: psss._arm(motion, TINY))(drawn)
    numbers = np.abs(jax.vmap(PARAMETRISATIONS["euler"].numbers)(arm))
    limits = np.array([30, 30, 30, *np.radians([10, 15, 15])])
    assert (numbers <= limits + 1e-3).all()
    assert (numbers.max(0) > 0.8 * limits).all()
    isocenter = patient.volume.isocenter
    right = PARAMETRISATIONS["euler"].motion(jnp.array([5.0, 0, 0, 0, 0, 0]))
    pose = moved(reference_pose(TINY.geometry, isocenter), psss._arm(right, TINY), isocenter)
    np.testing.assert_allclose(pose.apply(isocenter), [-5.0, 0.0, 742.5], atol=1e-3)


def test_a_set_of_images_grows_with_the_level(patient):
    """With one image of four there, all samples of a batch are that one."""

    def loss(params, keys, patient, level):
        return jax.random.uniform(keys[0]), {"keys": keys, "level": level}

    task = psss._of_set(Task(lambda key: {}, loss, lambda params, patient: {}), 4)
    keys = jax.random.split(jax.random.key(1), 64)
    for level, members in ((0.25, 1), (0.5, 2), (1.0, 4)):
        _, log = task.loss({}, keys, patient, jnp.float32(level))
        assert len(np.unique(jax.random.key_data(log["keys"]), axis=0)) == members
        assert float(log["level"]) == 1


def test_the_pose_range_grows_with_the_level(step):
    """At a level of 0 all is at the reference pose, of which an untrained network is not far."""
    (_, near), _ = step(0.0)
    (_, far), _ = step(1.0)
    assert float(near["pose"]) < 0.4 * float(far["pose"])


@pytest.mark.parametrize("name", ROWS)
def test_configurations_survive_json(name):
    entries = dataclasses.asdict(ROWS[name])
    assert filled(psss.CONFIG, _lists(entries), "file") == ROWS[name]


def _lists(entries):
    if isinstance(entries, dict):
        return {name: _lists(value) for name, value in entries.items()}
    return [_lists(value) for value in entries] if isinstance(entries, tuple) else entries


def test_the_physics_is_an_option(patient):
    """A spectrum hardens: the same frame, scaled, is another image."""

    def image(config):
        return jax.jit(lambda key, volume: draw_sample(key, volume, psss.drawing(config)))(
            KEYS[0], patient.volume
        ).frame.images

    line, hardened = image(TINY), image(dataclasses.replace(TINY, physics=True))
    assert 0.005 < np.abs(line - hardened).mean() < 0.2
