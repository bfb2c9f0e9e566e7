"""Frames: image, mask and camera change together.

The oracle is a smooth image that is a function of the ray, not of the pixel: after any change of
the frame, each pixel must show what the changed camera says is there.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jxreg import frame as frames
from jxreg.camera import Camera, detector_points, pixel_grid
from jxreg.frame import Frame

SIZE = (48, 60)


def camera(mirrored=False) -> Camera:
    return Camera.from_sdd(1000.0, SIZE, (2.0, 1.5), (31.0, 20.0), mirrored=mirrored)


def seen_by(camera: Camera) -> np.ndarray:
    """The oracle: a plane wave and a slope over the detector, of a period of about 100 mm."""
    x, y, _ = np.array(detector_points(camera, pixel_grid(camera))).T
    return (2 + np.sin(0.06 * x - 0.03 * y) + 0.01 * y).reshape(camera.image_size)


def frame(mirrored=False, mask=None) -> Frame:
    image = jnp.asarray(seen_by(camera(mirrored)))
    return Frame(image, camera(mirrored), None if mask is None else jnp.asarray(mask))


def half_mask():
    mask = np.ones(SIZE, np.float32)
    mask[:, :21] = 0
    return mask


def test_attenuation_undoes_the_law_of_beer_and_lambert():
    line_integral = np.array([[0.0, 1.0], [3.5, 7.0]])
    found = frames.attenuation(jnp.asarray(5000 * np.exp(-line_integral)), 5000.0)
    np.testing.assert_allclose(found, line_integral, atol=1e-5)


def test_attenuation_of_a_dark_pixel_is_finite():
    found = frames.attenuation(jnp.array([[0.0, -3.0]]), 4095.0)
    np.testing.assert_allclose(found, np.log(4095 / 0.5), rtol=1e-6)


CHANGES = {
    "crop": lambda f: frames.crop(f, 5, 7, (20, 31)),
    "flip_horizontal": frames.flip_horizontal,
    "flip_vertical": frames.flip_vertical,
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_changed_frame_shows_what_its_camera_sees(name, mirrored):
    before = frame(mirrored, half_mask())
    after = CHANGES[name](before)
    assert after.image.shape == after.camera.image_size
    np.testing.assert_allclose(after.image, seen_by(after.camera), atol=2e-5)
    column = np.array(detector_points(before.camera, pixel_grid(before.camera)))[:, 0]
    border = column.reshape(SIZE)[0, 20:22].mean()  # the mask begins here, on the detector
    x = np.array(detector_points(after.camera, pixel_grid(after.camera)))[:, 0]
    inside = (x < border) if mirrored else (x > border)
    np.testing.assert_array_equal(after.mask, inside.reshape(after.camera.image_size))


@pytest.mark.parametrize("name", CHANGES)
def test_a_frame_without_a_mask_stays_without(name):
    assert CHANGES[name](frame()).mask is None


def test_flips_are_their_own_inverse():
    before = frame(mask=half_mask())
    for flip in (frames.flip_horizontal, frames.flip_vertical):
        after = flip(flip(before))
        for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("factor", [2, 4])
def test_a_downsampled_frame_shows_what_its_camera_sees(factor):
    small = frames.downsample(frame(), factor)
    assert small.camera.image_size == (SIZE[0] // factor, SIZE[1] // factor)
    # The mean over a block of a wave: 1 - (k w)^2 / 24 of it, w = 8 mm at most, and so for y.
    np.testing.assert_allclose(small.image, seen_by(small.camera), atol=0.015)
    assert (np.array(small.mask) == 1).all()


def test_downsampling_counts_valid_pixels_only():
    before = frame(mask=half_mask())
    before = replace(before, image=jnp.where(before.mask > 0, before.image, jnp.nan))
    small = frames.downsample(before, 4)
    np.testing.assert_allclose(small.mask[:, :5], 0)
    np.testing.assert_allclose(small.mask[:, 5], 0.75)
    np.testing.assert_allclose(small.mask[:, 6:], 1)
    np.testing.assert_allclose(small.image[0, 5], before.image[:4, 21:24].mean(), rtol=1e-5)
    assert np.isfinite(np.array(small.image)).all()


def test_a_remainder_becomes_a_partly_valid_block():
    small = frames.downsample(frame(), 7)
    assert small.image.shape == small.camera.image_size == (7, 9)
    np.testing.assert_allclose(small.mask[-1, 0], 6 / 7, rtol=1e-6)
    np.testing.assert_allclose(small.mask[0, -1], 4 / 7, rtol=1e-6)
    full = frame().image
    np.testing.assert_allclose(small.image[-1, -1], full[42:, 56:].mean(), rtol=1e-5)


def test_downsampling_by_one_is_the_same():
    before = frame()
    assert frames.downsample(before, 1) is before


window = jax.jit(frames.window, static_argnums=3)


@pytest.mark.parametrize(
    "corner, side, pixels, tolerance",
    [
        ((-0.5, -0.5), 48.0, 48, 1e-5),  # whole pixels: no interpolation
        ((3.5, 7.5), 24.0, 24, 1e-5),
        ((2.2, 5.9), 30.0, 30, 0.01),  # between pixels
        ((2.2, 5.9), 36.0, 15, 0.05),  # smaller: the mean under a triangle
        ((8.3, 10.1), 12.0, 36, 0.01),  # larger
    ],
)
def test_a_window_shows_what_its_camera_sees(corner, side, pixels, tolerance):
    after = window(frame(), jnp.array(corner), jnp.array(side), pixels)
    assert after.camera.image_size == after.image.shape == (pixels, pixels)
    inner = (slice(1, -1), slice(1, -1))  # at the border of the image half a kernel is missing
    np.testing.assert_allclose(after.image[inner], seen_by(after.camera)[inner], atol=tolerance)
    np.testing.assert_allclose(after.mask[inner], 1, atol=1e-5)


def test_a_window_beyond_the_image_is_invalid_there():
    after = window(frame(), jnp.array([-8.5, -12.5]), jnp.array(32.0), 32)
    valid = np.array(after.mask) > 0.5
    assert valid[12:, 8:].all()
    assert not valid[:12].any()
    assert not valid[:, :8].any()
    assert np.isfinite(np.array(after.image)).all()
    np.testing.assert_allclose(after.image[valid], seen_by(after.camera)[valid], atol=1e-5)


def test_a_masked_border_does_not_bleed_into_a_window():
    before = frame(mask=half_mask())
    before = replace(before, image=jnp.where(before.mask > 0, before.image, 1000.0))
    after = window(before, jnp.array([0.0, 0.0]), jnp.array(44.0), 20)
    valid = np.array(after.mask) > 0.05
    assert valid.any()
    assert not valid.all()
    # A block cut by the mask shows the mean of the part that is valid, up to 1.5 px off its centre.
    assert np.abs(np.array(after.image) - seen_by(after.camera))[valid].max() < 0.2


def test_windows_batch():
    corners, side = jnp.array([[2.2, 5.9], [-4.0, 3.0]]), jnp.array(36.0)
    before = frame()
    batch = jax.jit(jax.vmap(lambda c: frames.window(before, c, side, 15)))(corners)
    for i, corner in enumerate(corners):
        one = window(before, corner, side, 15)
        np.testing.assert_allclose(batch.image[i], one.image, atol=1e-5)
        np.testing.assert_allclose(batch.camera.intrinsic[i], one.camera.intrinsic, rtol=1e-6)


def test_pixels_that_are_not_finite_are_invalid():
    before = frame()
    before = replace(before, image=before.image.at[3, 4].set(jnp.nan).at[5, 6].set(jnp.inf))
    mask = np.array(frames.valid_mask(before))
    assert mask[3, 4] == mask[5, 6] == 0
    assert mask.sum() == mask.size - 2


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.3])
def test_scatter_is_added_to_the_signal_of_the_beam(fraction):
    image = jnp.array([[0.0, 0.5], [4.0, 90.0]])  # the last one is metal: exp(-90) is 0 in float32
    exact = -np.log((np.exp(-np.array(image, np.float64)) + fraction) / (1 + fraction))
    np.testing.assert_allclose(frames.add_scatter(image, fraction), exact, rtol=1e-5, atol=1e-6)
    slope = jax.grad(lambda x: frames.add_scatter(x, jnp.array(fraction)).sum())(image)
    assert jnp.isfinite(slope).all()
