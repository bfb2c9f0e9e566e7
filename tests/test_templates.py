"""Matching of a small volume with an image that shows much besides."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
import pytest

import jxreg
from jxreg import Camera, Frame, Volume, alignment, metrics, templates
from jxreg.alignment import Level, Prior
from jxreg.camera import project_points
from jxreg.candidates import best_of, compare, compared_area
from jxreg.global_search import PART, PART_IN_VIEWS, SearchConfig, search, search_views
from jxreg.pose import from_carm, perturb

CAMERA = Camera.from_sdd(1000.0, (128, 128), (2.5, 2.5))
ROLLS, DEPTHS = jnp.radians(jnp.array([-10.0, 0.0, 10.0])), jnp.array([0.95, 1.05])
SMALL = SearchConfig(
    primary_centers_degrees=(0.0,),
    primary_degrees=24.0,
    secondary_degrees=24.0,
    roll_degrees=24.0,
    source_to_isocenter=700.0,
    depth=40.0,
    pixels=48,
    directions=20,
    rolls=4,
    depths=1,
    candidates=8,
    rounds=2,
    slides=9,
    compare=replace(
        PART_IN_VIEWS.compare,
        finest=128,
        coarse=Level(32, 1, tolerance=0.1),
        sieve=Level(64, 0),
        fine=Level(64, 0, steps=5, tolerance=0.1),
        judge=Level(64, 0),
    ),
    truncated=False,
)


@pytest.fixture(scope="module")
def bone() -> Volume:
    """A rod with two unequal ends, 60 mm long, 2 mm voxels."""
    shape = (24, 20, 36)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = -(np.array(shape) - 1.0)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1) * 2.0
    grid = grid + affine[:3, 3]
    mu = (np.linalg.norm(grid[..., :2], axis=-1) < 5) & (np.abs(grid[..., 2]) < 30)
    for centre, radius in ([8, 0, 24], 10.0), ([-6, 6, -26], 7.0), ([4, -8, -18], 6.0):
        mu |= np.linalg.norm(grid - centre, axis=-1) < radius
    return Volume.from_array(0.04 * mu.astype(np.float32), affine)


def view(bone: Volume, *angles: float, offset=(0.0, 0.0, 0.0)) -> jaxlie.SE3:
    center = bone.isocenter
    return from_carm(*angles, source_to_isocenter=700.0, isocenter=center, offset=offset)


def xray(bone: Volume, pose: jaxlie.SE3) -> Frame:
    """The bone among balls and beside a bar that no volume holds, and noise."""
    image = jax.jit(jxreg.render)(bone, CAMERA, pose)
    row, column = np.mgrid[:128, :128]
    for r, c, size in ((25, 30, 9), (100, 25, 12), (20, 100, 7), (105, 105, 10)):
        depth = np.clip(1 - ((row - r) ** 2 + (column - c) ** 2) / size**2, 0, None)
        image = image + 0.8 * jnp.asarray(np.sqrt(depth), image.dtype)
    image = image + 0.5 * jnp.asarray(np.abs(column - row) < 3, image.dtype)
    return Frame(image + 0.01 * jax.random.normal(jax.random.key(0), image.shape), CAMERA)


def square(frame: Frame) -> Frame:
    return jxreg.frame.square(frame, 96)


def library(bone: Volume, camera: Camera, *views: jaxlie.SE3) -> templates.Templates:
    wxyz = jnp.stack([each.rotation().wxyz for each in views])
    return templates.make_templates(bone, camera, jaxlie.SO3(wxyz), jnp.asarray(700.0))


def test_the_right_template_is_put_in_the_right_place(bone):
    """Roll 10 degrees, 5 % nearer, off the axis: to the steps of the match."""
    truth = view(bone, 0.0, 0.0, 10.0, offset=(45.0, -30.0, 0.0))
    middle = truth.apply(bone.isocenter)
    truth = jaxlie.SE3.from_translation(middle * (665.0 / middle[2] - 1)) @ truth
    image = square(xray(bone, truth))
    kept = library(bone, image.camera, view(bone, 40.0), view(bone, 0.0), view(bone, -40.0))
    matches = jax.jit(templates.match)(kept, image, bone.isocenter, ROLLS, DEPTHS)
    assert matches.score.shape == (1, 3 * 3 * 2)
    best = int(matches.score.argmax())
    points = bone.isocenter + 25.0 * jnp.eye(3)
    found = jaxlie.SE3(matches.pose.wxyz_xyz[0, best])
    assert float(metrics.mtre(found, truth, points)) < 6.0  # a pixel is 2.3 mm
    look = jax.jit(templates.look_at)(image)
    measure = jax.jit(templates.agreement)
    at_truth = float(measure(bone, look, image.camera, truth))
    np.testing.assert_allclose(measure(bone, look, image.camera, found), matches.score.max(), 0.1)
    assert at_truth > 0.9 * float(matches.score.max())
    away = jaxlie.SE3.from_translation(jnp.array([15.0, 10.0, 0.0])) @ truth
    assert float(measure(bone, look, image.camera, away)) < 0.5 * at_truth


def test_of_two_places_the_second_one_may_be_right(bone):
    """The image shows the bone twice, the fainter one below noise that hides it a little."""
    places = [jnp.array([x, 0.0, 0.0]) for x in (-60.0, 60.0)]
    poses = [jaxlie.SE3.from_translation(place) @ view(bone) for place in places]
    clear, faint = (jax.jit(jxreg.render)(bone, CAMERA, pose) for pose in poses)
    noise = 0.2 * jax.random.normal(jax.random.key(1), faint.shape) * (faint > 0)
    image = square(Frame(clear + faint + noise, CAMERA))
    kept = library(bone, image.camera, view(bone))
    match = jax.jit(templates.match, static_argnames="places")
    one, two = (match(kept, image, bone.isocenter, ROLLS, DEPTHS, places=n) for n in (1, 2))
    assert two.score.shape == (1, 2 * one.score.size)
    np.testing.assert_allclose(two.score[:, ::2], one.score, atol=1e-4)
    best = int(one.score.argmax())
    found = two.pose.wxyz_xyz[0, 2 * best : 2 * best + 2]
    np.testing.assert_allclose(found[0], one.pose.wxyz_xyz[0, best], atol=1e-3)
    pixels = [
        project_points(image.camera, pose, bone.isocenter[None])[0]
        for pose in (*map(jaxlie.SE3, found), *poses)
    ]
    np.testing.assert_allclose(pixels[:2], pixels[2:], atol=2.0)


def test_a_place_beyond_the_edge_is_one_with_what_is_beside_it():
    """The score goes on at the other side: the first pixel and the last one are neighbours."""
    score = jnp.zeros((12, 12)).at[0, 0].set(3.0).at[11, 11].set(2.0).at[9, 0].set(1.5)
    score = score.at[5, 7].set(1.0)
    value, place = templates._best_places(score, 2)
    np.testing.assert_array_equal(value, [3.0, 1.0])
    np.testing.assert_array_equal(place, [[0, 0], [7, 5]])  # column and row


def test_a_shadow_that_is_hardly_on_the_image_is_no_match(bone):
    image = square(xray(bone, view(bone)))
    look, measure = templates.look_at(image), jax.jit(templates.agreement)
    for offset in ((160.0, 0.0, 0.0), (5000.0, 0.0, 0.0), (0.0, 0.0, -900.0)):
        pose = jaxlie.SE3.from_translation(jnp.array(offset)) @ view(bone)
        assert float(measure(bone, look, image.camera, pose)) == -1.0


def test_what_is_masked_does_not_count(bone):
    image = square(xray(bone, view(bone)))
    half = jnp.ones_like(image.image).at[:, :20].set(0.0)
    masked = replace(image, mask=half)
    torn = replace(image, image=jnp.where(half > 0, image.image, jnp.nan), mask=half)
    one, other = (templates.look_at(frame) for frame in (masked, torn))
    np.testing.assert_array_equal(one.gradients, other.gradients)
    assert float(jnp.abs(one.gradients[:, :, :20]).max()) == 0.0


@pytest.mark.parametrize("views", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_bone_is_found_in_an_image_of_much_else(bone, views):
    truth = view(bone, 14.0, -9.0, 12.0, offset=(-35.0, 20.0, 15.0))
    turned = view(bone, 80.0, 5.0, 0.0)
    cameras = [jaxlie.SE3.identity(), turned @ view(bone).inverse()][:views]
    frames = [xray(bone, camera @ truth) for camera in cameras]
    points = bone.isocenter + 25.0 * jnp.eye(3)
    center = view(bone)
    if views == 1:
        found = search(bone, frames[0], center, config=SMALL)
        assert float(metrics.mrpd(best_of(found), truth, points)) < 2.0
    else:
        found = search_views(bone, frames, cameras, center, config=SMALL)
        assert float(metrics.mtre(best_of(found), truth, points)) < 2.0


@pytest.mark.slow
def test_candidates_as_far_off_as_templates_stand_apart_come_home(bone):
    """By a coarser way they stay 8 mm off in depth, and in a real image at another optimum."""
    truth = view(bone, 14.0, -9.0, 12.0, offset=(-35.0, 20.0, 15.0))
    random = np.random.default_rng(0)
    step = np.radians([8.0, 8.0, 4.0])
    twists = [
        random.uniform(-3, 3, (8, 2)),
        random.uniform(-20, 20, (8, 1)),
        random.choice([-1, 1], (8, 3)) * step,
    ]
    twists = jnp.asarray(np.concatenate(twists, axis=1), float)
    starts = jax.vmap(lambda twist: perturb(truth, twist, bone.isocenter))(twists)
    config = replace(PART.compare, finest=256)
    best = best_of(compare(bone, xray(bone, truth), starts, config=config, truncated=False))
    points = bone.isocenter + 25.0 * jnp.eye(3)
    assert float(metrics.mrpd(best, truth, points)) < 0.5
    assert abs(float((best.apply(bone.isocenter) - truth.apply(bone.isocenter))[2])) < 5.0


def test_a_part_is_ranked_by_what_of_it_is_compared_not_by_its_window(bone):
    """The same place in windows of other sizes is the same area; half of it is half of that."""
    truth = view(bone, offset=(20.0, 0.0, 0.0))
    frame, level = xray(bone, truth), Level(64, 0, margin=0)  # a margin is in pixels
    middle = jxreg.camera.project_points(CAMERA, truth, bone.isocenter[None])[0]

    def area(frame: Frame, side: float):
        seen = jxreg.frame.window(frame, middle - side / 2, jnp.asarray(side), 64)
        scene = alignment.scene(bone, seen, None, level)
        return compared_area(alignment.look(scene, level, truth, Prior()), scene, truth)

    small, large = (jax.jit(area, static_argnums=1)(frame, side) for side in (48.0, 64.0))
    np.testing.assert_allclose(small, large, rtol=0.05)
    upper = jnp.ones_like(frame.image).at[64:].set(0.0)
    half = jax.jit(area, static_argnums=1)(replace(frame, mask=upper), 64.0)
    np.testing.assert_allclose(half, large / 2, rtol=0.15)
