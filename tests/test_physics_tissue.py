"""From values to materials: what the CT says is kept, and every threshold has a gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jxreg.camera import Camera
from jxreg.errors import InputError
from jxreg.frame import Frame, subtracted
from jxreg.physics import (
    attenuate,
    beam_of,
    intensity,
    mass_attenuation,
    material,
    monochromatic,
    tissue,
    tube_spectrum,
)
from jxreg.physics.tissue import Thresholds

pytestmark = pytest.mark.usefixtures("float64")

HU = np.linspace(-1000.0, 3500.0, 91).reshape(7, 13, 1)
SOFT_BONE = material("soft"), material("bone")


def at(name: str, energy: float = 70.0) -> float:
    return float(mass_attenuation(material(name), np.array(energy)))


def attenuation(mixture, energy: float = 70.0):
    """Linear attenuation [1/cm]."""
    kappa = [mass_attenuation(one, np.array(energy)) for one in mixture.materials]
    return jnp.tensordot(jnp.asarray(kappa), mixture.densities, 1)


@pytest.mark.parametrize("metal", [None, "titanium"])
def test_a_ct_attenuates_at_its_energy_as_it_says(metal):
    mixture = intensity.ct(HU, metal=metal)
    np.testing.assert_allclose(attenuation(mixture), at("water") * (1 + HU / 1000), atol=1e-12)
    assert float(mixture.densities.min()) >= 0
    total = mixture.densities.sum(0)
    shares = tissue.fractions(jnp.asarray(HU), metal=metal is not None)
    np.testing.assert_allclose(shares.sum(0), 1, atol=1e-12)
    assert float(total[HU == -1000.0].max()) == 0.0  # air
    assert bool((jnp.diff(total.ravel())[:60] > 0).all())


def test_tissues_have_their_densities():
    """Water 1 to 1 % (it is soft tissue's coefficient), cortical bone at 1500 HU 1.7 to 2."""
    soft, bone = (intensity.ct(jnp.full((1, 1, 1), hu)).densities for hu in (0.0, 1500.0))
    assert float(soft.sum()) == pytest.approx(1.0, rel=0.012)
    assert 1.7 < float(bone[1, 0, 0, 0]) < 2.0
    assert float(bone[0].sum()) == 0.0


def test_thresholds_and_values_have_gradients():
    some = jnp.linspace(-900.0, 3100.0, 41)
    weight = jnp.asarray(np.random.default_rng(1).normal(size=(3, 41)))
    materials = (*SOFT_BONE, material("titanium"))

    def total(hu, thresholds):
        shares = tissue.fractions(hu, thresholds, metal=True)
        return (weight * tissue.densities(hu, shares, materials)).sum()

    thresholds = Thresholds(*(jnp.asarray(x) for x in Thresholds()))
    by_hu, by_thresholds = jax.grad(total, (0, 1))(some, thresholds)
    step = 1e-4
    for name, gradient in by_thresholds._asdict().items():
        up, down = (
            total(some, thresholds._replace(**{name: getattr(thresholds, name) + s}))
            for s in (step, -step)
        )
        assert abs(float(gradient)) > 1e-8
        assert float(gradient) == pytest.approx(float(up - down) / (2 * step), rel=1e-5)
    toward = jnp.asarray(np.random.default_rng(2).normal(size=41))
    up, down = (total(some + s * toward, thresholds) for s in (step, -step))
    assert float(by_hu @ toward) == pytest.approx(float(up - down) / (2 * step), rel=1e-5)


def test_a_ramp_without_width_is_a_threshold():
    hu = jnp.array([349.0, 350.0, 351.0])
    for end in (350.0, 100.0):
        thresholds = Thresholds(bone_from=350.0, bone_to=end)
        np.testing.assert_array_equal(tissue.fractions(hu, thresholds)[1], [0, 0, 1])
        slope = jax.grad(lambda hu, t=thresholds: tissue.fractions(hu, t)[1].sum())(hu)
        np.testing.assert_array_equal(slope, 0.0)


def test_hard_thresholds_are_those_of_the_preset():
    hu = jnp.array([-1000.0, -800.0, -799.0, 0.0, 350.0, 351.0, 2000.0])[:, None, None]
    mixture = intensity.deepdrr(hu)
    assert [one.name for one in mixture.materials] == ["air", "soft", "bone"]
    np.testing.assert_array_equal(mixture.densities[:, :, 0, 0].argmax(0), [0, 0, 1, 1, 1, 2, 2])
    expected = jnp.minimum(0.001029 * hu + 1.030, 0.0005886 * hu + 1.030)
    np.testing.assert_allclose(mixture.densities.sum(0), jnp.maximum(expected, 0), atol=1e-12)


def test_contrast_agent_is_what_exceeds_the_tissue():
    """10 mg/ml on 40 HU of blood; about 25 HU for each mg/ml."""
    added = 10e-3 * at("iodine") / at("water") * 1000
    assert 200 < added < 300
    hu = jnp.array([40.0, 100.0 + added, 900.0])[:, None, None]
    mixture = intensity.cta(hu, above=100.0)
    np.testing.assert_allclose(attenuation(mixture), at("water") * (1 + hu / 1000), rtol=1e-12)
    np.testing.assert_allclose(mixture.densities[1, :2, 0, 0], [0.0, 0.010], atol=1e-9)
    vessels = np.array([0, 1, 0])[:, None, None]
    apart = intensity.cta(hu, vessels)
    np.testing.assert_allclose(attenuation(apart), at("water") * (1 + hu / 1000), rtol=1e-12)
    assert [bool(x > 0) for x in apart.densities[1, :, 0, 0]] == [False, False, True]  # bone
    with pytest.raises(InputError, match="grid of the CT"):
        intensity.cta(hu, vessels[:2])
    only = intensity.rotational_angiography(hu, above=100.0)
    np.testing.assert_allclose(only.densities[0], mixture.densities[1])


def test_a_subtracted_image_is_that_of_the_contrast_agent():
    """Exactly at one energy; a spectrum that tissue has hardened before shows less of it."""
    materials = material("soft"), material("bone"), material("iodine")
    random = np.random.default_rng(0).random((3, 4, 5))
    areas = jnp.asarray(random * np.array([20.0, 3.0, 0.05])[:, None, None])
    camera = Camera.from_sdd(1000.0, (4, 5), (1.0, 1.0))
    spectrum = tube_spectrum(80.0)
    hole = jnp.ones((4, 5)).at[1, 2].set(0.0)
    for beam, low in ((monochromatic(materials, 60.0), 1.0), (beam_of(spectrum, materials), 0.6)):
        fill = Frame(attenuate(beam, areas), camera)
        mask = Frame(attenuate(beam, areas.at[2].set(0.0)).at[1, 2].set(jnp.nan), camera, hole)
        found = subtracted(fill, mask)
        alone = attenuate(beam, areas.at[:2].set(0.0))
        share = found.image[hole > 0] / alone[hole > 0]
        assert low - 1e-9 < float(share.min()) <= float(share.max()) < 1 + 1e-9
        assert float(found.image[1, 2]) == 0.0
        np.testing.assert_array_equal(found.mask, hole)


def test_mra_is_contrast_agent_alone():
    random = np.random.default_rng(0).random((8, 8, 8))
    random[3, 3, :] = 5.0
    mixture = intensity.mra(random)
    assert [one.name for one in mixture.materials] == ["iodine"]
    assert float(mixture.densities[0, 3, 3].min()) > 0.014
    assert float(jnp.median(mixture.densities)) == 0.0


def test_labels_are_materials_in_their_density():
    ids = np.array([0, 1, 2, 3, 1])[:, None, None]
    mixture = intensity.labels(ids, {1: "soft", 2: "titanium", 3: "bone"})
    np.testing.assert_allclose(
        mixture.densities.sum(0)[:, 0, 0], [0, 1.06, 4.506, 1.92, 1.06], rtol=1e-6
    )
    ct = intensity.ct(jnp.array([0.0, 500.0, 3000.0, -1000.0, 40.0])[:, None, None])
    both = intensity.relabelled(ct, ids, {2: "titanium"})
    assert [one.name for one in both.materials] == ["soft", "bone", "titanium"]
    np.testing.assert_allclose(both.densities[:, 2, 0, 0], [0, 0, 4.506], rtol=1e-6)
    np.testing.assert_allclose(both.densities[:2, [0, 1, 3, 4]], ct.densities[:, [0, 1, 3, 4]])


def test_a_cone_beam_ct_is_recalibrated_by_its_peaks():
    random = np.random.default_rng(0)
    hu = np.where(np.arange(32)[:, None, None] < 14, -1000.0, 40.0) + np.zeros((32, 16, 16))
    hu[24:27, 4:8] = 900.0
    values = 0.4 * (hu + random.normal(0, 10, hu.shape)) + 300
    back = intensity.recalibrated(values)
    assert float(np.median(back[:14])) == pytest.approx(-1000, abs=15)
    assert float(np.median(back[14:24])) == pytest.approx(40, abs=15)
    assert float(np.median(back[24:27, 4:8])) == pytest.approx(900, abs=25)
    assert intensity.cbct(values).densities.shape == (2, 32, 16, 16)
    with pytest.raises(InputError, match="nearly everywhere"):
        intensity.cbct(np.full((8, 8, 8), 300.0))


def test_models_have_names():
    model = intensity.model("CT", metal="steel")
    assert model(HU).materials[2].name == "steel"
    with pytest.raises(InputError, match="structural MR"):
        intensity.model("mr")
    with pytest.raises(InputError, match="3d-ra"):
        intensity.model("ultrasound")
