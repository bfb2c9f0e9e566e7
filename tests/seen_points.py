"""Points seen from an unknown pose: a problem whose answer is known, for the optimizers' tests."""

import jax
import jax.numpy as jnp
import numpy as np

from jxreg.pose import from_carm, perturb, twist_between

PIVOT = jnp.array([10.0, -20.0, 30.0])
TRUTH = from_carm(20.0, -10.0, 5.0, source_to_isocenter=700.0, isocenter=PIVOT)
POINTS = PIVOT + 60 * jax.random.normal(jax.random.key(0), (30, 3))
SEEN = TRUTH.apply(POINTS)
START = perturb(TRUTH, jnp.array([12.0, -7.0, 25.0, 0.1, -0.15, 0.08]), PIVOT)


def similarity(pose):
    return -jnp.mean((pose.apply(POINTS) - SEEN) ** 2)


def distance(pose):
    """Largest difference from the truth along or about an axis [mm, or 0.02 rad]."""
    twist = twist_between(pose, TRUTH, PIVOT) * jnp.array([1, 1, 1, 50, 50, 50])
    return float(jnp.abs(twist).max())


def assert_lanes_are_apart(run):
    """Of three at once, with a NaN in the middle one: it stops, and the others do not notice."""
    starts = jax.tree.map(lambda x: jnp.stack([x] * 3), START)
    batch = jax.jit(jax.vmap(run))
    clean = batch(starts, jnp.array([1.0, 1.0, 0.5]))
    broken = batch(starts, jnp.array([1.0, jnp.nan, 0.5]))
    for lane in (0, 2):
        assert np.array_equal(clean.pose.wxyz_xyz[lane], broken.pose.wxyz_xyz[lane])
    assert np.array_equal(broken.pose.wxyz_xyz[1], START.wxyz_xyz)
    assert not np.isfinite(broken.value[1])
