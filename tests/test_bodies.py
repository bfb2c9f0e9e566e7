"""Several bodies: split by a label map, found in turn and at once."""

import jax.numpy as jnp
import numpy as np
import pytest
from jaxlie import SE3
from moving_bodies import BODIES, camera_at, landmarks, scan, xray

from jxreg.alignment import Level
from jxreg.ascent import Climb
from jxreg.bodies import register_bodies, split
from jxreg.errors import InputError
from jxreg.metrics import mtre
from jxreg.pose import perturb
from jxreg.register import RegisterConfig
from jxreg.verdict import Status

CONFIG = RegisterConfig(levels=(Level(64, 0, steps=10),), truncated=False)
CAMERAS = camera_at(0.0), camera_at(90.0)
MOTIONS = [5.0, -4.0, 6.0, 0.04, -0.05, 0.03], [-4.0, 5.0, -5.0, -0.05, 0.03, 0.05]


@pytest.fixture(scope="module")
def parts():
    volume, labels = scan()
    return split(volume, labels, [[1], ["right"]])


@pytest.fixture(scope="module")
def moved(parts):
    """True poses of the two bodies, and two X-rays of them."""
    poses = [
        perturb(SE3.identity(), jnp.array(twist), part.isocenter)
        for part, twist in zip(parts, MOTIONS, strict=True)
    ]
    return poses, [xray(BODIES, poses, camera) for camera in CAMERAS]


def check(results, truth):
    for result, pose, x in zip(results, truth, (-27.5, 27.5), strict=True):
        assert float(mtre(SE3.identity(), pose, landmarks(x))) > 7
        assert float(mtre(result.pose, pose, landmarks(x))) < 0.5  # voxels of 2.5 mm
        assert int(result.status) == Status.OK


def back_in_place(part, volume):
    """A body on the grid of the whole volume."""
    corner = np.linalg.inv(np.asarray(volume.affine)) @ np.asarray(part.affine)[:, 3]
    at = tuple(
        slice(start, start + n)
        for start, n in zip(np.round(corner[:3]).astype(int), part.mu.shape, strict=True)
    )
    whole = np.zeros(volume.mu.shape, np.float32)
    whole[at] = part.mu
    return whole


def test_parts_add_up_to_the_volume():
    volume, labels = scan()
    parts = split(volume, labels, [["right"]], rest=True)
    assert len(parts) == 2
    assert parts[0].mu.size < 0.6 * volume.mu.size  # the air around it is gone
    whole = sum(back_in_place(part, volume) for part in parts)
    np.testing.assert_allclose(whole, volume.mu, atol=0)
    # Each turns about its own middle.
    assert float(parts[0].isocenter[0]) > 20
    assert float(parts[1].isocenter[0]) < -20


def test_found_in_turn(parts, moved):
    truth, frames = moved
    starts = [SE3.identity()] * 2
    results = register_bodies(parts, frames, CAMERAS, starts, config=CONFIG, sweeps=2, joint=False)
    check(results, truth)


@pytest.mark.slow
def test_found_at_once(parts, moved):
    truth, frames = moved
    results = register_bodies(parts, frames, CAMERAS, [SE3.identity()] * 2, config=CONFIG, sweeps=0)
    check(results, truth)
    assert results[0].covariance.shape == (6, 6)
    assert results[0].views is not None
    assert results[0].views.status.shape == (2,)


@pytest.mark.slow
def test_found_at_once_by_a_climb(parts, moved):
    truth, frames = moved
    climb = Climb("lbfgs", steps=25, repeats=2, patience=3)
    config = RegisterConfig(levels=(Level(64, 0, climb=climb),), truncated=False)
    starts = [SE3.identity()] * 2
    results = register_bodies(parts, frames, CAMERAS, starts, config=config, sweeps=0)
    check(results, truth)


def test_refuses_what_it_cannot_do(parts, moved):
    _, frames = moved
    volume, labels = scan()
    identity = SE3.identity()
    with pytest.raises(InputError, match="1 in two bodies"):
        split(volume, labels, [[1], [1, 2]])
    with pytest.raises(InputError, match="1 and 0 poses for 2 bodies"):
        register_bodies(parts, frames, CAMERAS, [identity])
    with pytest.raises(InputError, match="sweeps"):
        register_bodies(parts, frames, CAMERAS, [identity] * 2, sweeps=0, joint=False)
