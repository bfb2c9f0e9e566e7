"""Materials against published values and two libraries; spectra against their generator's."""

import hashlib

import numpy as np
import pytest

from jxreg.errors import InputError
from jxreg.physics import (
    Spectrum,
    half_value_layer,
    mass_attenuation,
    material,
    mean_energy,
    tube_spectrum,
)
from jxreg.physics.materials import coefficients, energy_transfer, names
from jxreg.physics.spectra import air_kerma, filtered

KEV = np.array([10, 20, 30, 40, 50, 60, 80, 100, 150])
SPOTS = {  # xraydb and xraylib, whose digits agree; NIST XCOM within 0.07 %
    "water": (5.3299, 0.8098, 0.3756, 0.2683, 0.2269, 0.2059, 0.1837, 0.1707, 0.1505),
    "bone": (28.51, 4.001, 1.331, 0.6655, 0.4242, 0.3148, 0.2229, 0.1855, 0.1480),
    "soft": (5.380, 0.8231, 0.3790, 0.2688, 0.2264, 0.2048, 0.1823, 0.1693, 0.1492),
    "lung": (5.460, 0.8318, 0.3815, 0.2699, 0.2270, 0.2053, 0.1826, 0.1695, 0.1493),
    "air": (5.120, 0.7780, 0.3538, 0.2485, 0.2080, 0.1875, 0.1662, 0.1541, 0.1356),
    "titanium": (110.7, 15.85, 4.972, 2.213, 1.214, 0.7660, 0.4053, 0.2721, 0.1649),
    "iron": (170.7, 25.68, 8.178, 3.629, 1.957, 1.205, 0.5952, 0.3717, 0.1964),
    "iodine": (162.6, 25.43, 8.562, 22.10, 12.32, 7.577, 3.510, 1.942, 0.6978),
    "aluminium": (26.21, 3.442, 1.128, 0.5684, 0.3682, 0.2778, 0.2018, 0.1704, 0.1378),
}
BEAMS = (  # kVp, mm Al: mean [keV], HVL 1 and 2 [mm Al], photons [1/mm^2 mAs], kerma [uGy/mAs]
    (60.0, 3.5, 37.46, 2.509, 3.316, 5.74e5, 33.9),
    (80.0, 2.5, 42.90, 2.734, 4.084, 1.52e6, 82.0),
    (80.0, 4.0, 45.39, 3.546, 4.889, 1.15e6, 53.9),
    (90.0, 4.0, 48.74, 3.994, 5.617, 1.55e6, 68.4),
    (100.0, 3.0, 50.12, 3.816, 5.745, 2.31e6, 104.5),
    (120.0, 3.0, 55.42, 4.620, 7.021, 3.37e6, 142.2),
    (120.0, 4.3, 57.51, 5.487, 7.719, 2.85e6, 112.1),
)


@pytest.mark.parametrize("name", SPOTS)
def test_published_values(name):
    np.testing.assert_allclose(mass_attenuation(material(name), KEV), SPOTS[name], rtol=1e-3)


def test_the_iodine_edge_jumps_within_two_energies():
    below, above = mass_attenuation(material("iodine"), np.array([33.168, 33.171]))
    assert below == pytest.approx(6.553, rel=1e-3)
    assert above == pytest.approx(35.83, rel=1e-3)


def test_tables_are_those_that_were_checked():
    """By their numbers, since another zlib may pack the same ones into other bytes."""
    table = coefficients()
    digest = hashlib.sha256(np.ascontiguousarray(table.energies))
    for name in ("total", "photo", "incoherent"):
        steps = np.rint(table.log[name] / 2e-5).astype("<i4")
        digest.update(np.ascontiguousarray(steps))
    assert digest.hexdigest() == "37ef150c364666e4090da4a2cb4018b89b41ecb4e97dc30c8f7a1aba29b33109"


def test_interactions_add_up():
    for log in coefficients().log.values():
        assert np.isfinite(log).all()
    photo, incoherent, total = (
        np.exp(coefficients().log[name]) for name in ("photo", "incoherent", "total")
    )
    assert (photo + incoherent < total * (1 + 3e-5)).all()


@pytest.mark.parametrize("library", ["xraydb", "xraylib"])
def test_whole_table_against_a_library(library):
    module = pytest.importorskip(library)
    energies = np.concatenate([coefficients().energies, np.linspace(10.05, 149.95, 1400)])
    for symbol in coefficients().row:
        one = material({symbol: 1.0}, density=1.0)
        for process in ("total", "photo", "incoherent"):
            if library == "xraydb":
                kind = process.replace("incoherent", "incoh")
                truth = module.mu_elam(symbol, 1e3 * energies, kind=kind)
            else:
                names = {"total": "CS_Total", "photo": "CS_Photo", "incoherent": "CS_Compt"}
                function = getattr(module, names[process])
                number = module.SymbolToAtomicNumber(symbol)
                truth = np.array([function(number, float(e)) for e in energies])
            ours = mass_attenuation(one, energies, process)
            np.testing.assert_allclose(ours, truth, rtol=1e-4, err_msg=f"{symbol} {process}")


def test_a_material_has_several_names_and_spellings():
    assert material("Aluminum") == material("aluminium")
    water = material("water")
    by_atoms, by_mass = material("H2O", 1.0), material("H0.111894O0.888106", density=1.0)
    for other in (by_atoms, by_mass, material({"H": 0.111894, "O": 0.888106}, 1.0)):
        np.testing.assert_allclose([w for _, w in other.fractions], [0.111894, 0.888106], atol=2e-5)
        assert mass_attenuation(other, 60.0) == pytest.approx(mass_attenuation(water, 60.0), 1e-4)
    made, known = (dict(material(name, 4.51).fractions) for name in ("Cs1I1", "CsI"))
    assert made == pytest.approx(known, rel=1e-4)
    assert material("bone", density=1.5).density == 1.5


@pytest.mark.parametrize("name", names())
def test_named_materials_are_complete(name):
    one = material(name)
    assert sum(share for _, share in one.fractions) == pytest.approx(1.0, abs=1e-12)
    assert np.isfinite(mass_attenuation(one, KEV)).all()


def test_energy_transfer_of_air_is_close_to_energy_absorption():
    """NIST mu_en/rho, from which it differs by the binding of electrons, 1.3 % at 80 keV."""
    nist = (0.5389, 0.1537, 0.06833, 0.03041, 0.02407, 0.02325, 0.02496)
    ours = energy_transfer(material("air"), np.array([20, 30, 40, 60, 80, 100, 150]))
    np.testing.assert_allclose(ours, nist, rtol=0.015)


@pytest.mark.parametrize("kvp, mm, mean, first, second, photons, kerma", BEAMS)
def test_beams_are_those_of_the_generator(kvp, mm, mean, first, second, photons, kerma):
    """To 1 %; the generator filters with other coefficients of aluminium (0.7 % in the HVL)."""
    beam = tube_spectrum(kvp, (("aluminium", mm),))
    layer = half_value_layer(beam)
    assert mean_energy(beam) == pytest.approx(mean, rel=0.003)
    assert layer == pytest.approx(first, rel=0.01)
    assert half_value_layer(beam, share=0.25) - layer == pytest.approx(second, rel=0.01)
    assert beam.photons.sum() == pytest.approx(photons, rel=0.01)
    assert air_kerma(beam) == pytest.approx(kerma, rel=0.01)
    assert (beam.photons >= 0).all()
    assert beam.energies.max() < kvp


def test_between_tabulated_voltages():
    """73 kV, 3 mm of aluminium: the generator itself has 41.365 keV and 1.0938e6 photons."""
    beam = tube_spectrum(73.0)
    assert mean_energy(beam) == pytest.approx(41.365, rel=0.003)
    assert beam.photons.sum() == pytest.approx(1.0938e6, rel=0.01)


def test_filters_multiply_and_milliampere_seconds_scale():
    both = tube_spectrum(90.0, (("aluminium", 2.0), ("copper", 0.1)), mas=2.0)
    other = tube_spectrum(90.0, (("copper", 0.1), ("aluminium", 1.0), ("aluminium", 1.0)))
    np.testing.assert_allclose(both.photons, 2 * other.photons, rtol=1e-12)
    bare = tube_spectrum(90.0, ())
    copper = material("copper")
    factor = np.exp(-0.1 * 8.96 * 0.1 * mass_attenuation(copper, bare.energies))
    through = tube_spectrum(90.0, (("copper", 0.1),))
    np.testing.assert_allclose(through.photons, bare.photons * factor, rtol=1e-12)


REFUSED = {
    "names are": lambda: material("unobtainium"),
    "add up": lambda: material("H0.5O0.1", density=1.0),
    "no density": lambda: material("CsI2"),
    "'Xq'": lambda: material("Xq2", density=1.0),
    "positive number": lambda: material("water", density=-1.0),
    "10 to 150 keV": lambda: mass_attenuation(material("water"), 5.0),
    "'Q'": lambda: mass_attenuation(material({"Q": 1.0}, 1.0), 50.0),
    "40 to 150 kV": lambda: tube_spectrum(200.0),
    "copper": lambda: tube_spectrum(80.0, (("copper", -1.0),)),
    "mAs": lambda: tube_spectrum(80.0, mas=0.0),
    "behind them": lambda: tube_spectrum(60.0, (("lead", 50.0),)),
    "at least 0": lambda: filtered(tube_spectrum(60.0), (("lead", float("nan")),)),
    "0 photons": lambda: half_value_layer(Spectrum(np.array([]), np.array([]))),
    "share of 1.5": lambda: half_value_layer(tube_spectrum(60.0), share=1.5),
}


@pytest.mark.parametrize("words", REFUSED)
def test_bad_input_is_refused(words):
    with pytest.raises(InputError, match=words):
        REFUSED[words]()
