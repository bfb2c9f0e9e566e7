"""The engine: what a step computes, and that nothing that happens to a training changes its end."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusal import refused
from tiny_training import CONFIG, PATIENTS, TASK, checksum, init, loss, validate

from jxreg.curriculum import Curriculum, from_set, level_of, replayed, stage_at
from jxreg.errors import InputError
from jxreg.io.boundary import InputWarning
from jxreg.io.train_log import append, load_log, truncate
from jxreg.optimizer import OptimizerConfig, make_optimizer, rate_at
from jxreg.stepping import Learner, Machine, Plan, Tally, compiled
from jxreg.training import FRESH, Task, TrainConfig, _stretch, check_alike, fit

SCRIPT = Path(__file__).parent / "tiny_training.py"
SHORT = replace(CONFIG, steps=12, validate_every=4)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training that ran through: its folder, and the checksum of its weights."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, checksum(fit(TASK, PATIENTS, CONFIG, folder=folder).params)


def trained(folder, killed, **environment):
    """Runs the tiny training in a process: the checksum of its weights, None if it was killed."""
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), str(killed)],
        capture_output=True,
        text=True,
        env={**os.environ, **cache, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        check=False,
    )
    assert done.returncode == (-9 if killed else 0), done.stderr
    return done.stdout.strip() or None


def by_hand(steps, rate):
    """Adam (Kingma and Ba, 2015) with a rate of each step, on the batches of the first patient."""
    config = CONFIG
    params = jax.tree.map(np.asarray, init(jax.random.fold_in(jax.random.key(0), config.steps)))
    first, second = (jax.tree.map(np.zeros_like, params) for _ in range(2))
    gradient = jax.jit(jax.grad(lambda *arguments: loss(*arguments)[0]))
    for step in range(steps):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(0), step), config.batch)
        slope = jax.tree.map(np.asarray, gradient(params, keys, PATIENTS[0], jnp.float32(1.0)))
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, slope)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, slope)
        unbias = [1 - decay ** (step + 1) for decay in (0.9, 0.999)]

        def moved(p, m, v, rate=rate[step], unbias=unbias):
            return p - rate * (m / unbias[0]) / (np.sqrt(v / unbias[1]) + 1e-8)

        params = jax.tree.map(moved, params, first, second)
    return params


def test_steps_are_those_of_adam():
    config = replace(
        CONFIG,
        steps=48,
        validate_every=48,
        curriculum=Curriculum(),
        optimizer=OptimizerConfig(rate=0.1, warmup=4, clip=0.0),
        keep="last",
    )
    plan = Plan(config.optimizer, config.steps, config.batch, config.seed)
    machine = compiled(TASK, PATIENTS[0], plan)
    learner = machine.begin(init(jax.random.fold_in(jax.random.key(0), config.steps)))
    learner, tally = machine.advance(learner, machine.tally(), PATIENTS[0], 1.0, 6)
    share = np.clip((np.arange(6) + 1 - 4) / 44, 0, None)
    rates = 0.1 * np.minimum((np.arange(6) + 1) / 4, 0.5 * (1 + np.cos(np.pi * share)))
    for ours, theirs in zip(
        jax.tree.leaves(learner.params), jax.tree.leaves(by_hand(6, rates)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-6)  # float32, 6 steps
    assert int(tally.bad) == -1
    np.testing.assert_allclose(float(tally.sums["rate"]), rates.sum(), rtol=1e-5)


def test_a_compiled_loop_does_the_same():
    plan = Plan(CONFIG.optimizer, 48, 8, 0)
    ends = []
    for loop in (False, True):
        machine = compiled(TASK, PATIENTS[0], plan, loop)
        learner = machine.begin(init(jax.random.key(3)))
        learner, _ = machine.advance(learner, machine.tally(), PATIENTS[0], 1.0, 3)
        ends.append(learner)
    assert int(ends[1].step) == 3
    for one, other in zip(jax.tree.leaves(ends[0]), jax.tree.leaves(ends[1]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)  # fused otherwise


def test_rate_rises_and_falls():
    config = OptimizerConfig(rate=2.0, warmup=10, last=0.1)
    rates = [float(rate_at(config, 110, step)) for step in (0, 4, 9, 59, 109)]
    np.testing.assert_allclose(rates, [0.2, 1.0, 2.0, 1.1, 0.2], rtol=1e-6)


def test_gradients_are_clipped_by_the_size_of_the_weights():
    """A unit's gradient is at most 1 % of its weights' norm; Adam's first step hides how long."""
    chain = make_optimizer(OptimizerConfig(rate=1.0, warmup=0, last=1.0), 1)
    weights = {"w": jnp.full((3, 2), 2.0)}
    slopes = {"w": jnp.full((3, 2), 100.0)}
    _, (_, adam, *_) = chain.update(slopes, chain.init(weights), weights)
    norm = jnp.linalg.norm(adam.mu["w"], axis=0) / (1 - 0.9)
    np.testing.assert_allclose(norm, 0.01 * 2.0 * np.sqrt(3), rtol=1e-5)


def test_gradients_of_several_batches_make_one_step():
    plan = Plan(OptimizerConfig(rate=0.1, warmup=2, accumulate=2), 4, 8, 0)
    machine = compiled(TASK, PATIENTS[0], plan)
    learner = machine.begin(init(jax.random.key(0)))
    before = jax.device_get(learner.params)
    learner, tally = machine.advance(learner, machine.tally(), PATIENTS[0], 1.0, 1)
    for one, other in zip(jax.tree.leaves(before), jax.tree.leaves(learner.params), strict=True):
        np.testing.assert_array_equal(one, other)
    learner, tally = machine.advance(learner, tally, PATIENTS[0], 1.0, 1)
    assert not np.array_equal(before["out"], learner.params["out"])


def test_a_killed_training_ends_with_the_same_weights(whole, tmp_path):
    goes_on_after(whole, tmp_path, 7)  # between two checkpoints


@pytest.mark.slow
def test_a_training_killed_five_times_ends_with_the_same_weights(whole, tmp_path):
    goes_on_after(whole, tmp_path, 1, 4, 7, 6, 9)


def goes_on_after(whole, tmp_path, *kills):
    folder, weights = whole
    killed = tmp_path / "killed"
    for entries in kills:
        assert trained(killed, entries) is None
    assert trained(killed, 0) == weights
    logs = [
        [{k: v for k, v in entry.items() if k not in ("seconds", "frames_per_s")} for entry in log]
        for log in (load_log(folder / "log.jsonl"), load_log(killed / "log.jsonl"))
    ]
    assert logs[0] == logs[1]


def test_devices_share_a_batch(whole, tmp_path):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    trained(tmp_path / "four", 0, XLA_FLAGS=flags)
    for one, four in zip(
        load_log(whole[0] / "log.jsonl"), load_log(tmp_path / "four" / "log.jsonl"), strict=True
    ):
        one, four = (entry | entry.pop("validation", {}) for entry in (one, four))
        assert one["step"] == four["step"]
        for name in {"loss", "gradient", "mtre"} & one.keys():
            assert four[name] == pytest.approx(one[name], rel=2e-3)  # sums in another order


def test_a_damaged_checkpoint_is_left_out(tmp_path):
    full = fit(TASK, PATIENTS, SHORT, folder=tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        fit(TASK, PATIENTS, SHORT, folder=tmp_path / "b", report=stop_at(9))
    last = sorted((tmp_path / "b" / "checkpoints").glob("*.json"))[-1]
    assert json.loads(last.read_text())["step"] == 8
    spoil(last.with_suffix(""))
    (tmp_path / "b" / "checkpoints" / "000000012").mkdir()  # without a record: not finished
    with open(tmp_path / "b" / "log.jsonl", "a") as log:
        log.write('{"step": 9, "lo')
    with pytest.warns(UserWarning, match="earlier checkpoint"):
        again = fit(TASK, PATIENTS, SHORT, folder=tmp_path / "b")
    assert again.standing == full.standing
    jax.tree.map(np.testing.assert_array_equal, again.params, full.params)
    for checkpoint in (tmp_path / "b" / "checkpoints").glob("*[0-9]"):
        spoil(checkpoint)
    with (
        pytest.warns(InputWarning),
        pytest.raises(InputError, match="checksum was recorded"),
    ):
        fit(TASK, PATIENTS, SHORT, folder=tmp_path / "b")
    other = replace(SHORT, batch=4, optimizer=replace(SHORT.optimizer, rate=1.0))
    with pytest.raises(InputError, match=r"another config\.batch, config\.optimizer\.rate;"):
        fit(TASK, PATIENTS, other, folder=tmp_path / "b")


def stop_at(step):
    def report(entry):
        if entry["step"] == step:
            raise KeyboardInterrupt

    return report


def spoil(folder):
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path):
    def breaks(params, keys, patient, level):
        value, seen = loss(params, keys, patient, level)
        return jnp.where(level > 0.9, jnp.nan, value), seen

    with pytest.raises(FloatingPointError, match="not finite in batch 5; the checkpoints"):
        fit(Task(init, breaks, validate), PATIENTS[:1], SHORT, folder=tmp_path)
    assert [entry["step"] for entry in load_log(tmp_path / "log.jsonl")] == [3, 4, 4]
    assert (tmp_path / "checkpoints" / "000000004.json").is_file()


def test_a_training_that_does_not_get_better_ends_early():
    task = Task(init, loss, lambda params, patient: {"mtre": patient["slope"]})
    config = replace(CONFIG, validate_every=4, patience=2, curriculum=Curriculum())
    entries = []
    fitted = fit(task, PATIENTS[:1], config, report=entries.append)
    assert fitted.standing.step == 12
    assert fitted.standing.best_step == 4
    assert fitted.params["in"].shape == (1, 8)
    assert [e["best"] for e in entries if "validation" in e] == [True, False, False]


def test_a_new_level_comes_when_the_validation_stalls():
    task = Task(init, loss, lambda params, patient: {"mtre": patient["slope"]})
    curriculum = Curriculum(first=0.2, stages=3, until=1.0, patience=1)
    config = replace(CONFIG, steps=48, validate_every=4, block=4, curriculum=curriculum)
    entries = []
    fit(task, PATIENTS[:1], config, report=entries.append)
    levels = {entry["step"]: entry["level"] for entry in entries if "level" in entry}
    assert [levels[step] for step in (4, 8, 12, 16)] == pytest.approx([0.2, 0.2, 0.6, 1.0])
    assert min(levels[step] for step in range(16, 49, 4)) == 1.0


def test_a_level_that_comes_in_its_time_is_given_patience():
    learner, tally = Learner(*[None] * 4), Tally({}, -1)
    machine = Machine(*[None] * 6)._replace(
        tally=lambda: tally, advance=lambda learner, *_: (learner, tally)
    )
    curriculum = Curriculum(first=0.5, stages=2, until=0.5)
    config = replace(CONFIG, block=8, patience=2, curriculum=curriculum)
    for step, expected in ((8, (0, 5)), (24, (1, 0))):
        standing = FRESH._replace(step=step, stale=5)
        _, after, entry = _stretch(machine, learner, standing, PATIENTS[:1], config)
        assert (after.stage, after.stale) == expected
        assert entry["level"] == (0.5, 1.0)[after.stage]


def test_patients_take_turns_without_compiling_again(caplog):
    entries = []
    config = replace(CONFIG, steps=8, validate_every=8, block=1, curriculum=Curriculum())
    with jax.log_compiles():
        fit(TASK, PATIENTS, config, report=entries.append)
    assert sum("Finished XLA compilation of jit(one)" in text for text in caplog.messages) == 1
    turns = [int(np.random.default_rng([0, turn]).integers(2)) for turn in range(8)]
    assert set(turns) == {0, 1}
    key = jax.random.fold_in(jax.random.key(0), config.steps)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(0), 0), config.batch)
    expected = [float(loss(init(key), keys, patient, jnp.float32(1))[0]) for patient in PATIENTS]
    assert entries[0]["loss"] == pytest.approx(expected[turns[0]], rel=1e-4)


def test_weights_of_another_network_are_refused():
    params = init(jax.random.key(0))
    check_alike(params, params)
    with pytest.raises(InputError, match=r"1 arrays differ, the first is \['out'\]"):
        check_alike(params, {**params, "out": jnp.zeros((9, 1))})
    with pytest.raises(InputError, match=r"the first is \['new'\].*none"):
        fit(TASK, PATIENTS, SHORT, start={**params, "new": jnp.zeros(1)})


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"steps": 0}, "steps: 0"),
        ({"optimizer": OptimizerConfig(accumulate=5)}, "accumulate: 5; expected a divisor"),
        ({"block": -1}, "block: -1"),
    ],
)
def test_an_impossible_configuration_is_refused(changes, words):
    with pytest.raises(InputError, match=words):
        fit(TASK, PATIENTS, replace(SHORT, **changes))


def test_patients_of_different_shapes_are_refused():
    with pytest.raises(InputError, match=r"different shapes.*synthesis\.padded"):
        fit(TASK, [PATIENTS[0], {"slope": jnp.zeros(2)}], SHORT)


def test_log_entries_are_lines(tmp_path):
    path = tmp_path / "log.jsonl"
    for step in (1, 2, 3):
        append(path, {"step": step, "loss": float("nan") if step == 2 else 0.5})
    with open(path, "a") as log:
        log.write('{"step": 4')
    assert [entry["loss"] for entry in load_log(path)] == [0.5, None, 0.5]
    truncate(path, 2)
    append(path, {"step": 3})
    assert [entry["step"] for entry in load_log(path)] == [1, 2, 3]
    path.write_text('{"no": 1}\n')
    refused(load_log, path, "line 1", "log.jsonl")


def test_levels_of_a_curriculum():
    plain = TrainConfig().curriculum
    assert level_of(plain, stage_at(plain, 0.0)) == 1.0
    stages = Curriculum(first=0.25, stages=4, until=0.8)
    levels = [
        level_of(stages, stage_at(stages, share)) for share in (0.0, 0.19, 0.21, 0.61, 0.8, 1.0)
    ]
    assert levels == pytest.approx([0.25, 0.25, 0.5, 1.0, 1.0, 1.0])


def test_earlier_levels_are_replayed():
    keys = jax.random.split(jax.random.key(0), 4000)
    levels = np.asarray(jax.vmap(lambda key: replayed(key, jnp.float32(0.6), 0.25))(keys))
    assert levels.max() == np.float32(0.6)
    lower = levels < np.float32(0.6)
    assert abs(lower.mean() - 0.25) < 0.03  # four standard deviations
    assert abs(levels[lower].mean() - 0.3) < 0.03


def test_a_set_of_keys_grows():
    keys = jax.random.split(jax.random.key(1), 500)

    def members(level):
        chosen = jax.vmap(lambda key: from_set(key, jnp.float32(level), 20))(keys)
        return {tuple(member) for member in np.asarray(jax.random.key_data(chosen))}

    few, many = members(0.1), members(1.0)
    assert len(few) == 2
    assert len(many) == 20
    assert few < many
