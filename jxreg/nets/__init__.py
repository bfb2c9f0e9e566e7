"""Networks that regress a pose: `PoseNet`, a pair of functions `(init, apply)`.

posenet      a backbone, a head and what else there is, put together
head         numbers of a motion in mm and rad, for all parametrisations
resnet       ResNet-18 and -34
conditioning what it may be told of the camera
compact      a small network for a laptop's CPU
layers       norms, convolutions
"""

from jxreg.nets.compact import compact
from jxreg.nets.conditioning import INTRINSICS, intrinsics
from jxreg.nets.head import HeadConfig
from jxreg.nets.layers import GroupNorm, InstanceNorm, NoNorm
from jxreg.nets.posenet import Params, PoseNet, Prediction, pose_net
from jxreg.nets.resnet import resnet, resnet18, resnet34

__all__ = [
    "INTRINSICS",
    "GroupNorm",
    "HeadConfig",
    "InstanceNorm",
    "NoNorm",
    "Params",
    "PoseNet",
    "Prediction",
    "compact",
    "intrinsics",
    "pose_net",
    "resnet",
    "resnet18",
    "resnet34",
]
