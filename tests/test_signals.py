"""Signals of a wrong pose, and the probability made of them."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jxreg import alignment, phantoms
from jxreg.alignment import Level, Prior, Scene
from jxreg.camera import Camera
from jxreg.confidence import Signals, probability
from jxreg.frame import Frame
from jxreg.pose import from_carm
from jxreg.signals import BROAD, FINE, residual_motion, signals_of
from jxreg.similarity.windows import gaussian_smooth

SIDE = 96
motion = jax.jit(residual_motion, static_argnums=(3, 4))


def texture(shift=0.0):
    """Blobs at random places, the same ones moved to the right by a shift [px]."""
    random = np.random.default_rng(4)
    places, sizes = random.uniform(0, SIDE, (300, 2)), random.uniform(1.5, 4.0, 300)
    v, u = np.mgrid[:SIDE, :SIDE]
    squares = (u - places[:, :1, None] - shift) ** 2 + (v - places[:, 1:, None]) ** 2
    return jnp.asarray(np.exp(-0.5 * squares / sizes[:, None, None] ** 2).sum(0), float)


@pytest.mark.parametrize("windows", [FINE, BROAD])
@pytest.mark.parametrize("shift", [0.1, -0.4])
def test_motion_is_measured_in_pixels(windows, shift):
    ones = jnp.ones((SIDE, SIDE))
    found = float(motion(texture(), texture(shift), ones, *windows))
    assert 0.45 * abs(shift) < found < 1.05 * abs(shift)  # held back where there is no structure


@pytest.mark.parametrize("windows", [FINE, BROAD])
def test_contrast_and_what_is_masked_are_no_motion(windows):
    still, ones = texture(), jnp.ones((SIDE, SIDE))
    shade = gaussian_smooth(jax.random.normal(jax.random.key(0), still.shape), 25.0)
    assert float(motion(still, 3 * still + 2, ones, *windows)) < 1e-3
    assert float(motion(still, still + 2 * shade, ones, *windows)) < 0.05
    mask = ones.at[:, :40].set(0.0)
    hidden = still.at[:, :40].set(texture(2.0)[:, :40])
    assert float(motion(still, hidden, mask, *windows)) < 1e-3
    assert float(motion(still, hidden, ones, *windows)) > 0.3


@pytest.fixture(scope="module")
def seen():
    """The level of 64 pixels of a pelvis: a function of the X-ray's camera and the assumed one."""
    phantom = phantoms.total(phantoms.pelvis_and_spine())
    volume = phantoms.voxelise(phantom, *phantoms.grid_around(phantom, 4.0))
    pose = from_carm(20.0, 10.0, source_to_isocenter=700.0, isocenter=volume.isocenter)
    camera = Camera.from_sdd(1020.0, (64, 64), (5.6, 5.6))
    level = Level(64, 0)
    scene = Scene(volume, Frame(jnp.zeros((64, 64)), camera), volume, None)
    xray = jax.jit(alignment.predict)((scene,), (pose,))

    @jax.jit
    def signals(factor, depth, blind=False):
        """Of a camera and a depth that are too large by these factors; blind: all is masked."""
        intrinsic = camera.intrinsic.at[:2, :2].multiply(factor)
        longer = replace(camera, intrinsic=intrinsic, sdd=factor * camera.sdd)
        wrong = replace(scene.frame, image=xray, camera=longer)
        shifted = replace_depth(pose, depth, volume)
        assumed = scene._replace(frame=wrong)
        terms = alignment.look(assumed, level, shifted, Prior())
        terms = terms._replace(mask=jnp.where(blind, 0.0, terms.mask))
        return signals_of(assumed, pose, shifted, terms)

    return signals


def replace_depth(pose, factor, volume):
    arm = pose.apply(volume.isocenter)
    away = jnp.zeros(3).at[2].set((factor - 1) * arm[2])
    return type(pose).from_translation(away) @ pose


def test_nothing_is_left_to_say_at_the_truth(seen):
    signals = seen(1.0, 1.0)
    assert float(signals.similarity) > 0.999
    assert float(jnp.stack([signals.fine_motion, signals.broad_motion]).max()) < 1e-3
    assert abs(float(signals.sdd)) < 1e-4
    assert float(signals.depth) == 0.0
    assert float(signals.kept) > 0.9


@pytest.mark.parametrize("factor", [0.94, 1.05])
def test_a_wrong_sdd_is_seen(seen, factor):
    """With the depth that hides it best: the isocenter is as large as it was."""
    signals = seen(factor, factor)
    assert float(signals.broad_motion) > 0.05
    assert 0.3 < float(signals.sdd) / -np.log(factor) < 1.2
    assert float(signals.depth) == pytest.approx(700 * (factor - 1), rel=1e-3)


def test_a_wrong_depth_is_no_wrong_sdd(seen):
    assert abs(float(seen(1.0, 1.005).sdd)) < 0.3 * abs(float(seen(1.05, 1.05).sdd))


def test_where_nothing_is_compared_the_sdd_is_believed(seen):
    assert abs(float(seen(1.05, 1.05).sdd)) > 0.01
    blind = seen(1.05, 1.05, blind=True)
    assert (float(blind.sdd), float(blind.kept)) == (0.0, 0.0)


def test_signals_of_a_batch(seen):
    factors = jnp.array([0.95, 1.0, 1.05])
    many = jax.vmap(seen)(factors, factors)
    for number, factor in enumerate(factors):
        alone = seen(factor, factor)
        mine = jax.tree.map(lambda x, i=number: x[i], many)
        np.testing.assert_allclose(np.array(mine), np.array(alone), rtol=1e-4, atol=2e-4)


def test_probability_falls_with_each_signal():
    good = Signals(*(jnp.asarray(x) for x in (0.97, 0.1, 0.1, 0.002, 5.0, 0.9)))
    bad = Signals(*(jnp.asarray(x) for x in (0.3, 2.0, 2.0, 0.1, 100.0, 0.2)))
    best = float(probability(good))
    assert best > 0.9
    assert float(probability(bad)) < 0.01
    for name in Signals._fields:
        worse = good._replace(**{name: getattr(bad, name)})
        assert float(probability(worse)) < best
        assert float(probability(good._replace(**{name: jnp.asarray(jnp.nan)}))) == 0.0


def test_another_sdd_that_would_do_better_is_enough_to_doubt():
    """After a search the depth of the start says nothing against a wrong SDD."""
    wrong = Signals(*(jnp.asarray(x) for x in (0.98, 0.1, 0.1, 0.06, 0.1, 0.9)))
    assert float(probability(wrong)) < 0.5
    np.testing.assert_allclose(
        probability(wrong), probability(wrong._replace(sdd=-wrong.sdd)), rtol=1e-6
    )


def test_probability_of_a_batch():
    pairs = ((0.97, 0.3), (0.15, 2.0), (0.2, 2.0), (-0.01, 0.05), (5.0, -90.0), (0.9, 0.3))
    many = Signals(*(jnp.asarray(pair) for pair in pairs))
    alone = [float(probability(jax.tree.map(lambda x, i=i: x[i], many))) for i in (0, 1)]
    np.testing.assert_allclose(probability(many), alone, rtol=1e-5)
