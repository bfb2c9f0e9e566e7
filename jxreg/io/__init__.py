"""Files in and out. Readers import their libraries when they are called, and raise `InputError`."""

from jxreg.io.atomic import write_atomic
from jxreg.io.boundary import InputWarning
from jxreg.io.dataset import Subject, View
from jxreg.io.deepfluoro import load_deepfluoro, load_deepfluoro_preprocessed
from jxreg.io.description import Description, describe
from jxreg.io.frame_file import load_frames
from jxreg.io.itk_transform import load_tfm, save_tfm
from jxreg.io.labels import Labels, load_label_names, load_labels, select_labels, split_labels
from jxreg.io.landmarks import Landmarks, load_landmarks, save_landmarks
from jxreg.io.ljubljana import load_ljubljana
from jxreg.io.mesh_file import Mesh, load_mesh
from jxreg.io.nifti import write_nifti
from jxreg.io.pose_file import load_camera, load_pose, save_camera, save_pose
from jxreg.io.raster import write_npy, write_png
from jxreg.io.volume_file import load_volume

__all__ = [
    "Description",
    "InputWarning",
    "Labels",
    "Landmarks",
    "Mesh",
    "Subject",
    "View",
    "describe",
    "load_camera",
    "load_deepfluoro",
    "load_deepfluoro_preprocessed",
    "load_frames",
    "load_label_names",
    "load_labels",
    "load_landmarks",
    "load_ljubljana",
    "load_mesh",
    "load_pose",
    "load_tfm",
    "load_volume",
    "save_camera",
    "save_landmarks",
    "save_pose",
    "save_tfm",
    "select_labels",
    "split_labels",
    "write_atomic",
    "write_nifti",
    "write_npy",
    "write_png",
]
