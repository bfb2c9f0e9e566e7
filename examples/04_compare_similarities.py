"""Compare similarities: how each falls when the pose moves away from the truth.

    python examples/04_compare_similarities.py

A good similarity has its maximum at zero and falls on both sides; the distance up to which it does
is what a search from a bad start lives on.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

import jxreg
from jxreg import drr, phantoms
from jxreg.similarity import SIMILARITIES

SHADES = " .:-=+*#%@"
AXES = {"across [mm]": (0, 20.0), "depth [mm]": (2, 60.0), "turn [rad]": (4, 0.2)}
"""Component of the twist, and how far it goes to each side."""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="small and quick")
    options = parser.parse_args()
    pixels, voxel_mm, count = (32, 10.0, 5) if options.small else (128, 2.5, 41)

    phantom = phantoms.pelvis_and_spine()
    total = phantoms.total(phantom)
    volume = phantoms.voxelise(total, *phantoms.grid_around(total, voxel_mm))
    spacing = 380.0 / pixels
    camera = jxreg.Camera.from_sdd(1020.0, (pixels, pixels), (spacing, spacing))
    truth = jxreg.pose.from_carm(15.0, source_to_isocenter=710.0, isocenter=volume.isocenter)
    # the X-ray in closed form, with denser bone than the CT, and noise
    soft, bone = jax.jit(phantoms.exact_drr)(phantom, camera, truth)
    clean = soft + 1.4 * bone
    fixed = clean + 0.03 * clean.std() * jax.random.normal(jax.random.key(0), clean.shape)

    @jax.jit
    def profiles(axis, reach):
        def at(offset):
            pose = jxreg.pose.perturb(truth, jnp.zeros(6).at[axis].set(offset), volume.isocenter)
            moving = drr.render(volume, camera, pose)
            return {name: f(moving, fixed) for name, f in SIMILARITIES.items()}

        return jax.lax.map(at, jnp.linspace(-reach, reach, count))

    for title, (axis, reach) in AXES.items():
        print(f"\n{title}, from {-reach} to {reach}: the profile and where its maximum is")
        offsets = np.linspace(-reach, reach, count)
        for name, values in profiles(axis, reach).items():
            values = np.asarray(values)
            shade = (values - values.min()) / max(np.ptp(values), 1e-12) * (len(SHADES) - 1)
            drawn = "".join(SHADES[round(s)] for s in shade)
            print(f"  {name:30} |{drawn}| {offsets[values.argmax()]:+.3g}")


if __name__ == "__main__":
    main()
