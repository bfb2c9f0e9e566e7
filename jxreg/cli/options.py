"""Options that several commands share, and what they mean."""

import functools
import operator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import jaxlie

    from jxreg.camera import Camera
    from jxreg.volume import Volume


@dataclass(frozen=True)
class PoseOptions:
    """A pose: a file, or the angles that a C-arm displays."""

    pose: Path | None = None
    """Pose file (.json or .tfm); the angles and distances below are refused beside it."""
    primary_degrees: float | None = None
    """Primary angle: LAO +, RAO -; 0 has the detector in front of the patient [deg]."""
    secondary_degrees: float | None = None
    """Secondary angle: cranial +, caudal - [deg]."""
    roll_degrees: float | None = None
    """Turn of the patient in the image [deg]."""
    source_to_isocenter: float | None = None
    """Distance from the X-ray source to the isocenter [mm]."""
    offset: tuple[float, float, float] | None = None
    """Where the volume's centre lies from the isocenter: right, down, away from the source [mm]."""


@dataclass(frozen=True)
class CameraOptions:
    """A camera: a file, or the numbers of a data sheet."""

    camera: Path | None = None
    """Camera file or pose file (JSON); the numbers below are refused beside it."""
    sdd: float | None = None
    """Source-to-detector distance [mm]."""
    pixel_spacing: tuple[float, float] | None = None
    """Distance of rows and of columns on the detector [mm]."""
    principal_point: tuple[float, float] | None = None
    """Column and row that the central ray meets; by default the centre of the image."""


@dataclass(frozen=True)
class ImageOptions:
    """What the numbers and the display of an X-ray mean."""

    mirrored: Literal["auto", "yes", "no"] = "auto"
    """Whether the display is mirrored, whatever the header or the camera file says; auto: what they
    say."""
    intensity: Literal["auto", "linear", "log", "attenuation"] = "auto"
    """What pixel values stand for: intensity that arrived, its log, or attenuation."""
    invert: bool = False
    """Bright and dark are the other way round, as in exported images with bright bone."""


@dataclass(frozen=True)
class VolumeOptions:
    """What to take from a file of a CT, and what its numbers mean."""

    mu_per_unit: float | None = None
    """Attenuation [1/mm] that 1 in the file stands for; by default it holds Hounsfield units."""
    series: str | None = None
    """SeriesInstanceUID or SeriesNumber, where a folder holds several series."""
    volume_frame: int | None = None
    """Which volume of a 4D NIfTI file; the first one is 0."""
    fill_nonfinite: float | None = None
    """Number, in the unit of the file, for voxels that are NaN or infinite; -1000 is air."""


def read_volume(path: Path, options: VolumeOptions) -> "Volume":
    """The volume of a file whose numbers are Hounsfield units, or attenuation in some unit.

    Args:
        path: Volume file or folder.
        options: What to take from it, and what its numbers mean.

    Raises:
        InputError: The file is refused, or a number is impossible.
    """
    from jxreg.io import load_volume
    from jxreg.volume import mu_from_hu

    scale, to_mu = options.mu_per_unit, mu_from_hu
    if scale is not None:
        _check_positive("--mu-per-unit", scale, "1 for a file of attenuation [1/mm]")
        to_mu = functools.partial(operator.mul, scale)
    return load_volume(
        path,
        to_mu=to_mu,
        frame=options.volume_frame,
        series=options.series,
        fill_nonfinite=options.fill_nonfinite,
    )


def has_angles(options: PoseOptions) -> bool:
    """Whether the C-arm's position is given by hand."""
    given = (options.primary_degrees, options.secondary_degrees, options.roll_degrees)
    return any(value is not None for value in (*given, options.offset))


def check_pose_options(options: PoseOptions) -> None:
    """Refuses a pose that is given twice, or a distance that is none.

    Raises:
        InputError: Angles or distances beside a pose file, or a distance that is not positive.
    """
    from jxreg.errors import InputError

    distance = options.source_to_isocenter
    if options.pose is not None and (has_angles(options) or distance is not None):
        found = "a pose file, and angles or distances beside it"
        raise InputError(str(options.pose), found, "one pose", "leave one of them out")
    if distance is not None:
        _check_positive("--source-to-isocenter", distance, "in mm")


def _check_positive(option: str, value: float, fix: str) -> None:
    from jxreg.errors import InputError

    if not 0 < value < float("inf"):
        raise InputError(option, f"{value:g}", "a positive number", fix)


def pose_of(options: PoseOptions, volume: "Volume", source_to_isocenter: float) -> "jaxlie.SE3":
    """The pose of a file, or of angles (0 where not given) about the volume's isocenter.

    Args:
        options: What the user gave.
        volume: Its isocenter is the point that the C-arm turns about.
        source_to_isocenter: Distance to use where none is given [mm].

    Raises:
        InputError: The pose file is refused.
    """
    from jxreg.io import load_pose, load_tfm
    from jxreg.pose import from_carm

    if options.pose is not None:
        return (load_tfm if options.pose.suffix == ".tfm" else load_pose)(options.pose)
    distance = options.source_to_isocenter
    return from_carm(
        options.primary_degrees or 0.0,
        options.secondary_degrees or 0.0,
        options.roll_degrees or 0.0,
        source_to_isocenter=source_to_isocenter if distance is None else distance,
        isocenter=volume.isocenter,
        offset=options.offset or (0.0, 0.0, 0.0),
    )


def check_pose(subject: str, pose: "jaxlie.SE3", camera: "Camera", volume: "Volume") -> None:
    """Refuses a pose whose isocenter is not between source and detector.

    Raises:
        InputError: It is behind the source or beyond the detector.
    """
    from jxreg.errors import InputError

    depth, sdd = float(pose.apply(volume.isocenter)[2]), float(camera.sdd)
    if not 0 < depth < sdd:
        raise InputError(
            subject,
            f"volume centre {depth:.0f} mm from the source, detector at {sdd:.0f} mm",
            "a volume between source and detector",
            "check --source-to-isocenter, --sdd and --pose; distances are in mm",
        )
