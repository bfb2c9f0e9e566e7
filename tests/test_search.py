"""Search without a start, on a phantom that looks different from everywhere."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
import pytest

import jxreg
from jxreg import Camera, Frame, Volume, candidates, matching, metrics
from jxreg.alignment import Level, Prior, departure
from jxreg.candidates import (
    CompareConfig,
    Contest,
    Found,
    Rank,
    best_of,
    compare,
    contest,
    screen,
    varied,
)
from jxreg.frame import square
from jxreg.global_search import SearchConfig, _proposed, make_library, search, search_views
from jxreg.matching import Matches
from jxreg.pose import antipodal, from_carm, perturb
from jxreg.register import RegisterConfig, register
from jxreg.verdict import Status

CAMERA = Camera.from_sdd(1000.0, (96, 80), (3.0, 3.0))
COMPARE = CompareConfig(
    finalists=3,
    first=Level(32, 1, similarity="local_ncc", sigma=0.1),
    coarse=Level(32, 1, similarity="local_ncc", sigma=0.1, tolerance=0.1),
    fine=Level(64, 0, tolerance=0.1),
)
NARROW = SearchConfig(
    primary_centers_degrees=(0.0,),
    primary_degrees=30.0,
    secondary_degrees=20.0,
    roll_degrees=15.0,
    source_to_isocenter=700.0,
    depth=60.0,
    directions=30,
    rolls=3,
    depths=2,
    candidates=8,
    compare=COMPARE,
    truncated=False,
)
VIEWS = {  # angles [deg], offset [mm]
    "tilted": ((18.0, -12.0, 9.0), (0.0, 0.0, -35.0)),
    "off the axis": ((-25.0, 15.0, 0.0), (60.0, -45.0, 0.0)),
}


def blobs(*centres_and_radii) -> Volume:
    """Balls in a body of water, 4 mm voxels."""
    shape, spacing = (48, 40, 56), 4.0
    affine = np.diag([spacing] * 3 + [1.0])
    affine[:3, 3] = -spacing * (np.array(shape) - 1) / 2
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1) * spacing
    grid = grid + affine[:3, 3]
    mu = 0.01 * ((grid / [80.0, 65.0, 95.0]) ** 2).sum(-1).__lt__(1).astype(np.float32)
    for centre, radius in centres_and_radii:
        mu += 0.04 * (np.linalg.norm(grid - centre, axis=-1) < radius)
    return Volume.from_array(mu.astype(np.float32), affine)


@pytest.fixture(scope="module")
def volume() -> Volume:
    return blobs(
        ([30.0, -20.0, 50.0], 22.0),
        ([-35.0, 25.0, 15.0], 16.0),
        ([10.0, 30.0, -45.0], 18.0),
        ([-25.0, -30.0, -55.0], 12.0),
    )


def xray(volume: Volume, pose: jaxlie.SE3) -> Frame:
    image = jax.jit(jxreg.render)(volume, CAMERA, pose)
    noise = 0.01 * image.max() * jax.random.normal(jax.random.key(1), image.shape)
    return Frame(0.7 * image + noise, CAMERA)  # other contrast, and noise


def seen(volume: Volume, name: str) -> jaxlie.SE3:
    angles, offset = VIEWS[name]
    center = volume.isocenter
    return from_carm(*angles, source_to_isocenter=700.0, isocenter=center, offset=offset)


@pytest.fixture(scope="module")
def library(volume):
    return make_library(volume, CAMERA, config=NARROW)


@pytest.mark.parametrize("name", VIEWS)
def test_a_pose_is_found_without_a_start(volume, library, name):
    pose = seen(volume, name)
    found = search(volume, xray(volume, pose), config=NARROW, library=library)
    best = jaxlie.SE3(found.pose.wxyz_xyz[0])
    points = volume.isocenter + 40.0 * jnp.eye(3)
    assert float(metrics.mrpd(best, pose, points)) < 1.5
    assert float(found.lead) > 0.1
    assert float(found.score[0]) == float(found.score.max())
    assert int(found.agreeing) >= 1


def test_a_match_may_compare_little_of_the_image_where_there_is_no_more(volume, library):
    """Shutters leave a seventh of the image: no match by the measures that ask for a fifth."""
    there, axis = jaxlie.SO3(library.orientation.wxyz[4]), jnp.array(matching.AXIS)
    pose = matching.placed(there, library.depth, 0.0, axis, volume.isocenter)
    small = square(xray(volume, pose), 2 * NARROW.pixels)
    side = small.image.shape[0]
    open_ = jnp.zeros_like(small.image).at[side // 4 : 3 * side // 4, side // 4 : 5 * side // 8]
    look = jnp.zeros(1), jnp.ones(1)
    found = matching.match(library, replace(small, mask=open_.set(1)), volume.isocenter, *look)
    assert found.score.shape == (matching.MEASURES, NARROW.directions)
    assert float(found.score[0].max()) < 0
    assert (np.asarray(found.score[1]) == -np.inf).all()
    assert int(found.score[2].argmax()) == 4
    assert float(found.score[2].max()) > 0.7
    at = found.pose.wxyz_xyz[2, 4]
    assert float(metrics.mrpd(jaxlie.SE3(at), pose, volume.isocenter + 40.0 * jnp.eye(3))) < 12


def test_a_match_tells_the_roll_and_the_depth(volume, library):
    there, axis = jaxlie.SO3(library.orientation.wxyz[4]), jnp.array(matching.AXIS)
    pose = matching.placed(there, 0.9 * library.depth, 0.3, axis, volume.isocenter)
    small = square(xray(volume, pose), 2 * NARROW.pixels)
    look = jnp.array([-0.3, 0.0, 0.3]), jnp.array([0.9, 1.0, 1.1])
    found = matching.match(library, small, volume.isocenter, *look)
    best = jaxlie.SE3(found.pose.wxyz_xyz[0, 4])
    np.testing.assert_allclose(best.rotation().wxyz, pose.rotation().wxyz, atol=1e-3)
    np.testing.assert_allclose(best.translation(), pose.translation(), atol=1e-2)


def test_what_several_measures_propose_is_proposed_once():
    places = jnp.arange(12.0).reshape(3, 4).at[1].set(jnp.arange(4.0)).at[2, 0].set(0.0)
    poses = jaxlie.SE3(jnp.zeros((3, 4, 7)).at[..., 0].set(1.0).at[..., 4].set(places))
    score = jnp.array([[4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]])
    # The best two of each: places 0, 1; 3, 2, which are no best ones of the first; 0 again, 9.
    found, count = _proposed(Matches(score, poses), replace(NARROW, screened=6))
    assert int(count) == 5
    assert sorted(np.asarray(found[:5, 4])) == [0.0, 1.0, 2.0, 3.0, 9.0]
    assert set(np.asarray(found[5:, 4])) == {0.0}


def as_matched(**changes) -> SearchConfig:
    """A search that proposes two poses and refines neither."""
    still = {name: replace(getattr(COMPARE, name), steps=0) for name in ("coarse", "fine")}
    alone = replace(COMPARE.apart, shift=1e-3, depth=1e-3, rotation=1e-5)
    rules = replace(COMPARE, apart=alone, **still)
    return replace(NARROW, **({"candidates": 2, "rounds": 1, "compare": rules} | changes))


def test_the_best_drrs_of_all_matches_are_tried_first(volume, library):
    pose = seen(volume, "tilted")
    frame, config = xray(volume, pose), as_matched(moved=0)
    how = {"config": config.compare, "truncated": False}
    found = search(volume, frame, config=config, library=library)
    few = search(volume, frame, config=replace(config, screened=8), library=library)
    best, of_few = (screen(volume, frame, x.pose, **how) for x in (found, few))
    assert np.abs(np.diff(found.pose.wxyz_xyz, axis=0)).max() > 1e-3  # measures agree on many
    assert float(best.max()) >= float(of_few.max())
    assert float(best.min()) >= float(of_few.min())
    turned = antipodal(pose, volume.isocenter).wxyz_xyz
    true, other = screen(volume, frame, jaxlie.SE3(jnp.stack([pose.wxyz_xyz, turned])), **how)
    assert true > best.max() > other


def test_poses_like_a_better_one_come_last(volume):
    start = seen(volume, "tilted")
    shift = jnp.array([0.0, 30.0, 1.0, 60.0, 31.0, 2.0])
    twists = shift[:, None] * jnp.eye(6)[0]
    poses = jax.vmap(lambda twist: perturb(start, twist, volume.isocenter))(twists)
    score = jnp.array([5.0, 3.0, 4.9, 1.0, 2.9, 4.8])
    apart = Prior(shift=5.0, depth=5.0, rotation=0.1)
    order = varied(volume, poses, score, 6, apart)
    assert order.tolist() == [0, 1, 3, 2, 4, 5]  # the last one is like two that are better
    worthless = jnp.full(6, -jnp.inf).at[1].set(3.0)
    order = varied(volume, poses, worthless, 6, apart)
    assert int(order[0]) == 1
    assert sorted(order.tolist()) == list(range(6))  # none comes twice


def test_candidates_that_differ_are_tried_first(volume, library):
    frame, apart = xray(volume, seen(volume, "tilted")), Prior(15.0, 40.0, 0.15)
    alike = []
    for config in (
        as_matched(moved=0, candidates=3),
        as_matched(moved=0, candidates=3, apart=apart),
    ):
        found = search(volume, frame, config=config, library=library).pose.wxyz_xyz
        every, other = (jaxlie.SE3(found[i]) for i in np.triu_indices(3, 1))
        change = jax.vmap(lambda a, b: departure(a, b, volume.isocenter, apart))(every, other)
        alike.append(int((jnp.linalg.norm(change, axis=1) < 1).sum()))
    assert alike[0] > alike[1] == 0


def test_only_the_first_poses_are_screened_if_so_many_are_asked_for(volume, monkeypatch):
    monkeypatch.setattr(candidates, "SCREENED", 3)
    pose = seen(volume, "tilted")
    twists = jnp.linspace(0.0, 0.2, 7)[:, None] * jnp.ones(6)
    poses = jax.vmap(lambda twist: perturb(pose, twist, volume.isocenter))(twists)
    frame, how = xray(volume, pose), {"config": COMPARE, "truncated": False}
    every, few = (screen(volume, frame, poses, count, **how) for count in (None, 4))
    assert np.isfinite(every).all()
    assert int(every.argmax()) == 0
    np.testing.assert_allclose(few[:4], every[:4], rtol=1e-5)
    assert (np.asarray(few[4:]) == -np.inf).all()


def test_a_match_by_each_measure_is_the_least_that_is_screened(volume, library):
    frame, found = xray(volume, seen(volume, "tilted")), []
    for screened in (matching.MEASURES, 1):
        config = as_matched(moved=0, screened=screened)
        found.append(search(volume, frame, config=config, library=library).pose.wxyz_xyz)
    assert np.isfinite(found[0]).all()
    np.testing.assert_array_equal(*found)


def test_a_match_gives_way_to_a_better_pose_near_by(volume, library):
    pose = seen(volume, "off the axis")
    frame, points = xray(volume, pose), volume.isocenter + 40.0 * jnp.eye(3)
    errors = []
    for moved in (0, 8):
        config = as_matched(moved=moved, rolls=1, depths=1)
        found = search(volume, frame, config=config, library=library)
        score = screen(volume, frame, found.pose, config=COMPARE, truncated=False)
        best = jaxlie.SE3(found.pose.wxyz_xyz[score.argmax()])
        errors.append((float(metrics.mrpd(best, pose, points)), float(score.max())))
    (far, low), (near, high) = errors
    assert high > low
    assert near < far


def test_the_same_key_finds_the_same_and_another_looks_elsewhere(volume):
    keys = [jax.random.key(3), jax.random.key(3), jax.random.key(4)]
    directions = [make_library(volume, CAMERA, config=NARROW, key=key) for key in keys]
    first, again, other = (each.orientation.wxyz for each in directions)
    np.testing.assert_array_equal(first, again)
    assert np.abs(np.asarray(first - other)).max() > 0.01


def test_a_range_around_a_pose(volume):
    center = from_carm(75.0, 10.0, source_to_isocenter=650.0, isocenter=volume.isocenter)
    around = make_library(volume, CAMERA, center, config=NARROW)
    angles = jax.vmap(lambda wxyz: (jaxlie.SO3(wxyz) @ center.rotation().inverse()).log())(
        around.orientation.wxyz
    )
    assert np.degrees(np.linalg.norm(angles, axis=1)).max() < 37
    assert float(around.depth) == 700.0


def test_more_candidates_are_tried_unless_one_is_sure(volume):
    pose = seen(volume, "tilted")
    near = perturb(pose, jnp.array([4.0, -3.0, 10.0, 0.03, 0.02, -0.02]), volume.isocenter)
    wrong = [perturb(pose, jnp.array([0, 0, 0, 0, 2.0 * k, 0]), volume.isocenter) for k in (1, -1)]
    frame, config = xray(volume, pose), replace(COMPARE, sure=0.1)
    points = volume.isocenter + 40.0 * jnp.eye(3)
    turns = [wrong, [near, wrong[0]]]
    for tried, rounds in ((turns, 2), (turns[::-1], 1)):
        starts = jnp.stack([jnp.stack([each.wxyz_xyz for each in turn]) for turn in tried])
        found = compare(volume, frame, jaxlie.SE3(starts), config=config, truncated=False)
        assert int(found.rounds) == rounds
        assert float(found.lead) > config.sure
        assert float(metrics.mrpd(best_of(found), pose, points)) < 1.5
        assert int(found.agreeing) == 1


def test_finalists_that_become_one_where_few_candidates_were_are_not_sure():
    """Of two places in a round the score likes the last; refined, both go to one place."""
    places = [jaxlie.SE3.from_translation(jnp.array([float(x), 0.0, 0.0])) for x in (0, 1, 2, 3)]
    starts = jaxlie.SE3(jnp.stack([each.wxyz_xyz for each in places]).reshape(2, 2, 7))
    config = CompareConfig(finalists=2)

    def contest_of(sink: float, starts: jaxlie.SE3 = starts) -> Found:
        def refine(level, poses):
            moved = poses.wxyz_xyz.at[:, 4].set(sink)
            return jaxlie.SE3(jnp.where(level.scatter, moved, poses.wxyz_xyz))

        def rank(level, pose):
            return Rank(*[pose.translation()[0]] * 3)

        def away(one, other):
            return 2 * jnp.abs(one.translation()[0] - other.translation()[0])

        return contest(Contest(refine, rank, away), starts, config)

    elsewhere, there = contest_of(9.0), contest_of(1.0)
    assert int(elsewhere.rounds) == 2
    assert float(elsewhere.lead) == 0.0
    assert int(elsewhere.agreeing) == 0
    assert int(there.rounds) == 1
    assert float(there.lead) == np.inf
    assert int(there.agreeing) == 1
    more = [jaxlie.SE3.from_translation(jnp.array([float(-x), 0.0, 0.0])) for x in range(10)]
    crowd = jnp.stack([each.wxyz_xyz for each in more])
    lone, many = (contest_of(0.0, jaxlie.SE3(x)) for x in (crowd, crowd.at[5:].set(crowd[0])))
    assert int(lone.agreeing) == 1
    assert float(lone.lead) == 0.0
    assert int(many.agreeing) == 6
    assert float(many.lead) == np.inf


def test_two_views_without_a_start(volume):
    """Each image proposes poses; the poses found explain both, and their depth is known."""
    pose = seen(volume, "off the axis")
    turned = from_carm(65.0, 15.0, source_to_isocenter=700.0, isocenter=volume.isocenter)
    cameras = jaxlie.SE3.identity(), turned @ pose.inverse()
    frames = [xray(volume, camera @ pose) for camera in cameras]
    found = search_views(volume, frames, cameras, config=NARROW)
    points = volume.isocenter + 40.0 * jnp.eye(3)
    assert float(metrics.mtre(best_of(found), pose, points)) < 1.5
    assert float(found.lead) > 0.1


def test_register_searches_if_there_is_no_start(volume):
    pose = seen(volume, "tilted")
    config = RegisterConfig(levels=(Level(64, 0, steps=6),), truncated=False, search=NARROW)
    result = register(volume, xray(volume, pose), config=config)
    assert int(result.status) == Status.OK
    assert result.found is not None
    assert float(metrics.mrpd(result.pose, pose, volume.isocenter + 40.0 * jnp.eye(3))) < 0.5


@pytest.mark.slow
def test_front_and_back_are_told_apart_where_they_differ_and_else_ambiguous(volume):
    """Of a patient who is the same after half a turn, both views explain the image."""
    symmetric = blobs(
        ([40.0, 0.0, 50.0], 20.0),
        ([-40.0, 0.0, 50.0], 20.0),
        ([0.0, 35.0, -40.0], 15.0),
        ([0.0, -35.0, -40.0], 15.0),
    )
    config = RegisterConfig(levels=(Level(64, 0, steps=6),), truncated=False)
    for patient, status in ((volume, Status.OK), (symmetric, Status.AMBIGUOUS)):
        # A view along an axis: half a turn about the vertical leaves the symmetric patient alone.
        pose = from_carm(0.0, 0.0, source_to_isocenter=700.0, isocenter=patient.isocenter)
        frame = xray(patient, pose)
        start = perturb(pose, jnp.array([4.0, -3.0, 10.0, 0.03, 0.02, -0.02]), patient.isocenter)
        both = [antipodal(start, patient.isocenter), start]
        starts = jaxlie.SE3(jnp.stack([each.wxyz_xyz for each in both]))
        found = compare(patient, frame, starts, config=COMPARE, truncated=False)
        result = register(patient, frame, found, config=config)
        assert Status(int(result.status)) == status
        if status == Status.OK:
            points = patient.isocenter + 40.0 * jnp.eye(3)
            assert float(metrics.mrpd(result.pose, pose, points)) < 0.5
