"""Real X-rays of a wrist: register the radius in each calibrated view, compare with a reference.

    python examples/05_real_wrist.py [folder of wrist-biplane-xray-ct]

Or set JXREG_DATA to the folder that holds it. The volume is one bone cut out of a CT, not in
Hounsfield units; cameras come as K, R, t in text files; the reference is a two-view registration.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxlie
import nibabel
import numpy as np
from PIL import Image

import jxreg
from jxreg import frame as frame_
from jxreg import metrics
from jxreg.alignment import Level
from jxreg.register import Status

SMALL = jxreg.RegisterConfig(levels=(Level(64, 1, steps=8),))
NOMINAL_SDD = 1500.0  # the calibration is in pixels: the SDD only scales the detector


def read_calibration(path: Path) -> tuple[jxreg.Camera, jaxlie.SE3]:
    """Camera, and camera from calibration world, of a text file with K, R and t."""
    blocks = [block.splitlines()[1:] for block in path.read_text().strip().split("\n\n")]
    size, k, rotation, translation = (
        np.array([[float(x) for x in line.split(",")] for line in block]) for block in blocks
    )
    columns, rows = (int(n) for n in size[0])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, translation[:, 0]
    camera = jxreg.Camera.from_intrinsic(k, NOMINAL_SDD, (rows, columns))
    return camera, jxreg.pose.from_matrix(pose)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--small", action="store_true", help="small and quick")
    options = parser.parse_args()
    folder = options.folder or Path(os.environ.get("JXREG_DATA", ".")) / "wrist-biplane-xray-ct"
    if not folder.is_dir():
        sys.exit(f"skipped: no folder {folder}; give it, or set JXREG_DATA")

    bone = nibabel.load(folder / "rad_dcm_cropped.nii.gz")
    mu = 0.06 / 4095 * bone.get_fdata(dtype=np.float32)  # brightest is about cortical bone
    volume = jxreg.Volume.from_array(mu, bone.affine)
    reference = json.loads((folder / "reference_pose_0099.json").read_text())
    matrix = np.array(reference["poses"]["radius"]["0099"]["T_world_from_ct"])
    calibration_from_ct = jxreg.pose.from_matrix(matrix, tolerance=1e-5)
    landmarks = jnp.asarray(np.argwhere(mu > 0.5 * mu.max())[::200] @ bone.affine[:3, :3].T)

    config = SMALL if options.small else jxreg.RegisterConfig()
    for view in ("cam01", "cam02"):
        camera, camera_from_calibration = read_calibration(folder / f"xr_calib_wrist_{view}.txt")
        pixels = np.asarray(Image.open(folder / f"xr_rad_uln_{view}_UND.0099.tif"), np.float32)
        mask = jnp.asarray(pixels > 0, float)  # black outside the round field
        image = frame_.attenuation(jnp.asarray(pixels), 255.0)
        frame = jxreg.Frame(image, camera, mask)
        truth = camera_from_calibration @ calibration_from_ct
        twist = jnp.array([3.0, -3.0, 4.0, 0.06, -0.05, 0.06])
        start = jxreg.pose.perturb(truth, twist, volume.isocenter)
        result = jax.block_until_ready(jxreg.register(volume, frame, start, config=config))
        before, after = (metrics.mrpd(p, truth, landmarks) for p in (start, result.pose))
        status = Status(int(result.status)).name
        print(f"{view}  mRPD to the reference {before:.2f} -> {after:.2f} mm  {status}")


if __name__ == "__main__":
    main()
