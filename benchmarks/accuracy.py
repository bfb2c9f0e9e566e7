"""What the benchmark of accuracy and the maker of its starts share: data, true poses, starts."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxlie import SE3

from jxreg.io.start_file import StartFile
from jxreg.pose import from_carm, perturb

CTS = {
    "chest": "chest-ct/cxr.nii.gz",
    "chest-lidc": "chest-ct-lidc-0314/lidc0314_1p56mm.nii.gz",
    "head": "head-ct-cranium/cranium.nii.gz",
    "pelvis": "abdomen-pelvis-ct/abdomen_pelvis_3mm.nii.gz",
}
"""The CTs by name, in the folder of all data."""
STARTS = Path(__file__).resolve().parent / "starts"


def data_folder() -> Path:
    """`$JXREG_DATA`, or `../shared/data` beside the checkout."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("JXREG_DATA", default))


@jax.jit
def true_pose(view, isocenter, source_to_isocenter) -> SE3:
    """Pose of a row of `StartFile.views`."""
    return from_carm(
        *view[:3], source_to_isocenter=source_to_isocenter, isocenter=isocenter, offset=view[3:]
    )


def pose_and_start(starts: StartFile, number: int) -> tuple[SE3, SE3]:
    """The true pose of a case and where the registration begins."""
    isocenter = jnp.asarray(starts.isocenter, float)
    view, twist = (jnp.asarray(rows[number], float) for rows in (starts.views, starts.twists))
    truth = true_pose(view, isocenter, starts.source_to_isocenter)
    return truth, jax.jit(perturb)(truth, twist, isocenter)
