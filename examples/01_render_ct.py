"""Render a CT from several directions, as a C-arm would see it, into one picture.

    python examples/01_render_ct.py [ct.nii.gz]

Without a CT the chest CT of `jxreg fetch chest-ct` is used if it is there, else a phantom.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jxreg
from jxreg import io, phantoms, plot
from jxreg.cli.fetch import cache_folder

VIEWS = {"AP": (180, 0), "LAO 45": (45, 0), "left lateral": (90, 0), "cranial 25": (0, 25)}


def load_ct(path: Path | None, voxel_mm: float) -> jxreg.Volume:
    fetched = cache_folder() / "chest-ct" / "cxr.nii.gz"
    if path is not None or fetched.is_file():
        return jxreg.load_volume(path or fetched)
    phantom = phantoms.total(phantoms.pelvis_and_spine())
    return phantoms.voxelise(phantom, *phantoms.grid_around(phantom, voxel_mm))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ct", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, default=Path("views.png"))
    parser.add_argument("--small", action="store_true", help="small and quick")
    options = parser.parse_args()
    pixels, voxel_mm = (48, 8.0) if options.small else (512, 1.5)

    volume = load_ct(options.ct, voxel_mm)
    spacing = 400.0 / pixels
    # the conventional display is mirrored: the patient's left is on the right
    camera = jxreg.Camera.from_sdd(1020.0, (pixels, pixels), (spacing, spacing), mirrored=True)

    def pose_of(primary, secondary):
        return jxreg.pose.from_carm(
            primary, secondary, source_to_isocenter=700.0, isocenter=volume.isocenter
        )

    primary, secondary = jnp.array(list(VIEWS.values()), float).T
    poses = jax.vmap(pose_of)(primary, secondary)
    render = jax.jit(lambda pose: jxreg.render(volume, camera, pose))
    images = [np.asarray(render(jax.tree.map(lambda x, i=i: x[i], poses))) for i in range(4)]
    for name, image in zip(VIEWS, images, strict=True):
        print(f"{name:13} attenuation {image.min():.2f} to {image.max():.2f}")
    io.write_atomic(options.out, plot.png(np.hstack([plot.grey(image) for image in images])))
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
