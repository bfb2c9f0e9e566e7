"""Implants in a patient: what replaces what, against closed forms and sampling."""

import jax
import jax.numpy as jnp
import jaxlie
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from jxreg.camera import Camera, detector_points, pixel_grid
from jxreg.drr import render
from jxreg.errors import InputError
from jxreg.physics import objects
from jxreg.physics.materials import material
from jxreg.physics.meshes import voxelise_mesh
from jxreg.pose import from_carm
from jxreg.scene import Implant, scene_areas
from jxreg.volume import Volume

pytestmark = pytest.mark.usefixtures("float64")

TITANIUM, STEEL = material("titanium"), material("steel")
areas = jax.jit(scene_areas, static_argnames="ranks")
rendered = jax.jit(render)


def view():
    camera = Camera.from_sdd(1000.0, (9, 11), (5.0, 5.0))
    pose = from_carm(20.0, 10.0, source_to_isocenter=700.0, isocenter=(0.0, 0.0, 0.0))
    return camera, pose


def linear_tissue(n=20, spacing=4.0):
    """Two materials whose densities are linear functions of x and of z [g/cm3]."""
    affine = np.diag([spacing] * 3 + [1.0])
    affine[:3, 3] = -spacing * (n - 1) / 2
    along = spacing * (np.arange(n) - (n - 1) / 2)
    x, _, z = np.meshgrid(along, along, along, indexing="ij")
    return Volume.from_array(np.stack([1 + 0.01 * x, 0.5 + 0.004 * z]), affine, pyramid_mm=())


def octahedron_sphere(radius, levels=4):
    """A ball of triangles, with their corners on the sphere."""
    corners = [np.array(p, float) for p in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]
    triangles = []
    for sx in (1, -1):
        for sy in (1, -1):
            for sz in (1, -1):
                a, b, c = (p * (sx, sy, sz) for p in corners)
                triangles.append((a, b, c) if sx * sy * sz > 0 else (a, c, b))
    for _ in range(levels):
        finer = []
        for a, b, c in triangles:
            ab, bc, ca = (p / np.linalg.norm(p) for p in (a + b, b + c, c + a))
            finer += [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
        triangles = finer
    points = np.array(triangles).reshape(-1, 3)
    vertices, faces = np.unique(np.round(points, 12), axis=0, return_inverse=True)
    return radius * vertices, faces.reshape(-1, 3)


def block(half):
    """A cuboid of twelve triangles."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))])
    return corners * np.asarray(half), faces


def chords(solids, camera, pose):
    return objects.path_lengths(objects.crossings(solids, camera, pose))


def test_a_solid_replaces_tissue_exactly():
    camera, pose = view()
    tissue, ball = linear_tissue(), objects.sphere((5.0, -3.0, 4.0), 12.0)
    found = areas(tissue, [Implant(ball, TITANIUM)], camera, pose)
    crossed = objects.crossings([ball], camera, pose)
    way = objects.path_lengths(crossed)[0]
    assert float(way.max()) > 23
    np.testing.assert_allclose(found.objects[0], 0.1 * TITANIUM.density * way, rtol=1e-12)
    # of a linear density, the mean over a chord is that in its middle
    middle = (crossed.enter + crossed.leave)[0] / 2
    points = detector_points(camera, pixel_grid(camera)) * middle.reshape(-1, 1)
    x, _, z = pose.inverse().apply(points).T.reshape(3, *camera.image_size)
    full = 0.1 * rendered(tissue, camera, pose)
    lost = 0.1 * way * jnp.stack([1 + 0.01 * x, 0.5 + 0.004 * z])
    np.testing.assert_allclose(found.tissue, full - lost, atol=1e-12)


def test_overlapping_solids_take_tissue_away_once():
    camera, pose = view()
    tissue = linear_tissue()
    one, two = objects.sphere((0.0, 0.0, 0.0), 12.0), objects.box((6.0, 2.0, 3.0), (8.0, 9.0, 7.0))
    both = areas(tissue, [Implant(one, TITANIUM), Implant(two, STEEL)], camera, pose)
    alone = areas(tissue, [Implant(one, TITANIUM)], camera, pose)
    small = objects.box((0.0, 0.0, 0.0), (6.0, 5.0, 7.0))
    inner = areas(tissue, [Implant(one, TITANIUM), Implant(small, STEEL)], camera, pose)
    np.testing.assert_allclose(inner.tissue, alone.tissue, atol=1e-12)
    density = np.array([TITANIUM.density, STEEL.density])[:, None, None]
    ways = both.objects / density / 0.1
    np.testing.assert_allclose(ways[1], chords([two], camera, pose)[0], atol=1e-9)
    union = objects.path_lengths(objects.covered(objects.crossings([one, two], camera, pose)))
    np.testing.assert_allclose(ways.sum(0), union.sum(0), atol=1e-9)
    with pytest.raises(InputError, match="as many as objects"):
        scene_areas(tissue, [Implant(one, TITANIUM)], camera, pose, ranks=(1, 2))


def test_without_objects_it_is_the_render():
    camera, pose = view()
    found = areas(linear_tissue(), [], camera, pose)
    np.testing.assert_allclose(found.tissue, 0.1 * rendered(linear_tissue(), camera, pose))
    assert found.objects.shape == (0, 9, 11)


def test_voxels_of_a_mesh_hold_its_volume():
    vertices, faces = octahedron_sphere(10.0)
    a, b, c = np.moveaxis(vertices[faces], 1, 0)
    volume = (np.cross(a, b) * c).sum() / 6  # the divergence theorem
    made = voxelise_mesh(vertices, faces, 0.9, supersampling=6)
    assert float(made.occupancy.sum()) * 0.9**3 == pytest.approx(volume, rel=1e-3)
    inside_out = voxelise_mesh(vertices, faces[:, ::-1], 0.9, supersampling=6)
    np.testing.assert_allclose(inside_out.occupancy, made.occupancy, atol=1e-12)
    # a block that ends within voxels: exact along z, to a sixth of a voxel across
    part = voxelise_mesh(*block((3.0, 2.0, 4.3)), 1.0, supersampling=4).occupancy
    np.testing.assert_allclose(part.sum(2).max(), 8.6, rtol=1e-9)
    assert float(part.sum()) == pytest.approx(6 * 4 * 8.6, rel=1e-9)
    for broken in (faces[1:], np.concatenate([faces, faces[:1]]), faces + 1):
        with pytest.raises(InputError, match="closed surface"):
            voxelise_mesh(vertices, broken, 1.0)
    with pytest.raises(InputError, match="positive length"):
        voxelise_mesh(vertices, faces, 0.0)


def placed():
    rotation = jaxlie.SO3.exp(jnp.array([0.2, 0.3, -0.4]))
    return jaxlie.SE3.from_rotation_and_translation(rotation, jnp.array([4.0, -2.0, 3.0]))


@pytest.mark.parametrize(
    "ranks", [None, *(pytest.param(r, marks=pytest.mark.slow) for r in [(1, 2), (1, 1)])]
)
def test_a_mesh_and_a_solid_of_one_shape_replace_the_same(ranks):
    camera, pose = view()
    tissue, half = linear_tissue(), (9.0, 6.0, 12.0)
    ball = Implant(objects.sphere((-3.0, 2.0, -6.0), 11.0), TITANIUM)
    mesh = voxelise_mesh(*block(half), 0.5, placed(), supersampling=4)
    solid = objects.box(placed().translation(), half, placed().rotation())
    exact = areas(tissue, [ball, Implant(solid, STEEL)], camera, pose, ranks=ranks)
    found = areas(tissue, [ball, Implant(mesh, STEEL)], camera, pose, ranks=ranks)
    assert float(exact.objects.min(0).max()) > 1  # they overlap on some ray
    scale = jnp.stack([exact.objects[0].max(), exact.objects[1].max()])[:, None, None]
    rough = jnp.abs(found.objects - exact.objects) / scale
    assert float(jnp.sqrt((rough**2).mean())) < 0.01  # edges and faces of half a millimetre
    rough = jnp.abs(found.tissue - exact.tissue)
    assert float(rough.max()) < 0.02 * float(exact.tissue.max())
    assert float(jnp.sqrt((rough**2).mean())) < 3e-3 * float(exact.tissue.max())


@pytest.mark.slow
def test_gradients_agree_with_finite_differences():
    camera, pose = view()
    tissue = linear_tissue()
    mesh = voxelise_mesh(*block((5.0, 4.0, 6.0)), 2.0, placed())
    ball = objects.sphere((-3.0, 2.0, -6.0), 11.0)
    flat, restore = ravel_pytree((ball, mesh.world_from_solid, pose, tissue.mu[:, ::7, ::7, ::7]))
    weights = jax.random.normal(jax.random.key(0), (4, *camera.image_size))

    @jax.jit
    @jax.value_and_grad
    def loss(flat):
        ball, place, pose, some = restore(flat)
        mu = tissue.mu.at[:, ::7, ::7, ::7].set(some)
        volume = Volume(mu, tissue.affine, tissue.isocenter)
        shape = type(mesh)(mesh.occupancy, mesh.solid_from_index, place)
        implants = [Implant(ball, TITANIUM), Implant(shape, STEEL)]
        return jnp.sum(weights * jnp.concatenate(scene_areas(volume, implants, camera, pose)))

    for seed in range(3):
        along = jax.random.normal(jax.random.key(seed), flat.shape) * 0.1
        step = 1e-6
        difference = (loss(flat + step * along)[0] - loss(flat - step * along)[0]) / (2 * step)
        assert float(loss(flat)[1] @ along) == pytest.approx(float(difference), rel=1e-5)
