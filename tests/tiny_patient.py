"""A patient small enough to test a recipe's loss with."""

import jax.numpy as jnp
import numpy as np
from jaxlie import SE3

from jxreg.recipes.recipe import Fixed, Geometry, Patient, camera_of
from jxreg.synthesis import training_volume
from jxreg.volume import Volume


def patient_of(geometry: Geometry) -> Patient:
    """A block of tissue with two bones in it; nothing to validate with."""
    mu = np.full((12, 12, 12), 0.02, np.float32)
    mu[3:5, 4:9, 2:10] = mu[7:10, 5:7, 3:6] = 0.05
    volume = Volume.from_array(mu, np.diag([20.0, 20.0, 20.0, 1.0]), pyramid_mm=())
    coarse = training_volume(volume, camera_of(geometry), geometry.source_to_isocenter)
    nothing = Fixed(jnp.zeros((1, geometry.pixels, geometry.pixels)), SE3.identity((1,)))
    return Patient(coarse, jnp.zeros((4, 3)), nothing)
