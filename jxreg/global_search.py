"""Search without a start: candidate poses from nothing but the volume, the camera and a range.

Directions of the beam are sampled and rendered once (`matching.Library`); roll, depth and offset
are found by matching the image with each. The best matches are refined and compared.
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
from jaxtyping import PRNGKeyArray

from jxreg import matching
from jxreg.camera import Camera
from jxreg.candidates import CompareConfig, Found, compare
from jxreg.drr.coverage import cut_faces
from jxreg.frame import Frame, square
from jxreg.matching import Library
from jxreg.pose import from_carm
from jxreg.precision import full_precision
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
    directions: int = 160
    """Directions around each center."""
    rolls: int = 5
    depths: int = 4
    candidates: int = 48
    """Matches that are refined; as many by each of four measures."""
    compare: CompareConfig = CompareConfig()
    """How they are refined and compared."""
    truncated: bool = True
    """As in `RegisterConfig`."""


def make_library(
    volume: Volume,
    camera: Camera,
    around: jaxlie.SE3 | None = None,
    *,
    config: SearchConfig = SearchConfig(),
    key: PRNGKeyArray | None = None,
) -> Library:
    """Renders the volume from every direction of a range, once for a volume and a camera.

    Args:
        volume: The patient.
        camera: Of the images to come.
        around: Center of the range, a pose; by default the centers of the configuration.
        config: The range; static.
        key: Shifts the sampled directions at random; None leaves them as they are.
    """
    spread = _spread(config.directions)
    if key is not None:
        spread = (spread + np.asarray(jax.random.uniform(key, (2,)))) % 1
    spread = 2 * spread - 1
    pairs = jnp.asarray(spread * [config.primary_degrees, config.secondary_degrees], float)
    if around is None:
        centers = jnp.stack([_facing(c).wxyz for c in config.primary_centers_degrees])
    else:
        centers = around.rotation().wxyz[None]
    depth = config.source_to_isocenter
    if depth is None:
        depth = 0.69 * camera.sdd if around is None else around.apply(volume.isocenter)[2]
    return _rendered(volume, camera, centers, pairs, jnp.asarray(depth, float), config.truncated)


def search(
    volume: Volume,
    frame: Frame,
    around: jaxlie.SE3 | None = None,
    *,
    config: SearchConfig = SearchConfig(),
    key: PRNGKeyArray | None = None,
    library: Library | None = None,
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


@functools.partial(jax.jit, static_argnames="truncated")
@full_precision
def _rendered(volume: Volume, camera: Camera, centers, pairs, depth, truncated: bool) -> Library:
    def orientation(center, pair):
        primary, secondary = jnp.deg2rad(pair)
        tilt = jaxlie.SO3.from_x_radians(-secondary) @ jaxlie.SO3.from_y_radians(primary)
        return tilt @ jaxlie.SO3(center)

    each = jax.vmap(jax.vmap(orientation, in_axes=(None, 0)), in_axes=(0, None))(centers, pairs)
    blank = Frame(jnp.zeros(camera.image_size), camera)
    small = square(blank, matching.PIXELS).camera
    cut = cut_faces(volume) if truncated else None
    orientations = jaxlie.SO3(each.wxyz.reshape(-1, 4))
    return matching.make_library(volume, cut, small, orientations, depth)


@functools.partial(jax.jit, static_argnames="config")
@full_precision
def _search(volume: Volume, frame: Frame, library: Library, config: SearchConfig) -> Found:
    seeds = _seeds(volume, frame, library, config)
    return compare(volume, frame, seeds, config=config.compare, truncated=config.truncated)


def _seeds(volume: Volume, frame: Frame, library: Library, config: SearchConfig) -> jaxlie.SE3:
    """The best matches by each measure, as many of each."""
    rolls = jnp.deg2rad(config.roll_degrees) * jnp.asarray(_middles(config.rolls))
    depths = 1 + config.depth / library.depth * jnp.asarray(_middles(config.depths))
    image = square(frame, 2 * matching.PIXELS)
    matches = matching.match(library, image, volume.isocenter, rolls, depths)
    _, best = jax.lax.top_k(matches.score, config.candidates // 4)
    wxyz_xyz = jnp.take_along_axis(matches.pose.wxyz_xyz, best[..., None], axis=1)
    return jaxlie.SE3(wxyz_xyz.reshape(-1, 7))


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
