"""Files in and out. Readers import their libraries when they are called, and raise `InputError`."""

from jxreg.io.atomic import write_atomic
from jxreg.io.boundary import InputWarning
from jxreg.io.nifti import write_nifti
from jxreg.io.pose_file import load_camera, load_pose, save_camera, save_pose
from jxreg.io.volume_file import load_volume

__all__ = [
    "InputWarning",
    "load_camera",
    "load_pose",
    "load_volume",
    "save_camera",
    "save_pose",
    "write_atomic",
    "write_nifti",
]
