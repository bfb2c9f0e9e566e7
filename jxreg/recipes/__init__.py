"""The learned systems, each a recipe: a frozen config of plain numbers, and what it makes.

own          `jxreg`: a small network for one patient, trained on a laptop
xvr          many patients, then some minutes for one; render of the prediction in the loss
lxpose       two networks and a render between them, no optimisation
diffpose     `diffpose`: learned through the renderer (CVPR 2024)
psss         `psss`: structure-aware regression with attention (MICCAI 2023)
recipe       what a recipe is
patients     volumes -> what is trained on; the draw of a sample
regression   the recipe of one network, which most are
model        a trained network: its file, and its use

A file of a recipe has `CONFIG`, the default configuration, and `build(config) -> Recipe`. The
configuration holds numbers, names and tuples of them only, so that a model file can tell it; its
fields `geometry` (`recipe.Geometry`) and `train` (`training.TrainConfig`) are there in all. To add
one, write such a file and list it in `RECIPES`.
"""

import importlib
from typing import Any

from jxreg.recipes.recipe import Recipe

RECIPES = {
    "jxreg": "own",
    "diffpose": "diffpose",
    "lxpose": "lxpose",
    "psss": "psss",
    "xvr": "xvr",
}
"""File of each recipe in this package, by the name that users know."""


def default_config(name: str) -> Any:
    """The configuration of a recipe, a key of `RECIPES`."""
    return _file(name).CONFIG


def build(name: str, config: Any) -> Recipe:
    """The recipe of a name, a key of `RECIPES`, and its configuration."""
    return _file(name).build(config)


def _file(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{RECIPES[name]}")
