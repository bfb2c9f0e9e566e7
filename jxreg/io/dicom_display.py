"""How an X-ray display turns and mirrors what the source sees (PatientOrientation)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jxreg.pose import from_carm

_DIRECTIONS = {
    "R": (1, 0, 0), "L": (-1, 0, 0),
    "A": (0, 1, 0), "P": (0, -1, 0),
    "H": (0, 0, 1), "F": (0, 0, -1),
}  # fmt: skip
_PRIMARY_OF_VIEW = {"PA": 0.0, "AP": np.pi, "LL": np.pi / 2, "RL": -np.pi / 2}


def primary_of_view(view_position: str) -> float | None:
    """Primary angle [rad] of a projection: AP has the detector behind, LL at the left."""
    return _PRIMARY_OF_VIEW.get(view_position)


def roll_and_mirror(
    primary: float, secondary: float, patient_orientation: Sequence[str]
) -> tuple[float, bool]:
    """Roll [rad, a multiple of 90 degrees] and mirror flag of an image.

    Of the eight ways to turn and mirror an image the one is taken whose rows and columns point
    most nearly along the patient directions of the header. Without them the usual display of a
    C-arm is assumed: head up, seen from the detector, so that with the detector in front of the
    patient the patient's left is on the right of the image, a mirror image of the source's view.

    Args:
        primary: Positioner angle [rad].
        secondary: Positioner angle [rad].
        patient_orientation: Directions of rows and of columns, for example ("L", "F"), or empty.
    """
    row, column = _directions(patient_orientation)
    if row is None or column is None:
        return 0.0, True
    pose = from_carm(
        np.degrees(primary), np.degrees(secondary), source_to_isocenter=1.0, isocenter=(0.0,) * 3
    )
    x, y, _ = np.asarray(pose.rotation().as_matrix(), np.float64)
    best, score = (0.0, True), -np.inf
    for quarter in range(4):
        roll = quarter * np.pi / 2
        u = np.cos(roll) * x - np.sin(roll) * y
        v = np.sin(roll) * x + np.cos(roll) * y
        for mirrored in (True, False):
            along = float((-u if mirrored else u) @ row + v @ column)
            if along > score + 1e-3:
                best, score = (roll if quarter < 3 else -np.pi / 2, mirrored), along
    return best


def _directions(
    patient_orientation: Sequence[str],
) -> tuple[Float[np.ndarray, "3"] | None, Float[np.ndarray, "3"] | None]:
    if len(patient_orientation) != 2:
        return None, None
    row, column = (_direction(str(letters)) for letters in patient_orientation)
    return row, column


def _direction(letters: str) -> Float[np.ndarray, "3"] | None:
    """Direction in RAS of letters such as L or LA, the strongest first."""
    if not letters or any(letter not in _DIRECTIONS for letter in letters):
        return None
    weighted = [np.array(_DIRECTIONS[a], float) / 2**k for k, a in enumerate(letters)]
    return np.sum(weighted, axis=0)
