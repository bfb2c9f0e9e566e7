"""Random starts whose mTRE is known and, over all of them, spread evenly."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxlie import SE3
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from jxreg import metrics
from jxreg.lie import displacement, exp
from jxreg.pose import Point, perturb, twist_between
from jxreg.precision import full_precision


class Start(NamedTuple):
    """Where a registration begins, as an offset from the true pose."""

    twist: Float[Array, "*batch 6"]
    """Translation [mm] and rotation [rad] in camera axes, for `pose.perturb`."""
    mtre: Float[Array, "*batch"]
    """Initial mTRE [mm]."""


@full_precision
def random_start(
    key: PRNGKeyArray,
    truth: SE3,
    landmarks: Float[Array, "n 3"],
    *,
    pivot: Point,
    mtre_range: tuple[ArrayLike, ArrayLike],
    rotation: ArrayLike = 1.0,
) -> Start:
    """A random rigid offset whose mTRE is uniform in a range.

    The direction is drawn first: translation and rotation vector are Gaussian, a rotation counting
    as the mean distance that it moves the landmarks. Then both are stretched until the mTRE is the
    one that was drawn.

    Args:
        key: Random key.
        truth: True pose, `camera_from_world`.
        landmarks: Anatomical points in the world [mm].
        pivot: Fixed point of the rotation in the world [mm]; as a rule the isocenter.
        mtre_range: Least and largest initial mTRE [mm].
        rotation: How far the rotation moves the landmarks, compared with the translation; with 0
            there is none.
    """
    pivot = jnp.asarray(pivot, landmarks.dtype)
    arms = truth.rotation().apply(landmarks - pivot)  # in camera axes
    radius = jnp.sqrt(jnp.mean(jnp.sum(arms**2, -1))) + 1e-3
    size_key, direction_key = jax.random.split(key)
    low, high = mtre_range
    wanted = jax.random.uniform(size_key, (), landmarks.dtype, low, high)
    direction = jax.random.normal(direction_key, (6,), landmarks.dtype)
    direction = direction / jnp.concatenate([jnp.ones(3), jnp.ones(3) * radius])
    shift, turn = direction[:3], rotation * direction.at[:3].set(0.0)

    def search(_, state):
        """Doubles the upper bound until it is far enough, then halves the interval."""
        near, far, bracketed = state
        stretch = jnp.where(bracketed, (near + far) / 2, far)
        rotation = exp(stretch * turn).rotation()
        moved = stretch * shift + jax.vmap(displacement, (None, 0))(rotation, arms)
        short = jnp.mean(jnp.linalg.norm(moved, axis=-1)) < wanted
        far = jnp.where(short & ~bracketed, 2 * far, jnp.where(short, far, stretch))
        return jnp.where(short, stretch, near), far, bracketed | ~short

    state = (jnp.zeros_like(wanted), 0.01 * wanted, jnp.asarray(False))
    stretch = jax.lax.fori_loop(0, 60, search, state)[0]
    offset = SE3.from_translation(stretch * shift) @ perturb(truth, stretch * turn, pivot)
    twist = twist_between(truth, offset, pivot)
    return Start(twist, metrics.mtre(perturb(truth, twist, pivot), truth, landmarks))


def binned_starts(
    key: PRNGKeyArray,
    truth: SE3,
    landmarks: Float[Array, "n 3"],
    *,
    pivot: Point,
    per_bin: int,
    edges_mm: tuple[float, ...],
) -> Start:
    """As many random starts in each bin of initial mTRE; the same key gives the same starts.

    Args:
        key: Random key.
        truth: True pose, `camera_from_world`.
        landmarks: Anatomical points in the world [mm].
        pivot: Fixed point of the rotation in the world [mm]; as a rule the isocenter.
        per_bin: Starts in each bin.
        edges_mm: Edges of the bins, rising [mm].

    Returns:
        Starts with two leading axes, bins and starts of a bin.
    """
    edges = jnp.asarray(edges_mm, landmarks.dtype)
    keys = jax.random.split(key, (len(edges_mm) - 1, per_bin))

    def one(key, low, high):
        return random_start(key, truth, landmarks, pivot=pivot, mtre_range=(low, high))

    of_bin = jax.vmap(one, (0, None, None))
    return jax.vmap(of_bin)(keys, edges[:-1], edges[1:])
