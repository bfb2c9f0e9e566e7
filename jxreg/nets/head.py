"""From feature maps to the numbers of a rigid motion, in mm and rad."""

from dataclasses import dataclass

import jax
import numpy as np
from flax import nnx
from jaxlie import SE3
from jaxtyping import Array, Float

from jxreg.errors import InputError
from jxreg.parametrisation import PARAMETRISATIONS

_PER_RADIAN = {"quaternion": 0.5, "rotation_10d": 0.5, "quaternion_adjugate": 0.5}
"""How much the numbers of a small rotation change with its angle; 1 for the others."""


@dataclass(frozen=True)
class HeadConfig:
    """What the last layers of a network are, and in which units they speak."""

    parametrisation: str = "quaternion_adjugate"
    """How the numbers stand for a motion: a name of `parametrisation.PARAMETRISATIONS`."""
    translation_mm: tuple[float, float, float] = (100.0, 100.0, 100.0)
    """Translation that an output of 1 stands for: the half-range or spread of training [mm]."""
    rotation_degrees: float = 30.0
    """Rotation that an output of 1 stands for, near none [deg]."""
    places: bool = False
    """Whether the head sees each place of the maps (weights for each) or their mean."""
    hidden: tuple[int, ...] = ()
    """Widths of layers before the last; none for DiffPose, xvr and LXPose."""


def units(config: HeadConfig) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of no motion, and how far an output of 1 moves each.

    So an output of zero is no motion in every parametrisation, and outputs near 1 are motions of
    the range of training, in mm and rad.

    Raises:
        InputError: There is no such parametrisation.
    """
    name = config.parametrisation
    if name not in PARAMETRISATIONS:
        raise InputError(
            "parametrisation",
            repr(name),
            "one of " + ", ".join(PARAMETRISATIONS),
            "choose one of these",
        )
    entry = PARAMETRISATIONS[name]
    with jax.ensure_compile_time_eval():
        at_rest = np.asarray(jax.jit(entry.numbers)(SE3.identity()), np.float32)
    turn = np.deg2rad(config.rotation_degrees) * _PER_RADIAN.get(name, 1.0)
    scale = np.full(entry.size, turn, np.float32)
    scale[:3] = config.translation_mm
    return at_rest, scale


class Head(nnx.Module):
    """Outputs for the numbers of a motion, before `units`; near zero before training."""

    def __init__(self, shape: tuple[int, int, int], config: HeadConfig, rngs: nnx.Rngs):
        rows, columns, features = shape
        self.places = config.places
        widths = [rows * columns * features if config.places else features, *config.hidden]
        he_normal = nnx.initializers.he_normal()
        self.hidden = nnx.List(
            nnx.Linear(width, wider, kernel_init=he_normal, rngs=rngs)
            for width, wider in zip(widths[:-1], widths[1:], strict=True)
        )
        size = PARAMETRISATIONS[config.parametrisation].size
        small = nnx.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")
        self.last = nnx.Linear(widths[-1], size, kernel_init=small, rngs=rngs)

    def __call__(self, maps: Float[Array, "h w c"]) -> Float[Array, " n"]:
        x = maps.ravel() if self.places else maps.mean((0, 1))
        for layer in self.hidden:
            x = jax.nn.relu(layer(x))
        return self.last(x)
