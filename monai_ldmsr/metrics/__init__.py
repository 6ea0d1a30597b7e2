"""Measures of a result, as functions and as MONAI metrics."""

from monai_ldmsr.metrics.native import NATIVE_DEFINITIONS, NATIVE_GOALS, flattest_tiles, native_figures, overshoot
from monai_ldmsr.metrics.sharpness import (
    METRICS,
    FFTSharpnessMetric,
    LaplacianVarianceMetric,
    SliceMetric,
    fft_sharpness,
    laplacian_variance,
    to_grey8,
)
from monai_ldmsr.metrics.structure import (
    STRUCTURE_DEFINITIONS,
    STRUCTURE_GOALS,
    edge_width,
    flat_noise,
    lattice,
    patch_distances,
    ring_correlation,
    structure_figures,
)

__all__ = [
    "METRICS",
    "NATIVE_DEFINITIONS",
    "NATIVE_GOALS",
    "STRUCTURE_DEFINITIONS",
    "STRUCTURE_GOALS",
    "FFTSharpnessMetric",
    "LaplacianVarianceMetric",
    "SliceMetric",
    "edge_width",
    "fft_sharpness",
    "flat_noise",
    "flattest_tiles",
    "laplacian_variance",
    "lattice",
    "native_figures",
    "overshoot",
    "patch_distances",
    "ring_correlation",
    "structure_figures",
    "to_grey8",
]
