"""How alike two images are: `(moving, fixed, mask=None) -> scalar`, higher is better."""

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
from jxreg.similarity.windows import gaussian_smooth

__all__ = [
    "gaussian_smooth",
    "gradient_correlation_features",
    "gradient_features",
    "image_gradients",
    "inner",
    "local_features",
    "locally_normalised",
    "ncc_features",
    "zero_normalised",
]
