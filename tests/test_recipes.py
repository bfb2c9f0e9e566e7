"""Recipes: what a model file keeps, how an image reaches a network, and the way from CT to pose."""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_recipe
from jaxlie import SE3, SO3
from refusal import refused
from safetensors.numpy import save_file

import jxreg.register  # noqa: F401
from jxreg import drr, recipes
from jxreg.camera import Camera
from jxreg.errors import InputError
from jxreg.frame import Frame, seen_by
from jxreg.io.config_entries import filled
from jxreg.io.model_file import load_model_file, save_model_file
from jxreg.phantoms import grid_around, pelvis_and_spine, voxelise
from jxreg.pose import antipodal, from_carm, rotation_angle
from jxreg.recipes import own
from jxreg.recipes.model import Several, _turned, locator, shown
from jxreg.recipes.patients import Draw, PatientConfig, prepare
from jxreg.recipes.recipe import Geometry, Recipe, camera_of, finetuning, reference_pose
from jxreg.sampling import UniformEuler
from jxreg.synthesis import SynthesisConfig
from jxreg.training import fit
from jxreg.volume import Volume

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
import reduced

PARAMS = {"a": {"0": np.ones((2, 3), np.float32), "gain": np.float32(0.5)}, "b": np.arange(3)}


@pytest.fixture(scope="module")
def volume():
    phantom = pelvis_and_spine()
    shape, affine = grid_around(phantom, 8.0)
    mu = np.asarray(voxelise(phantom, shape, affine).mu).sum(0)
    return Volume.from_array(mu, affine, pyramid_mm=())


def test_a_model_file_keeps_everything(tmp_path):
    path = tmp_path / "m.safetensors"
    save_model_file(path, PARAMS, {"recipe": "jxreg", "config": {"width": 8}})
    params, header = load_model_file(path)
    assert jax.tree.structure(params) == jax.tree.structure(PARAMS)
    for one, other in zip(jax.tree.leaves(params), jax.tree.leaves(PARAMS), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.shape == np.shape(other)
    assert header["config"] == {"width": 8}
    refused(
        lambda path: save_model_file(path, {"a": np.full(2, np.nan)}, {}), path, "infinity in a"
    )


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    refused(load_model_file, path, "no such file")
    path.write_bytes(b"PK\x03\x04 a zip file of somebody else")
    refused(load_model_file, path, "cannot be read")
    save_file({"w": np.ones(3)}, path)
    refused(load_model_file, path, "another program", "jxreg train")
    save_model_file(path, PARAMS, {"recipe": "jxreg"})
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    refused(load_model_file, path, "checksum is in the header")
    path.write_bytes(content[:-40])
    refused(load_model_file, path, "cannot be read")
    newer = json.dumps({"format": "jxreg-model", "version": 2})
    save_file({"w": np.ones(3)}, path, {"jxreg": newer})
    refused(load_model_file, path, "version = 2", "update jxreg")


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_a_configuration_survives_json(name):
    config = recipes.default_config(name)
    changed = replace(config, train=finetuning(config.train))
    entries = json.loads(json.dumps(asdict(changed)))
    assert filled(config, entries, "file") == changed
    assert changed != config


@pytest.mark.parametrize(
    "entries, words",
    [
        ({"widht": 3}, "widht"),
        ({"geometry": {"pixels": 64.5}}, "pixels"),
        ({"contrast": [1.0, 2.0, 3.0]}, "contrast"),
        ({"train": {"keep": "worst"}}, "keep"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(entries, words):
    with pytest.raises(InputError, match=words):
        filled(own.CONFIG, entries, "file")


def test_finetuning_is_that_of_xvr():
    train = finetuning(recipes.default_config("xvr").train)
    optimizer = train.optimizer
    assert (train.steps, train.batch, optimizer.warmup, optimizer.accumulate) == (500, 116, 10, 1)


@pytest.mark.parametrize(
    "poses, words",
    [(UniformEuler(), "volumes: none"), (UniformEuler((3.0, -3.0)), "pose sampler")],
)
def test_nothing_to_train_on_is_refused(poses, words):
    draw = Draw(Geometry(), poses, SynthesisConfig())
    with pytest.raises(InputError, match=words):
        prepare([], draw, PatientConfig())


def test_an_image_is_resampled_to_another_camera(volume):
    pose = from_carm(10.0, 5.0, 3.0, source_to_isocenter=700.0, isocenter=volume.isocenter)
    fine = Camera.from_sdd(1000.0, (120, 150), (2.5, 2.4), (70.0, 62.0), mirrored=True)
    coarse = Camera.from_sdd(800.0, (40, 36), (5.6, 6.0))
    render = jax.jit(drr.render)
    seen = seen_by(Frame(render(volume, fine, pose), fine), coarse)
    expected = np.asarray(render(volume, coarse, pose))
    inside = np.asarray(seen.mask) > 0.999
    assert inside.mean() > 0.7
    difference = (np.asarray(seen.image) - expected)[inside]
    # Averages of pixels against their middle: small but at edges; half a pixel off gives 0.1.
    assert np.abs(difference).mean() < 0.02 * expected.max()
    masked = seen_by(Frame(render(volume, fine, pose), fine, jnp.zeros((120, 150))), coarse)
    np.testing.assert_array_equal(masked.image, 0)
    np.testing.assert_array_equal(masked.mask, 0)
    assert float(shown(seen, coarse).max()) == pytest.approx(1.0)


def test_starts_of_a_turned_image_are_turned_back(volume):
    geometry = Geometry(pixels=48, pixel_mm=6.0)
    camera = camera_of(geometry)
    pose = from_carm(5.0, 0.0, 0.0, source_to_isocenter=700.0, isocenter=volume.isocenter)
    image = jax.jit(drr.render)(volume, camera, pose)
    turned_pose = _roll(12.0) @ pose
    expected = jax.jit(drr.render)(volume, camera, turned_pose)
    middle = (slice(8, -8), slice(8, -8))
    away = np.abs(np.asarray(_turned(image, camera, 12.0) - expected))[middle].mean()
    assert away < 0.25 * np.abs(np.asarray(image - expected))[middle].mean()

    recipe = Recipe(geometry, None, None, None, lambda *_: turned_pose)
    poses = locator(recipe, SEVERAL)({}, volume, Frame(image, camera))
    assert poses.wxyz_xyz.shape == (4, 7)
    first, second, third, _ = (SE3(row) for row in poses.wxyz_xyz)
    assert float(rotation_angle(first, turned_pose)) < 1e-5
    assert float(rotation_angle(second, pose)) < 1e-5
    other_side = antipodal(first, volume.isocenter)
    np.testing.assert_allclose(third.as_matrix(), other_side.as_matrix(), atol=1e-2)


SEVERAL = Several((0.0, 12.0), antipodal=True)


def _roll(degrees):
    return SE3.from_rotation(SO3.from_z_radians(np.deg2rad(degrees)))


def test_the_live_path_compiles_once(volume, caplog):
    """Whatever changes: parameters, volume, image, camera. Frames may be a batch."""
    recipe, items, poses = tiny_recipe.build(tiny_recipe.CONFIG), [], []
    find = locator(recipe)
    with jax.log_compiles():
        for k in range(4):
            camera = Camera.from_sdd(1000.0 + 9 * k, (32, 40), (8.0, 7.0 + k), mirrored=k % 2 == 1)
            frame = Frame(jax.random.uniform(jax.random.key(k), (32, 40)), camera)
            patient = replace(volume, isocenter=volume.isocenter + 5.0 * k)
            items.append((recipe.task.init(jax.random.key(k)), patient, frame))
            poses.append(find(*items[-1]))
    assert sum("Finished XLA compilation of jit(_located)" in m for m in caplog.messages) == 1
    frames = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[item[2] for item in items])
    batch = jax.vmap(find, in_axes=(None, None, 0))(items[0][0], items[0][1], frames)
    np.testing.assert_allclose(batch.wxyz_xyz[0], poses[0].wxyz_xyz, atol=1e-4)
    assert np.ptp(np.stack([pose.wxyz_xyz for pose in poses]), axis=0).max() > 10


LONG = [pytest.param(name, marks=pytest.mark.slow) for name in ("diffpose", "psss", "xvr")]


@pytest.mark.parametrize("name", ["jxreg", "lxpose", *LONG])
def test_the_live_path_of_every_recipe_takes_a_batch_of_frames(name, volume):
    recipe = recipes.build(name, recipes.default_config(name))
    params = jax.eval_shape(recipe.task.init, jax.random.key(0))
    camera = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), camera_of(recipe.geometry))
    frames = Frame(jnp.zeros((3, *camera.image_size)), camera)
    find = jax.vmap(locator(recipe), in_axes=(None, None, 0))
    assert jax.eval_shape(find, params, volume, frames).wxyz_xyz.shape == (3, 7)


def test_the_reference_pose_is_about_the_isocenter(volume):
    geometry = Geometry(primary_degrees=180.0, source_to_isocenter=650.0)
    pose = reference_pose(geometry, volume.isocenter)
    np.testing.assert_allclose(pose.apply(volume.isocenter), [0, 0, 650], atol=1e-3)


@pytest.mark.parametrize("name, millions", [("lxpose", 2 * 11.2), ("xvr", 21.28)])
def test_parameters_are_as_many_as_published(name, millions):
    """Two ResNet-18 of about 11.2 million with heads and CBAM; one ResNet-34."""
    made = recipes.build(name, recipes.default_config(name))
    shapes = jax.eval_shape(made.task.init, jax.random.key(0))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6
    assert count == pytest.approx(millions, abs=0.05)
    assert made.geometry == recipes.default_config(name).geometry


def test_lxpose_refuses_images_too_small_for_its_norm():
    config = recipes.default_config("lxpose")
    small = replace(config, geometry=Geometry(pixels=32))
    with pytest.raises(InputError, match="64 or more"):
        recipes.build("lxpose", small)


REDUCED = {
    "diffpose": reduced.DIFFPOSE["se3_log"],
    "jxreg": replace(own.CONFIG, augmentation=False, width=16, hidden=(64,)),
    "lxpose": reduced.LXPOSE["clean"],
    "psss": reduced.PSSS,
    "xvr": reduced.XVR,
}
"""Those of the benchmark of ablations; ranges and losses are the published ones."""


@pytest.mark.slow
@pytest.mark.parametrize("name", REDUCED)
def test_a_short_training_lowers_the_error(name, volume):
    config = replace(
        REDUCED[name],
        patient=PatientConfig(validation=32, landmarks=20),
        train=reduced.schedule(400, REDUCED[name].train.curriculum),
    )
    made = recipes.build(name, config)
    patients = made.prepare([volume])
    assert patients[0].fixed.images.shape == (32, made.geometry.pixels, made.geometry.pixels)
    validate = jax.jit(made.task.validate)
    before = validate(jax.jit(made.task.init)(jax.random.key(0)), patients[0])["mpd"]
    after = validate(fit(made.task, patients, made.train).params, patients[0])["mpd"]
    print(f"{name}: mPD {before:.1f} mm before, {after:.1f} mm after")
    assert after < 0.7 * before
