"""Register one X-ray to a CT: from a start that is off, to the pose and its uncertainty.

    python examples/02_register_frame.py

The X-ray is simulated: rendered by the other algorithm (Siddon), with another contrast, scatter and
noise. With real files, volume and frame are two lines:

    volume = jxreg.load_volume("ct.nii.gz")
    frame = jax.tree.map(lambda x: x[0], jxreg.load_frames("xray.dcm"))
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

import jxreg
from jxreg import drr, metrics, phantoms
from jxreg.alignment import Level
from jxreg.register import Status

SMALL = jxreg.RegisterConfig(levels=(Level(16, 1, "ncc", steps=5),))


@jax.jit
def simulated_xray(key, volume, camera, pose) -> jxreg.Frame:
    clean = drr.render(volume, camera, pose, drr.siddon())
    photons = 1e5 * jnp.exp(-1.1 * clean)
    counts = jax.random.poisson(key, photons + 0.1 * photons.mean())
    return jxreg.Frame(jnp.log(1e5 / jnp.maximum(counts, 1.0)), camera)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="small and quick")
    options = parser.parse_args()
    pixels, voxel_mm = (32, 10.0) if options.small else (256, 2.5)
    config = SMALL if options.small else jxreg.RegisterConfig()

    phantom = phantoms.total(phantoms.pelvis_and_spine())
    volume = phantoms.voxelise(phantom, *phantoms.grid_around(phantom, voxel_mm))
    spacing = 380.0 / pixels
    camera = jxreg.Camera.from_sdd(1020.0, (pixels, pixels), (spacing, spacing))
    truth = jxreg.pose.from_carm(25.0, -10.0, source_to_isocenter=710.0, isocenter=volume.isocenter)
    frame = simulated_xray(jax.random.key(0), volume, camera, truth)

    twist = jnp.array([6.0, -5.0, 20.0, 0.05, -0.04, 0.05])  # mm, rad
    start = jxreg.pose.perturb(truth, twist, volume.isocenter)
    result = jxreg.register(volume, frame, start, config=config)

    landmarks = jnp.stack([part.world_from_shape.translation() for part in phantom])
    before = float(metrics.mtre(start, truth, landmarks))
    after = float(metrics.mtre(result.pose, truth, landmarks))
    deviation = np.sqrt(np.diag(result.covariance))
    print(f"status      {Status(int(result.status)).name}")
    print(f"similarity  {result.initial_similarity:.3f} -> {result.similarity:.3f}")
    print(f"mTRE        {before:.2f} mm -> {after:.2f} mm")
    print(f"uncertainty {deviation[:2].max():.3f} mm in plane, {deviation[2]:.3f} mm in depth")


if __name__ == "__main__":
    main()
