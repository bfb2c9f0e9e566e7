"""The published systems small enough to train in a minute of one core: what `bench_ablation` runs.

Pose ranges, fields of view, losses and heads are those of the recipes. What is smaller: images of
32 x 32 pixels, networks of so few stages that their last maps are of 4 x 4 or 2 x 2 places (8 x 8
at full size, 4 x 4 in xvr), and 1500 to 3000 batches. The rate is higher, as the schedule is short.
"""

from dataclasses import replace

import optimisers

from jxreg import RegisterConfig
from jxreg.ascent import Climb
from jxreg.curriculum import Curriculum
from jxreg.optimizer import OptimizerConfig
from jxreg.parametrisation import PARAMETRISATIONS
from jxreg.recipes import diffpose, lxpose, psss, xvr
from jxreg.recipes.patients import PatientConfig
from jxreg.sampling import GaussianOffset
from jxreg.training import TrainConfig

PIXELS = 32
PATIENT = PatientConfig(validation=128)


def schedule(steps: int, curriculum: Curriculum = Curriculum(), batch: int = 16) -> TrainConfig:
    """Weights are those of the end: no frame that is judged by had a say in them."""
    return TrainConfig(
        steps=steps,
        batch=batch,
        optimizer=OptimizerConfig(rate=3e-3, warmup=50),
        curriculum=curriculum,
        validate_every=steps,
        keep="last",
    )


def _coarse(geometry):
    """The same field of view with fewer pixels."""
    return replace(geometry, pixels=PIXELS, pixel_mm=geometry.pixel_mm * geometry.pixels / PIXELS)


PSSS = replace(
    psss.CONFIG,
    geometry=_coarse(psss.CONFIG.geometry),
    physics=False,
    patient=PATIENT,
    blocks=(1, 1, 1, 1, 0, 0, 0),
    width=0.5,
    decoder_width=64,
    attention_width=64,
    heads=4,
    hidden=(128,),
    train=schedule(1500, replace(psss.INCREMENTAL, patience=0)),
)
"""All of PSSS; `psss.ablated` makes the rows."""

_LXPOSE = replace(
    lxpose.CONFIG,
    geometry=_coarse(lxpose.CONFIG.geometry),
    contrast=(1.0, 1.0),
    augmentation=False,
    patient=PATIENT,
    blocks=(1, 1),
    width=16,
    train=schedule(3000),
)
LXPOSE = {
    "clean": _LXPOSE,
    "augmented": replace(_LXPOSE, augmentation=True),
    "bone x 2 in the X-ray only": replace(_LXPOSE, contrast=(2.0, 2.0)),
    "clean, 400 batches": replace(_LXPOSE, train=schedule(400)),
    "clean, half the range": replace(
        _LXPOSE, poses=GaussianOffset(tuple(x / 2 for x in _LXPOSE.poses.scale))
    ),
    "augmented, 9000 batches": replace(_LXPOSE, augmentation=True, train=schedule(9000)),
}

_DIFFPOSE = replace(
    diffpose.CONFIG,
    geometry=_coarse(diffpose.CONFIG.geometry),
    patient=PATIENT,
    blocks=(1, 1),
    width=16,
    train=schedule(1500, batch=8),
)
DIFFPOSE = {name: replace(_DIFFPOSE, parametrisation=name) for name in PARAMETRISATIONS}


def _sparse(patches: int | None) -> RegisterConfig:
    """DiffPose's refinement, see `optimisers.diffpose`, in fewer steps and with coarser voxels."""
    (level,) = optimisers.diffpose().levels
    climb = replace(level.climb or Climb(), steps=200, patches=patches)
    similarity = "ncc" if patches else "multiscale_ncc"
    level = replace(level, voxels=2, similarity=similarity, climb=climb)
    return replace(optimisers.diffpose(), levels=(level,))


PATCHES = {
    "whole image": _sparse(None),
    **{f"{count} patches": _sparse(count) for count in (100, 250, 500)},
}

XVR = replace(
    xvr.CONFIG,
    geometry=_coarse(xvr.CONFIG.geometry),
    augmentation=False,
    patient=PATIENT,
    blocks=(1, 1),
    width=16,
    train=schedule(3000),
)
"""The foundation; a patient's model takes `recipe.finetuning` of it."""

TABLES = {
    "lxpose": LXPOSE,
    "psss": psss.ablated(PSSS),
    "psss-set": psss.ablated(replace(PSSS, images=1000)),
    "diffpose": DIFFPOSE,
    "patches": PATCHES,
    "xvr": {"foundation": XVR},
}
"""Configurations of each table by variant."""
