"""Search without a start: candidate poses from nothing but the volume, the camera and a range.

Directions of the beam are sampled and rendered once (`matching.Library`, of a small volume
`templates.Templates`); roll, depth and offset are found by matching the image with each. The DRRs
of the best matches are compared with the image, and the best of these are refined and compared.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from jxreg import matching, templates
from jxreg.alignment import Level, Prior
from jxreg.camera import Camera
from jxreg.candidates import CompareConfig, Found, compare, compare_views, screen, varied
from jxreg.drr.coverage import cut_faces
from jxreg.frame import Frame, square
from jxreg.matching import Library, Matches
from jxreg.pose import from_carm, perturb
from jxreg.precision import full_precision
from jxreg.templates import Templates
from jxreg.volume import Volume


@dataclass(frozen=True)
class SearchConfig:
    """Where `search` looks, and how hard. The default is the clinical range of a C-arm."""

    primary_centers_degrees: tuple[float, ...] = (0.0, 180.0)
    """Primary angles around which it looks: detector in front of the patient, and behind."""
    primary_degrees: float = 60.0
    """LAO and RAO up to this angle from each center."""
    secondary_degrees: float = 40.0
    """CRA and CAU up to this angle."""
    roll_degrees: float = 20.0
    """Roll to either side."""
    source_to_isocenter: float | None = None
    """Depth about which it looks [mm]; by default that of the center given, or 0.69 of the SDD."""
    depth: float = 150.0
    """Nearer and farther by up to this much [mm]."""
    pixels: int = 32
    """Rows and columns of the image in the matching, an even number."""
    directions: int = 200
    """Directions around each center."""
    rolls: int = 8
    depths: int = 6
    places: int = 1
    """Places in the image that each template of a small volume proposes (`compare.part`): of the
    right one, the best may be at something else."""
    screened: int = 1600
    """Matches whose DRRs are compared with the image; as many by each of four measures, or all by
    the one of a small volume (`compare.part`). What several measures propose is compared once."""
    moved: int = 96
    """How many of the best of these give way to better poses near by."""
    apart: Prior | None = None
    """Which of them are moved, and then refined: such as are nearer than this to a better one are
    chosen after all others (`candidates.varied`). None: the best ones, whether alike or not."""
    candidates: int = 24
    """The best of these, which are refined in a round."""
    rounds: int = 6
    """How many rounds of candidates are tried at most, until one is sure."""
    slides: int = 11
    """Depths that are tried for each candidate of a small volume where several images know it."""
    compare: CompareConfig = CompareConfig()
    """How they are refined and compared."""
    truncated: bool = True
    """As in `RegisterConfig`."""


NEAR = Prior(shift=4.0, depth=20.0, rotation=0.05)
"""How far the poses that a match is compared with are from it: the steps of the matching."""
MOVES = 8
"""How many these are."""
SAME = 1e-3
"""Two measures that agree to this propose the same pose [mm, quaternion]."""

AROUND = SearchConfig(
    primary_degrees=30.0,
    secondary_degrees=30.0,
    roll_degrees=25.0,
    depth=80.0,
    directions=80,
    rolls=5,
    depths=3,
)
"""Around a start that is up to 80 mm off (mTRE): `search(volume, frame, start, config=AROUND)`."""
PART = SearchConfig(
    primary_centers_degrees=(0.0,),
    primary_degrees=90.0,
    secondary_degrees=90.0,
    roll_degrees=90.0,
    depth=40.0,
    pixels=80,
    directions=400,
    rolls=20,
    depths=1,
    places=2,
    rounds=3,
    apart=Prior(shift=5.0, depth=30.0, rotation=0.15),
    compare=CompareConfig(
        part=True,
        sure=0.3,
        finest=1024,
        reach=Prior(shift=60.0, depth=25.0, rotation=0.5),
        apart=Prior(shift=10.0, depth=60.0, rotation=0.3),
        first=Level(64, 2, similarity="local_ncc"),
        coarse=Level(64, 2, tolerance=0.1),
        sieve=Level(128, 1, similarity="local_ncc", sigma=0.02),
        fine=Level(128, 1, tolerance=0.1),
    ),
)
"""For a small volume, such as one bone, in a large image.

Its optimum is narrow, and another one is near: `coarse` must be fine, and see it to the end. What
looks like it, as a finger looks like a forearm bone, does so in many poses, which are told apart.
One image hardly knows the depth, which is not let go far from where the search looks.
"""
PART_IN_VIEWS = replace(
    PART,
    rounds=8,
    compare=replace(
        PART.compare,
        reach=CompareConfig.reach,
        coarse=Level(32, 3, tolerance=0.1),
        fine=CompareConfig.fine,
    ),
)
"""The same for `search_views`: several images know the depth, and a coarser way will do."""


def make_library(
    volume: Volume,
    camera: Camera,
    around: jaxlie.SE3 | None = None,
    *,
    config: SearchConfig = SearchConfig(),
    key: PRNGKeyArray | None = None,
) -> Library | Templates:
    """Renders the volume from every direction of a range, once for a volume and a camera.

    Args:
        volume: The patient.
        camera: Of the images to come.
        around: Center of the range, a pose; by default the centers of the configuration.
        config: The range; static.
        key: Shifts the sampled directions at random; None leaves them as they are.
    """
    return _library(volume, camera, around, jaxlie.SO3.identity(), config, key)


def search(
    volume: Volume,
    frame: Frame,
    around: jaxlie.SE3 | None = None,
    *,
    config: SearchConfig = SearchConfig(),
    key: PRNGKeyArray | None = None,
    library: Library | Templates | None = None,
) -> Found:
    """Finds poses that explain an image, without a start.

    Args:
        volume: The patient.
        frame: One image (attenuation) and its camera.
        around: Center of the range, a pose; by default the centers of the configuration.
        config: Where to look and how hard; static.
        key: Shifts the sampled directions at random; None leaves them as they are. The result is
            the same for the same key.
        library: From `make_library` with the same camera and configuration, to use again.

    Returns:
        The finalists, good to a pixel or so of the level of 64: `register` refines them.
    """
    if library is None:
        library = make_library(volume, frame.camera, around, config=config, key=key)
    return _search(volume, frame, library, config)


def search_views(
    volume: Volume,
    frames: Sequence[Frame],
    camera_from_rig: Sequence[jaxlie.SE3],
    around: jaxlie.SE3 | None = None,
    *,
    config: SearchConfig = SearchConfig(),
    key: PRNGKeyArray | None = None,
) -> Found:
    """Finds poses that explain several images taken at once, without a start.

    Every image proposes candidates; all are compared in all images.

    Args:
        volume: The patient.
        frames: The images (attenuation), each with its camera; they may differ in size.
        camera_from_rig: Where each camera is in the rig.
        around: Center of the range, `rig_from_world`; by default the centers of the configuration
            for the first camera.
        config: Where to look and how hard; static. The range holds for each camera.
        key: As in `search`.

    Returns:
        The finalists, `rig_from_world`: `register_views` refines them.
    """
    libraries = []
    for frame, place in zip(frames, camera_from_rig, strict=True):
        own = None if around is None else place @ around
        turned = (place @ camera_from_rig[0].inverse()).rotation()
        libraries.append(_library(volume, frame.camera, own, turned, config, key))
    return _search_views(volume, tuple(frames), tuple(camera_from_rig), tuple(libraries), config)


def _library(
    volume: Volume,
    camera: Camera,
    around: jaxlie.SE3 | None,
    turned: jaxlie.SO3,
    config: SearchConfig,
    key: PRNGKeyArray | None,
) -> Library | Templates:
    """The library of one camera, which stands turned to the one that the centers are meant for."""
    depth = config.source_to_isocenter
    if around is None:
        facing = [_facing(c) for c in config.primary_centers_degrees]
        centers = jnp.stack([(turned @ each).wxyz for each in facing])
        depth = 0.69 * camera.sdd if depth is None else depth
    else:
        centers = around.rotation().wxyz[None]
        depth = around.apply(volume.isocenter)[2] if depth is None else depth
    spread = _spread(config.directions)
    if key is not None:
        spread = (spread + np.asarray(jax.random.uniform(key, (2,)))) % 1
    spread = 2 * spread - 1
    pairs = jnp.asarray(spread * [config.primary_degrees, config.secondary_degrees], float)
    return _rendered(volume, camera, centers, pairs, jnp.asarray(depth, float), config)


@functools.partial(jax.jit, static_argnames="config")
@full_precision
def _rendered(
    volume: Volume, camera: Camera, centers, pairs, depth, config: SearchConfig
) -> Library | Templates:
    def orientation(center, pair):
        primary, secondary = jnp.deg2rad(pair)
        tilt = jaxlie.SO3.from_x_radians(-secondary) @ jaxlie.SO3.from_y_radians(primary)
        return tilt @ jaxlie.SO3(center)

    each = jax.vmap(jax.vmap(orientation, in_axes=(None, 0)), in_axes=(0, None))(centers, pairs)
    blank = Frame(jnp.zeros(camera.image_size), camera)
    orientations = jaxlie.SO3(each.wxyz.reshape(-1, 4))
    if config.compare.part:
        small = square(blank, 2 * config.pixels).camera
        return templates.make_templates(volume, small, orientations, depth)
    small = square(blank, config.pixels).camera
    cut = cut_faces(volume) if config.truncated else None
    return matching.make_library(volume, cut, small, orientations, depth)


@functools.partial(jax.jit, static_argnames="config")
@full_precision
def _search(
    volume: Volume, frame: Frame, library: Library | Templates, config: SearchConfig
) -> Found:
    seeds = _seeds(volume, frame, library, config)
    return compare(volume, frame, seeds, config=config.compare, truncated=config.truncated)


@functools.partial(jax.jit, static_argnames="config")
@full_precision
def _search_views(volume: Volume, frames, cameras, libraries, config: SearchConfig) -> Found:
    views = zip(frames, libraries, strict=True)
    seeds = [_seeds(volume, frame, library, config) for frame, library in views]
    if config.compare.part:
        poses = _slid(volume, frames, cameras, seeds, config)
    else:
        poses = _in_rig(cameras, seeds)
    return compare_views(
        volume, frames, cameras, poses, config=config.compare, truncated=config.truncated
    )


def _in_rig(cameras: Sequence[jaxlie.SE3], seeds: Sequence[jaxlie.SE3]) -> jaxlie.SE3:
    """What each image proposes, `rig_from_world`, in rounds that have some of each."""
    poses = []
    for place, each in zip(cameras, seeds, strict=True):
        rig_from_camera = place.inverse()
        in_rig = jax.vmap(jax.vmap(lambda p, r=rig_from_camera: (r @ jaxlie.SE3(p)).wxyz_xyz))
        poses.append(in_rig(each.wxyz_xyz))
    return jaxlie.SE3(jnp.concatenate(poses, axis=1))


def _seeds(
    volume: Volume, frame: Frame, library: Library | Templates, config: SearchConfig
) -> jaxlie.SE3:
    """The best matches by each measure, as many of each: the best DRRs of all first, in rounds."""
    matches = _matches(volume, square(frame, 2 * config.pixels), library, config)
    poses, count = _proposed(matches, config)
    score = _screened(volume, frame, poses, config, count)
    each = min(config.candidates, score.size)
    rounds = min(config.rounds, score.size // each)
    wanted = max(rounds * each, min(config.moved, score.size))
    if config.apart is None:
        chosen = jax.lax.top_k(score, wanted)[1]
    else:
        chosen = varied(volume, jaxlie.SE3(poses), score, wanted, config.apart)
    score, poses = score[chosen], poses[chosen]
    if config.moved:
        poses = _moved(volume, frame, poses, score, config)
    return jaxlie.SE3(poses[: rounds * each].reshape(rounds, each, 7))


def _proposed(matches: Matches, config: SearchConfig) -> tuple[Array, Int[Array, ""]]:
    """The best matches by each measure, as many of each, and how many of them, the first, differ.

    What several measures propose comes again after these.
    """
    measures, count = matches.score.shape
    proposed = max(1, min(config.screened // measures, count))
    _, best = jax.lax.top_k(matches.score, proposed)
    poses = matches.pose.wxyz_xyz
    same = jnp.abs(poses[:, None] - poses[None]).max(-1) < SAME
    number = same.argmax(1) * count + jnp.arange(count)  # by the first measure that proposes it
    number = jnp.sort(jnp.take_along_axis(number, best, axis=1).ravel())
    new = jnp.append(True, jnp.diff(number) > 0)
    number = number[jnp.argsort(~new)]
    return poses.reshape(-1, 7)[number], new.sum()


def _screened(volume: Volume, frame: Frame, poses, config: SearchConfig, count=None) -> Array:
    how = {"config": config.compare, "truncated": config.truncated}
    return screen(volume, frame, jaxlie.SE3(poses), count, **how)


def _moved(volume: Volume, frame: Frame, poses, score, config: SearchConfig) -> Array:
    """The first poses, or a better one near each; with the others, the best first."""
    count = min(config.moved, len(poses))
    unit = jnp.array([NEAR.shift] * 2 + [NEAR.depth] + [NEAR.rotation] * 3)
    twists = unit * jax.random.normal(jax.random.key(0), (MOVES, 6))

    def near(pose):
        return jax.vmap(lambda t: perturb(jaxlie.SE3(pose), t, volume.isocenter).wxyz_xyz)(twists)

    all_near = jax.vmap(near)(poses[:count])
    scores = _screened(volume, frame, all_near.reshape(-1, 7), config).reshape(count, MOVES)
    every = jnp.concatenate([poses[:count, None], all_near], axis=1)
    scores = jnp.concatenate([score[:count, None], scores], axis=1)
    best = scores.argmax(1)
    poses = poses.at[:count].set(every[jnp.arange(count), best])
    return poses[jnp.argsort(-score.at[:count].set(scores.max(1)))]


def _matches(
    volume: Volume, image: Frame, library: Library | Templates, config: SearchConfig
) -> Matches:
    rolls = jnp.deg2rad(config.roll_degrees) * jnp.asarray(_middles(config.rolls))
    depths = 1 + config.depth / library.depth * jnp.asarray(_middles(config.depths))
    if isinstance(library, Templates):
        return templates.match(library, image, volume.isocenter, rolls, depths, config.places)
    return matching.match(library, image, volume.isocenter, rolls, depths)


def _slid(
    volume: Volume,
    frames: Sequence[Frame],
    cameras: Sequence[jaxlie.SE3],
    seeds: Sequence[jaxlie.SE3],
    config: SearchConfig,
) -> jaxlie.SE3:
    """Poses that each image proposes, moved along its beam to where all images agree best.

    One image hardly knows how far away a small volume is.

    Args:
        volume: The volume.
        frames: The images.
        cameras: `camera_from_rig` of each.
        seeds: Of each image, `camera_from_world`, in rounds.
        config: The search.

    Returns:
        `rig_from_world`, the best first, in rounds.
    """
    images = [square(frame, 2 * config.pixels) for frame in frames]
    looks = [templates.look_at(image) for image in images]
    offsets = config.depth * jnp.asarray(_middles(config.slides))

    def total(rig_from_world):
        views = zip(looks, images, cameras, strict=True)
        each = [
            templates.agreement(volume, look, image.camera, place @ rig_from_world)
            for look, image, place in views
        ]
        return jnp.stack(each).sum()

    def moved(rig_from_camera, pose, offset):
        middle = pose.apply(volume.isocenter)
        shift = jaxlie.SE3.from_translation(offset * middle / middle[2])
        return rig_from_camera @ shift @ pose

    def one(rig_from_camera, wxyz_xyz):
        pose = jaxlie.SE3(wxyz_xyz)
        all_depths = jax.vmap(lambda offset: moved(rig_from_camera, pose, offset))(offsets)
        scores = jax.vmap(total)(all_depths)
        best = scores.argmax()
        return scores[best], all_depths.wxyz_xyz[best]

    scores, poses = [], []
    for place, each in zip(cameras, seeds, strict=True):
        own = functools.partial(one, place.inverse())
        score, pose = jax.lax.map(own, each.wxyz_xyz.reshape(-1, 7))
        scores.append(score)
        poses.append(pose)
    order = jnp.argsort(-jnp.concatenate(scores))
    return jaxlie.SE3(jnp.concatenate(poses)[order].reshape(-1, config.candidates, 7))


def _facing(primary_degrees: float) -> jaxlie.SO3:
    """Orientation of a C-arm at this primary angle."""
    return from_carm(primary_degrees, source_to_isocenter=1.0, isocenter=np.zeros(3)).rotation()


def _middles(count: int) -> np.ndarray:
    """Middles of as many equal parts of the range from -1 to 1."""
    return (2 * np.arange(count) + 1) / count - 1


def _spread(count: int) -> np.ndarray:
    """Points spread evenly over the unit square (the R2 sequence of Roberts, 2018)."""
    plastic = 1.32471795724474602596
    return (0.5 + np.outer(np.arange(1, count + 1), plastic ** -np.arange(1.0, 3.0))) % 1
