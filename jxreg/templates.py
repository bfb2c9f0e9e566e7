"""Matching of a small volume, such as a single bone, with all of an image: which direction, where.

The image shows much besides, so only what lies in the volume's shadow is compared. The shadow has a
shape of its own that turns with roll and grows with nearness, so every direction, roll and depth
makes a template, which is moved over the image by FFT. Something else may look more like it than
the volume does, so that a template may propose several places.

Source: normalised correlation under two masks follows Padfield, IEEE TIP 21, 2012.
"""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jaxlie
from jaxtyping import Array, Complex, Float, Int

from jxreg import drr
from jxreg.camera import Camera
from jxreg.drr.coverage import silhouette
from jxreg.frame import Frame, valid_mask
from jxreg.matching import AXIS, Matches, placed, rotation_2d
from jxreg.precision import full_precision
from jxreg.similarity.features import image_gradients, locally_normalised, visible
from jxreg.similarity.windows import window_minimum
from jxreg.simulation import project
from jxreg.volume import Volume, coarsest

WINDOW = 0.03
"""Window of the local normalisation, as a fraction of the image's width."""
MARGIN = 2
"""Pixels around the shadow that are compared."""
APART = 3
"""Pixels within which two places of a template are one."""
LEAST_SHARE = 0.5
"""Fraction of the shadow that must lie on the image."""
NOWHERE = -1.0
"""Score of a place that is hardly on the image."""
LEAST_CONTRAST = 0.5
"""Where the image has less than this fraction of its mean contrast, a match counts less."""


class Templates(NamedTuple):
    """DRRs of a small volume from many directions: half a field, twice as fine as the image."""

    orientation: jaxlie.SO3
    """Of the camera, `camera_from_world`, of each direction."""
    depth: Float[Array, ""]
    """From the source to the isocenter [mm]."""
    images: Float[Array, "directions pixels pixels"]


class Look(NamedTuple):
    """What is compared of an image."""

    gradients: Float[Array, "2 rows columns"]
    """Of the image locally normalised; 0 where the weight is."""
    weights: Float[Array, "rows columns"]
    least: Float[Array, ""]
    """Squared gradient that a pixel is taken to have at least, on average."""


@full_precision
def make_templates(
    volume: Volume, camera: Camera, orientation: jaxlie.SO3, depth: Float[Array, ""]
) -> Templates:
    """Renders the volume from every direction, its isocenter in the middle.

    Args:
        volume: The volume; its coarsest level is rendered. What reaches over half the field is cut.
        camera: Of the square image, of an even number of pixels.
        orientation: Of the camera, `camera_from_world`, with a leading axis.
        depth: From the source to the isocenter [mm].
    """
    small, pixels = coarsest(volume), camera.image_size[0]
    centre = (pixels - 1) / 2
    focal = 2 * camera.intrinsic[:2, :2]
    intrinsic = camera.intrinsic.at[:2, :2].set(focal).at[:2, 2].set(centre)
    fine = replace(camera, intrinsic=intrinsic)

    def one(wxyz):
        pose = placed(jaxlie.SO3(wxyz), depth, 0.0, jnp.array(AXIS), volume.isocenter)
        return project(small, fine, pose, drr.joseph())

    return Templates(orientation, depth, jax.lax.map(one, orientation.wxyz, batch_size=8))


@full_precision
def match(
    templates: Templates,
    frame: Frame,
    isocenter: Float[Array, "3"],
    rolls: Float[Array, " rolls"],
    depths: Float[Array, " depths"],
    places: int = 1,
) -> Matches:
    """Moves every template, turned and scaled in several ways, over the image.

    Args:
        templates: From `make_templates` with the camera of the frame.
        frame: The square image.
        isocenter: Of the volume [mm].
        rolls: Rolls to try [rad].
        depths: Depths to try, as multiples of the templates'.
        places: How many places are wanted for each direction, roll and depth; static.

    Returns:
        One measure; the best places for each direction, roll and depth, one after the other.
    """
    pixels = frame.image.shape[0]
    side, size = pixels // 2, 3 * pixels // 2
    image = look_at(frame)
    seen = _Spectra(
        jnp.fft.rfft2(image.gradients, (size, size)),
        jnp.fft.rfft2((image.gradients**2).sum(0), (size, size)),
        jnp.fft.rfft2(image.weights, (size, size)),
    )

    def one(index):
        direction, roll, depth = index
        template = _turned(templates.images[direction], rolls[roll], depths[depth], side)
        score = _correlation(seen, _features(template, pixels), image.least, size)
        score, corner = _best_places(score, places)
        corner = jnp.where(corner > pixels, corner - size, corner)  # those over the upper left
        return score, corner + (side - 1) / 2

    counts = templates.images.shape[0], rolls.size, depths.size
    index = jnp.meshgrid(*[jnp.arange(n) for n in counts], indexing="ij")
    direction, roll, depth = (x.ravel() for x in index)
    score, centre = jax.lax.map(one, (direction, roll, depth), batch_size=8)
    direction, roll, depth = (jnp.repeat(x, places) for x in (direction, roll, depth))

    def place(direction, roll, depth, centre):
        orientation = jaxlie.SO3(templates.orientation.wxyz[direction])
        ray = jnp.linalg.inv(frame.camera.intrinsic) @ jnp.append(centre, 1.0)
        here = templates.depth * depths[depth]
        return placed(orientation, here, rolls[roll], ray, isocenter).wxyz_xyz

    poses = jax.vmap(place)(direction, roll, depth, centre.reshape(-1, 2))
    return Matches(score.reshape(1, -1), jaxlie.SE3(poses[None]))


@full_precision
def agreement(volume: Volume, look: Look, camera: Camera, pose: jaxlie.SE3) -> Float[Array, ""]:
    """The measure of `match` at one pose, to the pixel.

    Args:
        volume: The volume; its coarsest level is rendered.
        look: Of the image (`look_at`).
        camera: Of the square image.
        pose: The pose, `camera_from_world`.
    """
    pixels = camera.image_size[0]
    side = pixels // 2
    middle = pose.apply(volume.isocenter)
    centre = (camera.intrinsic @ (middle / middle[2]))[:2]
    inside = ((centre > -side / 2) & (centre < pixels + side / 2)).all() & (middle[2] > 0)
    corner = jnp.round(centre - (side - 1) / 2)
    corner = jnp.where(jnp.isfinite(corner), jnp.clip(corner, -side, pixels), 0.0)
    moved = camera.intrinsic.at[:2, 2].add(-corner)
    window = replace(camera, intrinsic=moved, image_size=(side, side))
    template = _features(project(coarsest(volume), window, pose, drr.joseph()), pixels)
    column, row = corner.astype(int) + side

    def cut(x):
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(side, side)] * 2)
        corner = (*[0] * (x.ndim - 2), row, column)
        return jax.lax.dynamic_slice(x, corner, (*x.shape[:-2], side, side))

    gradients, weights = cut(look.gradients), cut(look.weights)
    sums = (
        (gradients * template.gradients).sum(),
        (template.weights * (gradients**2).sum(0)).sum(),
        (template.weights * weights).sum(),
    )
    return jnp.where(inside, _score(*sums, template, look.least), NOWHERE)


def look_at(frame: Frame) -> Look:
    """What is compared of an image.

    Args:
        frame: The square image.
    """
    mask = jnp.where(valid_mask(frame) > 0.99, 1.0, 0.0)
    image = locally_normalised(visible(frame.image, mask), mask, WINDOW)
    weights = jnp.pad(window_minimum(mask, 3), 1)
    gradients = weights * jnp.pad(image_gradients(image), [(0, 0), (1, 1), (1, 1)])
    mean = (gradients**2).sum() / jnp.maximum(weights.sum(), 1.0)
    return Look(gradients, weights, LEAST_CONTRAST * mean)


class _Template(NamedTuple):
    """What is compared of a template: as `Look`, the weights being the shadow."""

    gradients: Float[Array, "2 side side"]
    weights: Float[Array, "side side"]


class _Spectra(NamedTuple):
    """Transforms of a look."""

    gradients: Complex[Array, "2 size frequencies"]
    squares: Complex[Array, "size frequencies"]
    weights: Complex[Array, "size frequencies"]


def _features(template: Float[Array, "side side"], pixels: int) -> _Template:
    side = template.shape[0]
    local = locally_normalised(template, None, WINDOW * pixels / side)
    weights = silhouette(template, MARGIN)
    gradients = jnp.pad(image_gradients(local), [(0, 0), (1, 1), (1, 1)])
    return _Template(weights * gradients, weights)


def _correlation(seen: _Spectra, template: _Template, least, size: int):
    """Score of the template with its first pixel on each pixel; at the end those before them."""
    gradients = jnp.conj(jnp.fft.rfft2(template.gradients, (size, size)))
    weights = jnp.conj(jnp.fft.rfft2(template.weights, (size, size)))
    products = (seen.gradients * gradients).sum(0), seen.squares * weights, seen.weights * weights
    both, fixed, covered = jnp.fft.irfft2(jnp.stack(products), (size, size))
    return _score(both, fixed, covered, template, least)


def _score(both, fixed, covered, template: _Template, least):
    """Fisher z of the NCC of the gradients, times the root of the share of the shadow seen.

    Args:
        both: Sum of products of the gradients.
        fixed: Sum of squares of the image's gradients, in the shadow.
        covered: Sum of the weights of both.
        template: The template.
        least: As in `Look`.
    """
    area = jnp.maximum(template.weights.sum(), 1.0)
    share = jnp.clip(covered / area, 0, 1)
    moving = (template.gradients**2).sum() * share
    fixed = jnp.maximum(fixed, least * area)
    ncc = jnp.clip(both / jnp.sqrt(jnp.maximum(fixed * moving, 1e-12)), -0.99, 0.99)
    return jnp.where(share > LEAST_SHARE, jnp.arctanh(ncc) * jnp.sqrt(share), NOWHERE)


def _best_places(
    score: Float[Array, "size size"], count: int
) -> tuple[Float[Array, " count"], Int[Array, "count 2"]]:
    """The best places, none within `APART` pixels of a better one: scores, and column and row."""
    size = score.shape[0]
    index = jnp.arange(size)

    def body(left, _):
        best = left.argmax()
        row, column = best // size, best % size
        down, across = (jnp.abs((index - x + size // 2) % size - size // 2) for x in (row, column))
        near = (down[:, None] <= APART) & (across <= APART)
        return jnp.where(near, -jnp.inf, left), (left.max(), jnp.stack([column, row]))

    return jax.lax.scan(body, score, length=count)[1]


def _turned(straight: Float[Array, "pixels pixels"], roll, depth, side: int):
    """A template at the image's resolution, with this roll and at this depth."""
    offset = jnp.arange(side) - (side - 1) / 2
    v, u = jnp.meshgrid(offset, offset, indexing="ij")
    u, v = 2 * depth * rotation_2d(-roll) @ jnp.stack([u.ravel(), v.ravel()])
    middle = (straight.shape[0] - 1) / 2
    turned = jax.scipy.ndimage.map_coordinates(straight, [v + middle, u + middle], 1)
    return turned.reshape(side, side)
