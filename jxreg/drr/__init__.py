"""Renderers: a camera and a pose make rays, and a quadrature integrates a volume along them."""

from jxreg.drr.marching import Integrate, trilinear
from jxreg.drr.rendering import render, render_rays
from jxreg.drr.slicing import joseph
from jxreg.drr.traversal import siddon

__all__ = ["Integrate", "joseph", "render", "render_rays", "siddon", "trilinear"]
