"""Networks that regress a pose: `PoseNet`, a pair of functions `(init, apply)`.

posenet      a backbone, a head and what else there is, put together
head         numbers of a motion in mm and rad, for all parametrisations
resnet       ResNet-18 and -34
efficientnet EfficientNet-b0
convnext     ConvNeXtV2-femto
compact      a small network for a laptop's CPU
conditioning what a network may be told of the camera
attention    of channels and places (CBAM), and between places with their positions
decoder      from features back to an image
maps         where a network looked, as an image
layers       norms, convolutions
depthwise    convolution of each channel apart, fast on a CPU
"""

from jxreg.nets.attention import CBAM, SelfAttention
from jxreg.nets.compact import compact
from jxreg.nets.conditioning import INTRINSICS, intrinsics
from jxreg.nets.convnext import convnext, convnext_femto
from jxreg.nets.decoder import Decoder
from jxreg.nets.efficientnet import efficientnet
from jxreg.nets.head import HeadConfig
from jxreg.nets.layers import GroupNorm, InstanceNorm, NoNorm
from jxreg.nets.maps import activation_map, attention_map
from jxreg.nets.posenet import Params, PoseNet, Prediction, pose_net
from jxreg.nets.resnet import resnet, resnet18, resnet34

__all__ = [
    "CBAM",
    "INTRINSICS",
    "Decoder",
    "GroupNorm",
    "HeadConfig",
    "InstanceNorm",
    "NoNorm",
    "Params",
    "PoseNet",
    "Prediction",
    "SelfAttention",
    "activation_map",
    "attention_map",
    "compact",
    "convnext",
    "convnext_femto",
    "efficientnet",
    "intrinsics",
    "pose_net",
    "resnet",
    "resnet18",
    "resnet34",
]
