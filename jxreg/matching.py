"""Coarse matching of an image with a library of DRRs: which direction, what shift, roll and depth.

A pose has six parameters, but only two of them change what a DRR shows: the direction of the beam
through the patient. Roll turns the image, an offset across the beam moves it, depth scales it, all
nearly. So the library holds one coarse DRR for each direction, with a wide margin around the field,
and the X-ray is turned and scaled in a few ways and moved over each of them by FFT.

Source: normalised correlation under two masks follows Padfield, IEEE TIP 21, 2012.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jaxlie
from jaxtyping import Array, Complex, Float

from jxreg import alignment
from jxreg.alignment import Level, Scene
from jxreg.camera import Camera
from jxreg.camera import crop as crop_camera
from jxreg.frame import Frame, downsample, valid_mask
from jxreg.precision import full_precision
from jxreg.similarity.features import (
    image_gradients,
    locally_normalised,
    visible,
    window_minimum,
)
from jxreg.volume import Volume, coarsest

WINDOW = 0.08
"""Window of the local normalisation, as a fraction of the image's width."""
LEAST_SHARES = (0.2, 0.07)
"""Fractions of the image, or of what the DRR explains if that is less, that a match must compare.
Where little of the patient is in the image and in the scan, the right place has but the smaller
one; where there is more, chance finds better there."""
MEASURES = 2 * len(LEAST_SHARES)
"""By which a match is good."""
LEAST_CONTRAST = 0.05
"""Where either image shows less than this fraction of its contrast, a match counts less."""

AXIS = (0.0, 0.0, 1.0)
"""The optical axis, as a ray of `placed`."""


class Library(NamedTuple):
    """Coarse DRRs of a volume from many directions, as spectra."""

    orientation: jaxlie.SO3
    """Of the camera, `camera_from_world`, of each direction."""
    depth: Float[Array, ""]
    """From the source to the isocenter [mm]."""
    spectra: Complex[Array, "directions 4 rows columns"]
    """Of the DRR locally normalised: of the gradient by column and by row, of its square, of the
    mask. A DRR has twice the rows and columns of the image, half a field more on each side."""


class Matches(NamedTuple):
    """The best places by each of some measures."""

    score: Float[Array, "measures n"]
    pose: jaxlie.SE3
    """Leading axes as of the score."""


@full_precision
def make_library(
    volume: Volume,
    cut: Array | None,
    camera: Camera,
    orientation: jaxlie.SO3,
    depth: Float[Array, ""],
) -> Library:
    """Renders the volume from every direction, its isocenter on the optical axis.

    Args:
        volume: The volume; its coarsest level is rendered.
        cut: Faces where the scan is cut off, as in `alignment.Scene`.
        camera: Of the square image, of an even number of pixels.
        orientation: Of the camera, `camera_from_world`, with a leading axis.
        depth: From the source to the isocenter [mm].
    """
    coarse, pixels = coarsest(volume), camera.image_size[0]
    size = (2 * pixels, 2 * pixels)
    wide = crop_camera(camera, -pixels // 2, -pixels // 2, size)
    seen = Scene(coarse, Frame(jnp.zeros(size), wide), coarse, cut)
    level = Level(pixels, 0)

    def one(wxyz):
        pose = placed(jaxlie.SO3(wxyz), depth, 0.0, jnp.array(AXIS), volume.isocenter)
        image = alignment.predict((seen,), (pose,))
        weight = jnp.ones_like(image)
        if cut is not None:
            weight *= alignment.complete(seen, level, pose, cut)
        return _spectra(image, weight, pixels)

    spectra = jax.lax.map(one, orientation.wxyz, batch_size=16)
    return Library(orientation, depth, spectra)


@full_precision
def match(
    library: Library,
    frame: Frame,
    isocenter: Float[Array, "3"],
    rolls: Float[Array, " rolls"],
    depths: Float[Array, " depths"],
) -> Matches:
    """Moves the image over every DRR of the library, turned and scaled in several ways.

    How much contrast either image has where both are seen, and how much of the image that is, are
    taken from the image without roll: they change little with it, and cost most.

    Args:
        library: From `make_library`.
        frame: The square image, of as many pixels as a DRR of the library.
        isocenter: Of the volume [mm].
        rolls: Rolls to try [rad].
        depths: Depths to try, as multiples of the library's.

    Returns:
        The best shift, roll and depth of each direction by four measures, two for each of
        `LEAST_SHARES`, among places that compare at least as much: NCC of the gradients where both
        images have them; and its Fisher z times the root of the share of the image that this was,
        which is how unlikely it is by chance, or minus infinity where no place compares enough.
    """
    small, pixels = downsample(frame, 2), frame.image.shape[0] // 2

    def turned(roll, depth):
        return jnp.conj(_spectra(*_turned(frame, small.camera, roll, depth), pixels))

    each = jax.vmap(jax.vmap(turned, in_axes=(None, 0)), in_axes=(0, None))(rolls, depths)
    straight = jax.vmap(lambda depth: turned(0.0, depth))(depths)

    def one(direction):
        ix, iy, squares, mask = direction
        share = _shifts(mask * straight[:, 3]) / pixels**2
        explained = jnp.minimum(_total(mask) / pixels**2, 1.0)
        fixed = _shifts(mask * straight[:, 2])
        moving = _shifts(squares * straight[:, 3])
        fixed = jnp.maximum(fixed, LEAST_CONTRAST * _total(straight[:, 2]))
        moving = jnp.maximum(moving, LEAST_CONTRAST * moving.max())
        every = _shifts(ix * each[:, :, 0] + iy * each[:, :, 1])
        both = every.max(0)  # what follows is the same for all rolls
        ncc = jnp.clip(both / jnp.sqrt(jnp.maximum(fixed * moving, 1e-12)), -0.99, 0.99)
        chance = jnp.arctanh(ncc) * jnp.sqrt(jnp.maximum(share, 0))
        scores = []
        for least in LEAST_SHARES:
            enough = share > least * explained
            scores += [jnp.where(enough, ncc, -0.99), jnp.where(enough, chance, -jnp.inf)]
        scores = jnp.stack(scores).reshape(MEASURES, -1)
        best = scores.argmax(1)
        return scores.max(1), best, every.reshape(len(rolls), -1)[:, best].argmax(0)

    score, best, roll = jax.lax.map(one, library.spectra, batch_size=4)
    reach = pixels + 1
    depth, row, column = jnp.unravel_index(best, (depths.size, reach, reach))
    shift = jnp.stack([column, row], -1) - pixels // 2

    def place(wxyz, roll, depth, shift):
        # The optical axis of the DRR falls on this pixel of the turned image.
        k = small.camera.intrinsic
        ray = jnp.linalg.inv(k) @ jnp.append(k[:2, 2] - shift, 1.0)
        ray = jnp.append(rotation_2d(roll) @ ray[:2] / depth, 1.0)
        return placed(jaxlie.SO3(wxyz), library.depth * depth, roll, ray, isocenter)

    all_measures = jax.vmap(jax.vmap(place, in_axes=(None, 0, 0, 0)))
    poses = all_measures(library.orientation.wxyz, rolls[roll], depths[depth], shift)
    return Matches(score.T, jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), poses))


def _spectra(image, mask, pixels: int):
    """Transforms of the gradients under their weights, of their squares, of the weights.

    The image is locally normalised: the slope of a thick body is strong and says little.
    """
    image, weights = visible(image, mask), window_minimum(mask, 3)
    image = locally_normalised(image, mask, WINDOW * pixels / image.shape[-1])
    gradients = image_gradients(image)
    square = (gradients**2).sum(0)
    parts = jnp.stack([weights * gradients[0], weights * gradients[1], weights * square, weights])
    parts = jnp.pad(parts, [(0, 0), *[(1, 2 * pixels - n - 1) for n in weights.shape[-2:]]])
    return jnp.fft.rfft2(parts)


def _shifts(product):
    """Correlation at the shifts for which the image lies inside the DRR."""
    side = product.shape[-2]
    reach = side // 2 + 1
    rows = jnp.fft.ifft(product, axis=-2)[..., :reach, :]
    return jnp.fft.irfft(rows, side)[..., :reach]


def _total(spectrum):
    """Sum of the image that has this spectrum."""
    return spectrum[..., 0, 0].real[..., None, None]


def _turned(frame: Frame, camera: Camera, roll, depth):
    """The image as it would be without this roll, at the library's depth."""
    k, pixels = camera.intrinsic, camera.image_size[0]
    v, u = jnp.meshgrid(*[jnp.arange(pixels, dtype=k.dtype)] * 2, indexing="ij")
    rays = jnp.linalg.inv(k) @ jnp.stack([u.ravel(), v.ravel(), jnp.ones(pixels**2)])
    moved = k @ jnp.stack([*(rotation_2d(roll) @ rays[:2] / depth), rays[2]])
    u, v = (2 * x + 0.5 for x in moved[:2])  # in the image of twice the size
    mask = valid_mask(frame)

    def sample(x):
        x = jax.scipy.ndimage.map_coordinates(x, [v, u], 1, mode="constant")
        return x.reshape(pixels, pixels)

    weight = sample(mask)
    image = sample(jnp.where(mask > 0, frame.image, 0) * mask) / jnp.maximum(weight, 1e-6)
    return image, jnp.where(weight > 0.99, 1.0, 0.0)


def rotation_2d(angle) -> Float[Array, "2 2"]:
    """Turns a vector (x, y) by an angle [rad], from x to y."""
    c, s = jnp.cos(angle), jnp.sin(angle)
    return jnp.array([[c, -s], [s, c]])


def placed(
    orientation: jaxlie.SO3,
    depth: Float[Array, ""],
    roll: float | Float[Array, ""],
    ray: Float[Array, "3"],
    isocenter: Float[Array, "3"],
) -> jaxlie.SE3:
    """The pose whose isocenter lies on a ray, the patient turned as the ray is from the axis.

    Args:
        orientation: `camera_from_world` of a pose with the isocenter on the optical axis.
        depth: Of the isocenter along the axis [mm].
        roll: About the axis, after the orientation [rad].
        ray: From the source, with z = 1.
        isocenter: Of the volume [mm].
    """
    unit = ray / jnp.linalg.norm(ray)
    # The smallest rotation that takes the optical axis to the ray.
    tilt = jaxlie.SO3(jnp.stack([1 + unit[2], -unit[1], unit[0], jnp.zeros(())])).normalize()
    rotation = tilt @ jaxlie.SO3.from_z_radians(roll) @ orientation
    return jaxlie.SE3.from_rotation_and_translation(rotation, ray * depth - rotation @ isocenter)
