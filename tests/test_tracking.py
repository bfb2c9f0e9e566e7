"""Sequences: every frame from the last one, lost frames, and how the patient moved."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxlie import SE3
from moving_bodies import BODIES, CAMERA, ORIGIN, camera_at, landmarks, scan, xray

from jxreg.alignment import Level
from jxreg.descent import Trace
from jxreg.errors import InputError
from jxreg.frame import Frame
from jxreg.metrics import mrpd
from jxreg.pose import from_carm, perturb
from jxreg.register import RegisterConfig, Registration
from jxreg.tracking import TrackConfig, follow, motion, track
from jxreg.verdict import Status

CONFIG = TrackConfig(
    first=None,
    each=RegisterConfig(levels=(Level(64, 0, steps=8),), truncated=False),
    glance=Level(32, 0),
)
COUNT, BLACK, JUMP = 9, 3, 6
LANDMARKS = landmarks(0.0)


def stack(items):
    return jax.tree.map(lambda *x: jnp.stack(x), *items)


@pytest.fixture(scope="module")
def run():
    """Volume, frames, true poses: one frame is black, and from another on the patient is away."""
    volume, _ = scan()
    truth, frames = [], []
    for k in range(COUNT):
        away = 55.0 if k >= JUMP else 0.0
        pose = from_carm(
            2.0 * k,
            source_to_isocenter=700.0,
            isocenter=jnp.asarray(ORIGIN, float),
            offset=(away, 5 * np.sin(0.8 * k), 2.0 * k),
        )
        frame = xray(BODIES, [camera_at(0.0).inverse() @ pose] * 2, camera_at(0.0))
        image = jnp.zeros_like(frame.image) if k == BLACK else frame.image
        truth.append(pose)
        frames.append(replace(frame, image=image))
    return volume, stack(frames), truth


def errors(result, truth):
    found = [jax.tree.map(lambda x, k=k: x[k], result.pose) for k in range(COUNT)]
    pairs = zip(found, truth, strict=True)
    return np.array([float(mrpd(pose, true, LANDMARKS)) for pose, true in pairs])


@pytest.fixture(scope="module")
def alone(run):
    volume, frames, truth = run
    start = perturb(truth[0], jnp.array([3.0, -3, 8, 0.03, -0.02, 0.03]), volume.isocenter)
    return track(volume, frames, start, config=CONFIG)


def test_every_frame_is_found_or_flagged(run, alone):
    seen = [k for k in range(JUMP) if k != BLACK]
    status = np.asarray(alone.status)
    assert (status[seen] == Status.OK).all()  # also the one after the black frame
    assert (errors(alone, run[2])[seen] < 0.5).all()  # voxels of 2.5 mm
    assert status[BLACK] == Status.NO_SIGNAL
    assert (status[JUMP:] != Status.OK).all()


def as_they_come(volume, frames, pose, **options):
    """`follow`, given the frames one by one."""
    each = (jax.tree.map(lambda leaf, k=k: leaf[k], frames) for k in range(COUNT))
    return stack(list(follow(volume, each, pose, **options)))


@pytest.mark.parametrize("tracking", [track, as_they_come])
def test_a_lost_patient_is_searched_and_tracked_again(run, tracking):
    volume, frames, truth = run
    asked = []

    def search(volume, frame):
        differences = [float(jnp.abs(frame.image - image).max()) for image in frames.image]
        asked.append(int(np.argmin(differences)))
        twist = jnp.array([-3.0, 3, 8, 0.03, 0.02, -0.03])
        return perturb(truth[asked[-1]], twist, volume.isocenter)

    result = tracking(volume, frames, search, config=CONFIG, search=search)
    assert asked == [0, BLACK, JUMP]
    seen = np.arange(COUNT) != BLACK
    assert (np.asarray(result.status) == Status.OK).tolist() == seen.tolist()
    assert (errors(result, truth)[seen] < 0.5).all()


def test_one_frame_is_no_sequence(run):
    volume, frames, truth = run
    with pytest.raises(InputError, match="leading axis of frames"):
        track(volume, Frame(frames.image[0], CAMERA), truth[0])
    with pytest.raises(InputError, match="the camera's too"):
        track(volume, Frame(frames.image, CAMERA), truth[0])


def tracked(offsets, status) -> Registration:
    """A tracked sequence of an isocenter that moves by these offsets."""
    pose = camera_at(0.0)
    places = pose.translation() + jnp.asarray(offsets, float)
    wxyz = jnp.broadcast_to(pose.rotation().wxyz, (len(offsets), 4))
    poses = SE3(jnp.concatenate([wxyz, places], 1))
    zero = jnp.zeros(len(offsets))
    trace = Trace(zero, zero, zero.astype(int), poses)
    covariance = jnp.zeros((len(offsets), 6, 6))
    return Registration(poses, jnp.asarray(status), zero, zero, zero, covariance, zero, zero, trace)


def test_motion_has_the_period_of_a_sine():
    time = np.arange(60)
    wave = 8 * np.sin(2 * np.pi * time / 13.0)
    offsets = np.stack([0.6 * wave + 0.2 * time, 0.8 * wave, 0 * wave], 1)
    status = np.zeros(60, int)
    status[[20, 21, 40, 59]] = Status.SUSPECT
    offsets[status != 0] += 40.0  # what a lost frame says must not count
    result = jax.jit(motion)(tracked(offsets, status), jnp.asarray(ORIGIN, float))
    assert abs(float(result.period) - 13) < 0.7
    lost = np.flatnonzero(np.isnan(result.shift_mm))
    assert lost.tolist() == [19, 20, 21, 39, 40, 58]
    expected = np.linalg.norm(np.diff(offsets, axis=0), axis=1)
    np.testing.assert_allclose(result.shift_mm[:19], expected[:19], atol=1e-3)


def test_drift_noise_rest_and_less_than_two_breaths_have_no_period():
    slow = 8 * np.sin(2 * np.pi * np.arange(60) / 36.0)
    offsets = np.outer(np.arange(60.0), [0.5, 0.2, 0.0])
    noise = 0.3 * np.random.default_rng(0).normal(size=(4, 60, 3))
    period = jax.jit(lambda result: motion(result, jnp.asarray(ORIGIN, float)).period)
    for each in (*(offsets + noise), np.zeros((60, 3)), np.outer(slow, [0, 1, 0])):
        assert np.isnan(period(tracked(each, np.zeros(60, int))))
