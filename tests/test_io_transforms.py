"""ITK transforms and landmarks, with SimpleITK as the judge."""

import json

import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
import pytest

from jxreg import convention
from jxreg.errors import InputError
from jxreg.io import Landmarks, load_landmarks, load_tfm, save_landmarks, save_tfm

LPS = np.array([-1.0, -1.0, 1.0])
POINTS = np.array([[1.5, -20.25, 300.0], [0.0, 4.0, -7.125]])


def some_pose():
    return jaxlie.SE3.exp(jnp.array([12.0, -34.0, 1e3 / 3, 0.4, -1.2, 2.0]))


def test_pose_comes_back_to_the_last_digit(tmp_path):
    with jax.enable_x64(True):
        save_tfm(tmp_path / "pose.tfm", some_pose())
        error = load_tfm(tmp_path / "pose.tfm").as_matrix() - some_pose().as_matrix()
    np.testing.assert_allclose(error, 0, atol=1e-12)


def test_simpleitk_maps_camera_points_to_the_patient(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    with jax.enable_x64(True):
        save_tfm(tmp_path / "pose.tfm", some_pose())
        transform = sitk.ReadTransform(str(tmp_path / "pose.tfm"))
        world = np.asarray(some_pose().inverse().apply(jnp.asarray(POINTS)))
    mapped = [transform.TransformPoint(p.tolist()) for p in POINTS * LPS]
    np.testing.assert_allclose(mapped * LPS, world, atol=1e-9)


def test_the_text_agrees_with_the_conversions(tmp_path):
    with jax.enable_x64(True):
        save_tfm(tmp_path / "pose.tfm", some_pose())
        linear, translation, _ = convention.to_itk(some_pose().inverse())
    text = (tmp_path / "pose.tfm").read_text().splitlines()
    numbers = np.array(text[3].split()[1:], float)
    np.testing.assert_allclose(numbers[:9].reshape(3, 3), linear, atol=1e-12)
    np.testing.assert_allclose(numbers[9:], translation, atol=1e-9)


def itk_transforms():
    sitk = pytest.importorskip("SimpleITK")
    euler = sitk.Euler3DTransform((3.0, -4.0, 5.0), 0.3, -0.8, 1.1, (10.0, 20.0, -30.0))
    zyx = sitk.Euler3DTransform(euler)
    zyx.SetComputeZYX(True)
    versor = sitk.VersorRigid3DTransform()
    versor.SetMatrix(euler.GetMatrix())
    versor.SetCenter((1.0, 2.0, 3.0))
    versor.SetTranslation((-7.0, 8.0, 9.0))
    affine = sitk.AffineTransform(3)
    affine.SetMatrix(euler.GetMatrix())
    affine.SetCenter((5.0, 6.0, 7.0))
    affine.SetTranslation((1.0, -2.0, 3.0))
    shift = sitk.TranslationTransform(3, (1.0, 2.0, 3.0))
    return [euler, zyx, versor, affine, shift, sitk.CompositeTransform([euler])]


@pytest.mark.parametrize("index", range(6))
def test_rigid_transforms_of_itk_are_understood(tmp_path, index):
    sitk = pytest.importorskip("SimpleITK")
    transform = itk_transforms()[index]
    path = tmp_path / "a.tfm"
    sitk.WriteTransform(transform, str(path))
    with jax.enable_x64(True):
        world = np.asarray(load_tfm(path).inverse().apply(jnp.asarray(POINTS)))
    mapped = np.array([transform.TransformPoint(p.tolist()) for p in POINTS * LPS])
    np.testing.assert_allclose(world, mapped * LPS, atol=1e-6)  # the rotation as stored


HEAD = "#Insight Transform File V1.0\n#Transform 0\n"
IDENTITY = "1 0 0 0 1 0 0 0 1 0 0 0"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not a transform",
        HEAD,
        HEAD + f"Transform: AffineTransform_double_3_3\nParameters: {IDENTITY} 3\n",
        HEAD + "Transform: AffineTransform_double_3_3\nParameters: 1 0 0 0 1 0 0 0 x 0 0 0\n",
        HEAD + "Transform: AffineTransform_double_3_3\nParameters: 2 0 0 0 1 0 0 0 1 0 0 0\n",
        HEAD + "Transform: AffineTransform_double_3_3\nParameters: -1 0 0 0 1 0 0 0 1 0 0 0\n",
        HEAD + "Transform: AffineTransform_double_3_3\nParameters: nan 0 0 0 1 0 0 0 1 0 0 0\n",
        HEAD + "Transform: AffineTransform_double_3_3\nParameters: 1 0 0 0 1 0 0 0 1 inf 0 0\n",
        HEAD + "Transform: BSplineTransform_double_3_3\nParameters: 1 2 3\nFixedParameters: 0 0\n",
        HEAD + 2 * f"Transform: AffineTransform_double_3_3\nParameters: {IDENTITY}\n",
        HEAD
        + f"Transform: AffineTransform_double_3_3\nParameters: {IDENTITY}\nFixedParameters: 1\n",
    ],
)
def test_other_transforms_are_refused(tmp_path, text):
    path = tmp_path / "a.tfm"
    path.write_text(text)
    with pytest.raises(InputError, match=r"a\.tfm"):
        load_tfm(path)


def test_markups_come_back(tmp_path):
    path = tmp_path / "a.mrk.json"
    save_landmarks(path, Landmarks(POINTS, ("hip", "knee")))
    assert json.loads(path.read_text())["markups"][0]["coordinateSystem"] == "LPS"
    found = load_landmarks(path)
    np.testing.assert_array_equal(found.points, POINTS)
    assert found.labels == ("hip", "knee")


def fcsv(system, sign):
    rows = [
        f"vtk_{i},{x},{y},{z},0,0,0,1,1,1,0,point {i},,"
        for i, (x, y, z) in enumerate((POINTS * sign).tolist())
    ]
    head = f"# Markups fiducial file version = 4.11\n# CoordinateSystem = {system}\n"
    columns = "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID\n"
    return head + columns + "\n".join(rows) + "\n"


@pytest.mark.parametrize(
    ("name", "text", "labels"),
    [
        ("a.fcsv", fcsv("LPS", LPS), ("point 0", "point 1")),
        ("a.fcsv", fcsv("1", LPS), ("point 0", "point 1")),
        ("a.fcsv", fcsv("RAS", 1), ("point 0", "point 1")),
        ("a.fcsv", fcsv("0", 1), ("point 0", "point 1")),
        ("a.csv", "label,x,y,z\nhip,1.5,-20.25,300\nknee,0,4,-7.125\n", ("hip", "knee")),
        ("a.csv", "x,y,z\n1.5,-20.25,300\n0,4,-7.125\n", ("", "")),
        ("a.csv", "1.5,-20.25,300\n0,4,-7.125\n", ("", "")),
        ("a.csv", "hip,1.5,-20.25,300\nknee,0,4,-7.125\n", ("hip", "knee")),
    ],
)
def test_landmark_files(tmp_path, name, text, labels):
    (tmp_path / name).write_text(text)
    found = load_landmarks(tmp_path / name)
    np.testing.assert_allclose(found.points, POINTS)
    assert found.labels == labels


def markups(**changes):
    point = {"label": "a", "position": [1, 2, 3], "positionStatus": "defined"} | changes
    system = point.pop("coordinateSystem", "RAS")
    return json.dumps({"markups": [{"coordinateSystem": system, "controlPoints": [point]}]})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.mrk.json", markups(positionStatus="undefined")),
        ("a.mrk.json", markups(coordinateSystem="IJK")),
        ("a.mrk.json", markups(position=[1, 2])),
        ("a.mrk.json", markups(position="here")),
        ("a.mrk.json", "{}"),
        ("a.mrk.json", '{"markups": []}'),
        ("a.fcsv", fcsv("2", 1)),
        ("a.fcsv", "\0\0"),
        ("a.csv", ""),
        ("a.csv", "x,y,z\n"),
        ("a.csv", "x,y,z\n1,2\n"),
        ("a.csv", "x,y,z\n1,2,nan\n"),
        ("a.txt", "1,2,3\n"),
    ],
)
def test_damaged_landmark_files(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=r"a\."):
        load_landmarks(tmp_path / name)
