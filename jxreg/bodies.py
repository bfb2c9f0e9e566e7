"""Several bodies that move apart, as bones do: split by a label map, registered in turn or at once.

Every body has its own pose. An image shows the sum of all of them, so that one body is compared
with what the others leave: in turn, with the others as background, and then all poses in one
Gauss-Newton step.
"""

from collections.abc import Sequence

import jaxlie
import numpy as np

from jxreg.errors import InputError
from jxreg.frame import Frame
from jxreg.io.labels import Labels, select_labels
from jxreg.register import RegisterConfig, Registration
from jxreg.rig import Geometry, rig_of
from jxreg.views import check_views, solve
from jxreg.volume import Volume, crop_air

BODIES = RegisterConfig(truncated=False)
"""A body that was cut out of a scan ends where it ends."""


def split(
    volume: Volume, labels: Labels, groups: Sequence[Sequence[int | str]], rest: bool = False
) -> tuple[Volume, ...]:
    """The bodies of a volume, each as small as it is and turning about its own centre.

    All keep the world of the volume: where nothing has moved apart, they have the same pose.

    Args:
        volume: A volume on the grid of the labels.
        labels: Its label map.
        groups: Numbers or names of the structures that make each body.
        rest: Whether everything else follows as a last body: soft tissue, as a rule.

    Raises:
        InputError: A label does not occur, or is in two groups.
    """
    chosen = [label for group in groups for label in group]
    twice = sorted({str(label) for label in chosen if chosen.count(label) > 1})
    if twice:
        raise InputError(
            "groups", f"{', '.join(twice)} in two bodies", "each label once", "choose one body"
        )
    bodies = [_own(select_labels(volume, labels, group)) for group in groups]
    if rest:
        whole = select_labels(volume, labels, chosen)
        others = np.asarray(volume.mu) - np.asarray(whole.mu)
        bodies.append(_own(Volume.from_array(others, volume.affine, beam=volume.beam)))
    return tuple(bodies)


def _own(volume: Volume) -> Volume:
    """The volume without air around it; its isocenter is in its middle."""
    small = crop_air(volume)
    return Volume.from_array(np.asarray(small.mu), small.affine, beam=small.beam)


def register_bodies(
    bodies: Sequence[Volume],
    frames: Sequence[Frame],
    camera_from_rig: Sequence[jaxlie.SE3],
    rig_from_world: Sequence[jaxlie.SE3],
    *,
    config: RegisterConfig = BODIES,
    sweeps: int = 1,
    joint: bool = True,
    others: Sequence[Volume] = (),
    other_poses: Sequence[jaxlie.SE3] = (),
) -> tuple[Registration, ...]:
    """Finds the pose of every body in one image or in several taken at once.

    Of one image alone the rig is its camera: `[frame], [SE3.identity()]`, and the poses are
    `camera_from_world`.

    Args:
        bodies: The bodies.
        frames: The images, as in `register_views`.
        camera_from_rig: Where each camera is in the rig.
        rig_from_world: Start of each body.
        config: What to do; its prior holds each body to its start, in the axes of the rig.
        sweeps: How often the bodies are registered one after the other, the others being
            background where they were found last.
        joint: Whether all are registered at once in the end.
        others: Bodies that are in the images as well, and stay where they are.
        other_poses: Their poses.

    Returns:
        A registration for each body, each with a verdict of its own: it is compared where it casts
        its shadow, over the others.

    Raises:
        InputError: Not one start for each body, nothing to do, or what `register_views` refuses.
    """
    check_views(frames, camera_from_rig, config)
    _check(bodies, rig_from_world, others, other_poses, sweeps, joint)
    poses, results = list(rig_from_world), []
    images, known = tuple(frames), Geometry()
    for _ in range(sweeps):
        results = []
        for number, body in enumerate(bodies):
            rest = [k for k in range(len(bodies)) if k != number]
            (result,) = solve(
                (body,),
                images,
                rig_of((poses[number],), camera_from_rig),
                config,
                known,
                (*(bodies[k] for k in rest), *others),
                (*(poses[k] for k in rest), *other_poses),
            )
            results.append(result)
            poses[number] = result.pose
    if joint:
        start = rig_of(poses, camera_from_rig)
        results = solve(
            tuple(bodies), images, start, config, known, tuple(others), tuple(other_poses)
        )
    return tuple(results)


def _check(bodies, poses, others, other_poses, sweeps: int, joint: bool) -> None:
    if not bodies or len(bodies) != len(poses) or len(others) != len(other_poses):
        raise InputError(
            "rig_from_world",
            f"{len(poses)} and {len(other_poses)} poses for {len(bodies)} bodies and "
            f"{len(others)} others",
            "one for each, and at least one body",
            "give the poses in the order of the bodies",
        )
    if sweeps < 1 and not joint:
        raise InputError("sweeps", f"{sweeps}, and joint=False", "something to do", "use sweeps=1")
