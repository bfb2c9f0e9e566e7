"""Files for the tests of the command line, and a registration that takes no time."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jxreg.register  # noqa: F401
from jxreg import drr
from jxreg.camera import Camera
from jxreg.candidates import Found, best_of
from jxreg.io import (
    load_volume,
    save_camera,
    save_pose,
    write_nifti,
    write_npy,
)
from jxreg.pose import from_carm, perturb

REGISTER = sys.modules["jxreg.register"]
SMALL = {
    "levels": [{"pixels": 16, "voxels": 0, "similarity": "ncc", "steps": 3}],
}
"""A configuration that compiles quickly."""
FILES = {"registration.json", "report.html"}
RESULT = {"pose.json", "pose.tfm", "drr.npy", "drr.png"}
"""What a frame gets besides if it has a pose."""


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> Path:
    """A CT of two balls, X-rays of it with their cameras, and the pose."""
    folder = tmp_path_factory.mktemp("inputs")
    grid = np.stack(np.meshgrid(*[np.arange(24) - 11.5] * 3, indexing="ij"))
    hu = np.full((24, 24, 24), -1000, np.int16)
    hu[np.linalg.norm(grid, axis=0) < 10] = 0
    hu[np.linalg.norm(grid - np.array([4, -2, 3]).reshape(3, 1, 1, 1), axis=0) < 4] = 1200
    affine = np.diag([6.0, 6.0, 6.0, 1.0])
    affine[:3, 3] = -69.0
    write_nifti(folder / "ct.nii.gz", hu, affine)
    volume = load_volume(folder / "ct.nii.gz")
    camera = Camera.from_sdd(1000.0, (32, 32), (8.0, 8.0), mirrored=True)
    pose = from_carm(20.0, 5.0, 0.0, source_to_isocenter=700.0, isocenter=volume.isocenter)
    start = perturb(pose, jnp.array([3.0, -2.0, 5.0, 0.02, 0.0, 0.02]), volume.isocenter)
    image = np.asarray(jax.jit(drr.render)(volume, camera, pose))
    for name in ("a", "b"):
        write_npy(folder / f"{name}.npy", image)
        save_camera(folder / f"{name}.json", camera)
    write_npy(folder / "bare.npy", image)
    save_pose(folder / "start.json", start, camera)
    save_pose(folder / "truth.json", pose, camera)
    (folder / "small.json").write_text(json.dumps(SMALL))
    return folder


def a_registration(status, pose):
    steps = jnp.array([1.0, 0.1, 0.0])
    trace = REGISTER.Trace(jnp.array([0.5, 0.8, 0.8]), steps, jnp.array([0, 0, 0]), None)
    one = jnp.float32(0.8)
    return REGISTER.Registration(
        pose, jnp.int32(status), one, one, one / 2, jnp.eye(6) * 1e-4, one, one, trace
    )


@pytest.fixture
def fake_register(monkeypatch):
    """Replaces `register` by one that gives the statuses of a list, one for each frame."""

    def use(*statuses, pictures=False):
        queue = list(statuses)

        def register(volume, frame, pose, *, config):
            begun = best_of(pose) if isinstance(pose, Found) else pose
            return a_registration(queue.pop(0), begun)

        monkeypatch.setattr(REGISTER, "register", register)
        monkeypatch.setattr("jxreg.cli.register.CHUNK", 1)
        if not pictures:  # they take a second a frame; test_report.py has them
            monkeypatch.setattr("jxreg.plot.pictures", lambda *_: {})
            monkeypatch.setattr("jxreg.plot.svg", lambda _: b"<svg/>")

    return use
