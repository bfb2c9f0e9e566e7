"""What `bench_render.py` times: rows of ours and of the peers, ready to be called in turn."""

import functools
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import peers
import scene as scene_
import timing
from jaxtyping import Array
from scene import Scene, pose_of

from jxreg import drr
from jxreg.pose import perturb, twist_between

WHAT = ("forward", "gradient", "jacobian", "volume")
LADDER = (125, 177, 250, 354, 420, 500, 595, 707, 841, 1000, 1414, 2000)
"""Samples that nanodrr may take in the comparison at equal error."""
RENDERERS = ("trilinear", "joseph", "siddon")
UNITS = np.array([1.0, 1.0, 1.0, 0.02, 0.02, 0.02])
"""Twist [mm, rad] in whose directions gradients count alike."""
ORBIT_UNITS = np.array([*np.degrees(UNITS[3:]), *UNITS[:3]])


@dataclass(frozen=True)
class Case:
    """One size of everything."""

    pixels: int = 200
    batch: int = 1
    samples: int = 500
    pooled: int = 1
    """Voxels averaged along each axis."""


class Truth(NamedTuple):
    """The first view as a very fine march has it, and the gradient of a weighted sum of it."""

    image: np.ndarray
    weight: np.ndarray
    """What each pixel counts: the difference to a view nearby."""
    gradient: np.ndarray
    """With respect to the twist about the isocenter."""
    orbit_gradient: np.ndarray
    """With respect to a row of `Scene.orbits`."""


class Measured(NamedTuple):
    """A row before its times are known."""

    row: dict
    call: timing.Call


def make_truth(scene: Scene, samples: int) -> Truth:
    """The truth by a march of that many samples."""
    integrate, isocenter = scene_.marcher(scene, samples), scene.volume.isocenter
    start, nearby = (pose_of(scene.orbits[0] + d, isocenter) for d in (0.0, 1.0))

    def image(volume, pose):
        return drr.render(volume, scene.camera, pose, integrate)

    @jax.jit
    def everything(volume, start, nearby):
        other = image(volume, nearby)

        def weighted(twist):
            shown = image(volume, perturb(start, twist, isocenter))
            weight = jax.lax.stop_gradient(shown - other)
            return jnp.vdot(weight, shown), (shown, weight)

        return jax.grad(weighted, has_aux=True)(jnp.zeros(6))

    def twist(orbit: Array) -> Array:
        return twist_between(start, pose_of(orbit, isocenter), isocenter)

    gradient, (shown, weight) = jax.tree.map(np.asarray, everything(scene.volume, start, nearby))
    from_orbit = np.asarray(jax.jit(jax.jacfwd(twist))(jnp.asarray(scene.orbits[0], float)))
    return Truth(shown, weight, gradient, gradient @ from_orbit)


def function(what: str, scene: Scene, integrate: drr.Integrate) -> Callable:
    """What is timed of ours, a function of volume, poses, twists and weight."""
    isocenter = scene.volume.isocenter

    def image(twist, volume, pose):
        return drr.render(volume, scene.camera, perturb(pose, twist, isocenter), integrate)

    def forward(volume, poses, twists, weight):
        return jax.vmap(image, in_axes=(0, None, 0))(twists, volume, poses)

    def gradient(volume, poses, twists, weight):
        def weighted(twist, pose):
            return jnp.vdot(weight, image(twist, volume, pose))

        return jax.vmap(jax.value_and_grad(weighted))(twists, poses)

    def jacobian(volume, poses, twists, weight):
        def one(twist, pose):
            shown, linear = jax.linearize(lambda t: image(t, volume, pose), twist)
            return shown, jax.vmap(linear)(jnp.eye(6))

        return jax.vmap(one)(twists, poses)

    def volume(volume, poses, twists, weight):
        def weighted(mu):
            return (weight * forward(replace(volume, mu=mu), poses, twists, weight)).sum()

        return jax.value_and_grad(weighted)(volume.mu)

    return {"forward": forward, "gradient": gradient, "jacobian": jacobian, "volume": volume}[what]


def quadrature(name: str, scene: Scene, samples: int) -> drr.Integrate:
    """One of ours by its name."""
    if name == "trilinear":
        return scene_.marcher(scene, samples)
    return {"joseph": drr.joseph, "siddon": drr.siddon}[name]()


def ours(
    scene: Scene,
    truth: Truth,
    samples: int,
    names: Sequence[str],
    what: Sequence[str],
    vector_widths: Sequence[int | None] = (None,),
) -> Iterator[Measured]:
    """Rows of ours, compiled and called once; those of an image first, whose error all share."""
    batch = len(scene.orbits)
    arguments = (scene.volume, scene_.poses(scene), jnp.zeros((batch, 6)), jnp.array(truth.weight))
    for name in names:
        integrate = quadrature(name, scene, samples)
        taken = samples if name == "trilinear" else _crossings(scene)[name]
        for width in vector_widths:
            error: dict[str, float] = {}
            for kind in what:
                compiled, seconds = _compiled(function(kind, scene, integrate), arguments, width)
                call = timing.Call(functools.partial(compiled, *arguments), times=3)
                result: Any = timing.first(call).result
                if kind == "forward":
                    error = scene_.deviation(result[0], truth.image)
                slope = None
                if kind == "gradient":
                    slope = _relative(result[1][0], truth.gradient, UNITS)
                memory = compiled.memory_analysis().temp_size_in_bytes
                row = _row("jxreg", name, kind, taken, seconds, memory / batch, error, slope)
                memory_by = "temporaries of the compiled program"
                yield Measured(row | {"vector_width": width, "memory_by": memory_by}, call)


def theirs(
    scene: Scene, truth: Truth, peer: peers.Peer, what: Sequence[str], equal_error: bool = False
) -> Iterator[Measured]:
    """Rows of a peer, called once."""
    error: dict[str, float] = {}
    for kind in what:
        if kind == "forward":
            run = peers.forward(peer, scene.orbits)
        elif kind == "gradient":
            run = peers.backward(peer, scene.orbits, truth.weight)
        else:
            continue
        call = timing.Call(run, peers.wait)
        result, seconds, grown = timing.first(call)
        memory_by = "growth of the process"
        if peers.device() == "cuda":
            grown, memory_by = peers.device_growth(run), "growth of torch's allocations"
        slope = None
        if kind == "forward":
            error = scene_.deviation(peers.to_numpy(result)[0, 0], truth.image)
        else:
            gradient = peers.to_numpy(result[1])[0]
            slope = _relative(gradient, truth.orbit_gradient, ORBIT_UNITS)
        del result
        renderer = peer.name.partition(" ")[2]
        memory = grown / len(scene.orbits)
        row = _row(peer.package, renderer, kind, peer.samples, seconds, memory, error, slope)
        yield Measured(row | {"memory_by": memory_by, "equal_error": equal_error}, call)
        gc.collect()


def equally_good(scene: Scene, truth: Truth, rms_error: float) -> peers.Peer:
    """The nanodrr with the fewest samples, of a few, whose image is as good as that."""
    for samples in LADDER:
        peer = peers.nanodrr(scene, samples)
        image = peers.to_numpy(peers.forward(peer, scene.orbits[:1])())[0, 0]
        if scene_.deviation(image, truth.image)["rms_error"] <= rms_error:
            break
    return peer


def bytes_needed(peer: peers.Peer, scene: Scene, what: str) -> float:
    """Least memory that a call of a peer takes, roughly."""
    rows, columns = scene.camera.image_size
    rays = len(scene.orbits) * rows * columns
    return rays * peer.samples * peer.bytes_per_sample * (1.0 if what == "forward" else 2.5)


def _row(package, renderer, what, samples, seconds, memory, error, gradient_error) -> dict:
    return {
        "package": package,
        "renderer": renderer,
        "what": what,
        "samples": samples,
        "first_call_s": seconds,
        "memory_mb": memory / 1e6,
        **error,
        "gradient_error": gradient_error,
        "vector_width": None,
        "equal_error": False,
    }


def _compiled(f: Callable, arguments: tuple, vector_width: int | None):
    """The compiled function, and how long tracing and compiling took [s]."""
    options = {"xla_cpu_prefer_vector_width": vector_width} if vector_width else None
    began = time.perf_counter()
    compiled = jax.jit(f).lower(*arguments).compile(options)
    return compiled, time.perf_counter() - began


def _crossings(scene: Scene) -> dict[str, int]:
    """Samples that a ray of the other quadratures takes at most, about: slices or voxels."""
    shape = scene.volume.mu.shape[-3:]
    pose = pose_of(scene.orbits[0], scene.volume.isocenter)
    along = np.asarray(pose.rotation().as_matrix())[2] @ np.asarray(scene.volume.affine)[:3, :3]
    lengths = np.linalg.norm(np.asarray(scene.volume.affine)[:3, :3], axis=0)
    return {"joseph": shape[int(np.abs(along / lengths**2).argmax())], "siddon": sum(shape)}


def _relative(gradient, truth: np.ndarray, units: np.ndarray) -> float:
    """Length of the difference of two gradients, in parts of the true one."""
    difference = (np.asarray(gradient, float) - truth) * units
    return float(np.linalg.norm(difference) / np.linalg.norm(truth * units))
