"""Refinement of one pose on SE(3) by least squares: Levenberg-Marquardt.

It works in the tangent space at the current pose: a step is a twist about the pivot (`perturb`),
differentiated at zero. One compiled loop stops early, keeps the best pose seen and returns a full
trace; under `jax.vmap` every item stops for itself. `minimise` is the same for more than one pose,
or for a pose and other things; `jxreg.ascent` climbs what is no sum of squares.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxlie
from jaxtyping import Array, Float, Int

from jxreg.pose import perturb
from jxreg.precision import full_precision, product

TRANSLATION_SCALE = 1.0
"""Unit of translation in the optimizers' parameters [mm]."""
ROTATION_SCALE = 0.02
"""Unit of rotation in the optimizers' parameters [rad]: 1 mm at 50 mm from the pivot."""
TURNS = (False,) * 3 + (True,) * 3
"""`Motion.turns` of a twist."""


class RefineTrace(NamedTuple):
    """What happened in each step; after an early stop the last entry repeats, with length 0."""

    value: Float[Array, " steps"]
    """After the step: the similarity (`jxreg.ascent`), or half the sum of squares."""
    step_length: Float[Array, " steps"]
    """Length of the accepted step in the units of the scales (mm at the default scales)."""
    pose: Any
    """Pose after each step; leading axis steps."""


class Refined(NamedTuple):
    """Where a refinement ended."""

    pose: Any
    """Best pose seen; from `least_squares` and `minimise` the last accepted one."""
    value: Float[Array, ""]
    """Its similarity, or half its sum of squares."""
    steps: Int[Array, ""]
    """Steps tried before the stop."""
    hessian: Float[Array, "n n"]
    """J^T J of the residuals at the best pose, per mm and rad; zeros from `jxreg.ascent`."""
    trace: RefineTrace


class LeastSquares(NamedTuple):
    """Residuals whose terms follow the pose: what is compared, where, and with what weight.

    What is costly is observed once a pose, with its derivatives; what is cheap is made of it anew.
    """

    observe: Callable[[Any], Array]
    """What a pose predicts, a DRR."""
    settle: Callable[[Any, Array], Any]
    """Terms of the comparison at a pose: held while the step from there is judged."""
    residuals: Callable[[Any, Array, Any], Any]
    """Residuals of pose and observation under some terms, an array or a pytree of arrays."""
    value: Callable[[Float[Array, ""], Any], Float[Array, ""]] = lambda half_squares, terms: (
        half_squares
    )
    """What the trace records of half the sum of squares and the terms."""


class Motion(NamedTuple):
    """How a step moves what is sought: one pose, or anything that hangs on more parameters."""

    scale: Float[Array, " n"]
    """Unit of each parameter in the trust region; parameters come in units of mm and rad."""
    move: Callable[[Any, Float[Array, " n"]], Any]
    """What is sought after a step."""
    nudge: Callable[[Any, Float[Array, " n"]], Any]
    """The same to first order: all that a derivative at a step of zero needs."""
    turns: tuple[bool, ...]
    """Which parameters stand for a rotation."""


def rigid_motion(
    pivot: Float[Array, "3"],
    dtype: Any,
    translation_scale: float = TRANSLATION_SCALE,
    rotation_scale: float = ROTATION_SCALE,
) -> Motion:
    """Motion of one pose by a twist about a world point [mm]."""
    scale = jnp.array([translation_scale] * 3 + [rotation_scale] * 3, dtype)
    return Motion(
        scale,
        lambda pose, twist: perturb(pose, twist, pivot),
        lambda pose, twist: nudge(pose, twist, pivot),
        TURNS,
    )


def levenberg_marquardt(
    residuals_of: Callable[[jaxlie.SE3], Any],
    pose: jaxlie.SE3,
    *,
    pivot: Float[Array, "3"],
    steps: int,
    translation_scale: float = TRANSLATION_SCALE,
    rotation_scale: float = ROTATION_SCALE,
    damping: float = 1e-2,
    tolerance: float | Float[Array, ""] = 1e-3,
) -> Refined:
    """Least squares of residuals by damped Gauss-Newton steps.

    With normalised features as residuals, f(moving) - f(fixed), half the sum of squares is
    1 - similarity, so this maximises NCC and its relatives. One step costs one evaluation and the
    six columns of the image Jacobian (`jax.linearize`). `damping=0` is Gauss-Newton.

    Source: Marquardt, J SIAM 11, 1963; the damping scales the diagonal of J^T J.

    Args:
        residuals_of: Residuals of a pose, an array or a pytree of arrays.
        pose: Start, `camera_from_world`.
        pivot: World point about which twists turn [mm], the isocenter.
        steps: Largest number of steps.
        translation_scale: Unit of translation in the trust region [mm].
        rotation_scale: Unit of rotation in the trust region [rad].
        damping: First damping; it falls by 0.3 on success and grows by 4 on failure.
        tolerance: Stop when a step is shorter than this many units; infinity only evaluates the
            start.

    Returns:
        The last accepted pose, which is the best one. A start with non-finite residuals comes back
        as it is, with a non-finite value.
    """
    problem = LeastSquares(
        observe=lambda pose: _flat(residuals_of(pose)),
        settle=lambda pose, residuals: (),
        residuals=lambda pose, residuals, terms: residuals,
    )
    refined, _ = least_squares(
        problem,
        pose,
        pivot=pivot,
        steps=steps,
        translation_scale=translation_scale,
        rotation_scale=rotation_scale,
        damping=damping,
        tolerance=tolerance,
    )
    return refined


class _Seen(NamedTuple):
    """An observation at a pose."""

    pose: Any
    observation: Array
    columns: Array
    """Its derivatives by the parameters."""


class _Model(NamedTuple):
    """Half the sum of squares near a pose, to second order (Gauss-Newton)."""

    value: Float[Array, ""]
    gradient: Float[Array, " n"]
    hessian: Float[Array, "n n"]


def least_squares(
    problem: LeastSquares,
    pose: jaxlie.SE3,
    *,
    pivot: Float[Array, "3"],
    steps: int,
    translation_scale: float = TRANSLATION_SCALE,
    rotation_scale: float = ROTATION_SCALE,
    damping: float = 1e-2,
    tolerance: float | Float[Array, ""] = 1e-3,
) -> tuple[Refined, Any]:
    """`levenberg_marquardt` on a problem whose terms are settled anew at every accepted pose.

    Returns:
        The last accepted pose, and the terms there.
    """
    motion = rigid_motion(pivot, pose.wxyz_xyz.dtype, translation_scale, rotation_scale)
    return minimise(problem, pose, motion, steps=steps, damping=damping, tolerance=tolerance)


@full_precision
def minimise(
    problem: LeastSquares,
    pose: Any,
    motion: Motion,
    *,
    steps: int,
    damping: float = 1e-2,
    tolerance: float | Float[Array, ""] = 1e-3,
) -> tuple[Refined, Any]:
    """Least squares over any parameters, the terms settled anew at every accepted pose.

    A step is accepted if it lowers the sum of squares under the terms that it was made with. Each
    step costs one observation with its derivatives, whatever becomes of it.

    Args:
        problem: What is observed and compared.
        pose: Start: whatever `problem` and `motion` take for a pose, a pytree.
        motion: How parameters move it.
        steps: Largest number of steps.
        damping: As in `levenberg_marquardt`.
        tolerance: As in `levenberg_marquardt`.

    Returns:
        The last accepted pose, and the terms there.
    """
    scale = motion.scale
    zero = jnp.zeros((), scale.dtype)
    unit = jnp.eye(scale.size, dtype=scale.dtype)

    # Compiled functions are traced once, for shapes and for the loop, whatever maps or batches it.
    @jax.jit
    def see(pose) -> _Seen:
        def at(parameters):
            return problem.observe(motion.nudge(pose, scale * parameters))

        image, push = jax.linearize(at, jnp.zeros_like(scale))
        return _Seen(pose, image, jax.vmap(push)(unit))

    @jax.jit
    def judge(seen: _Seen, terms) -> _Model:
        def at(parameters):
            image = seen.observation + jnp.tensordot(parameters, seen.columns, 1)
            return _flat(
                problem.residuals(motion.nudge(seen.pose, scale * parameters), image, terms)
            )

        r, push = jax.linearize(at, jnp.zeros_like(scale))
        jacobian = jax.vmap(push)(unit)
        return _Model(0.5 * (r @ r), product(jacobian, r), product(jacobian, jacobian.T))

    @jax.jit
    def settle(seen: _Seen):
        return problem.settle(seen.pose, seen.observation)

    def body(carry):
        count, trial_pose, length, seen, terms, model, damping, trace = carry
        trial = see(trial_pose)
        first = count == 0  # the start itself is the first trial
        # A comparison with NaN is false.
        better = first | (judge(trial, terms).value < model.value)
        seen = select(better, trial, seen)
        terms = settle(seen)
        model = judge(seen, terms)
        damping = jnp.where(first, damping, damping * jnp.where(better, 0.3, 4.0))
        value = problem.value(model.value, terms)
        trace = recorded(trace, count - 1, value, jnp.where(better, length, 0.0), seen.pose)
        step = -_solve(model.hessian, model.gradient, damping)
        trial_pose = motion.move(seen.pose, scale * step)
        return count + 1, trial_pose, jnp.linalg.norm(step), seen, terms, model, damping, trace

    def going(carry):
        count, _, length, _, _, model, damping, _ = carry
        searching = (length >= tolerance) & (damping < 1e4) & jnp.isfinite(model.value)
        return (count == 0) | ((count <= steps) & searching)

    seen = _zeros_of(see, pose)
    terms = _zeros_of(settle, seen)
    model = _zeros_of(judge, seen, terms)
    trace = empty_trace(steps, zero, pose)
    carry = (jnp.int32(0), pose, zero, seen, terms, model, zero + damping, trace)
    count, _, _, seen, terms, model, _, trace = jax.lax.while_loop(going, body, carry)
    start = problem.value(model.value, terms)
    trace = trace._replace(value=jnp.where(count > 1, trace.value, start))  # of no step: the start
    hessian = model.hessian / (scale[:, None] * scale)
    return Refined(seen.pose, model.value, count - 1, hessian, filled(trace, count - 1)), terms


def _zeros_of(function, *args):
    shapes = jax.eval_shape(function, *args)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def nudge(pose: jaxlie.SE3, twist: Float[Array, "6"], pivot: Float[Array, "3"]) -> jaxlie.SE3:
    """`perturb` to first order: all that a derivative at a twist of zero needs."""
    shift, turn = twist[:3], twist[3:]
    w, xyz = pose.rotation().wxyz[0], pose.rotation().wxyz[1:]
    arm = pose.rotation() @ pivot
    return jaxlie.SE3(
        jnp.concatenate(
            [
                w[None] - turn @ xyz / 2,
                xyz + (w * turn + jnp.cross(turn, xyz)) / 2,
                pose.translation() + shift - jnp.cross(turn, arm),
            ]
        )
    )


def _flat(residuals) -> Float[Array, " n"]:
    return jnp.concatenate([jnp.ravel(r) for r in jax.tree.leaves(residuals)])


def _solve(hessian, gradient, damping):
    """Damped normal equations; a direction that nothing depends on gets no step."""
    diagonal = jnp.diag(hessian)
    tiny = jnp.maximum(1e-7 * diagonal.max(), jnp.finfo(hessian.dtype).tiny)
    damped = hessian + jnp.diag(damping * diagonal + tiny)
    return jnp.linalg.solve(damped, gradient)


def select(condition, chosen, other):
    """`jnp.where` of every leaf of two pytrees."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), chosen, other)


def empty_trace(steps: int, value, pose) -> RefineTrace:
    """A trace of steps that stayed at a pose."""
    zeros = jnp.zeros(steps, value.dtype)
    poses = jax.tree.map(lambda x: jnp.broadcast_to(x, (steps, *x.shape)), pose)
    return RefineTrace(jnp.full_like(zeros, value), zeros, poses)


def recorded(trace: RefineTrace, count, value, length, pose) -> RefineTrace:
    """A trace with an entry; one before the first is dropped, as is any of a loop without steps."""
    if trace.value.shape[0] == 0:
        return trace
    count = jnp.where(count < 0, trace.value.shape[0], count)
    entry = RefineTrace(value, length, pose)
    return jax.tree.map(lambda all_, one: all_.at[count].set(one, mode="drop"), trace, entry)


def filled(trace: RefineTrace, count) -> RefineTrace:
    """A trace that repeats its last entry where the loop did not come."""
    steps = trace.value.shape[0]
    if steps == 0:
        return trace
    index = jnp.minimum(jnp.arange(steps), jnp.maximum(count - 1, 0))
    repeated = jax.tree.map(lambda x: x[index], trace)
    taken = jnp.arange(steps) < count
    return repeated._replace(step_length=jnp.where(taken, repeated.step_length, 0.0))
