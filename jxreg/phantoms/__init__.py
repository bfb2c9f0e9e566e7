"""Phantoms whose X-ray images are known in closed form."""

from jxreg.phantoms.anatomy import MU_BONE, pelvis_and_spine, skull
from jxreg.phantoms.shapes import (
    Phantom,
    Primitive,
    Shape,
    box,
    cylinder,
    ellipsoid,
    exact_drr,
    gaussian,
    line_integral,
    mu_at,
    rod,
    shell,
    total,
)
from jxreg.phantoms.voxels import grid_around, voxelise

__all__ = [
    "MU_BONE",
    "Phantom",
    "Primitive",
    "Shape",
    "box",
    "cylinder",
    "ellipsoid",
    "exact_drr",
    "gaussian",
    "grid_around",
    "line_integral",
    "mu_at",
    "pelvis_and_spine",
    "rod",
    "shell",
    "skull",
    "total",
    "voxelise",
]
