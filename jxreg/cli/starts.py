"""Where a registration begins: a pose file, angles, landmarks, the header, a network, a search."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jxreg.cli.options import PoseOptions, has_angles, pose_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import jaxlie

    from jxreg.candidates import Found
    from jxreg.frame import Frame
    from jxreg.global_search import SearchConfig
    from jxreg.register import RegisterConfig
    from jxreg.volume import Volume

    Finder = Callable[[Volume, Frame], jaxlie.SE3 | Found]


@dataclass(frozen=True)
class StartOptions:
    """Starts that are not poses, and searches around a start."""

    search: bool = False
    """Search the whole range of a C-arm, whatever angles came with the image."""
    part: bool = False
    """The volume is a part of what the image shows, such as one bone cut out of a CT: search for it
    within 90 degrees about each axis of the start, however far across the image."""
    far: bool = False
    """The start is 40 to 80 mm (mTRE) off, within 30 degrees: search around it first."""
    landmarks: Path | None = None
    """Points of the volume: .mrk.json or .fcsv of 3D Slicer, or .csv (x, y, z in RAS [mm])."""
    landmarks_2d: Path | None = None
    """Where they are in the image: .csv with u, v (column, row) and label; paired by label, or by
    their order."""
    net: Path | None = None
    """Network that says where to begin: a file that `jxreg train` wrote."""
    several: bool = False
    """With --net: compare several starts of it at once, the image shown turned to both sides; else
    `jxreg register` does so only where the first registration does not pass its checks."""
    antipodal: bool = False
    """With --net: compare with the view from behind too."""

    @property
    def around(self) -> bool:
        """Whether a start that is a pose is searched around."""
        return self.part or self.far


def check_start_options(pose: PoseOptions, start: StartOptions) -> None:
    """Refuses several starts at once.

    Raises:
        InputError: More than one start is given, landmarks of one kind only, or an option of a
            network without one.
    """
    from jxreg.errors import InputError

    if (start.landmarks is None) != (start.landmarks_2d is None):
        have, lack = ("--landmarks", "--landmarks-2d")[:: -1 if start.landmarks is None else 1]
        raise InputError(have, f"no {lack} beside it", "both", "give points in volume and image")
    if start.net is None and (start.several or start.antipodal):
        option = "--several" if start.several else "--antipodal"
        raise InputError(option, "no --net beside it", "a network", "give --net, or leave it out")
    ways = {"--net": start.net is not None, "--part": start.part, "--far": start.far}
    _refuse_several(ways, "leave one out: --part searches for a bone, --far for a patient")
    ranges = {"--search": start.search, "--far": start.far}
    _refuse_several(ranges, "leave one out: --far searches around a start that is given")
    given = {
        "--pose": pose.pose is not None,
        "angles": has_angles(pose),
        "--landmarks": start.landmarks is not None,
        "--search": start.search,
        "--net": start.net is not None,
    }
    _refuse_several(given, "leave the others out")


def _refuse_several(given: dict[str, bool], fix: str) -> None:
    """Raises InputError if more than one of these options is given."""
    from jxreg.errors import InputError

    names = [name for name, is_given in given.items() if is_given]
    if len(names) > 1:
        raise InputError(" and ".join(names), "given together", "one of them", fix)


def start_of(
    volume: "Volume", path: Path, frame: "Frame", pose: PoseOptions, start: StartOptions
) -> "tuple[jaxlie.SE3 | None, str]":
    """The start of a frame, and where it comes from; None if the image itself has to tell.

    Raises:
        InputError: What was given does not make a start.
    """
    from jxreg.errors import InputError
    from jxreg.register import initial_pose

    if pose.pose is not None:
        return pose_of(pose, volume, 0.0), f"pose file {pose.pose.name}"
    if has_angles(pose):
        distance = pose.source_to_isocenter
        if distance is None and frame.carm is not None:
            distance = float(frame.carm.source_to_isocenter)
        if distance is None:
            raise InputError(
                str(path),
                "angles, but no distance from source to isocenter",
                "a complete start",
                "give --source-to-isocenter [mm]",
            )
        return pose_of(pose, volume, distance), "C-arm angles given by hand"
    if start.landmarks is not None and start.landmarks_2d is not None:
        return _from_landmarks(frame, start.landmarks, start.landmarks_2d)
    if start.net is not None:
        return None, f"network {start.net.name}"
    if frame.carm is not None and not start.search:
        return initial_pose(volume, frame), "positioner angles of the DICOM header"
    if start.far:
        raise InputError(
            str(path),
            "--far, but no start and no positioner angles",
            "a start to search around",
            "give --pose, angles or landmarks, or leave --far out to search the whole range",
        )
    return None, "search"


def _from_landmarks(frame: "Frame", path: Path, marks: Path) -> "tuple[jaxlie.SE3, str]":
    import jax.numpy as jnp
    import numpy as np

    from jxreg.errors import InputError
    from jxreg.io.landmarks import load_image_points, load_landmarks, pair
    from jxreg.landmarks import LEAST, pose_from_landmarks

    points, pixels = pair(load_landmarks(path), load_image_points(marks), str(marks))
    located = pose_from_landmarks(frame.camera, jnp.asarray(points), jnp.asarray(pixels))
    fits = np.asarray(located.fits)
    if fits.sum() < LEAST:
        error = float(np.median(np.asarray(located.error_mm)))
        raise InputError(
            str(marks),
            f"only {fits.sum()} of {len(fits)} landmarks fit one pose (median {error:.0f} mm off)",
            f"{LEAST} or more within 10 mm on the detector",
            "check the labels, whether the display is mirrored, and the camera",
        )
    return located.pose, f"{fits.sum()} of {len(fits)} landmarks of {marks.name}"


def finders(start: StartOptions, config: "RegisterConfig") -> "tuple[Finder, Finder | None]":
    """What finds a start in an image for which none was given: the network, or a search.

    With it comes what a registration is begun with again if it is not OK: several poses of a
    network that told one.

    Raises:
        InputError: The file of the network is refused.
    """
    from jxreg.recipes.model import Several, load_model, starter
    from jxreg.register import search_of

    if start.net is None:
        return searcher(search_of(config)), None
    model, several = load_model(start.net), Several(antipodal=start.antipodal)
    if start.several:
        return starter(model, several), None
    one = Several((0.0,), antipodal=True) if start.antipodal else None
    return starter(model, one), starter(model, several)


def with_search(config: "RegisterConfig", start: StartOptions) -> "RegisterConfig":
    """The configuration with the search that the options ask for."""
    from jxreg.global_search import AROUND, PART

    if not start.around:
        return config
    return replace(config, search=PART if start.part else AROUND)


def searcher(config: "SearchConfig") -> "Finder":
    """The search; frames of one camera, one after the other, share what is prepared for it."""
    import jax
    import numpy as np

    from jxreg.global_search import make_library, search

    camera, library = None, None

    def find(volume: "Volume", frame: "Frame") -> "Found":
        nonlocal camera, library
        leaves = jax.tree.leaves(frame.camera)
        if camera is None or not all(map(np.array_equal, camera, leaves)):
            camera, library = leaves, make_library(volume, frame.camera, config=config)
        return search(volume, frame, config=config, library=library)

    return find
