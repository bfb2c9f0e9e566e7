"""How alike two images are: `(moving, fixed, mask=None) -> scalar`, higher is better.

features       one image -> normalised features; blocks of the similarities and of Gauss-Newton
correlation    NCC: global, local, in patches; of derivatives; gradient orientation
information    mutual information: global, normalised, local
structure      SSIM
robust         weights against what the rendered image cannot explain
windows        Gaussian blur, moments in windows
"""

from collections.abc import Callable

from jxreg.similarity.correlation import (
    gradient_correlation,
    gradient_multiscale_ncc,
    gradient_ncc,
    gradient_orientation,
    local_ncc,
    multiscale_ncc,
    ncc,
    patch_ncc,
)
from jxreg.similarity.features import (
    gradient_correlation_features,
    gradient_features,
    image_gradients,
    inner,
    local_features,
    locally_normalised,
    ncc_features,
    zero_normalised,
)
from jxreg.similarity.information import (
    local_mutual_information,
    mutual_information,
    normalised_mutual_information,
)
from jxreg.similarity.robust import robust_weights
from jxreg.similarity.structure import ssim
from jxreg.similarity.windows import gaussian_smooth

SIMILARITIES: dict[str, Callable] = {
    function.__name__: function
    for function in (
        ncc,
        local_ncc,
        patch_ncc,
        multiscale_ncc,
        gradient_multiscale_ncc,
        gradient_ncc,
        gradient_correlation,
        gradient_orientation,
        mutual_information,
        normalised_mutual_information,
        local_mutual_information,
        ssim,
    )
}
"""Every similarity by its name, for the command line and configurations."""

__all__ = [
    "SIMILARITIES",
    "gaussian_smooth",
    "gradient_correlation",
    "gradient_correlation_features",
    "gradient_features",
    "gradient_multiscale_ncc",
    "gradient_ncc",
    "gradient_orientation",
    "image_gradients",
    "inner",
    "local_features",
    "local_mutual_information",
    "local_ncc",
    "locally_normalised",
    "multiscale_ncc",
    "mutual_information",
    "ncc",
    "ncc_features",
    "normalised_mutual_information",
    "patch_ncc",
    "robust_weights",
    "ssim",
    "zero_normalised",
]
