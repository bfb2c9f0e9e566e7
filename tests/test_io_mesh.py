"""STL files: binary and text, made here byte by byte."""

import struct

import numpy as np
import pytest

from jxreg.errors import InputError
from jxreg.io import load_mesh
from jxreg.physics.meshes import voxelise_mesh

CORNERS = np.array([(0, 0, 0), (8, 0, 0), (0, 6, 0), (0, 0, 4)], np.float32)  # a corner of a box
FACES = [(0, 2, 1), (0, 1, 3), (0, 3, 2), (1, 2, 3)]


def binary(header=b"made here"):
    parts = [header.ljust(80), struct.pack("<I", len(FACES))]
    for face in FACES:
        parts.append(struct.pack("<12fH", 0, 0, 1, *CORNERS[list(face)].ravel(), 7))
    return b"".join(parts)


def text():
    lines = ["solid thing"]
    for face in FACES:
        lines += ["facet normal 0 0 1", " outer loop"]
        lines += ["  vertex {:.3e} {:g} {:g}".format(*CORNERS[i]) for i in face]
        lines += [" endloop", "endfacet"]
    return "\n".join([*lines, "endsolid thing"]).encode()


@pytest.mark.parametrize("content", [binary(), binary(b"solid but binary"), text()])
def test_a_mesh_is_read_with_each_vertex_once(content, tmp_path):
    (tmp_path / "a.stl").write_bytes(content)
    mesh = load_mesh(tmp_path / "a.stl")
    assert mesh.vertices.shape == (4, 3)
    np.testing.assert_array_equal(mesh.vertices[mesh.faces], CORNERS[np.array(FACES)])
    voxels = voxelise_mesh(*mesh, spacing_mm=0.5, supersampling=4)  # so it is closed
    assert float(voxels.occupancy.sum()) / 8 == pytest.approx(8 * 6 * 4 / 6, rel=5e-3)


def test_slicers_axes_become_ras(tmp_path):
    (tmp_path / "a.stl").write_bytes(binary(b"3D Slicer output. SPACE=LPS"))
    mesh = load_mesh(tmp_path / "a.stl")
    np.testing.assert_array_equal(mesh.vertices.min(0), [-8, -6, 0])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        binary()[:-3],
        b"solid empty\nendsolid",
        text().replace(b"8.000e", b"nope"),
        b"PK\x03\x04",
    ]
    + [binary().replace(struct.pack("<f", 8.0), struct.pack("<f", np.nan))],
)
def test_what_is_refused(content, tmp_path):
    (tmp_path / "a.stl").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.stl.*STL"):
        load_mesh(tmp_path / "a.stl")
