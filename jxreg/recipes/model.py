"""A trained network at work: its file, and where it says that an image was taken from."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxlie import SE3, SO3
from jaxtyping import Array, Float

from jxreg import recipes
from jxreg.camera import Camera, pixel_grid
from jxreg.errors import InputError
from jxreg.frame import Frame, seen_by
from jxreg.io.boundary import reading
from jxreg.io.config_entries import filled
from jxreg.io.model_file import EXPECTED, load_model_file, save_model_file
from jxreg.io.pose_file import camera_dict
from jxreg.pose import antipodal
from jxreg.recipes.recipe import Recipe, camera_of
from jxreg.stepping import Params
from jxreg.synthesis import unit_range
from jxreg.training import check_alike
from jxreg.volume import Volume


class Model(NamedTuple):
    """A trained network: `locate` asks it, `starter` gives it to a registration."""

    recipe: Recipe
    params: Params
    header: Mapping[str, Any]
    """What its file says of it: recipe, config, training."""


class Several(NamedTuple):
    """How one image makes several starts."""

    rolls_degrees: tuple[float, ...] = (0.0, -8.0, 8.0)
    """The image is shown to the network turned by these angles."""
    antipodal: bool = False
    """Whether the view from behind is a start too, for each of them."""


def save_model(
    path: str | Path, name: str, config: Any, params: Params, about: Mapping[str, Any]
) -> None:
    """Writes a model file: all that `load_model` needs, and no name of a patient.

    Args:
        path: The file.
        name: Of the recipe.
        config: Of the recipe, resolved.
        params: Trained parameters.
        about: What else to tell, for JSON: versions, sha256 of the volumes, minutes, device.

    Raises:
        InputError: A parameter is not finite, or the file cannot be written.
    """
    header = {
        "recipe": name,
        "config": asdict(config),
        "camera": camera_dict(camera_of(config.geometry)),
        "pose": "camera_from_world = motion about the volume's isocenter, in camera axes, after "
        "the reference pose that config.geometry tells for that isocenter",
        "units": "mm, rad; degrees where the name says so; world RAS",
    }
    save_model_file(path, params, header | dict(about))


def load_model(path: str | Path) -> Model:
    """Reads a model file.

    Raises:
        InputError: The file is missing, damaged, of another kind or of a newer jxreg, or its recipe
            is not known here.
    """
    params, header = load_model_file(path)
    config = config_of(str(path), header)
    with reading(Path(path), EXPECTED):
        recipe = recipes.build(str(header["recipe"]), config)
        expected = jax.eval_shape(recipe.task.init, jax.random.key(0))
        check_alike(expected, params, str(path))
    return Model(recipe, params, header)


def config_of(subject: str, header: Mapping[str, Any]) -> Any:
    """The recipe's configuration that a header tells.

    Raises:
        InputError: The recipe or one of its entries is not known here; it names the subject.
    """
    name = header.get("recipe")
    if name not in recipes.RECIPES:
        known = ", ".join(recipes.RECIPES)
        fix = "update jxreg, or train again"
        raise InputError(subject, f"recipe {name!r}", f"one of {known}", fix)
    return filled(recipes.default_config(name), header.get("config", {}), subject)


def shown(frame: Frame, camera: Camera) -> Float[Array, "rows columns"]:
    """An X-ray as the network of that camera is given it: resampled, in [0, 1], 0 where masked."""
    seen = seen_by(frame, camera)
    return unit_range(seen.image, seen.mask)


def locator(
    recipe: Recipe, several: Several | None = None
) -> Callable[[Params, Volume, Frame], SE3]:
    """The live path: from an X-ray to a pose, as one compiled function.

    It is pure, of parameters, volume and frame; `jax.vmap(..., in_axes=(None, None, 0))` gives it
    frames. All of these may change, the frame's camera too: it compiles again only for another
    shape of an image or a volume, so that a loop over live images waits once.

    Args:
        recipe: Of a `Model`, or from `jxreg.recipes.build`.
        several: Ask for several poses; they get a leading axis.

    Returns:
        `camera_from_world`, of the recipe's parameters, the patient, and one image (attenuation)
        with its camera.
    """
    return functools.partial(_located, recipe, several)


def starter(model: Model, several: Several | None = None) -> Callable[[Volume, Frame], SE3]:
    """The network as a start, to give to `jxreg.register` or `tracking.track` in place of a pose.

    Args:
        model: From `load_model`.
        several: Ask for several starts, which are then compared; by default for one.
    """
    return functools.partial(locator(model.recipe, several), model.params)


def locate(model: Model, volume: Volume, frame: Frame) -> SE3:
    """The pose that the network says, `camera_from_world`: `locator`, called once.

    Args:
        model: From `load_model`.
        volume: The patient.
        frame: One image (attenuation) and its camera.
    """
    return starter(model)(volume, frame)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _located(
    recipe: Recipe, several: Several | None, params: Params, volume: Volume, frame: Frame
) -> SE3:
    camera = camera_of(recipe.geometry)
    image, poses = shown(frame, camera), []
    if several is None:
        return recipe.locate(params, volume, image)
    for roll in several.rolls_degrees:
        turned = image if roll == 0 else _turned(image, camera, roll)
        back = SE3.from_rotation(SO3.from_z_radians(jnp.deg2rad(-roll)))
        poses.append(back @ recipe.locate(params, volume, turned))
    if several.antipodal:
        poses += [antipodal(pose, volume.isocenter) for pose in poses]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *poses)


def _turned(
    image: Float[Array, "rows columns"], camera: Camera, roll_degrees: float
) -> Float[Array, "rows columns"]:
    """The image after the patient turned about the optical axis, from x to y; 0 from outside."""
    k = camera.intrinsic
    turn = SO3.from_z_radians(jnp.deg2rad(-roll_degrees)).as_matrix()
    u, v = (k @ turn @ jnp.linalg.inv(k))[:2] @ jnp.c_[pixel_grid(camera), jnp.ones(image.size)].T
    return map_coordinates(image, [v, u], order=1).reshape(image.shape)
