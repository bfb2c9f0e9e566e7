"""Words for the numbers of a record, as a clinician reads them."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

Record = Mapping[str, Any]


class Verdict(NamedTuple):
    """The answer in one look."""

    kind: str
    """`good`, `doubt` or `bad`: the colour."""
    headline: str
    explanation: str
    advice: str


class PoseRow(NamedTuple):
    """One line of the pose table."""

    name: str
    hint: str
    start: str
    result: str
    change: str
    deviation: str


class Check(NamedTuple):
    """One number that tells whether to trust the result."""

    name: str
    value: str
    meaning: str


_VERDICTS = {
    "OK": Verdict(
        "good",
        "Registered",
        "The search converged and the result passed its own checks.",
        "Checks are not proof: look at the contours below before you use the pose.",
    ),
    "SUSPECT": Verdict(
        "doubt",
        "Doubtful: do not use without a look",
        "The search ended, but the result did not pass all of its own checks.",
        "Compare the contours below; try another start, or give a mask of the anatomy.",
    ),
    "NO_SIGNAL": Verdict(
        "bad",
        "Not registered: no signal",
        "The X-ray or the volume holds nothing to compare: an image that is constant, black or "
        "saturated, or a volume of air. The pose shown is the start.",
        "Check the image file, its window and its mask, and the units of the volume.",
    ),
    "OUT_OF_VIEW": Verdict(
        "bad",
        "Not registered: the volume is out of view",
        "The volume's shadow and the image hardly overlap, at the start or where the search went. "
        "The pose shown is the start.",
        "Check the start: angles, distance from source to isocenter, and the isocenter.",
    ),
    "NON_FINITE": Verdict(
        "bad",
        "Not registered: numbers went out of range",
        "The image, the volume, the start or the similarity was not finite. The pose shown is the "
        "start.",
        "Look for broken pixels or voxels in the inputs, and for an impossible camera.",
    ),
    "NOT_CONVERGED": Verdict(
        "bad",
        "Not converged",
        "The search still moved when its iterations were used up.",
        "Allow more iterations or give a closer start.",
    ),
    "AMBIGUOUS": Verdict(
        "doubt",
        "Ambiguous: do not use without a look",
        "Another pose, far from this one, explains the image nearly as well.",
        "Give a start, or a narrower range to search; compare the contours below.",
    ),
}


TOLERATED_LOSS = 0.02
"""The verdict allows the similarity to fall this much below that of the start."""


def verdict(record: Record) -> Verdict:
    """The answer for the status of a record."""
    return _VERDICTS[record["status"]]


def reasons(record: Record) -> list[str]:
    """Why a result is not OK, from the numbers and the thresholds of the configuration.

    An overlap is not in the record, so that out of view is told by the shadow's share of the image.
    """
    status, limits = record["status"], record["config"].get("thresholds", {})
    if status == "OUT_OF_VIEW":
        return _overlap_reason(record["coverage"], limits.get("overlap"))
    if status == "NOT_CONVERGED":
        return _step_reason(_last_step(record), limits.get("step_mm"))
    if status == "AMBIGUOUS":
        return _lead_reason(record["search"], limits.get("lead"))
    return _doubts(record, limits) if status == "SUSPECT" else []


def _lead_reason(search: Record | None, limit: float | None) -> list[str]:
    if search is None or search["lead"] is None:
        return []
    found = f"The best pose leads the next one by {number(search['lead'], 3)}"
    return [f"{found}." if limit is None else f"{found}; it must be {number(limit, 2)} or more."]


def _overlap_reason(coverage: float | None, limit: float | None) -> list[str]:
    if coverage is None:
        return []
    found = f"At the end the shadow covered {percent(coverage)} of the part that was compared."
    if limit is None:
        return [found]
    least = percent(limit)
    return [
        f"{found} At the start and at the end, {least} of the volume must be on the image, or "
        f"{least} of the image in the shadow."
    ]


def _step_reason(step: float | None, limit: float | None) -> list[str]:
    if step is None:
        return []
    found = f"The last step was {number(step, 2, ' mm')} long, counting 0.02 rad as 1 mm"
    if limit is None:
        return [f"{found}."]
    return [f"{found}; with depth counted a tenth, it must be below {number(limit, 2, ' mm')}."]


def _doubts(record: Record, limits: Mapping[str, float]) -> list[str]:
    found = []
    names = {
        "probability": "probability that it is right",
        "kept": "fraction of usable pixels",
    }
    for key, name in names.items():
        value, limit = record[key], limits.get(key)
        if value is not None and limit is not None and not value > limit:
            found.append(f"The {name} is {number(value, 2)}; it must be above {number(limit, 2)}.")
    gain = _minus(record["similarity"], record["initial_similarity"])
    if gain is not None and gain < -TOLERATED_LOSS:
        found.append(f"The start matches better: the similarity fell by {number(-gain, 3)}.")
    return found


def laterality(primary_degrees: float | None) -> str:
    """The primary angle as a C-arm displays it, such as `LAO 12.3°`."""
    return _signed(primary_degrees, "LAO", "RAO")


def tilt(secondary_degrees: float | None) -> str:
    """The secondary angle as a C-arm displays it, such as `cranial 4.1°`."""
    return _signed(secondary_degrees, "cranial", "caudal")


def pose_rows(record: Record) -> list[PoseRow]:
    """Start, result, change and uncertainty of each number of the C-arm."""
    start, end, spread = record["start"]["carm"], record["carm"], record["standard_deviation"]
    mirrored = record["camera"].get("mirrored", False)
    turn = ("anticlockwise", "clockwise") if mirrored else ("clockwise", "anticlockwise")
    across = ("left", "right") if mirrored else ("right", "left")

    def row(name, hint, key, show, unit):
        change = _minus(end[key], start[key], circular=True)
        return PoseRow(
            name,
            hint,
            show(start[key]),
            show(end[key]),
            _change(change, unit),
            _pm(spread[key], unit),
        )

    rows = [
        row("Primary angle", "about the long axis", "primary_degrees", laterality, "°"),
        row("Secondary angle", "towards head or feet", "secondary_degrees", tilt, "°"),
        row(
            "Image rotation",
            "patient in the image",
            "roll_degrees",
            lambda a: _signed(a, *turn, after=True),
            "°",
        ),
    ]
    names = (
        ("Across", "centre of the volume from the beam axis", lambda x: _side(x, *across)),
        (
            "Up and down",
            "centre of the volume from the beam axis",
            lambda x: _side(x, "down", "up"),
        ),
    )
    for axis, (name, hint, show) in enumerate(names):
        a, b = start["offset"][axis], end["offset"][axis]
        change, deviation = _change(_minus(b, a), " mm"), _pm(spread["offset"][axis], " mm")
        rows.append(PoseRow(name, hint, show(a), show(b), change, deviation))
    a, b = (_plus(c["source_to_isocenter"], c["offset"][2]) for c in (start, end))
    rows.append(
        PoseRow(
            "Depth",
            "source to the centre of the volume",
            number(a, 1, " mm"),
            number(b, 1, " mm"),
            _change(_minus(b, a), " mm"),
            _pm(spread["offset"][2], " mm"),
        )
    )
    return rows


def key_figures(record: Record) -> list[tuple[str, str]]:
    """Three or four figures for the banner, with what they are."""
    spread, moved = record["standard_deviation"], record["moved"]
    in_plane = _norm(spread["offset"][:2])
    figures = [
        (
            f"{number(record['initial_similarity'], 3)} → {number(record['similarity'], 3)}",
            "similarity, start → result",
        ),
        (
            f"{number(moved['translation_mm'], 1, ' mm')}, "
            f"{number(moved['rotation_degrees'], 1, '°')}",
            "moved from the start",
        ),
        (
            f"±{number(in_plane, 2)} / ±{number(spread['offset'][2], 2)} mm",
            "uncertainty in plane / depth",
        ),
    ]
    if record["errors"]:
        name, error = next(iter(record["errors"].items()))
        label, _, unit = name.partition(" [")
        unit = f" {unit.rstrip(']')}" if unit else ""
        shown = f"{number(error['start'], 1)} → {number(error['end'], 2)}{unit}"
        figures.insert(0, (shown, f"true error ({label})"))
    return figures


def checks(record: Record) -> list[Check]:
    """The numbers behind the verdict."""
    coverage, kept = (percent(record[key]) for key in ("coverage", "kept"))
    gain = _minus(record["similarity"], record["initial_similarity"])
    angle = _norm(
        [record["standard_deviation"][k] for k in ("primary_degrees", "secondary_degrees")]
    )
    return [
        Check("Probability", percent(record["probability"]), "that the mRPD is below 2 mm"),
        Check("Similarity", number(record["similarity"], 4), "1 is a perfect match"),
        Check(
            "Gain over the start",
            _change(gain, "", 4),
            f"a loss of more than {TOLERATED_LOSS} is doubtful",
        ),
        Check("Shadow of the volume", coverage, "part of the image that it covers"),
        Check(
            "Pixels used",
            kept,
            "part of the shadow that is valid and not cut off by an end of the scan",
        ),
        Check("Last step", number(_last_step(record), 4, " mm"), "small: converged"),
        Check("Out-of-plane angles", f"±{number(angle, 2, '°')}", "one standard deviation"),
    ]


def edge_letters(record: Record) -> dict[str, str]:
    """Which side of the patient each border of the image shows: R L, A P, H F.

    Two letters where the view is oblique, the stronger one first.
    """
    matrix = record["camera_from_world"]
    if matrix is None:
        return {}
    rotation = np.array(matrix)[:3, :3]
    right = rotation[0] * (-1 if record["camera"].get("mirrored", False) else 1)
    down = rotation[1]
    sides = {"right": right, "left": -right, "bottom": down, "top": -down}
    return {side: patient_letters(direction) for side, direction in sides.items()}


def number(value: float | None, digits: int, unit: str = "") -> str:
    """A number, or a dash where it is not known."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−") + unit


def patient_letters(direction: Float[np.ndarray, "3"]) -> str:
    """A direction in RAS as letters, the strongest first: R L, A P, H F."""
    order = np.argsort(-np.abs(direction))
    pairs = ("LR", "PA", "FH")
    return "".join(pairs[i][int(direction[i] > 0)] for i in order[:2] if abs(direction[i]) > 0.35)


def _signed(value: float | None, positive: str, negative: str, *, after: bool = False) -> str:
    if value is None:
        return "–"
    size = number(abs(value), 1, "°")
    if size == "0.0°":
        return size
    word = positive if value > 0 else negative
    return f"{size} {word}" if after else f"{word} {size}"


def _side(value: float | None, positive: str, negative: str) -> str:
    if value is None:
        return "–"
    size = number(abs(value), 1, " mm")
    return size if size == "0.0 mm" else f"{size} {positive if value > 0 else negative}"


def _change(value: float | None, unit: str, digits: int = 1) -> str:
    text = number(value, digits, unit)
    return f"+{text}" if value is not None and value > 0 and float(f"{value:.{digits}f}") else text


def _pm(value: float | None, unit: str) -> str:
    return "–" if value is None else f"±{number(value, 2, unit)}"


def _minus(a: float | None, b: float | None, *, circular: bool = False) -> float | None:
    if a is None or b is None:
        return None
    return (a - b + 180) % 360 - 180 if circular else a - b


def _plus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b


def _norm(values: list[float | None]) -> float | None:
    return None if None in values else math.sqrt(sum(v * v for v in values if v is not None))


def _last_step(record: Record) -> float | None:
    steps = [step for step in record["trace"]["step_mm"] if step]
    return steps[-1] if steps else None


def percent(value: float | None) -> str:
    """A fraction as a percentage; a dash for none."""
    return "–" if value is None else number(100 * value, 0, " %")
