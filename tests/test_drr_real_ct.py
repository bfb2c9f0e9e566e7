"""Renderers on a real chest CT: an exact traversal, another program, the order of the axes."""

import shutil
import subprocess
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from drr_oracles import KINDS, axis_orders, exact_image, rendered, rms

import jxreg
from jxreg.camera import Camera, detector_points
from jxreg.pose import from_carm


@pytest.fixture(scope="module")
def chest(data_dir):
    volume = jxreg.load_volume(data_dir / "chest-ct" / "cxr.nii.gz", crop_air=False)
    return replace(volume, coarser=())


def view(volume, size=(24, 32)):
    """An oblique view of the whole chest."""
    camera = Camera.from_sdd(1020.0, size, (400.0 / size[0], 500.0 / size[1]))
    pose = from_carm(25.0, -15.0, 10.0, source_to_isocenter=700.0, isocenter=volume.isocenter)
    return camera, pose


def report(name: str, error: np.ndarray, expected: np.ndarray) -> float:
    """The rms error relative to the largest value; shown by `pytest -s`."""
    relative, worst = rms(error) / expected.max(), np.abs(error).max() / expected.max()
    print(f"\n{name}: rms {relative:.1e}, largest {worst:.1e} of the maximum")
    return relative


def test_siddon_equals_an_exact_traversal(chest):
    camera, pose = view(chest)
    expected = exact_image(chest, camera, pose)
    error = np.array(rendered(chest, camera, pose, "siddon")) - expected
    assert report("Siddon and NumPy", error, expected) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_none_of_the_48_orders_of_the_axes_matters(chest, kind):
    camera, pose = view(chest)
    expected = np.array(rendered(chest, camera, pose, kind))
    errors = [
        np.array(rendered(replace(other, coarser=()), camera, pose, kind)) - expected
        for other in axis_orders(chest)
    ]
    assert len(errors) == 48
    assert report(f"{kind}, 48 orders", np.stack(errors), expected) < 1e-5


def pfm(path) -> np.ndarray:
    """A portable float map; plastimatch writes the top row first."""
    data = path.read_bytes()
    kind, size, scale = data.split(b"\n", 3)[:3]
    assert kind == b"Pf"
    columns, rows = map(int, size.split())
    order = "<f4" if float(scale) < 0 else ">f4"
    return np.frombuffer(data, order, rows * columns, len(data) - 4 * rows * columns).reshape(
        rows, columns
    )


@pytest.mark.reference
def test_siddon_equals_plastimatch(chest, tmp_path):
    """`plastimatch drr -i exact`; it drops the outermost voxels, so that these are made air."""
    program = shutil.which("plastimatch")
    if program is None:
        pytest.skip("plastimatch is not here: pip install plastimatch")
    sitk = pytest.importorskip("SimpleITK")
    lps = np.diag([-1.0, -1.0, 1.0])
    linear = lps @ np.asarray(chest.affine, np.float64)[:3, :3]
    assert (linear == np.diag(np.diag(linear))).all()
    towards = tuple(np.sign(np.diag(linear)).astype(int))  # it takes no notice of directions
    mu = np.pad(np.array(chest.mu)[tuple(slice(None, None, d) for d in towards)], 2)
    first = [0 if d > 0 else n - 1 for d, n in zip(towards, chest.mu.shape, strict=True)]
    corner = np.asarray(chest.affine, np.float64) @ [*first, 1]
    spacing = np.abs(np.diag(linear))
    image = sitk.GetImageFromArray(mu.transpose(2, 1, 0))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin((lps @ corner[:3] - 2 * spacing).tolist())
    sitk.WriteImage(image, str(tmp_path / "ct.mha"))
    volume = chest
    camera, pose = view(volume)

    def words(vector):
        return " ".join(f"{x:.9f}" for x in lps @ np.asarray(vector, np.float64))

    world_from_camera = np.asarray(pose.inverse().rotation().as_matrix(), np.float64)
    rows, columns = camera.image_size
    low, high = (
        np.asarray(detector_points(camera, jnp.array([uv]))[0], np.float64)
        for uv in ([-0.5, -0.5], [columns - 0.5, rows - 0.5])
    )
    options = ["-A", "cpu", "-i", "exact", "-P", "none", "-t", "pfm", "-O", "out_"]
    options += ["-r", f"{columns} {rows}", "-z", f"{high[0] - low[0]} {high[1] - low[1]}"]
    options += ["--sad", "700", "--sid", "1020", "-o", words(volume.isocenter)]
    options += ["-n", words(-world_from_camera[:, 2]), "--vup", words(-world_from_camera[:, 1])]
    subprocess.run([program, "drr", *options, "ct.mha"], cwd=tmp_path, check=True, timeout=300)
    (written,) = tmp_path.glob("out_*.pfm")
    expected = 10 * pfm(written)  # per cm
    error = np.array(rendered(volume, camera, pose, "siddon")) - expected
    assert report("Siddon and plastimatch", error, expected) < 1e-5
