"""The closed-form spectrum: against the plain sum, its limits, its derivatives, its few terms."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jxreg.errors import InputError
from jxreg.physics import Spectrum, mass_attenuation, material, tube_spectrum
from jxreg.physics.beam import (
    Beam,
    attenuate,
    attenuation,
    beam_of,
    effective_coefficients,
    monochromatic,
)
from jxreg.physics.nodes import BOUND, largest_error, reduced

pytestmark = pytest.mark.usefixtures("float64")

MATERIALS = tuple(material(name) for name in ("soft", "bone", "titanium"))
LARGEST = (40.0, 12.0, 4.5)


def coarse_beam():
    """Eight of the bins: enough to harden, quick to compile."""
    kappa, log_weights = full_beam()
    return Beam(kappa[:, 5::11], np.log(w := np.exp(log_weights[5::11])) - np.log(w.sum()))


def full_beam(kvp: float = 100.0, materials=MATERIALS):
    """3 mm of aluminium, 0.6 mm of caesium iodide."""
    spectrum = tube_spectrum(kvp)
    absorbed = 1 - np.exp(-0.22 * mass_attenuation(material("csi"), spectrum.energies))
    return beam_of(spectrum, materials, absorbed * spectrum.energies)


def areas(*shape: int):
    random = np.random.default_rng(3).random((3, *shape))
    return jnp.asarray(random * np.array(LARGEST).reshape(3, *[1] * len(shape)))


def plain_sum(areas, beam):
    exponent = np.tensordot(beam.kappa, np.asarray(areas), (0, 0))
    weights = np.exp(beam.log_weights).reshape(-1, *[1] * (exponent.ndim - 1))
    return -np.log((weights * np.exp(-exponent)).sum(0))


def test_is_the_sum_over_the_spectrum():
    beam, some = full_beam(), areas(4, 5)
    p = attenuate(beam, some)
    np.testing.assert_allclose(p, plain_sum(some, beam), rtol=1e-12)
    np.testing.assert_allclose(jax.jit(attenuate)(beam, some), p, rtol=1e-12)
    by_pixel = jax.vmap(attenuate, (None, 1))(beam, some.reshape(3, -1))
    np.testing.assert_allclose(by_pixel.reshape(4, 5), p, rtol=1e-12)
    assert float(np.abs(attenuate(beam, jnp.zeros((3, 2)))).max()) < 1e-14  # air


def test_single_precision_keeps_six_digits():
    beam, some = coarse_beam(), areas(50)
    single = attenuate(beam, some.astype(jnp.float32))
    np.testing.assert_allclose(single, plain_sum(some, beam), rtol=3e-6)


def test_one_energy_is_the_linear_case():
    beam, some = monochromatic(MATERIALS, 60.0), areas(6)
    kappa = [mass_attenuation(one, np.array(60.0)) for one in MATERIALS]
    np.testing.assert_allclose(attenuate(beam, some), np.tensordot(kappa, some, 1), rtol=1e-14)


def test_the_beam_hardens():
    """Twice as much attenuates less than twice; the coefficient of what is left falls."""
    beam, some = coarse_beam(), areas(20)
    kappa, log_weights = (jnp.asarray(x) for x in beam)
    once, twice = attenuate(beam, some), attenuate(beam, 2 * some)
    assert bool((twice < 2 * once).all())
    before, after = (effective_coefficients(a, kappa, log_weights) for a in (some, 2 * some))
    assert bool((after < before).all())
    assert bool((once < kappa @ jnp.exp(log_weights) @ some).all())  # below the mean coefficient


def test_derivatives_are_those_of_finite_differences():
    beam, some = coarse_beam(), areas(3, 2)
    inputs = some, *(jnp.asarray(x) for x in beam)
    toward = jax.tree.map(
        lambda x, seed: jnp.asarray(np.random.default_rng(seed).normal(size=x.shape)),
        inputs,
        (1, 2, 3),
    )
    _, forward = jax.jvp(attenuation, inputs, toward)
    step = 1e-5
    up, down = (
        attenuation(*(x + s * d for x, d in zip(inputs, toward, strict=True)))
        for s in (step, -step)
    )
    np.testing.assert_allclose(forward, (up - down) / (2 * step), rtol=1e-5)
    weight = jnp.arange(6.0).reshape(3, 2)
    back = jax.grad(lambda *x: (weight * attenuation(*x)).sum(), (0, 1, 2))(*inputs)
    along = sum(float((g * d).sum()) for g, d in zip(back, toward, strict=True))
    assert along == pytest.approx(float((weight * forward).sum()), rel=1e-10)
    np.testing.assert_allclose(
        effective_coefficients(*inputs), jax.grad(lambda a: attenuation(a, *inputs[1:]).sum())(some)
    )


@pytest.mark.slow
def test_second_derivative_in_the_areas():
    beam, some = coarse_beam(), areas()
    inputs = tuple(jnp.asarray(x) for x in beam)
    hessian = jax.hessian(attenuation)(some, *inputs)
    step = 1e-5
    gradient = jax.grad(attenuation)
    up, down = (gradient(some.at[0].add(s), *inputs) for s in (step, -step))
    np.testing.assert_allclose(hessian[0], (up - down) / (2 * step), rtol=1e-5, atol=1e-12)


def test_iodine_is_fitted_from_another_start_where_the_first_one_fails():
    full, box = full_beam(70.0, (material("soft"), material("iodine"))), (40.0, 0.15)
    assert largest_error(reduced(full, box), full, box) <= BOUND


@pytest.mark.parametrize("names, kvp", [(("soft", "bone"), 120.0), (("soft", "iodine"), 80.0)])
def test_few_terms_keep_the_attenuation(names, kvp):
    """Also across the K edge of iodine; checked at points that the fit has not seen."""
    materials = tuple(material(name) for name in names)
    full, box = full_beam(kvp, materials), (40.0, 12.0 if "bone" in names else 0.15)
    few = reduced(full, box)
    assert few.log_weights.size <= 6
    assert np.exp(few.log_weights).sum() == pytest.approx(1.0, abs=1e-12)
    assert largest_error(few, full, box) <= BOUND
    some = jnp.asarray(np.random.default_rng(5).random((2, 300)) * np.array(box)[:, None])
    difference = attenuate(few, some) - attenuate(full, some)
    assert float(jnp.abs(difference).max()) <= BOUND


def test_few_terms_with_titanium():
    few = reduced(full_beam(), LARGEST)
    assert few.log_weights.size <= 6


def test_a_beam_of_few_bins_is_kept_where_fewer_terms_miss_the_bound():
    bins = tube_spectrum(90.0)
    beam = beam_of(Spectrum(bins.energies[5::11], bins.photons[5::11]), MATERIALS)
    assert beam.log_weights.size == 7
    few = reduced(beam, LARGEST, 1e-12)
    assert largest_error(few, beam, LARGEST) <= 1e-12


def chords(source, pixels, centre, semi_axes):
    """Length of each ray inside an ellipsoid [mm]."""
    along = pixels - source
    along = along / np.linalg.norm(along, axis=-1, keepdims=True) / semi_axes
    u = (source - centre) / np.asarray(semi_axes)
    alpha, beta, gamma = (along**2).sum(-1), along @ u, u @ u - 1
    return 2 * np.sqrt(np.maximum(beta**2 - alpha * gamma, 0)) / alpha


def test_against_gvirtualxray():
    """Soft tissue, bone and titanium, attenuation up to 6.6; it differs at the rims of its meshes.

    `references/make_gvxr.py` made the image; its coefficients are those of xraylib.
    """
    with np.load(Path(__file__).parent / "references" / "gvxr.npz") as file:
        made, theirs = json.loads(str(file["made"])), file["attenuation"]
        spectrum = Spectrum(file["energies"], file["photons"])
    rows, columns = (np.arange(n) - (n - 1) / 2 for n in theirs.shape)
    steps = made["pixel_mm"] * np.array([made["columns"], made["rows"]])
    pixels = made["detector"] + columns[:, None] * steps[0] + rows[:, None, None] * steps[1]
    source = np.array(made["source"])
    lengths = [chords(source, pixels, np.array(c), a) for _, c, a in made["ellipsoids"]]
    lengths[0] = lengths[0] - lengths[1] - lengths[2]
    materials = tuple(material(name) for name, _, _ in made["ellipsoids"])
    areas = jnp.stack([0.1 * m.density * x for m, x in zip(materials, lengths, strict=True)])
    full = beam_of(spectrum, materials)
    ours = attenuate(full, areas)
    error = np.asarray(ours - theirs)
    assert float(theirs.max()) > 6.5
    assert float(np.sqrt((error**2).mean())) < 1.5e-4
    assert float(np.percentile(np.abs(error), 99)) < 3e-4
    few = reduced(full, LARGEST)
    assert float(jnp.abs(attenuate(few, areas) - ours).max()) < BOUND


def test_where_no_few_terms_hold_the_bound_all_bins_are_kept():
    full = full_beam(materials=(material("soft"), material("gold")))
    assert reduced(full, (40.0, 8.0), 1e-9) is full


def test_largest_needs_a_number_for_each_material():
    with pytest.raises(InputError, match="one a material"):
        reduced(full_beam(), (40.0, 12.0))


def test_a_beam_without_signal_is_refused():
    spectrum = tube_spectrum(80.0)
    with pytest.raises(InputError, match="signal"):
        beam_of(spectrum, MATERIALS, 0 * spectrum.energies)
    with pytest.raises(InputError, match="0 bins"):
        beam_of(Spectrum(np.array([]), np.array([])), MATERIALS)
    with pytest.raises(InputError, match="signal between nan"):
        beam_of(Spectrum(np.array([50.0, 60.0]), np.array([np.nan, 1.0])), MATERIALS)
