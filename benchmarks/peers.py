"""The peers, nanodrr and DiffDRR, rendering what jxreg renders: the same voxels, the same view.

Both are optional: `pip install torch==2.13.0` (its CPU build, or a CUDA build on a GPU machine),
then `pip install "jxreg[bench]"`. nanodrr runs its fused Triton kernel where torch has CUDA and its
`torch` backend elsewhere, the only one it has for a CPU.
"""

import functools
import importlib
import warnings
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import numpy as np
from scene import SDD, Scene
from timing import cores

from jxreg.volume import MU_WATER

NAMES = ("nanodrr", "diffdrr-trilinear", "diffdrr-siddon")
NEEDED = ("torch", "torchio", "nanodrr.drr", "diffdrr.drr")


class Peer(NamedTuple):
    """A renderer of another project."""

    name: str
    package: str
    render: Callable
    """Images (batch, 1, rows, columns) of angles [deg] (batch, 3) and translations (batch, 3)."""
    bytes_per_sample: int
    """Least memory that it holds for a sample of a ray, forward and backward; decides what is
    too large to try."""
    samples: int


def missing() -> str | None:
    """Why the peers cannot run here, in one line; None where they can."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in NEEDED:
                importlib.import_module(name)
    except Exception as error:  # a broken build of torch raises anything
        return f"nanodrr and DiffDRR are left out: {type(error).__name__}: {error}".splitlines()[0]
    warnings.filterwarnings("ignore", module="torch|torchio|diffdrr|nanodrr")
    importlib.import_module("torch").set_num_threads(cores())
    return None


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def device_name() -> str:
    """The device of the peers, in words."""
    import torch

    if device() == "cuda":
        return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    return f"CPU, {torch.get_num_threads()} threads"


def _image(scene: Scene, values: np.ndarray):
    """A torchio image of the volume's grid."""
    import torch
    import torchio

    affine = np.asarray(scene.volume.affine, np.float64)
    return torchio.ScalarImage(tensor=torch.from_numpy(values)[None], affine=affine)


def nanodrr_subject(scene: Scene):
    """The volume of nanodrr; its values are ours, no Hounsfield units are converted."""
    from nanodrr.data import Subject

    image = _image(scene, np.array(scene.volume.mu))
    return Subject.from_images(image, convert_to_mu=False).to(device())


def nanodrr_camera(scene: Scene):
    """For nanodrr, the inverse intrinsic matrix and SDD."""
    import torch
    from nanodrr.camera import make_k_inv

    rows, columns = scene.camera.image_size
    spacing = SDD * (1 / np.diagonal(np.asarray(scene.camera.intrinsic, float))[:2])
    k_inv = make_k_inv(SDD, *spacing.tolist(), 0.0, 0.0, rows, columns)
    return k_inv.to(device()), torch.tensor([SDD], device=device())


def nanodrr_backend() -> str:
    return "triton" if device() == "cuda" else "torch"


def nanodrr(scene: Scene, samples: int) -> Peer:
    """Renderer of nanodrr, with a number of samples on every ray."""
    from nanodrr.camera import make_rt_inv
    from nanodrr.drr import render

    subject, (k_inv, sdd) = nanodrr_subject(scene), nanodrr_camera(scene)

    def images(angles, translations):
        batch = len(angles)
        rt_inv = make_rt_inv(angles, translations, "AP", subject.isocenter)
        cameras = k_inv.expand(batch, -1, -1), rt_inv, sdd.expand(batch)
        size = scene.camera.image_size
        return render(subject, *cameras, *size, n_samples=samples, backend=nanodrr_backend())

    per_sample = 0 if nanodrr_backend() == "triton" else 20
    return Peer(f"nanodrr {nanodrr_backend()}", "nanodrr", images, per_sample, samples)


def diffdrr_module(scene: Scene, renderer: str):
    """DiffDRR's renderer with our voxels as its densities."""
    import torch
    from diffdrr.data import read
    from diffdrr.drr import DRR

    mu = np.array(scene.volume.mu)
    subject = read(_image(scene, 1000 * (mu / MU_WATER - 1)))  # densities are replaced below
    spacing = SDD / float(scene.camera.intrinsic[0, 0])
    rows, columns = scene.camera.image_size
    module = DRR(subject, sdd=SDD, height=rows, width=columns, delx=spacing, renderer=renderer)
    module.density = torch.from_numpy(mu)
    return module.to(device())


def diffdrr(scene: Scene, renderer: str, samples: int) -> Peer:
    """DiffDRR's `trilinear` with a number of samples on every ray, or its `siddon`."""
    import torch

    module = diffdrr_module(scene, renderer)
    options = {"n_points": samples} if renderer == "trilinear" else {}

    def images(angles, translations):
        how = {"parameterization": "euler_angles", "convention": "ZXY"}
        return module(torch.deg2rad(angles), translations, **how, **options)

    samples = samples if renderer == "trilinear" else sum(scene.volume.mu.shape[-3:]) + 3
    return Peer(f"DiffDRR {renderer}", "DiffDRR", images, 28, samples)


def forward(peer: Peer, orbits: np.ndarray) -> Callable[[], object]:
    """A call that renders all views, without recording derivatives."""
    import torch

    angles, translations = tensors(orbits)

    def run():
        with torch.no_grad():
            return peer.render(angles, translations)

    return run


def backward(peer: Peer, orbits: np.ndarray, weight: np.ndarray) -> Callable[[], object]:
    """A call that gives the weighted sum of all pixels and its gradient, (batch, 6).

    Of angles [deg] and translation [mm].
    """
    import torch

    start = tensors(orbits)
    weight = torch.from_numpy(np.array(weight, np.float32)).to(device())

    def run():
        angles, translations = (value.clone().requires_grad_() for value in start)
        value = (peer.render(angles, translations)[:, 0] * weight).sum()
        value.backward()
        return value.detach(), torch.cat([angles.grad, translations.grad], 1)

    return run


def tensors(orbits: np.ndarray):
    """Angles [deg] and translations [mm] on the peers' device."""
    import torch

    values = torch.from_numpy(np.array(orbits, np.float32)).to(device())
    return values[:, :3].contiguous(), values[:, 3:].contiguous()


def wait(result) -> None:
    """Until the device is done; a CPU is done when the call comes back."""
    import torch

    if device() == "cuda":
        torch.cuda.synchronize()


def device_growth(run: Callable[[], object]) -> int:
    """Memory that a call takes on the GPU beside what is there already [bytes]."""
    import torch

    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def makers(samples: int, names: Collection[str]) -> Iterator[Callable[[Scene], Peer]]:
    """What makes the peers of a scene, one at a time."""
    if "nanodrr" in names:
        yield functools.partial(nanodrr, samples=samples)
    for renderer in ("trilinear", "siddon"):
        if f"diffdrr-{renderer}" in names:
            yield functools.partial(diffdrr, renderer=renderer, samples=samples)


def to_numpy(tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()
