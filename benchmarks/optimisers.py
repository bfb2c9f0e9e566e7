"""Ways to find the maximum of a similarity, from the same start: what `bench_optimisers.py` runs.

All but xvr's and DiffPose's recipes and CMA-ES are the default registration with another optimiser
in its levels.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxlie import SE3

import jxreg
from jxreg import RegisterConfig, alignment
from jxreg.alignment import Level, Prior
from jxreg.ascent import Climb
from jxreg.drr.coverage import cut_faces
from jxreg.parametrisation import PARAMETRISATIONS
from jxreg.pose import perturb

DEFAULT = RegisterConfig()
NO_PRIOR = Prior(shift=np.inf, depth=np.inf, rotation=np.inf)


class Found(NamedTuple):
    """Where a method ended, and its way there."""

    result: jxreg.Registration
    path: SE3
    """Poses, leading axis."""
    spent: np.ndarray
    """Steps, or evaluations of the similarity, until each of them."""


def with_climbs(*climbs: Climb, similarity: str | None = None) -> RegisterConfig:
    """The default levels with one climb for all, or each with its own."""
    each = climbs * len(DEFAULT.levels) if len(climbs) == 1 else climbs
    levels = zip(DEFAULT.levels, each, strict=True)
    return RegisterConfig(
        tuple(replace(level, climb=climb) for level, climb in levels), similarity=similarity
    )


def xvr() -> RegisterConfig:
    """Xvr's `register` for the pelvis: three scales, Euler angles, rates that fall on plateaus.

    Images of 64, 128 and 256 pixels; Adam at 1 mm and 0.01 rad, at a half of that on the second
    scale and at an eighth on the third; at most 500 steps a scale; a plateau is 10 steps without a
    gain of 1e-4, the rates fall to a tenth twice, the third plateau ends the scale.
    """
    levels = []
    for pixels, voxels, divisor in ((64, 2, 1), (128, 1, 2), (256, 1, 8)):
        climb = Climb(
            steps=500,
            repeats=1,
            shift=1.0 / divisor,
            rotation=0.01 / divisor,
            last=1.0,
            patience=10,
            plateaus=3,
            parametrisation="euler",
        )
        levels.append(Level(pixels, voxels, similarity="gradient_multiscale_ncc", climb=climb))
    return RegisterConfig(tuple(levels), prior=NO_PRIOR)


def diffpose() -> RegisterConfig:
    """DiffPose's refinement with sparse rendering: one scale, the logarithm of the whole pose.

    Images of 256 pixels, of which 100 patches of 13 x 13 are rendered; NCC of the patches and of
    all of them together; Adam at 7.5 mm and 0.0075 rad, which fall by a tenth every 25 of 500
    steps. The patches are drawn evenly from the usable pixels, since no network says where.
    """
    climb = Climb(
        steps=500,
        repeats=1,
        shift=7.5,
        rotation=0.0075,
        schedule="exponential",
        last=0.9**20,
        parametrisation="se3_log",
        patches=100,
    )
    return RegisterConfig((Level(256, 1, similarity="ncc", climb=climb),), prior=NO_PRIOR)


PLATEAU = Climb(steps=150, repeats=1, shift=1.0, rotation=0.02, last=1.0, patience=10, plateaus=3)
PATCHES = tuple(Climb(patches=count) for count in (2, 6, 25))
"""About a quarter of the pixels of each level, 13 x 13 a patch."""
PIXELS = tuple(Climb(patches=count, patch=1) for count in (256, 1024, 4096))

CONFIGS: dict[str, RegisterConfig] = {
    "Levenberg-Marquardt": DEFAULT,
    "L-BFGS": with_climbs(Climb("lbfgs", steps=20, repeats=2, patience=3)),
    "Adam, cosine": with_climbs(Climb()),
    "Adam, plateaus": with_climbs(PLATEAU),
    "LM, NCC": RegisterConfig(similarity="ncc"),
    "Adam, NCC": with_climbs(Climb(), similarity="ncc"),
    "Adam, NCC of patches": with_climbs(*PATCHES, similarity="ncc"),
    "Adam, NCC of pixels": with_climbs(*PIXELS, similarity="ncc"),
    **{
        f"Adam, {name}": with_climbs(Climb(parametrisation=name))
        for name in PARAMETRISATIONS
        if name != "so3_log"  # the same map as axis_angle
    },
    "xvr": xvr(),
    "DiffPose, 100 patches": diffpose(),
}


def registered(config: RegisterConfig, volume, frame, start) -> Found:
    """What `register` does with a configuration."""
    result = jax.block_until_ready(jxreg.register(volume, frame, start, config=config))
    taken = np.asarray(result.trace.step_mm) > 0
    path = SE3(jnp.asarray(np.asarray(result.trace.pose.wxyz_xyz)[taken]))
    return Found(result, path, np.arange(1, taken.sum() + 1))


class Stage(NamedTuple):
    """One run of CMA-ES."""

    level: Level
    population: int
    generations: int
    spread: tuple[float, ...]
    """First standard deviations of the twist: mm across and along the beam, rad."""
    smallest: float = 0.05
    """The run ends when the population spreads by less than this share of it on every axis."""


STAGES = (
    Stage(DEFAULT.levels[0], 40, 50, (10.0, 10.0, 20.0, 0.1, 0.1, 0.1)),
    Stage(DEFAULT.levels[1], 14, 40, (1.0, 1.0, 4.0, 0.01, 0.01, 0.01)),
    Stage(DEFAULT.levels[2], 14, 40, (0.3, 0.3, 2.0, 0.004, 0.004, 0.004)),
)
"""As in xReg a large population on the coarse image and a small one after it, the default levels.

xReg's own numbers (population 100, spread 15 to 30 degrees, 50 and 100 mm) are for starts farther
off; its second optimiser is BOBYQA.
"""


def evolved(stages: tuple[Stage, ...], volume, frame, start) -> Found:
    """CMA-ES on the objective of each level, less the prior, then one look by `register`."""
    cut = jax.jit(cut_faces)(volume)
    finest = _focus(volume, frame, start, max(stage.level.pixels for stage in stages))
    pose, path, spent = start, [], []
    for stage in stages:
        score = functools.partial(_score, stage.level, volume, finest, cut, start, pose)
        for place in _run(stage, score, path, spent):
            path.append(_moved(pose, place, volume.isocenter).wxyz_xyz)
        pose = SE3(path[-1])
    look = RegisterConfig((replace(stages[-1].level, tolerance=np.inf),))
    result = jax.block_until_ready(jxreg.register(volume, frame, pose, config=look))
    return Found(result, SE3(jnp.stack(path)), np.cumsum(spent))


def _run(stage: Stage, score: Callable, path: list, spent: list):
    """The mean of the population after each generation, as a twist; notes what it cost."""
    from cmaes import CMA

    spread = np.array(stage.spread)
    search = CMA(np.zeros(6), 1.0, population_size=stage.population, seed=0)
    for _ in range(stage.generations):
        asked = [search.ask() for _ in range(stage.population)]
        values = -np.asarray(score(search.mean * spread, np.array(asked) * spread), float)
        search.tell(list(zip(asked, np.nan_to_num(values, nan=np.inf), strict=True)))
        spent.append(stage.population)
        yield search.mean * spread
        if np.std(asked, axis=0).max() < stage.smallest or search.should_stop():
            return


@functools.partial(jax.jit, static_argnames="level")
def _score(level: Level, volume, finest, cut, start, anchor, middle, twists):
    """Of each twist; what is compared is settled where the population is."""
    scene = alignment.scene(volume, finest, cut, level)
    terms = alignment.look(scene, level, perturb(anchor, middle, volume.isocenter), DEFAULT.prior)
    value = alignment.objective(scene, level, terms, start, DEFAULT.prior)
    return jax.lax.map(lambda twist: value(perturb(anchor, twist, volume.isocenter)), twists)


_focus = jax.jit(alignment.focus, static_argnums=3)
_moved = jax.jit(perturb)

METHODS: dict[str, Callable[..., Found]] = {
    **{name: functools.partial(registered, config) for name, config in CONFIGS.items()},
    "CMA-ES": functools.partial(evolved, STAGES),
}
"""Each takes a volume, a frame and a start."""
SETTINGS = {name: repr(method.args[0]) for name, method in METHODS.items()}
"""What a report writes down of them."""
