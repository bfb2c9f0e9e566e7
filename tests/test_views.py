"""Several images at once: one pose of the patient, cameras that are known or sought."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxlie import SE3
from moving_bodies import BODIES, CAMERA, camera_at, landmarks, scan, xray

from jxreg.alignment import Aligned, Level, Terms
from jxreg.ascent import Climb
from jxreg.camera import project_points, with_lens
from jxreg.candidates import Found
from jxreg.descent import Descent, Nearby, through
from jxreg.errors import InputError
from jxreg.frame import Frame
from jxreg.metrics import mtre
from jxreg.pose import perturb, rotation_angle
from jxreg.refinement import RefineTrace
from jxreg.register import RegisterConfig
from jxreg.rig import Geometry
from jxreg.verdict import Status
from jxreg.views import register_views

CONFIG = RegisterConfig(levels=(Level(64, 0, steps=10),), truncated=False)
CAMERAS = camera_at(0.0), camera_at(90.0)
TWIST = jnp.array([5.0, -4.0, 6.0, 0.04, -0.05, 0.03])
LANDMARKS = landmarks(0.0)


@pytest.fixture(scope="module")
def volume():
    return scan()[0]


@pytest.fixture(scope="module")
def frames():
    """The patient at the identity."""
    return [xray(BODIES, [SE3.identity()] * 2, camera) for camera in CAMERAS]


@pytest.fixture(scope="module")
def start(volume):
    return perturb(SE3.identity(), TWIST, volume.isocenter)


def test_two_views_find_the_pose_and_its_depth(volume, frames, start):
    result = register_views(volume, frames, CAMERAS, start, config=CONFIG)
    assert float(mtre(start, SE3.identity(), LANDMARKS)) > 7
    assert float(mtre(result.pose, SE3.identity(), LANDMARKS)) < 0.3  # voxels of 2.5 mm
    assert int(result.status) == Status.OK
    # All three directions are known about equally well.
    deviations = np.sqrt(np.diag(np.asarray(result.covariance)))[:3]
    assert deviations.max() < 3 * deviations.min()


def test_a_similarity_without_features_is_climbed(volume, frames, start):
    adam = Climb(steps=80, repeats=1, patience=6, plateaus=2)
    level = Level(32, 0, similarity="mutual_information", climb=adam)
    config = RegisterConfig(levels=(level,), truncated=False)
    result = register_views(volume, frames, CAMERAS, start, config=config)
    assert float(mtre(result.pose, SE3.identity(), LANDMARKS)) < 2  # half a pixel at the patient
    taken = np.asarray(result.trace.step_mm) > 0
    assert taken.shape == (80,)
    assert taken.sum() < 80  # the second plateau came before
    assert not np.any(taken[taken.sum() :])
    assert result.views is not None
    assert float(result.views.similarity.min()) > 0.8  # judged by local NCC


def test_the_verdict_is_that_of_the_worst_image(volume, frames, start):
    black = [frames[0], replace(frames[1], image=jnp.zeros_like(frames[1].image))]
    result = register_views(volume, black, CAMERAS, start, config=CONFIG)
    assert int(result.status) == Status.NO_SIGNAL
    assert result.views is not None
    assert int(result.views.status[1]) == Status.NO_SIGNAL
    assert int(result.views.status[0]) != Status.NO_SIGNAL
    np.testing.assert_array_equal(result.pose.wxyz_xyz, start.wxyz_xyz)


def test_what_a_search_was_not_sure_of_is_ambiguous(volume, frames, start):
    one, poses = jnp.ones(1), SE3(start.wxyz_xyz[None])
    sure = Found(poses, one, one, one, jnp.int32(1), jnp.float32(jnp.inf), jnp.int32(1))
    for found, status in (
        (sure, Status.OK),
        (sure._replace(lead=jnp.float32(0.0)), Status.AMBIGUOUS),
    ):
        config = replace(CONFIG, found=(replace(CONFIG.levels[0], steps=8),))
        result = register_views(volume, frames, CAMERAS, found, config=config)
        assert int(result.status) == status
        assert result.found is found
        assert set(np.asarray(result.trace.level)) == {1}  # that of `found`, after `levels`
        assert result.trace.similarity.shape == (8,)
        assert float(mtre(result.pose, SE3.identity(), LANDMARKS)) < 0.3


@pytest.mark.slow
def test_a_wrong_distance_of_the_detector_is_found(volume, frames, start):
    wrong = with_lens(CAMERA, jnp.array([0.03, 4.0, 0.0]))
    given = [frames[0], Frame(frames[1].image, wrong)]
    geometry = Geometry(sdd=0.05, principal_point=10.0)
    result = register_views(volume, given, CAMERAS, start, config=CONFIG, geometry=geometry)
    assert result.views is not None
    found = result.views.camera[1]
    assert abs(float(wrong.sdd / CAMERA.sdd) - 1) > 0.03
    assert abs(float(found.sdd / CAMERA.sdd) - 1) < 0.01
    # Principal points that are sought may shift with the body; what the image shows stays.
    seen, true = (
        project_points(camera, CAMERAS[1] @ pose, LANDMARKS)
        for camera, pose in ((found, result.pose), (CAMERA, SE3.identity()))
    )
    np.testing.assert_allclose(seen, true, atol=0.3)  # pixels
    assert float(rotation_angle(result.pose, SE3.identity())) < 0.005


RIGHT, WRONG = jnp.array([3.0, 0, 0, 0, 0, 0]), jnp.array([-3.0, 0, 0, 0, 0, 0])


def score(level, pose):
    """Two optima; up to 40 pixels a level prefers the wrong one."""
    heights = (0.9, 1.0) if level.pixels < 40 else (1.0, 0.5)
    pairs = zip(heights, (RIGHT, WRONG), strict=True)
    return jnp.stack([height - jnp.linalg.norm(pose - peak) for height, peak in pairs]).max()


def align(level, pose):
    """To an optimum nearer than 2 mm."""
    for peak in (RIGHT, WRONG):
        pose = jnp.where(jnp.linalg.norm(pose - peak) < 2, peak, pose)
    value = score(level, pose)
    trace = RefineTrace(value[None], jnp.ones(1), pose[None])
    zero = jnp.zeros((1, 1))
    terms = Terms(zero, zero, jnp.zeros(()), zero, zero, value, jnp.zeros(()))
    return Aligned(pose, trace, terms, jnp.eye(6))


def test_of_several_starts_those_go_on_that_end_apart():
    def move(pose, twist):
        return pose + twist

    descent, start = Descent(align, score, move, lambda a, b: jnp.linalg.norm(a - b)), jnp.zeros(6)

    def ends(carried, *pixels):
        nearby = Nearby(64, 8, carried, 1.0, 4.0, 0.05) if carried else Nearby()
        levels = [Level(each, 0) for each in pixels]
        return jax.jit(lambda start: through(levels, start, descent, nearby))

    np.testing.assert_array_equal(ends(0, 32, 64, 128)(start)[0].pose, start)
    # The second level says which end of the first one is best, the third which of the second.
    np.testing.assert_allclose(ends(1, 32, 64, 128)(start)[0].pose, RIGHT)
    np.testing.assert_allclose(ends(1, 32, 36, 128)(start)[0].pose, WRONG)
    np.testing.assert_allclose(ends(2, 32, 36)(start)[0].pose, WRONG)
    carried = ends(2, 32, 36, 128)
    fine, trace = carried(start)
    np.testing.assert_allclose(fine.pose, RIGHT)
    assert trace.level.tolist() == [0, 1, 2]
    np.testing.assert_allclose(trace.pose, [RIGHT] * 3)  # the trace is that of the one chosen
    np.testing.assert_allclose(carried(RIGHT)[0].pose, RIGHT)  # a good start is not left


def test_refuses_what_it_cannot_do(volume, frames, start):
    with pytest.raises(InputError, match="1 poses of cameras for 2 images"):
        register_views(volume, frames, CAMERAS[:1], start)
    with pytest.raises(InputError, match="at least one"):
        register_views(volume, [], [], start)
    for climb in (Climb(parametrisation="euler"), Climb(patches=9)):
        config = RegisterConfig(levels=(Level(64, 0, climb=climb),))
        with pytest.raises(InputError, match="leave out Climb.pa"):
            register_views(volume, frames, CAMERAS, start, config=config)
        searched = RegisterConfig(found=config.levels)
        with pytest.raises(InputError, match="leave out Climb.pa"):
            register_views(volume, frames, CAMERAS, config=searched)
    config = RegisterConfig(levels=(Level(64, 0, climb=Climb("sgd")),))
    with pytest.raises(InputError, match="'sgd'; expected one of adam"):
        register_views(volume, frames, CAMERAS, start, config=config)
    with pytest.raises(InputError, match="'sum'; expected one of ncc"):
        register_views(volume, frames, CAMERAS, start, config=RegisterConfig(similarity="sum"))
