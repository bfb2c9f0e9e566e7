"""Label maps on the grid of their volume."""

import itertools

import nibabel
import numpy as np
import pytest

from jxreg.errors import InputError
from jxreg.io import (
    InputWarning,
    load_label_names,
    load_labels,
    load_volume,
    select_labels,
    split_labels,
)
from jxreg.io.nifti import read_nifti
from jxreg.volume import Volume, crop

AFFINE = np.array([[2.0, 0, 0, -11], [0, 1.5, 0, 22], [0, 0, 3.0, -33], [0, 0, 0, 1]])
NAMES = {1: "hip_left", 2: "hip_right", 5: "sacrum"}


def label_array():
    ids = np.zeros((6, 7, 8), np.uint8)
    ids[1:3, 2:4, 2:5], ids[4:, 2:5, 3:], ids[:, 6, 0] = 1, 2, 5
    return ids


def some_volume():
    return Volume.from_array(np.full((6, 7, 8), 0.02, np.float32), AFFINE)


def write(path, image):
    path.write_bytes(image.to_bytes())
    return path


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, -1)])
@pytest.mark.filterwarnings("error")
def test_another_orientation_is_read_exactly(tmp_path, axes, flips):
    image = nibabel.Nifti1Image(label_array(), AFFINE)
    turned = image.as_reoriented(np.array(list(zip(axes, flips, strict=True))))
    path = write(tmp_path / "l.nii", turned)
    np.testing.assert_array_equal(load_labels(path, some_volume()).ids, label_array())
    part = crop(some_volume(), (1, 2, 0), (6, 6, 7))
    np.testing.assert_array_equal(load_labels(path, part).ids, label_array()[1:6, 2:6, :7])


def test_a_map_of_a_part_leaves_background(tmp_path):
    affine = AFFINE.copy()
    affine[:3, 3] += AFFINE[:3, :3] @ [1, 2, 2]
    path = write(tmp_path / "l.nii", nibabel.Nifti1Image(label_array()[1:3, 2:4, 2:5], affine))
    expected = np.where(label_array() == 1, 1, 0)
    np.testing.assert_array_equal(load_labels(path, some_volume()).ids, expected)


def test_another_grid_is_sampled_with_a_notice(tmp_path):
    finer = np.repeat(np.repeat(np.repeat(label_array(), 2, 0), 2, 1), 2, 2)
    affine = AFFINE @ np.diag([0.5, 0.5, 0.5, 1.0])
    affine[:3, 3] -= AFFINE[:3, :3] @ [0.24, 0.24, 0.24]
    path = write(tmp_path / "l.nii", nibabel.Nifti1Image(finer, affine))
    with pytest.warns(InputWarning, match="nearest"):
        labels = load_labels(path, some_volume())
    np.testing.assert_array_equal(labels.ids, label_array())


def test_maps_that_are_refused(tmp_path):
    path = tmp_path / "l.nii"
    far = AFFINE.copy()
    far[0, 3] += 500
    write(path, nibabel.Nifti1Image(label_array(), far))
    with pytest.raises(InputError, match="no label within the volume"):
        load_labels(path, some_volume())
    write(path, nibabel.Nifti1Image(label_array() * 0.5, AFFINE))
    with pytest.raises(InputError, match="fractions"):
        load_labels(path, some_volume())


@pytest.fixture
def labels(tmp_path):
    path = write(tmp_path / "l.nii", nibabel.Nifti1Image(label_array(), AFFINE))
    return load_labels(path, some_volume(), NAMES)


def test_chosen_structures_stay(labels):
    mu = np.asarray(select_labels(some_volume(), labels, ["hip_left", 5]).mu)
    kept = np.isin(label_array(), [1, 5])
    np.testing.assert_allclose(mu, np.where(kept, 0.02, 0))


def test_structures_become_channels(labels):
    volume = split_labels(some_volume(), labels, [["hip_left"], [2, 5]])
    assert volume.mu.shape == (2, 6, 7, 8)
    np.testing.assert_allclose(volume.mu[1], np.where(np.isin(label_array(), [2, 5]), 0.02, 0))
    assert volume.coarser[0].mu.shape[0] == 2


@pytest.mark.parametrize("keep", [["skull"], [3], [1, 7], []])
def test_absent_labels_are_listed(labels, keep):
    with pytest.raises(InputError, match="1 hip_left, 2 hip_right, 5 sacrum"):
        select_labels(some_volume(), labels, keep)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "group,original_idx,structure,id\na,9,hip_left,1\na,8,hip_right,2\na,1,sacrum,5"),
        ("a.csv", "Label,Name\n1,hip_left\n2,hip_right\n5,sacrum"),
        ("a.json", '{"1": "hip_left", "2": "hip_right", "5": "sacrum"}'),
        ("a.json", '{"labels": {"hip_left": 1, "hip_right": 2, "sacrum": 5}}'),
    ],
)  # fmt: skip
def test_tables_of_names(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert load_label_names(tmp_path / name) == NAMES


@pytest.mark.parametrize("text", ["", "a,b\n1,2", "id,name\nx,y", '{"1": ', "[1, 2]"])
def test_damaged_tables_of_names(tmp_path, text):
    for name in ("a.csv", "a.json"):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match="a\\."):
            load_label_names(tmp_path / name)


def test_names_in_the_header_of_totalsegmentator(tmp_path):
    image = nibabel.Nifti1Image(label_array(), AFFINE)
    rows = "".join(f'<Label Key="{k}" Red="1"><![CDATA[{v}]]></Label>' for k, v in NAMES.items())
    text = f"<CaretExtension><LabelTable>{rows}</LabelTable></CaretExtension>"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(0, text.encode()))
    path = write(tmp_path / "l.nii", image)
    assert read_nifti(path).names == NAMES
    assert load_labels(path, some_volume()).names == NAMES


def test_names_of_a_slicer_segmentation(tmp_path):
    nrrd = pytest.importorskip("nrrd")
    header = {
        "space": "left-posterior-superior",
        "space directions": (np.diag([-1.0, -1, 1, 1]) @ AFFINE)[:3, :3].T,
        "space origin": (np.diag([-1.0, -1, 1, 1]) @ AFFINE)[:3, 3],
        "kinds": ["domain"] * 3,
    }
    for index, (number, name) in enumerate(NAMES.items()):
        header[f"Segment{index}_LabelValue"] = str(number)
        header[f"Segment{index}_Name"] = name
    path = tmp_path / "a.seg.nrrd"
    nrrd.write(str(path), label_array(), header)
    labels = load_labels(path, some_volume())
    np.testing.assert_array_equal(labels.ids, label_array())
    assert labels.names == NAMES


def test_real_label_map(data_dir):
    folder = data_dir / "abdomen-pelvis-ct"
    volume = load_volume(folder / "abdomen_pelvis_3mm.nii.gz")
    labels = load_labels(folder / "abdomen_pelvis_3mm_seg.nii.gz", volume)
    assert labels.ids.shape == volume.mu.shape
    bone = np.asarray(volume.mu)[labels.ids == 77]  # hip_left in the numbering of TotalSegmentator
    assert bone.mean() > 1.1 * 0.02059
