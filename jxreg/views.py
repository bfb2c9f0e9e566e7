"""Registration of several images of known geometry to each other: one pose of the patient."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxlie
from jaxtyping import Array, Float

from jxreg import alignment
from jxreg.alignment import Aligned, Level, Prior, Scene, Terms, climb_of
from jxreg.camera import with_lens
from jxreg.candidates import Found, start_of
from jxreg.descent import STEP, Descent, Nearby, Trace, last_two, through
from jxreg.drr.coverage import cut_faces
from jxreg.errors import InputError
from jxreg.evidence import Look, evidence_of
from jxreg.frame import Frame
from jxreg.global_search import search_views
from jxreg.pose import perturb
from jxreg.precision import full_precision
from jxreg.register import (
    RegisterConfig,
    Registration,
    Views,
    covariance,
    first_number,
    levels_of,
    search_of,
    unless_hopeless,
)
from jxreg.rig import (
    Geometry,
    Rig,
    align_rig,
    body_of,
    focused,
    predict_rig,
    rig_of,
    rig_scene,
    settle_rig,
    stacked,
)
from jxreg.verdict import Evidence, judge
from jxreg.volume import Volume

VIEWS = RegisterConfig(
    found=RegisterConfig.levels, prior=Prior(60.0, 60.0, 0.6), nearby=Nearby(count=32)
)
"""For several images: they know the depth, so the prior is weaker. After a search they begin as
from any start: finer levels cost more, and changed nothing on two bones of a wrist."""
STEP_OF_SEVERAL = replace(STEP, depth=STEP.shift)
"""What counts as a step of 1 mm where several images know the depth."""


def register_views(
    volume: Volume,
    frames: Sequence[Frame],
    camera_from_rig: Sequence[jaxlie.SE3],
    rig_from_world: jaxlie.SE3 | Found | None = None,
    *,
    config: RegisterConfig = VIEWS,
    geometry: Geometry = Geometry(),
) -> Registration:
    """Finds the pose of the patient in several images taken at once, as by a biplane system.

    The rig is any frame in which all cameras are known: that of a calibration, or of one of the
    cameras. Twist, covariance and prior are about the isocenter in its axes.

    Args:
        volume: The patient.
        frames: The images (attenuation), each with its camera; they may differ in size.
        camera_from_rig: Where each camera is in the rig.
        rig_from_world: Start, or what `search_views` found; by default the images are searched.
        config: What to do; static. A climb moves twists and compares whole images.
        geometry: What of the cameras is sought besides; static.

    Returns:
        The pose `rig_from_world` with one verdict, which is that of the worst image; `views` tells
        of each image alone.

    Raises:
        InputError: Not one camera place for each image, no image at all, or a climb that asks for
            a parametrisation or patches, or names something unknown.
    """
    searched = rig_from_world is None or isinstance(rig_from_world, Found)
    check_views(frames, camera_from_rig, config, searched)
    if rig_from_world is None:
        rig_from_world = search_views(volume, frames, camera_from_rig, config=search_of(config))
    pose, lead = start_of(rig_from_world)
    found = rig_from_world if isinstance(rig_from_world, Found) else None
    start = rig_of((pose,), camera_from_rig)
    how = {"lead": lead, "found": found is not None}
    (result,) = solve((volume,), tuple(frames), start, config, geometry, **how)
    return replace(result, found=found)


def check_views(
    frames: Sequence[Frame],
    camera_from_rig: Sequence[jaxlie.SE3],
    config: RegisterConfig,
    found: bool = False,
) -> None:
    """Raises InputError for what `register_views` cannot use; `found` as in `levels_of`."""
    if not frames or len(frames) != len(camera_from_rig):
        raise InputError(
            "camera_from_rig",
            f"{len(camera_from_rig)} poses of cameras for {len(frames)} images",
            "one for each image, and at least one",
            "give camera_from_rig in the order of frames",
        )
    for how in filter(None, map(climb_of, levels_of(config, found))):
        for name in ("parametrisation", "patches"):
            asked = getattr(how, name)
            if asked is not None:
                raise InputError(
                    "climb",
                    f"{name} = {asked!r}",
                    "twists and whole images, for several images or bodies",
                    f"leave out Climb.{name}, or register each body in each image by itself",
                )


@functools.partial(jax.jit, static_argnames=("config", "geometry", "found"))
@full_precision
def solve(
    volumes: tuple[Volume, ...],
    frames: tuple[Frame, ...],
    start: Rig,
    config: RegisterConfig,
    geometry: Geometry,
    others: tuple[Volume, ...] = (),
    other_poses: tuple[jaxlie.SE3, ...] = (),
    lead: Float[Array, ""] | float = jnp.inf,
    found: bool = False,
) -> tuple[Registration, ...]:
    """Registers bodies to images, all at once, from coarse to fine.

    Args:
        volumes: The bodies that are sought.
        frames: The images.
        start: Poses of these bodies, and the cameras.
        config: Static.
        geometry: Static.
        others: Bodies that are in the images and stay where they are.
        other_poses: Their poses, `rig_from_world`.
        lead: By how much a search preferred this start to another one (`Found.lead`).
        found: Whether the start is what a search found; static.

    Returns:
        A registration for each body.
    """
    levels = levels_of(config, found)
    largest = max(level.pixels for level in levels)
    finest = focused(volumes, frames, start, largest)
    cuts = [cut_faces(v) if config.truncated else None for v in (*volumes, *others)]

    def scenes_at(level: Level) -> tuple[Scene, ...]:
        at = functools.partial(rig_scene, finest=finest, level=level)
        scenes = tuple(at(v, cut=c) for v, c in zip((*volumes, *others), cuts, strict=True))
        if not others:
            return scenes
        mine, theirs = scenes[: len(volumes)], scenes[len(volumes) :]
        background = predict_rig(theirs, start._replace(bodies=stacked(other_poses)))
        return tuple(scene._replace(background=background) for scene in mine)

    def align(level: Level, rig: Rig) -> Aligned:
        return align_rig(scenes_at(level), level, rig, start, geometry, config.prior)

    def score(level: Level, rig: Rig) -> Float[Array, ""]:
        scenes = scenes_at(level)
        images = predict_rig(scenes, rig)
        return settle_rig(scenes, level, rig, images, config.prior).similarity

    def move(rig: Rig, twist: Float[Array, "6"]) -> Rig:
        pivots = jnp.stack([volume.isocenter for volume in volumes])
        bodies = jax.vmap(perturb, in_axes=(0, None, 0))(rig.bodies, twist, pivots)
        return rig._replace(bodies=bodies)

    descent = Descent(align, score, move, functools.partial(_apart, volumes))
    first_level = first_number(config, found)
    aligned, trace = through(levels, start, descent, config.nearby, first_level)
    scenes = scenes_at(levels[-1])

    def look(rig: Rig, body: int) -> _Look:
        return _look(scenes, levels[-1], rig, body, config.prior)

    results = []
    for body, volume in enumerate(volumes):
        last = _Look(scenes[0], aligned.terms.views)
        looks = look(start, body), look(aligned.pose, body) if len(volumes) > 1 else last
        result = _registration(body, volume, frames, looks, aligned, start, trace, config, lead)
        results.append(result)
    return tuple(results)


class _Look(NamedTuple):
    """One body in each image, the others being background; leading axis views but for volumes."""

    scene: Scene
    terms: Terms


def _apart(volumes: tuple[Volume, ...], one: Rig, other: Rig) -> Float[Array, ""]:
    """Distance of the bodies of two rigs, that of the one farthest apart."""
    pivots = jnp.stack([volume.isocenter for volume in volumes])

    def away(a, b, pivot):
        return jnp.linalg.norm(alignment.departure(a, b, pivot, STEP_OF_SEVERAL))

    return jax.vmap(away)(one.bodies, other.bodies, pivots).max()


def _look(scenes: tuple[Scene, ...], level: Level, rig: Rig, body: int, prior: Prior) -> _Look:
    mine = (scenes[body],)
    rest = [b for b in range(len(scenes)) if b != body]
    if rest:
        still = rig._replace(bodies=stacked([body_of(rig, b) for b in rest]))
        background = predict_rig(tuple(scenes[b] for b in rest), still)
        mine = (scenes[body]._replace(background=background),)
    alone = rig._replace(bodies=stacked([body_of(rig, body)]))
    terms = settle_rig(mine, level, alone, predict_rig(mine, alone), prior).views
    return _Look(mine[0], terms)


def _registration(
    body: int,
    volume: Volume,
    frames: tuple[Frame, ...],
    looks: tuple[_Look, _Look],
    aligned: Aligned,
    start: Rig,
    trace: Trace,
    config: RegisterConfig,
    lead: Float[Array, ""] | float,
) -> Registration:
    """What was found of one body; `looks` are at the start and at the end."""
    path: Any = trace.pose
    own = trace._replace(pose=jax.tree.map(lambda x: x[:, body], path.bodies))
    begin, end = body_of(start, body), body_of(aligned.pose, body)
    each = _evidence(volume, frames, (start, aligned.pose), (begin, end), looks, own)
    status = judge(_worst(each)._replace(lead=lead), config.thresholds)
    cameras = [with_lens(f.camera, lens) for f, lens in zip(frames, aligned.pose.lens, strict=True)]
    views = Views(
        aligned.pose.cameras,
        tuple(cameras),
        jax.vmap(lambda e: judge(e, config.thresholds))(each),
        each.probability,
        each.signals,
        each.similarity,
        each.initial_similarity,
        looks[1].terms.shadow.mean((-2, -1)),
        each.kept,
    )
    place = slice(6 * body, 6 * body + 6)
    return Registration(
        unless_hopeless(status, end, begin),
        status,
        unless_hopeless(status, views.probability.min(), 0.0),
        views.similarity.mean(),
        views.initial_similarity.mean(),
        covariance(aligned)[place, place],
        views.coverage.mean(),
        views.kept.mean(),
        own,
        views=views,
    )


def _evidence(volume, frames, rigs, poses, looks, trace: Trace) -> Evidence:
    """Evidence of each image; leading axis views."""
    unit = STEP if len(frames) == 1 else STEP_OF_SEVERAL
    step = alignment.departure(*last_two(poses[0], trace), volume.isocenter, unit)
    length = jnp.linalg.norm(step)
    each = []
    for view, frame in enumerate(frames):

        def of_view(x, view=view):
            return jax.tree.map(lambda x: x[view], x)

        first, last = (
            Look(of_view(rig.cameras) @ pose, of_view(look.terms))
            for rig, pose, look in zip(rigs, poses, looks, strict=True)
        )
        scene = looks[1].scene
        seen = of_view(scene.frame)
        seen = replace(seen, camera=with_lens(seen.camera, rigs[1].lens[view]))
        scene = scene._replace(frame=seen, background=of_view(scene.background))
        each.append(evidence_of(volume, frame, scene, first, last, length))
    return stacked(each)


def _worst(each: Evidence) -> Evidence:
    """Evidence that is as grave as the gravest of each kind."""
    return Evidence(
        finite=each.finite.all(),
        contrast=each.contrast.min(),
        overlap=each.overlap.min(),
        kept=each.kept.min(),
        similarity=each.similarity.min(),
        initial_similarity=(each.initial_similarity - each.similarity).max()
        + each.similarity.min(),
        probability=each.probability.min(),
        last_step=each.last_step.max(),
    )
