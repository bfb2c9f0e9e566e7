"""2D/3D registration of CT and X-ray in JAX: where did the C-arm stand?

The public names are imported when they are first used: `jxreg --help` does not wait for JAX.
"""

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jxreg import metrics, nets, pose, similarity
    from jxreg.ascent import refine
    from jxreg.camera import Camera
    from jxreg.drr import render
    from jxreg.evaluation import evaluate
    from jxreg.frame import Frame
    from jxreg.global_search import search
    from jxreg.io import load_frames, load_volume
    from jxreg.register import RegisterConfig, Registration, register
    from jxreg.views import register_views
    from jxreg.volume import Volume

__version__ = "0.1.0"

__all__ = [
    "Camera",
    "Frame",
    "RegisterConfig",
    "Registration",
    "Volume",
    "evaluate",
    "load_frames",
    "load_volume",
    "metrics",
    "nets",
    "pose",
    "refine",
    "register",
    "register_views",
    "render",
    "search",
    "similarity",
]

_MODULES = {
    "Camera": "camera",
    "Frame": "frame",
    "RegisterConfig": "register",
    "Registration": "register",
    "Volume": "volume",
    "evaluate": "evaluation",
    "load_frames": "io",
    "load_volume": "io",
    "refine": "ascent",
    "register": "register",
    "register_views": "views",
    "render": "drr",
    "search": "global_search",
}
"""Where each public name lives; those that are missing here are modules themselves."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES.get(name, name)}")
    return getattr(module, name) if name in _MODULES else module


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


class _Package(types.ModuleType):
    """This package: `jxreg.register` is the function, even after `import jxreg.register`.

    Python binds a submodule to its name in the package once it is imported; here the function takes
    its place. The module stays in `sys.modules`, where `from jxreg.register import ...` finds it.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "register" and isinstance(value, types.ModuleType):
            value = value.register
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
