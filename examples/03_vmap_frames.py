"""Register many frames in one call: `jax.vmap` over `jxreg.register`.

    python examples/03_vmap_frames.py

A fluoroscopy run of a moving C-arm, registered at once; one frame is black, and only that one
fails.
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp

import jxreg
from jxreg import drr, metrics, phantoms
from jxreg.alignment import Level
from jxreg.register import Status

QUICK = jxreg.RegisterConfig(levels=(Level(32, 1, "local_ncc", sigma=0.1, steps=12),))
SMALL = jxreg.RegisterConfig(levels=(Level(16, 1, "ncc", steps=5),))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="small and quick")
    options = parser.parse_args()
    count, pixels, voxel_mm = (3, 32, 10.0) if options.small else (8, 128, 3.0)

    phantom = phantoms.total(phantoms.pelvis_and_spine())
    volume = phantoms.voxelise(phantom, *phantoms.grid_around(phantom, voxel_mm))
    spacing = 380.0 / pixels
    camera = jxreg.Camera.from_sdd(1020.0, (pixels, pixels), (spacing, spacing))

    def pose_of(angle):
        return jxreg.pose.from_carm(angle, source_to_isocenter=710.0, isocenter=volume.isocenter)

    def frame_of(pose):
        return jxreg.Frame(drr.render(volume, camera, pose, drr.joseph()), camera)

    def start_of(key, pose):
        scale = (4.0, 4.0, 10.0, 0.04, 0.04, 0.04)  # mm, rad
        return jxreg.pose.random_twist(key, pose, volume.isocenter, scale)

    truths = jax.vmap(pose_of)(jnp.linspace(-40.0, 40.0, count))
    starts = jax.vmap(start_of)(jax.random.split(jax.random.key(0), count), truths)
    images = jax.lax.map(lambda pose: frame_of(pose).image, truths)
    images = images.at[1].set(0.0)

    config = SMALL if options.small else QUICK
    register = functools.partial(jxreg.register, config=config)
    register_all = jax.jit(
        jax.vmap(lambda image, start: register(volume, jxreg.Frame(image, camera), start))
    )
    jax.block_until_ready(register_all(images, starts))  # compiles
    begin = time.perf_counter()
    results = jax.block_until_ready(register_all(images, starts))
    seconds = time.perf_counter() - begin

    landmarks = jnp.stack([part.world_from_shape.translation() for part in phantom])
    mtre = jax.vmap(metrics.mtre, in_axes=(0, 0, None))
    before, after = mtre(starts, truths, landmarks), mtre(results.pose, truths, landmarks)
    for i in range(count):
        status = Status(int(results.status[i])).name
        print(f"frame {i}  mTRE {before[i]:6.2f} -> {after[i]:6.2f} mm  {status}")
    print(f"{count} frames in {seconds:.2f} s")


if __name__ == "__main__":
    main()
