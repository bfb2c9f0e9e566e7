"""Registrations to be judged: right ones from near and far, and all kinds that must be refused.

A case is an X-ray by `simulated_xray` of a random C-arm view (AP or PA, LAO/RAO within 60, CRA/CAU
within 30, roll within 15 degrees, isocenter within 20 mm), with quanta, scatter, blur and shutters
of its own, a start, and the volume that it is registered to:

    right     the same patient; starts up to 60 mm (mTRE) off, so some end wrong, and count as such
    patient   another one: another CT of that part of the body, or one of another build
    part      an X-ray of another part of the body
    mirrored  the image mirrored
    turned    the image turned by 180 degrees
    sdd       an SDD that is 10 % too long or too short
    black     an image without signal, but for noise
    away      a start so far aside that the volume is out of view

All but the first kind are wrong whatever pose comes out; their starts are up to 20 mm off. Of two
views the second one is that of the same C-arm turned by 90 degrees, spoilt in the same way.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
from bench_register import CAMERA, bone_landmarks, crop_ends
from simulated_xray import Acquisition, materials, simulate

import jxreg
from jxreg import evaluation
from jxreg.pose import from_carm, perturb

COUNTS = {
    "right": 36,
    "patient": 10,
    "part": 8,
    "mirrored": 8,
    "turned": 8,
    "sdd": 12,
    "black": 2,
    "away": 4,
}
"""Cases of each kind for each CT."""
FEW = {"right": 8, "patient": 2, "part": 1, "mirrored": 2, "turned": 1, "sdd": 2}
"""The same where a registration takes longer."""
PARTNER = {"chest": "chest-lidc", "chest-lidc": "chest"}
"""Another patient, where there is one."""
ELSEWHERE = {"chest": "head", "chest-lidc": "pelvis", "head": "pelvis", "pelvis": "chest-lidc"}
"""Another part of the body."""
STRETCH = np.array([1.08, 1.0, 0.92])
FAR_MM, NEAR_MM = 60.0, 20.0
AWAY_MM = 400.0
DISTANCE = 700.0
BESIDE_DEGREES = 90.0
"""Primary angle between the views."""


class Case(NamedTuple):
    """One registration to be judged."""

    kind: str
    number: int
    volume: jxreg.Volume
    frames: tuple[jxreg.Frame, ...]
    cameras: tuple[jaxlie.SE3, ...]
    """Of each frame, in the axes of the first one: `camera_from_rig`."""
    start: jaxlie.SE3
    truth: jaxlie.SE3
    landmarks: jax.Array


def cases(
    name: str,
    cts: dict[str, jxreg.Volume],
    crop: float,
    seed: int,
    skip: set[tuple[str, int]],
    counts: dict[str, int] = COUNTS,
    views: int = 1,
) -> Iterator[Case]:
    """The cases of one CT, cropped by so many millimetres at each end.

    Args:
        name: The CT that is registered to.
        cts: All CTs by name, whole.
        crop: Cut off at each end [mm].
        seed: Of views, starts and noise.
        skip: Kinds and numbers that are not wanted.
        counts: How many of each kind.
        views: 1 or 2. The first view of a case is the same for both.
    """
    volume = crop_ends(cts[name], crop)
    landmarks = bone_landmarks(volume)
    stretched = _stretched(volume)
    draw, move = jax.jit(evaluation.random_start), jax.jit(perturb)
    make, two = jax.jit(simulate), {}
    for kind, count in counts.items():
        for number in range(count):
            if (kind, number) in skip:
                continue
            random = np.random.default_rng([seed, *map(ord, name + kind), number])
            shown = _shown(name, kind)
            if shown not in two:
                two[shown] = materials(cts[shown])
            poses, seen = _view(random, cts[name].isocenter, cts[shown].isocenter)
            truth = poses[0]
            key, start_key = jax.random.split(jax.random.key(int(random.integers(2**31))))
            far = FAR_MM if kind == "right" else NEAR_MM
            twist = draw(
                start_key, truth, landmarks, pivot=volume.isocenter, mtre_range=(0.0, far)
            ).twist
            begin = move(truth, twist, volume.isocenter)
            frames, starts = [], []
            for view, noise in zip(seen[:views], (key, jax.random.fold_in(key, 1)), strict=False):
                image = make(noise, two[shown], CAMERA, view, _acquisition(random))
                frame, start = _spoilt(random, kind, shutters(random, image), begin, volume)
                frames.append(frame)
                starts.append(start)
            cameras = (jaxlie.SE3.identity(), poses[1] @ truth.inverse())[:views]
            registered = stretched if kind == "patient" and shown == name else volume
            yield Case(
                kind, number, registered, tuple(frames), cameras, starts[0], truth, landmarks
            )


def shutters(random: np.random.Generator, image) -> jxreg.Frame:
    """The frame, in half of the cases with up to 15 % closed on each side."""
    share = random.uniform(0, 0.15, 4) * (random.random() < 0.5)
    side = image.shape[0]
    top, bottom, left, right = (share * side).astype(int)
    mask = np.zeros(image.shape, np.float32)
    mask[top : side - bottom, left : side - right] = 1.0
    mask = jnp.asarray(mask)
    return jxreg.Frame(jnp.where(mask > 0, image, 0.0), CAMERA, mask)


def _shown(name: str, kind: str) -> str:
    """The CT that the X-ray is of."""
    if kind == "part":
        return ELSEWHERE[name]
    return PARTNER.get(name, name) if kind == "patient" else name


def _view(random: np.random.Generator, isocenter, other) -> tuple[list, list]:
    """Poses of both views about one isocenter, and the same about another."""
    angles = random.uniform(-1, 1, 3) * [60.0, 30.0, 15.0]
    angles[0] += 180.0 * random.integers(2)
    offset = random.uniform(-20, 20, 3)

    def at(center):
        return [
            from_carm(
                angles[0] + turn,
                *angles[1:],
                source_to_isocenter=DISTANCE,
                isocenter=center,
                offset=offset,
            )
            for turn in (0.0, BESIDE_DEGREES)
        ]

    return at(isocenter), at(other)


def _acquisition(random: np.random.Generator) -> Acquisition:
    return Acquisition(
        photons=float(np.exp(random.uniform(np.log(4e3), np.log(6e4)))),
        scatter=random.uniform(0.05, 0.6),
        scatter_width=random.uniform(0.1, 0.25),
        blur=random.uniform(0.3, 1.5),
    )


def _spoilt(random: np.random.Generator, kind: str, frame: jxreg.Frame, start, volume):
    """Frame and start of a kind that must be refused."""
    image, mask, camera = frame.image, frame.mask, frame.camera
    if kind == "mirrored":
        frame = replace(frame, image=image[:, ::-1], mask=mask[:, ::-1])
    elif kind == "turned":
        frame = replace(frame, image=image[::-1, ::-1], mask=mask[::-1, ::-1])
    elif kind == "sdd":
        sdd = float(camera.sdd) * (1.1 if random.random() < 0.5 else 0.9)
        frame = replace(frame, camera=jxreg.Camera.from_sdd(sdd, camera.image_size, (1.4, 1.4)))
    elif kind == "black":
        noise = 1e-4 * random.normal(size=image.shape)
        frame = replace(frame, image=jnp.asarray(noise, image.dtype))
    elif kind == "away":
        angle = random.uniform(0, 2 * np.pi)
        aside = [AWAY_MM * np.cos(angle), AWAY_MM * np.sin(angle), 0.0, 0.0, 0.0, 0.0]
        start = jax.jit(perturb)(start, jnp.asarray(aside, float), volume.isocenter)
    return frame, start


def _stretched(volume: jxreg.Volume) -> jxreg.Volume:
    """A patient of another build."""
    stretch = jnp.diag(jnp.asarray([*STRETCH, 1.0], float))
    center = jnp.eye(4).at[:3, 3].set(volume.isocenter)
    build = center @ stretch @ jnp.linalg.inv(center)
    return jxreg.Volume.from_array(volume.mu, build @ volume.affine, volume.isocenter)
