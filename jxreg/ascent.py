"""Gradient ascent on any similarity: Adam, L-BFGS or another optax optimizer moves a pose.

One compiled loop stops early, keeps the best pose seen and returns a full trace; under `jax.vmap`
every item stops for itself. What the optimizer moves is a twist at the current pose, the numbers of
a parametrisation, or the parameters of any `Motion`, such as that of a rig. `refine` takes any
optimizer; `climb` makes one of a configuration, `climbs` one for each of its repeats.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxlie
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jxreg.errors import InputError
from jxreg.parametrisation import PARAMETRISATIONS
from jxreg.pose import antipodal, from_carm, motion_between, moved, rotation_angle
from jxreg.precision import full_precision
from jxreg.refinement import (
    ROTATION_SCALE,
    TRANSLATION_SCALE,
    Motion,
    Refined,
    RefineTrace,
    empty_trace,
    filled,
    recorded,
    rigid_motion,
    select,
)

if TYPE_CHECKING:
    import optax

OPTIMIZERS = ("adam", "lbfgs")
SCHEDULES = ("cosine", "exponential")
LINE_STEPS = 10
"""Largest number of evaluations in a line search of L-BFGS."""
STEEPNESS = 1e3
"""L-BFGS begins with a step of one unit where a unit gains more than a thousandth of similarity."""


@dataclass(frozen=True)
class Climb:
    """Gradient ascent, instead of Levenberg-Marquardt: for any similarity, and for comparisons."""

    optimizer: str = "adam"
    """`adam`, or `lbfgs` (quasi-Newton with a line search)."""
    steps: int = 40
    """Largest number of steps in a climb."""
    repeats: int = 3
    """How often a level is climbed; the mask of usable pixels is made anew each time."""
    shift: float = 2.0
    """First step of Adam along each axis [mm]."""
    rotation: float = 0.04
    """First step of Adam about each axis [rad], or of each number that stands for a rotation."""
    schedule: str = "cosine"
    """How Adam's steps shrink: `cosine` or `exponential`."""
    last: float = 0.05
    """What remains of them at the end, as a fraction; 1 keeps them."""
    patience: int | None = None
    """A plateau is this many steps without a gain of `gain`; None looks for none."""
    gain: float = 1e-4
    """Smallest gain in similarity that counts."""
    plateaus: int = 1
    """The climb ends on this plateau; on each before it steps shrink to a tenth."""
    parametrisation: str | None = None
    """A name in `jxreg.parametrisation.PARAMETRISATIONS`: Adam moves these numbers of the pose,
    taken from the nearer one of the two frontal views. None: a twist at the current pose. Of one
    body in one image only."""
    patches: int | None = None
    """Compare only this many random patches, drawn anew in each step; None: whole images. Of one
    body in one image only."""
    patch: int = 13
    """Side of these patches [pixels]; 1 draws single pixels, whose NCC is compared."""
    seed: int = 0
    """What the patches are drawn from."""


def refine(
    similarity_of: Callable[[jaxlie.SE3], Float[Array, ""]],
    pose: jaxlie.SE3,
    optimizer: "optax.GradientTransformation",
    *,
    pivot: Float[Array, "3"],
    steps: int,
    translation_scale: float = TRANSLATION_SCALE,
    rotation_scale: float = ROTATION_SCALE,
    patience: int | None = None,
    tolerance: float = 1e-5,
) -> Refined:
    """Climbs a similarity with an optax optimizer.

    Args:
        similarity_of: Similarity of a pose (render and compare); higher is better.
        pose: Start, `camera_from_world`.
        optimizer: An optax optimizer; it sees the twist at the current pose in units of the two
            scales. One that compares parameters of different steps, as L-BFGS does, needs `ascend`.
        pivot: World point about which twists turn [mm], the isocenter.
        steps: Largest number of steps.
        translation_scale: One unit of the optimizer along the camera axes [mm].
        rotation_scale: One unit of the optimizer about the camera axes [rad].
        patience: Stop after this many steps without a gain of `tolerance`; None: never.
        tolerance: Smallest gain in similarity that counts.

    Returns:
        The best pose seen. A step that makes the similarity non-finite ends the loop.
    """
    motion = rigid_motion(pivot, pose.wxyz_xyz.dtype, translation_scale, rotation_scale)
    return ascend(
        similarity_of, pose, optimizer, motion, steps=steps, patience=patience, tolerance=tolerance
    )


class _Progress(NamedTuple):
    """Where an ascent is: at a pose that has not been looked at yet."""

    count: Int[Array, ""]
    anchor: Any
    """The pose from which parameters count."""
    parameters: Float[Array, " n"]
    state: Any
    """The optimizer's."""
    last: tuple[Float[Array, ""], Float[Array, ""]]
    """Similarity of the pose before, and the length of the step from there."""
    best: tuple[Any, Float[Array, ""]]
    """Pose and similarity."""
    since: Int[Array, ""]
    """Steps since the last gain."""
    ended: Int[Array, ""]
    """Plateaus so far."""
    finite: Bool[Array, ""]
    trace: RefineTrace


@full_precision
def ascend(
    similarity_of: Callable[..., Float[Array, ""]],
    pose: Any,
    optimizer: "optax.GradientTransformation",
    motion: Motion,
    *,
    steps: int,
    anchored: bool = False,
    patience: int | None = None,
    tolerance: float = 1e-5,
    plateaus: int = 1,
    shrink: float = 0.1,
    key: PRNGKeyArray | None = None,
) -> Refined:
    """Climbs a similarity over any parameters.

    Args:
        similarity_of: Similarity of a pose, or with `key` of a pose and the key of a step.
        pose: Start: whatever `similarity_of` and `motion` take for a pose, a pytree.
        optimizer: Any optax optimizer, one with a line search too; it minimises.
        motion: How parameters move a pose; the optimizer sees them in units of its scale.
        steps: Largest number of steps.
        anchored: Whether parameters count from the start, else from the current pose.
        patience: A plateau is this many steps without a gain of `tolerance`; None: there is none.
        tolerance: Smallest gain in similarity that counts.
        plateaus: The loop ends on this plateau.
        shrink: Factor of the length of steps, once for each plateau before that.
        key: Makes the similarity stochastic: each step has its own key.

    Returns:
        The best pose seen; the last one if the similarity is stochastic, as its values cannot be
        compared. A step that makes the similarity non-finite ends the loop.
    """
    import optax

    optimizer = optax.with_extra_args_support(optimizer)
    scale = motion.scale
    zeros, zero = jnp.zeros_like(scale), jnp.zeros((), scale.dtype)
    patience = steps if patience is None else patience

    def body(at: _Progress) -> _Progress:
        def loss(parameters):
            here = motion.move(at.anchor, scale * parameters)
            keys = () if key is None else (jax.random.fold_in(key, at.count),)
            return -similarity_of(here, *keys)

        value, gradient = jax.value_and_grad(loss)(at.parameters)
        finite = jnp.isfinite(value) & jnp.isfinite(gradient).all()
        pose = motion.move(at.anchor, scale * at.parameters) if anchored else at.anchor
        since = jnp.where(-value > at.best[1] + tolerance, 0, at.since + 1)
        better = -value > at.best[1] if key is None else finite
        plateau = since >= patience
        ended = at.ended + plateau
        update, state = optimizer.update(
            gradient, at.state, at.parameters, value=value, grad=gradient, value_fn=loss
        )
        update = jnp.asarray(update) * jnp.asarray(shrink, scale.dtype) ** ended
        return _Progress(
            at.count + 1,
            at.anchor if anchored else motion.move(at.anchor, scale * update),
            at.parameters + update if anchored else at.parameters,
            state,
            (-value, jnp.linalg.norm(update)),
            select(better, (pose, -value), at.best),
            jnp.where(plateau, 0, since),
            ended,
            finite,
            recorded(at.trace, at.count - 1, -value, at.last[1], pose),
        )

    def going(at: _Progress) -> Bool[Array, ""]:
        return (at.count == 0) | ((at.count <= steps) & (at.ended < plateaus) & at.finite)

    begin = _Progress(
        jnp.int32(0),
        pose,
        zeros,
        optimizer.init(zeros),
        (zero, zero),
        (pose, zero - jnp.inf),
        jnp.int32(0),
        jnp.int32(0),
        jnp.array(True),
        empty_trace(steps, zero, pose),
    )
    end = jax.lax.while_loop(going, body, begin)
    taken = end.count - 1
    values = jnp.where(taken > 0, end.trace.value, end.last[0])  # of no step: the start's
    trace = filled(end.trace._replace(value=values), taken)
    return Refined(*end.best, taken, jnp.zeros((scale.size, scale.size), scale.dtype), trace)


def climb(
    similarity_of: Callable[..., Float[Array, ""]],
    pose: Any,
    how: Climb,
    motion: Motion,
    *,
    key: PRNGKeyArray | None = None,
) -> Refined:
    """One climb as a configuration says.

    Args:
        similarity_of: As in `ascend`.
        pose: Start: whatever `similarity_of` and `motion` take for a pose, a pytree.
        how: The configuration; what concerns the level, the patches or `pose_motion` does not count
            here.
        motion: How parameters move a pose: `pose_motion`, or that of a rig.
        key: As in `ascend`.

    Raises:
        InputError: The configuration names something unknown, or takes no step.
    """
    check_climb(how)
    return ascend(
        similarity_of,
        pose,
        optimizer_of(how, motion.turns),
        motion,
        steps=how.steps,
        anchored=how.optimizer == "lbfgs" or how.parametrisation is not None,
        patience=how.patience,
        tolerance=how.gain,
        plateaus=how.plateaus,
        key=key,
    )


def climbs(
    objective_at: Callable[[Any], Callable[..., Float[Array, ""]]],
    pose: Any,
    how: Climb,
    motion_at: Callable[[Any], Motion],
) -> tuple[Any, RefineTrace]:
    """Climbs one after the other, as many as the configuration repeats.

    Args:
        objective_at: From the pose where a climb begins to the similarity that it climbs; this
            takes a key as well if the configuration asks for patches.
        pose: Start, a pytree.
        how: The configuration.
        motion_at: From the pose where a climb begins to its motion.

    Returns:
        The last pose, and the steps of all climbs.

    Raises:
        InputError: As in `climb`.
    """

    def one_climb(pose, key):
        key = None if how.patches is None else key
        refined = climb(objective_at(pose), pose, how, motion_at(pose), key=key)
        return refined.pose, refined.trace

    keys = jax.random.split(jax.random.key(how.seed), how.repeats)
    pose, traces = jax.lax.scan(one_climb, pose, keys)
    return pose, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), traces)


def pose_motion(how: Climb, pose: jaxlie.SE3, pivot: Float[Array, "3"]) -> Motion:
    """How a climb that begins at a pose moves it, as a configuration says.

    Args:
        how: The configuration.
        pose: Start, `camera_from_world`.
        pivot: World point about which poses turn [mm], the isocenter.

    Raises:
        InputError: The parametrisation is unknown.
    """
    check_climb(how)
    if how.parametrisation is None:
        return rigid_motion(pivot, pose.wxyz_xyz.dtype)
    return parametrised_motion(how.parametrisation, frontal_view(pose, pivot), pivot)


def check_climb(how: Climb, subject: str = "climb") -> None:
    """Raises InputError for a configuration that names something unknown, or takes no step."""
    for name, known in (
        ("optimizer", OPTIMIZERS),
        ("schedule", SCHEDULES),
        ("parametrisation", (None, *PARAMETRISATIONS)),
    ):
        found = getattr(how, name)
        if found not in known:
            names = ", ".join(str(each) for each in known)
            raise InputError(subject, f"{name} = {found!r}", f"one of {names}", "correct the name")
    for name in ("steps", "repeats", "plateaus"):
        if getattr(how, name) < 1:
            found = f"{name} = {getattr(how, name)}"
            raise InputError(subject, found, "at least 1", "correct the number")


def optimizer_of(how: Climb, turns: tuple[bool, ...]) -> "optax.GradientTransformation":
    """The optimizer of a configuration, for parameters in units of 1 mm and 0.02 rad.

    Args:
        how: The configuration.
        turns: Which parameters stand for a rotation; the others begin with a step of `Climb.shift`.
    """
    import optax

    if how.optimizer == "lbfgs":
        search = optax.scale_by_zoom_linesearch(LINE_STEPS, initial_guess_strategy="one")
        return optax.chain(optax.scale(STEEPNESS), optax.lbfgs(linesearch=search))
    if how.schedule == "exponential":
        rate = optax.exponential_decay(1.0, how.steps, how.last)
    else:
        rate = optax.cosine_decay_schedule(1.0, how.steps, how.last)
    lengths = how.shift / TRANSLATION_SCALE, how.rotation / ROTATION_SCALE
    first = [lengths[turn] for turn in turns]

    def longer(step, _):
        step = jnp.asarray(step)
        return step * jnp.array(first, step.dtype)

    return optax.chain(optax.adam(rate), optax.stateless_with_tree_map(longer))


def parametrised_motion(name: str, reference: jaxlie.SE3, pivot: Float[Array, "3"]) -> Motion:
    """How the numbers of a parametrisation move a pose.

    Args:
        name: In `PARAMETRISATIONS`.
        reference: The pose whose numbers are those of no motion.
        pivot: World point about which poses turn [mm], the isocenter.

    Returns:
        Numbers are added to those of the pose that is moved, in units of 1 mm and of 0.02.
    """
    parametrisation = PARAMETRISATIONS[name]

    def move(pose: jaxlie.SE3, change: Float[Array, " n"]) -> jaxlie.SE3:
        numbers = parametrisation.numbers(motion_between(reference, pose, pivot))
        return moved(reference, parametrisation.motion(numbers + change), pivot)

    rotations = parametrisation.size - 3
    scale = [TRANSLATION_SCALE] * 3 + [ROTATION_SCALE] * rotations
    turns = (False,) * 3 + (True,) * rotations
    return Motion(jnp.array(scale, reference.wxyz_xyz.dtype), move, move, turns)


def frontal_view(pose: jaxlie.SE3, pivot: Float[Array, "3"]) -> jaxlie.SE3:
    """The view from the front or the back, whichever is nearer, from as far away as a pose."""
    distance = pose.apply(pivot)[2]
    front = from_carm(source_to_isocenter=distance, isocenter=pivot)
    far = rotation_angle(front, pose) > jnp.pi / 2
    return select(far, antipodal(front, pivot), front)
