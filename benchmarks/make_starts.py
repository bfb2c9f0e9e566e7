"""Makes the files of starting positions in benchmarks/starts/; they are part of the repository.

    python benchmarks/make_starts.py --key 0

For each CT, 10 starts in each bin of 10 mm of initial mTRE, up to 80 mm. Every start has a view of
its own (LAO/RAO within 45, CRA/CAU within 20, roll within 8 degrees, isocenter within 15 mm) and a
random rigid offset (`jxreg.evaluation.random_start`). mTRE is over 50 random voxels of bone.
"""

import argparse
from functools import partial
from pathlib import Path

import accuracy
import jax
import jax.numpy as jnp
import numpy as np
from bench_register import CAMERA, OFFSET, VIEW, bone_landmarks

import jxreg
from jxreg import evaluation, metrics
from jxreg.io.checksum import sha256
from jxreg.io.start_file import StartFile, save_starts
from jxreg.pose import perturb

EDGES = np.arange(0.0, 81.0, 10.0)
DISTANCE = 700.0
NEAR_EDGE = 0.05
"""No start is nearer to an edge than this [mm], so that rounding leaves it in its bin."""


def make(name: str, ct: jxreg.Volume, checksum: str, key: int, per_bin: int) -> StartFile:
    """Starts for one CT; all numbers are rounded as they are to be read."""
    isocenter = np.round(np.asarray(ct.isocenter, float), 3)
    landmarks = np.round(np.asarray(bone_landmarks(ct, 50), float), 1)
    points, pivot = jnp.asarray(landmarks, float), jnp.asarray(isocenter, float)
    draw = jax.jit(partial(evaluation.random_start, landmarks=points, pivot=pivot))
    views, twists, mtre = [], [], []
    of_ct = jax.random.fold_in(jax.random.key(key), list(accuracy.CTS).index(name))
    for number, edge in enumerate(np.repeat(EDGES[:-1], per_bin)):
        view_key, start_key = jax.random.split(jax.random.fold_in(of_ct, number))
        drawn = jax.random.uniform(view_key, (6,), minval=-1.0, maxval=1.0)
        view = np.round(np.asarray(drawn) * [*VIEW, OFFSET, OFFSET, OFFSET], 2)
        truth = accuracy.true_pose(jnp.asarray(view, float), pivot, DISTANCE)
        high = edge + EDGES[1] - EDGES[0]
        limits = (edge + NEAR_EDGE, high - NEAR_EDGE)
        twist = np.asarray(draw(start_key, truth, mtre_range=limits).twist, float)
        twist = np.concatenate([np.round(twist[:3], 2), np.round(twist[3:], 5)])
        start = jax.jit(perturb)(truth, jnp.asarray(twist, float), pivot)
        error = float(jax.jit(metrics.mtre)(start, truth, points))
        views.append(view)
        twists.append(twist)
        mtre.append(round(error, 2))
    rows = (np.array(each, float) for each in (views, twists, mtre))
    return StartFile(
        accuracy.CTS[name],
        checksum,
        key,
        isocenter,
        DISTANCE,
        CAMERA,
        EDGES,
        landmarks,
        *rows,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cts", nargs="+", choices=list(accuracy.CTS), default=list(accuracy.CTS))
    parser.add_argument("--key", type=int, default=0)
    parser.add_argument("--per-bin", type=int, default=10)
    parser.add_argument("--data", type=Path, default=accuracy.data_folder())
    parser.add_argument("--out", type=Path, default=accuracy.STARTS)
    options = parser.parse_args()
    for name in options.cts:
        path = options.data / accuracy.CTS[name]
        ct = jxreg.load_volume(path, crop_air=False)
        starts = make(name, ct, sha256(path), options.key, options.per_bin)
        options.out.mkdir(parents=True, exist_ok=True)
        save_starts(options.out / f"{name}.json", starts)
        print(options.out / f"{name}.json", flush=True)


if __name__ == "__main__":
    main()
