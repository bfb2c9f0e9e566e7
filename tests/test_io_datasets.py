"""DeepFluoro and Ljubljana: tiny files with the published keys, whose numbers are known."""

import sys
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusal import refused

from jxreg import drr
from jxreg.camera import is_mirrored, project_points, rescale
from jxreg.io import load_deepfluoro, load_deepfluoro_preprocessed, load_ljubljana
from jxreg.volume import MU_WATER

ROWS, COLUMNS = 60, 76
FOCAL = -1020.0 / 4.0  # px; pixels of 4 mm
ORIGIN = np.array([-15.0, -160.0, -900.0])  # of the CT, LPS [mm]
BEAD = np.array([10, 12, 7])  # index (x, y, z) of the one dense voxel
BEAD_LPS = (ORIGIN + BEAD + 0.5)[None]  # in the frame of the true poses
DRAWN = {"FH-l": [20.0, -130.0, -890.0], "IOF-r": [-30.0, -150.0, -870.0]}  # LPS [mm]
TILTS = {"000": 0.1, "001": -0.2, "003": 0.0}  # rad; the last one is a doubtful view
UPSIDE_DOWN = ("001",)


def rotation(axis: int, angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    i, j = [k for k in range(3) if k != axis]
    matrix = np.eye(3)
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = c, -s, s, c
    return matrix


def rigid(turn: np.ndarray, shift) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = turn, shift
    return matrix


EXTRINSIC = rigid(rotation(2, 1.2) @ rotation(0, -0.4), [-157.6, -2.7, -631.8])
K = np.array([[FOCAL, 0, 35.0], [0, FOCAL, 28.0], [0, 0, 1]])


def true_chain(tilt: float) -> np.ndarray:
    """XReg's camera from the CT's LPS frame: the patient upright, 800 mm from the source, z < 0."""
    upright = np.array([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])  # columns left, rows down, front
    turn = rotation(1, tilt) @ rotation(0, 0.3) @ upright
    centre = ORIGIN + [12, 14, 10]
    return rigid(turn, np.array([3.0, -5.0, -800.0]) - turn @ centre)


def pixels_of(chain: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(column, row) as the data set defines them, by K [R | t] alone."""
    homogeneous = K @ (chain[:3, :3] @ np.transpose(points) + chain[:3, 3:])
    return (homogeneous[:2] / homogeneous[2]).T


def write_image(group, pixels, spacing, origin):
    size = len(spacing)
    group["pixels"] = pixels
    group["spacing"] = np.reshape(spacing, (size, 1))
    group["origin"] = np.reshape(origin, (size, 1))
    group["dir-mat"] = np.eye(size)


def radiograph(chain: np.ndarray) -> np.ndarray:
    """Intensity with one dark pixel, where the bead is: half a voxel beyond its index."""
    column, row = np.round(pixels_of(chain, BEAD_LPS)[0]).astype(int)
    image = np.full((ROWS, COLUMNS), 60000.0, np.float32)
    image[row, column] = 6000.0
    return image


@pytest.fixture
def full(tmp_path) -> Path:
    """Specimen 17-1882 with three views: one plain, one upside down, one doubtful."""
    path = tmp_path / "full.h5"
    with h5py.File(path, "w") as file:
        parameters = file.create_group("proj-params")
        parameters["extrinsic"], parameters["intrinsic"] = EXTRINSIC, K
        parameters["num-rows"], parameters["num-cols"] = ROWS, COLUMNS
        parameters["pixel-row-spacing"] = parameters["pixel-col-spacing"] = 4.0
        specimen = file.create_group("17-1882")
        hu = np.full((20, 28, 24), -1000, np.int16)  # z, y, x
        hu[tuple(BEAD[::-1])] = 4000
        write_image(specimen.create_group("vol"), hu, [1, 1, 1], ORIGIN)
        labels = (hu > 0).astype(np.uint8) * 5
        write_image(specimen.create_group("vol-seg/image"), labels, [1, 1, 1], ORIGIN)
        specimen["vol-seg/labels-def/5"] = "left-femur"
        for name, point in DRAWN.items():
            specimen[f"vol-landmarks/{name}"] = np.reshape(point, (3, 1))
        for name in TILTS:
            write_view(specimen.create_group(f"projections/{name}"), name)
    return path


def stored_chain(name: str) -> np.ndarray:
    """That of the image as it is stored: for some the C-arm was upside down."""
    turn = rotation(2, np.pi) if name in UPSIDE_DOWN else np.eye(3)
    return rigid(turn, np.zeros(3)) @ true_chain(TILTS[name])


def write_view(group, name: str):
    chain = stored_chain(name)
    write_image(group.create_group("image"), radiograph(chain), [4.0, 4.0], [0, 0])
    group["rot-180-for-up"] = int(name in UPSIDE_DOWN)
    poses = group.create_group("gt-poses")
    poses["cam-to-pelvis-vol"] = np.linalg.inv(chain) @ EXTRINSIC
    swung = rigid(rotation(0, 0.2), [5.0, 0, 0])
    poses["cam-to-left-femur-vol"] = swung @ np.linalg.inv(chain) @ EXTRINSIC
    poses["left-femur-good-fov"], poses["right-femur-good-fov"] = 1, 0
    for name, point in DRAWN.items():
        marks = pixels_of(chain, np.array([point]))[0]
        group[f"gt-landmarks/{name}"] = np.reshape(marks, (2, 1))


def projected(view, points):
    return np.asarray(project_points(view.frame.camera, view.pose, jnp.asarray(points, float)))


def centre_of(image) -> np.ndarray:
    """Centre of mass (u, v) [px]."""
    weight = np.asarray(image, float)
    rows, columns = np.mgrid[: weight.shape[0], : weight.shape[1]]
    return np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()


# DeepFluoro


@pytest.mark.parametrize("border", [0, 6])
@pytest.mark.parametrize("downsample", [1, 2])
@pytest.mark.parametrize("upright", [True, False])
def test_landmarks_land_where_the_file_says(full, border, downsample, upright):
    subject = load_deepfluoro(full, 1, border=border, downsample=downsample, upright=upright)
    assert [view.name for view in subject.views] == ["000", "001"]
    assert subject.landmarks.labels == tuple(sorted(DRAWN))
    for view, turned in zip(subject.views, (False, upright), strict=True):
        rows, columns = view.frame.image.shape
        assert (rows, columns) == (
            (ROWS - 2 * border) // downsample,
            (COLUMNS - 2 * border) // downsample,
        )
        with h5py.File(full) as file:
            marks = file[f"17-1882/projections/{view.name}/gt-landmarks"]
            stored = np.array([marks[name][()].ravel() for name in sorted(DRAWN)])
        stored = (stored - border + 0.5) / downsample - 0.5
        if turned:
            stored = np.array([columns - 1, rows - 1]) - stored
        found = projected(view, subject.landmarks.points)
        np.testing.assert_allclose(found, stored, atol=2e-3)  # px; float32 at 900 mm
        np.testing.assert_allclose(view.landmarks, stored, atol=1e-9)


def test_poses_are_proper_and_the_image_is_a_mirror_image(full):
    for view in load_deepfluoro(full, "17-1882", border=0).views:
        matrix = np.asarray(view.pose.as_matrix(), float)
        np.testing.assert_allclose(np.linalg.det(matrix[:3, :3]), 1.0, atol=1e-5)
        assert bool(is_mirrored(view.frame.camera))
        assert float(view.frame.camera.intrinsic[1, 1]) > 0
        np.testing.assert_allclose(view.frame.camera.sdd, 1020.0)
        depth = view.pose.apply(jnp.asarray(ORIGIN * [-1, -1, 1], float))[2]
        assert 700 < depth < 900  # in front of the source


def test_the_drr_shows_the_bead_where_the_xray_does(full):
    """CT, half a voxel, pose, camera, rotation by 180 degrees and image all at once."""
    subject = load_deepfluoro(full, 1, border=0)
    render = jax.jit(drr.render)
    for view in subject.views:
        fine = rescale(view.frame.camera, (8 * ROWS, 8 * COLUMNS))
        found = (centre_of(render(subject.volume, fine, view.pose)) + 0.5) / 8 - 0.5
        place = pixels_of(stored_chain(view.name), BEAD_LPS)[0]
        if view.name in UPSIDE_DOWN:
            place = np.array([COLUMNS - 1, ROWS - 1]) - place
        np.testing.assert_allclose(found, place, atol=0.05)  # px; half a voxel is 0.16
        dark = np.unravel_index(np.argmax(view.frame.image), (ROWS, COLUMNS))[::-1]
        np.testing.assert_array_equal(dark, np.round(place))


def test_the_ct_moves_by_half_a_voxel_and_can_be_left(full):
    moved, left = (load_deepfluoro(full, 1, views=(), half_voxel=h) for h in (True, False))
    shift = np.asarray(moved.volume.affine - left.volume.affine)
    np.testing.assert_allclose(shift[:3, 3], [-0.5, -0.5, 0.5])  # RAS
    index = np.append(BEAD, 1.0)
    place = (np.asarray(left.volume.affine) @ index)[:3]
    np.testing.assert_allclose(place, (ORIGIN + BEAD) * [-1, -1, 1], atol=1e-4)
    np.testing.assert_allclose(left.volume.mu[tuple(BEAD)], 5 * MU_WATER, rtol=1e-5)
    assert left.labels is not None
    assert left.labels.names == {5: "left-femur"}
    assert np.argwhere(left.labels.ids).tolist() == [BEAD.tolist()]


def test_doubtful_views_come_on_demand(full):
    def names(**options):
        return [view.name for view in load_deepfluoro(full, 1, border=0, **options).views]

    assert names() == ["000", "001"]
    assert names(doubtful=True) == ["000", "001", "003"]
    assert names(views=("003",)) == ["003"]


def test_a_femur_has_its_own_pose_if_it_is_in_view(full):
    view = load_deepfluoro(full, 1, border=0).views[0]
    assert set(view.others) == {"left-femur"}
    chain = stored_chain("000") @ np.linalg.inv(rigid(rotation(0, 0.2), [5.0, 0, 0]))
    lps = np.array([[20.0, -130.0, -890.0]])
    point = jnp.asarray(lps * [-1, -1, 1], float)
    found = project_points(view.frame.camera, view.others["left-femur"], point)
    np.testing.assert_allclose(found, pixels_of(chain, lps), atol=2e-3)


def test_the_image_is_attenuation(full):
    image = load_deepfluoro(full, 1, views=("000",), border=0).views[0].frame.image
    np.testing.assert_allclose(image.max(), np.log(10.0), rtol=1e-3)
    np.testing.assert_allclose(np.median(image), 0.0, atol=1e-6)


def test_deepfluoro_refuses_what_it_cannot_use(full, tmp_path):
    refused(load_deepfluoro, full, "no specimen 7", "18-1109", specimen=7)
    refused(load_deepfluoro, full, "no '18-1109'", "17-1882", specimen=2)
    refused(load_deepfluoro, full, "no view 999", "000", specimen=1, views=("999",))
    refused(load_deepfluoro, tmp_path / "none.h5", "no such file", specimen=1)
    (tmp_path / "broken.h5").write_bytes(full.read_bytes()[:3000])
    refused(load_deepfluoro, tmp_path / "broken.h5", "cannot be read", specimen=1)


@pytest.mark.parametrize(
    "key", ["proj-params/extrinsic", "17-1882/projections/000/gt-poses/cam-to-pelvis-vol"]
)
def test_a_mirroring_matrix_is_refused(full, key):
    with h5py.File(full, "r+") as file:
        file[key][0] = -file[key][0]
    refused(load_deepfluoro, full, "mirrors (determinant -1)", specimen=1)


def test_without_h5py_the_extra_is_named(full, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    refused(load_deepfluoro, full, "h5py is not installed", "pip install 'jxreg[data]'", specimen=1)


# DeepFluoro, pre-processed


@pytest.fixture
def small(tmp_path) -> Path:
    path = tmp_path / "ds_16x.h5"
    images = np.random.default_rng(0).random((2, 90, 90)).astype(np.float32)
    lands = np.full((2, 2, 3), np.inf)
    lands[1, :, 2] = 12.0, 70.5  # column, row
    with h5py.File(path, "w") as file:
        file["land-names/num-lands"] = 3
        for number, name in enumerate(("FH-l", "FH-r", "GSN-l")):
            file[f"land-names/land-{number:02d}"] = name
        file["03/projs"], file["03/segs"], file["03/lands"] = images, images > 0.5, lands
    return path


def test_preprocessed_files(small):
    found = load_deepfluoro_preprocessed(small, 3)
    assert found.names == ("FH-l", "FH-r", "GSN-l")
    np.testing.assert_allclose(found.landmarks[1, 2], [12.0, 70.5])
    assert np.isnan(found.landmarks[0]).all()
    assert found.frames.image.shape == found.segmentations.shape == (2, 90, 90)
    one = jax.tree.map(lambda leaf: leaf[1], found.frames)
    np.testing.assert_allclose(one.camera.sdd / one.camera.intrinsic[1, 1], 16 * 0.194, rtol=1e-6)
    assert bool(is_mirrored(one.camera))
    refused(load_deepfluoro_preprocessed, small, "no '04'", "03", specimen=4)


def test_arrays_that_do_not_fit_are_refused(small):
    with h5py.File(small, "r+") as file:
        file["land-names/num-lands"][()] = 2
    refused(load_deepfluoro_preprocessed, small, "lands (2, 2, 3)", "N x 2 x 2", specimen=3)


# Ljubljana

SPACING = np.array([2.0, 3.0, 4.0])
DSA_ORIGIN = np.array([1.0, 1.5, 2.0])


@pytest.fixture
def ljubljana(tmp_path) -> Path:
    path = tmp_path / "ljubljana.h5"
    voxels = np.full((16, 12, 10), 500.0, np.float32)  # x, y, z; no vessel
    voxels[5, 7, 3] = 4000.0
    points = DSA_ORIGIN + SPACING * np.array([[5, 7, 3], [1, 2, 8], [12, 9, 1]])
    with h5py.File(path, "w") as file:
        subject = file.create_group("subject02")
        subject["points"] = points
        subject["volume/pixels"], subject["volume/spacing"] = voxels, SPACING
        subject["volume/origin"] = DSA_ORIGIN
        for name, turn, u0 in (("ap", 0.0, 30.0), ("lat", 1.5, 52.0)):
            write_projection(subject.create_group(f"proj-{name}"), turn, u0)
    return path


def write_projection(group, turn: float, u0: float):
    upright = np.array([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])
    around = rotation(1, turn) @ upright
    extrinsic = rigid(around, np.array([0, 0, -750.0]) - around @ [16.0, 18, 20])
    intrinsic = np.array([[-1150 / 2.0, 0, u0], [0, -1150 / 2.0, 40.0], [0, 0, 1]])
    group["extrinsic"], group["intrinsic"] = extrinsic, intrinsic
    group["row-spacing"] = group["col-spacing"] = 2.0
    point = extrinsic[:3, :3] @ (DSA_ORIGIN + SPACING * [5, 7, 3]) + extrinsic[:3, 3]
    column, row = np.round((intrinsic @ point)[:2] / point[2]).astype(int)
    image = np.full((80, 90), 1999.0, np.float32)
    image[row, column] = 199.0
    image[:2] = 2500.0  # brighter than the background
    group["pixels"] = image


def test_vessels_points_and_xrays_of_ljubljana_agree(ljubljana):
    subject = load_ljubljana(ljubljana, 2)
    assert [view.name for view in subject.views] == ["ap", "lat"]
    render = jax.jit(drr.render)
    for view in subject.views:
        with h5py.File(ljubljana) as file:
            group = file[f"subject02/proj-{view.name}"]
            extrinsic, intrinsic = group["extrinsic"][()], group["intrinsic"][()]
            points = file["subject02/points"][()]
        homogeneous = intrinsic @ (extrinsic[:3, :3] @ points.T + extrinsic[:3, 3:])
        stored = (homogeneous[:2] / homogeneous[2]).T
        np.testing.assert_allclose(projected(view, subject.landmarks.points), stored, atol=2e-3)
        np.testing.assert_allclose(view.landmarks, stored, atol=2e-3)
        dark = np.unravel_index(np.argmax(view.frame.image), view.frame.image.shape)
        fine = rescale(view.frame.camera, (8 * 80, 8 * 90))
        found = (centre_of(render(subject.volume, fine, view.pose)) + 0.5) / 8 - 0.5
        np.testing.assert_allclose(found, stored[0], atol=0.05)  # px
        np.testing.assert_array_equal(dark[::-1], np.round(stored[0]))
        np.testing.assert_allclose(np.linalg.det(view.pose.rotation().as_matrix()), 1, atol=1e-5)
        np.testing.assert_allclose(view.frame.image.max(), np.log(10), rtol=0.01)
        assert float(view.frame.image.min()) == 0.0


def test_what_is_no_vessel_is_air(ljubljana):
    mu = np.asarray(load_ljubljana(ljubljana, 2, views=("ap",)).volume.mu)
    assert np.argwhere(mu).tolist() == [[5, 7, 3]]
    np.testing.assert_allclose(mu.max(), 0.04, rtol=1e-5)


def test_ljubljana_refuses_what_it_cannot_use(ljubljana):
    refused(load_ljubljana, ljubljana, "no 'subject01'", "subject02", subject=1)
    refused(load_ljubljana, ljubljana, "no view ap-max", "ap, lat", subject=2, views=("ap-max",))
    with h5py.File(ljubljana, "r+") as file:
        file["subject02/proj-ap/extrinsic"][:3, 0] *= -1
        file["subject02/proj-lat/row-spacing"][()] = 3.0
    refused(load_ljubljana, ljubljana, "view ap mirrors (determinant -1)", subject=2)
    refused(load_ljubljana, ljubljana, "view lat: focal", subject=2, views=("lat",))
