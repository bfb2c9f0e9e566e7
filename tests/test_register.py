"""register(): from a start to a pose and a verdict, on a phantom with a closed-form X-ray."""

import importlib
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxlie import SE3

from jxreg import alignment, ascent, phantoms
from jxreg.alignment import Prior
from jxreg.ascent import Climb
from jxreg.camera import Camera
from jxreg.errors import InputError
from jxreg.frame import Frame
from jxreg.metrics import mrpd, mtre
from jxreg.pose import CArm, antipodal, from_carm, perturb
from jxreg.register import Level, RegisterConfig, initial_pose, register, retried
from jxreg.verdict import Evidence, Status, Thresholds, judge

CONFIG = RegisterConfig(levels=(Level(32, 1, sigma=0.1, steps=8), Level(64, 0, steps=8)))
CAMERA = Camera.from_sdd(1020.0, (128, 128), (2.8, 2.8))
LANDMARKS = jnp.array([[0.0, 0, 60], [60, 0, -40], [-60, 0, -40], [0, 60, 20], [0, -60, 90]])


@pytest.fixture(scope="module")
def case():
    """Volume, X-ray, true pose and start of a pelvis."""
    phantom = phantoms.total(phantoms.pelvis_and_spine())
    volume = phantoms.voxelise(phantom, *phantoms.grid_around(phantom, 5.0))
    truth = from_carm(15.0, 5.0, source_to_isocenter=700.0, isocenter=volume.isocenter)
    image = phantoms.exact_drr(phantom, CAMERA, truth).reshape(-1, *CAMERA.image_size).sum(0)
    start = perturb(truth, jnp.array([8.0, -8.0, 20.0, 0.05, -0.05, 0.05]), volume.isocenter)
    return volume, image, truth, start


@pytest.fixture(scope="module")
def batch(case):
    """One compiled call over good and bad input, by name; its starts; and good input alone."""
    volume, image, truth, start = case
    far = perturb(truth, jnp.array([900.0, 0, 0, 0, 0, 0]), volume.isocenter)
    nan = jax.tree.map(lambda x: x * jnp.nan, start)
    lanes = {
        "good": (image, start),
        "other contrast": (3 * jnp.sqrt(image) + 1, start),
        "black": (jnp.zeros_like(image), start),
        "constant": (jnp.full_like(image, 2.5), start),
        "nan image": (image.at[5, 7].set(jnp.nan), start),
        "nan pose": (image, nan),
        "out of view": (image, far),
        "noise": (jax.random.normal(jax.random.key(0), image.shape), start),
    }
    images = jnp.stack([i for i, _ in lanes.values()])
    starts = jax.tree.map(lambda *x: jnp.stack(x), *(s for _, s in lanes.values()))
    run = jax.jit(jax.vmap(lambda i, s: register(volume, Frame(i, CAMERA), s, config=CONFIG)))
    results = run(images, starts)
    fine = jnp.array([name in ("good", "other contrast") for name in lanes])
    clean = run(
        jnp.where(fine[:, None, None], images, image),
        jax.tree.map(lambda x, one: jnp.where(fine[:, None], x, one), starts, start),
    )
    by_name = {name: jax.tree.map(lambda x, k=k: x[k], results) for k, name in enumerate(lanes)}
    return by_name, starts, clean


@pytest.mark.parametrize("name", ["good", "other contrast"])
def test_finds_the_pose(case, batch, name):
    _, _, truth, start = case
    result = batch[0][name]
    assert int(result.status) == Status.OK
    assert float(mtre(start, truth, LANDMARKS)) > 15
    assert float(mtre(result.pose, truth, LANDMARKS)) < 1.5  # voxels of 5 mm, pixels of 4
    assert float(result.similarity) > float(result.initial_similarity)


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("black", Status.NO_SIGNAL),
        ("constant", Status.NO_SIGNAL),
        ("nan image", Status.NON_FINITE),
        ("nan pose", Status.NON_FINITE),
        ("out of view", Status.OUT_OF_VIEW),
    ],
)
def test_bad_input_never_looks_like_success(batch, name, status):
    assert int(batch[0][name].status) == status


def test_broken_lanes_leave_the_others_bit_equal(batch):
    results, _, clean = batch
    for lane, name in enumerate(("good", "other contrast")):
        for broken, good in zip(
            jax.tree.leaves(results[name]), jax.tree.leaves(clean), strict=True
        ):
            np.testing.assert_array_equal(broken, good[lane])


def test_noise_is_not_ok(batch):
    assert int(batch[0]["noise"].status) in (Status.SUSPECT, Status.NOT_CONVERGED)


def test_without_signal_the_start_comes_back(batch):
    results, starts, _ = batch
    lanes = (("black", 2), ("constant", 3), ("nan image", 4), ("out of view", 6))
    for name, lane in lanes:
        assert np.array_equal(results[name].pose.wxyz_xyz, starts.wxyz_xyz[lane])


def test_covariance_is_a_covariance(batch):
    covariance = np.asarray(batch[0]["good"].covariance, np.float64)
    deviations = np.sqrt(np.diag(covariance))
    correlation = covariance / np.outer(deviations, deviations)
    np.testing.assert_allclose(correlation, correlation.T, atol=1e-2)
    assert np.linalg.eigvalsh(correlation).min() > -1e-2
    assert deviations[2] > deviations[:2].max()  # one view knows depth worst


def test_trace_has_every_level(batch):
    trace = batch[0]["good"].trace
    assert trace.similarity.shape == trace.level.shape == (16,)
    assert np.array_equal(np.unique(trace.level), [0, 1])
    assert trace.pose.wxyz_xyz.shape == (16, 7)


def test_one_frame_alone_equals_the_batch(case, batch):
    volume, image, _, start = case
    alone = register(volume, Frame(image, CAMERA), start, config=CONFIG)
    together = batch[0]["good"]
    assert int(alone.status) == int(together.status)
    # Sums run in another order, over 16 steps.
    assert float(mtre(alone.pose, together.pose, LANDMARKS)) < 0.05


def test_what_is_not_ok_is_tried_again(case, batch):
    volume, image, _, start = case
    frame = Frame(image, CAMERA)

    def never(volume, frame):
        raise AssertionError("nothing to try again")

    second = retried(batch[0]["noise"], volume, frame, lambda volume, frame: start, CONFIG)
    assert int(second.status) == Status.OK
    for name in ("good", "black"):
        assert retried(batch[0][name], volume, frame, never, CONFIG) is batch[0][name]
    noise = Frame(jax.random.normal(jax.random.key(0), image.shape), CAMERA)
    worse = retried(replace(second, status=Status.SUSPECT), volume, noise, start, CONFIG)
    np.testing.assert_array_equal(worse.pose.wxyz_xyz, second.pose.wxyz_xyz)
    traced = jax.eval_shape(lambda f: register(volume, f, start, again=start, config=CONFIG), frame)
    assert jax.tree.structure(traced) == jax.tree.structure(second)


def test_what_was_found_goes_on_from_finer_levels(case, batch):
    volume, image, truth, start = case
    turned = antipodal(start, volume.isocenter)
    starts = SE3(jnp.stack([turned.wxyz_xyz, start.wxyz_xyz]))
    config = replace(CONFIG, found=CONFIG.levels[1:])
    second = retried(batch[0]["noise"], volume, Frame(image, CAMERA), starts, config)
    assert int(second.status) == Status.OK
    assert float(mtre(second.pose, truth, LANDMARKS)) < 1.5
    assert second.trace.similarity.shape == (16,)  # as long as the first try's
    assert np.array_equal(np.unique(second.trace.level), [2])  # the first one after both `levels`
    assert np.array_equal(second.trace.step_mm[:8], np.zeros(8))
    assert float(second.trace.step_mm[8]) > 0


def test_a_similarity_without_features_is_climbed_too(case):
    volume, image, truth, start = case
    levels = (Level(32, 1, climb=Climb(steps=20)),)
    config = RegisterConfig(levels=levels, similarity="mutual_information", truncated=False)
    result = register(volume, Frame(image, CAMERA), start, config=config)
    # Pixels of 8 mm and one level: it must come near, no more.
    assert float(mtre(result.pose, truth, LANDMARKS)) < 0.5 * float(mtre(start, truth, LANDMARKS))


PLATEAUS = Climb(steps=150, repeats=1, shift=1.0, rotation=0.02, last=1.0, patience=10, plateaus=3)
PATCHES = Climb(steps=60, repeats=1, patches=12, patch=9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "climb"),
    [
        ("gradient_correlation", Climb("lbfgs", steps=15, repeats=2, patience=3)),
        ("gradient_correlation", PLATEAUS),
        ("gradient_multiscale_ncc", Climb(steps=60, repeats=1, parametrisation="euler")),
        ("ncc", PATCHES),
    ],
)
def test_other_optimisers_find_the_pose_too(case, name, climb):
    volume, image, truth, start = case
    level = Level(64, 0, similarity=name, climb=climb)
    config = RegisterConfig(levels=(level,), truncated=False)
    result = register(volume, Frame(image, CAMERA), start, config=config)
    assert result.trace.similarity.shape == (climb.steps * climb.repeats,)
    # Voxels of 5 mm and pixels of 4; the depth comes later.
    assert float(mrpd(result.pose, truth, LANDMARKS)) < 1.0


@pytest.mark.slow
def test_patches_hang_on_their_key_and_the_prior_holds_a_climb_back(case):
    volume, image, _, start = case
    level = Level(32, 1, similarity="ncc", climb=replace(PATCHES, steps=30))
    finest = alignment.focus(volume, Frame(image, CAMERA), start, 32)
    scene = alignment.scene(volume, finest, None, level)

    def climbed(prior, keys):
        terms = alignment.look(scene, level, start, prior)
        value = alignment.objective(scene, level, terms, start, prior)

        def one(key):
            motion = ascent.pose_motion(level.climb, start, volume.isocenter)
            return ascent.climb(value, start, level.climb, motion, key=key).pose

        return jax.vmap(one)(keys)

    run = jax.jit(climbed, static_argnums=0)
    poses = run(Prior(), jax.random.split(jax.random.key(0)))
    held = run(Prior(shift=0.03, depth=0.03, rotation=3e-4), jax.random.split(jax.random.key(0)))
    free, other, held = (SE3(each) for each in (*poses.wxyz_xyz, held.wxyz_xyz[0]))
    assert float(mtre(held, start, LANDMARKS)) < 0.2 * float(mtre(free, start, LANDMARKS))
    assert not np.array_equal(free.wxyz_xyz, other.wxyz_xyz)


def test_a_looser_tolerance_takes_fewer_steps_and_an_untruncated_volume_keeps_its_rays(case, batch):
    volume, image, truth, start = case
    levels = (replace(CONFIG.levels[0], tolerance=2.0),)
    config = RegisterConfig(levels=levels, truncated=False)
    result = register(volume, Frame(image, CAMERA), start, config=config)
    assert float(result.kept) == 1.0  # no ray is said to miss anything
    assert float(mtre(result.pose, truth, LANDMARKS)) < 4  # pixels of 8 mm
    of_default = batch[0]["good"].trace
    taken, usual = (
        int((np.asarray(trace.step_mm)[np.asarray(trace.level) == 0] > 0).sum())
        for trace in (result.trace, of_default)
    )
    assert 0 < taken < usual


def test_positioner_angles_are_a_start(case):
    volume, image, _, _ = case
    carm = CArm(*(jnp.asarray(x) for x in (0.26, 0.09, 0.0, 690.0, [1.0, 2.0, 0.0])))
    pose = initial_pose(volume, Frame(image, CAMERA, carm=carm))
    np.testing.assert_allclose(pose.apply(volume.isocenter), [1.0, 2.0, 690.0], atol=1e-3)
    with pytest.raises(InputError, match="no positioner angles"):
        initial_pose(volume, Frame(image, CAMERA))


def test_a_tool_does_not_pull_the_pose_if_it_is_weighed_down(case):
    volume, image, truth, start = case
    rows = jnp.arange(CAMERA.image_size[0])[:, None]
    across = jnp.abs(rows - 60 - 0.6 * jnp.arange(CAMERA.image_size[1])[None] + 30)
    image = image + 4.0 * jnp.exp(-((across / 6) ** 8))
    levels = tuple(replace(level, robust=1.0) for level in CONFIG.levels)
    config = RegisterConfig(levels, truncated=False)
    result = register(volume, Frame(image, CAMERA), start, config=config)
    assert float(mtre(result.pose, truth, LANDMARKS)) < 1.5  # 3 and more without the weights


def test_the_module_holds_the_function_of_its_name():
    assert importlib.import_module("jxreg.register").register is register
    assert hash(RegisterConfig()) == hash(RegisterConfig())


def test_the_gravest_finding_wins():
    good = {
        "finite": True,
        "contrast": 0.5,
        "overlap": 0.9,
        "kept": 0.9,
        "similarity": 0.9,
        "initial_similarity": 0.5,
        "probability": 0.9,
        "last_step": 0.0,
    }
    table = [
        (Status.OK, {}),
        (Status.SUSPECT, {"probability": 0.1}),
        (Status.SUSPECT, {"kept": 0.05}),
        (Status.SUSPECT, {"initial_similarity": 0.99}),
        (Status.NOT_CONVERGED, {"last_step": 3.0, "probability": 0.1}),
        (Status.OUT_OF_VIEW, {"overlap": 0.1, "last_step": 3.0}),
        (Status.NO_SIGNAL, {"contrast": 0.0, "overlap": 0.1}),
        (Status.NON_FINITE, {"finite": False, "contrast": 0.0}),
        (Status.SUSPECT, {"similarity": float("nan")}),
        (Status.AMBIGUOUS, {"lead": 0.01}),
        (Status.SUSPECT, {"lead": 0.01, "kept": 0.05}),
        (Status.OK, {"lead": float("inf")}),
    ]
    for status, change in table:
        evidence = Evidence(**{k: jnp.asarray(v) for k, v in {**good, **change}.items()})
        assert int(judge(evidence, Thresholds())) == status, change
