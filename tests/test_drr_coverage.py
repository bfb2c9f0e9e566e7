"""Where a scan ends in the middle of the patient, and which rays that concerns."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drr_oracles import axis_orders, centred, rendered

from jxreg import alignment, drr
from jxreg.alignment import Scene
from jxreg.camera import Camera, pixel_grid
from jxreg.drr.coverage import cut_faces, missing_share, silhouette
from jxreg.drr.rays import voxel_rays
from jxreg.frame import Frame
from jxreg.pose import from_carm
from jxreg.volume import MU_WATER, Volume

SHAPE = (20, 18, 24)
SPACING = 4.0

faces_of = jax.jit(cut_faces)


@jax.jit
def extended(volume, camera, pose, cut):
    return drr.render(volume, camera, pose, drr.joseph(cut))


@jax.jit
def share_of(volume, camera, pose):
    rays = voxel_rays(volume, camera, pose, pixel_grid(camera))
    return missing_share(volume, rays, cut_faces(volume)).reshape(camera.image_size)


def trunk(*, ends_at: int = SHAPE[2], begins_at: int = 0, pyramid_mm=()) -> Volume:
    """A round trunk along z, of radius 24 mm; cut wherever it reaches the end of the grid."""
    x, y, z = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
    body = (x - 9.5) ** 2 + (y - 8.5) ** 2 < 36
    mu = MU_WATER * (body & (z >= begins_at) & (z < ends_at))
    affine = centred(SHAPE, np.diag([SPACING, SPACING, SPACING, 1.0]))
    return Volume.from_array(mu, affine, pyramid_mm=pyramid_mm)


def view(height=0.0, secondary=0.0):
    """A camera whose central ray passes the trunk's axis at z = height [mm]."""
    camera = Camera.from_sdd(1000.0, (33, 11), (8.0, 8.0))
    center = jnp.array([0.0, 0.0, height])
    pose = from_carm(0.0, secondary, 0.0, source_to_isocenter=700.0, isocenter=center)
    return camera, pose


@pytest.mark.parametrize("pyramid_mm", [(), (12.0,)])
@pytest.mark.parametrize("first, last", [(0, 24), (4, 24), (0, 19), (4, 19)])
def test_the_faces_that_the_trunk_touches_are_cut(first, last, pyramid_mm):
    volume = trunk(begins_at=first, ends_at=last, pyramid_mm=pyramid_mm)
    expected = [[False, False, first == 0], [False, False, last == 24]]
    np.testing.assert_array_equal(faces_of(volume), expected)


def test_a_table_at_the_side_is_no_cut():
    volume = trunk(begins_at=4, ends_at=19)
    volume = replace(volume, mu=volume.mu.at[:5, 0].set(MU_WATER))  # 5 voxels against 113
    assert not np.array(faces_of(volume)).any()


def test_air_has_no_cut_faces():
    volume = trunk()
    volume = replace(volume, mu=jnp.zeros_like(volume.mu))
    assert not np.array(faces_of(volume)).any()


def test_the_patient_s_length_is_found_in_any_order_of_the_axes():
    cut = []
    for other in list(axis_orders(trunk(begins_at=4)))[::7]:
        faces = np.array(cut_faces(other))
        lengthwise = np.abs(np.array(other.affine)[2, :3]).argmax()
        head = int(other.affine[2, lengthwise] > 0)  # the last face, if the axis runs upwards
        cut.append(bool(faces[head, lengthwise]) and faces.sum() == 1)
    assert all(cut)


def test_nothing_is_missing_in_the_middle_and_everything_beyond_the_cut():
    """The trunk goes on above z = 46 mm; the image is read where its rays pass the axis."""
    camera, pose = view()
    share = np.array(share_of(trunk(begins_at=4), camera, pose))
    middle = share[:, 5]
    z = (16 - np.arange(33)) * 8.0 * 0.7  # height of a row's ray at the trunk's axis; down is down
    # Rays rise by up to 0.13 mm a mm: within the trunk's 48 mm, 3 mm to either side.
    assert (middle[np.abs(z) < 40] == 0).all()
    assert (middle[z > 52] == 1).all()
    assert (middle[z < -50] == 0).all()  # below, the trunk ends by itself
    assert (share[:, [0, 10]] <= 1).all()


def test_an_oblique_ray_through_the_cut_has_a_part_missing():
    camera, pose = view(46.0, secondary=30.0)
    share = np.array(share_of(trunk(), camera, pose))
    assert 0.4 < share[16, 5] < 0.6  # the central ray passes the cut in the trunk's axis
    assert (share >= 0).all()
    assert (share <= 1).all()


def test_a_whole_patient_misses_nothing():
    camera, pose = view(46.0, secondary=30.0)
    share = share_of(trunk(begins_at=4, ends_at=19), camera, pose)
    np.testing.assert_array_equal(share, 0)


def test_a_cut_box_goes_on_as_its_face():
    """Rays that leave a block of water upwards are as long as those through a block without end."""
    mu = np.full((12, 12, 9), MU_WATER)
    volume = Volume.from_array(mu, centred(mu.shape, np.diag([4.0, 4.0, 4.0, 1.0])))
    camera = Camera.from_sdd(1000.0, (1, 9), (6.0, 6.0))
    # The central ray enters in the middle of the posterior side, 18 mm below the upper face.
    pose = from_carm(
        0.0, 40.0, 0.0, source_to_isocenter=700.0, isocenter=jnp.array([0.0, -24.0, 0.0])
    )
    cut = jnp.zeros((2, 3), bool).at[1, 2].set(True)
    image = np.asarray(extended(volume, camera, pose, cut))[0]
    in_air = np.asarray(rendered(volume, camera, pose, "joseph"))[0]
    u = (np.arange(9) - 4) * 6.0
    # Twelve slices across y, 4 mm apart; a ray's way per mm of y, from its direction.
    across = np.sqrt(u**2 + 1000.0**2) / (1000.0 * np.cos(np.radians(40.0)))
    np.testing.assert_allclose(image, MU_WATER * 48 * across, rtol=1e-3)  # words of 16 bits
    assert (in_air < 0.8 * image).all()


@pytest.mark.parametrize("size", [64, 100])
def test_few_rays_tell_where_tissue_is_missing(size):
    """Every pixel asked itself says the same, but for the soft edge between two rays."""
    _, pose = view(30.0, secondary=30.0)
    camera = Camera.from_sdd(1000.0, (size, size), (256.0 / size,) * 2)
    volume = trunk()
    full = np.asarray(share_of(volume, camera, pose))
    assert full.max() > 0.9
    scene = Scene(volume, Frame(jnp.zeros((size, size)), camera), volume, cut_faces(volume))
    few = np.asarray(alignment.missing(scene, pose, cut_faces(volume)))
    assert few.shape == full.shape
    assert np.abs(few - full).mean() < 0.02
    # A grid shifted by one of its rays would be ten times worse than one in its place.
    moved = np.roll(full, size // 32, axis=0)
    assert np.abs(few - full).mean() < 0.5 * np.abs(few - moved).mean()


def test_the_silhouette_is_the_shadow_with_a_margin():
    image = jnp.zeros((9, 11)).at[4, 5].set(1.0).at[0, 0].set(0.01)
    shown = np.array(silhouette(image, 2))
    expected = np.zeros((9, 11))
    expected[2:7, 3:8] = 1
    np.testing.assert_array_equal(shown, expected)


def test_the_silhouette_covers_the_drr():
    camera, pose = view()
    image = rendered(trunk(), camera, pose, "trilinear")
    covered = np.array(silhouette(image, 0)) > 0
    np.testing.assert_array_equal(covered, np.array(image) > 0.02)
    assert covered.any()
    assert not covered.all()
