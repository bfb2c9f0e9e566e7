"""Options that several commands share, and what they mean."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jaxlie

    from jxreg.camera import Camera
    from jxreg.volume import Volume


@dataclass(frozen=True)
class PoseOptions:
    """A pose: a file, or the angles that a C-arm displays."""

    pose: Path | None = None
    """Pose file (.json or .tfm); the angles below are not needed then."""
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
    """Camera file or pose file (JSON)."""
    sdd: float | None = None
    """Source-to-detector distance [mm]."""
    pixel_spacing: tuple[float, float] | None = None
    """Distance of rows and of columns on the detector [mm]."""
    principal_point: tuple[float, float] | None = None
    """Column and row that the central ray meets; by default the centre of the image."""


def read_volume(path: Path, mu_per_unit: float | None) -> "Volume":
    """The volume of a file whose numbers are Hounsfield units, or attenuation in some unit.

    Args:
        path: Volume file or folder.
        mu_per_unit: Attenuation [1/mm] of the number 1, or None for Hounsfield units.

    Raises:
        InputError: The file is refused, or the factor is not positive.
    """
    from jxreg.errors import InputError
    from jxreg.io import load_volume

    if mu_per_unit is None:
        return load_volume(path)
    if not 0 < mu_per_unit < float("inf"):
        raise InputError(
            "--mu-per-unit",
            f"{mu_per_unit:g}",
            "a positive number",
            "1 for a file of attenuation [1/mm]",
        )
    return load_volume(path, to_mu=lambda values: mu_per_unit * values)


def has_angles(options: PoseOptions) -> bool:
    """Whether the C-arm's position is given by hand."""
    given = (options.primary_degrees, options.secondary_degrees, options.roll_degrees)
    return any(value is not None for value in (*given, options.offset))


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
    return from_carm(
        options.primary_degrees or 0.0,
        options.secondary_degrees or 0.0,
        options.roll_degrees or 0.0,
        source_to_isocenter=options.source_to_isocenter or source_to_isocenter,
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
