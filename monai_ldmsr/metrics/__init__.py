"""Measures of a result, as functions and as MONAI metrics."""

from monai_ldmsr.metrics.sharpness import (
    DEFINITIONS,
    FFTSharpnessMetric,
    LaplacianVarianceMetric,
    fft_sharpness,
    laplacian_variance,
    to_grey8,
)

__all__ = [
    "DEFINITIONS",
    "FFTSharpnessMetric",
    "LaplacianVarianceMetric",
    "fft_sharpness",
    "laplacian_variance",
    "to_grey8",
]
