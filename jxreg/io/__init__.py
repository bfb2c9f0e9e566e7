"""Files in and out. Readers import their libraries when they are called, and raise `InputError`."""

from jxreg.io.atomic import write_atomic
from jxreg.io.boundary import InputWarning
from jxreg.io.collimation import collimation_mask
from jxreg.io.frame_file import load_frames
from jxreg.io.nifti import write_nifti
from jxreg.io.pose_file import load_camera, load_pose, save_camera, save_pose
from jxreg.io.raster import write_npy, write_png
from jxreg.io.volume_file import load_volume

__all__ = [
    "InputWarning",
    "collimation_mask",
    "load_camera",
    "load_frames",
    "load_pose",
    "load_volume",
    "save_camera",
    "save_pose",
    "write_atomic",
    "write_nifti",
    "write_npy",
    "write_png",
]
