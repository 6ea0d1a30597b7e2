"""All figures of one slice, on grey levels 0 to 255 of the model range."""

from __future__ import annotations

import math

import torch
from monai.metrics import MultiScaleSSIMMetric, PSNRMetric, RMSEMetric, SSIMMetric
from torch import Tensor

from monai_ldmsr.metrics.sharpness import (
    FOREGROUND_GREY,
    FOREGROUND_WINDOW,
    METRICS,
    fft_sharpness,
    foreground,
    laplacian_variance,
    slice_figures,
    to_grey8,
)
from monai_ldmsr.metrics.structure import N_RINGS, ring_numbers

__all__ = ["FIGURE_DEFINITIONS", "FIGURE_GOALS", "FREQUENCIES", "measure", "radial_power"]

#: Below this side the five scales of MS-SSIM do not fit its 11-pixel window.
_MS_SSIM_MIN_SIDE = 176

#: Middle of each ring in cycles a pixel, up to Nyquist.
FREQUENCIES = tuple((n + 0.5) / (2 * N_RINGS) for n in range(N_RINGS))

_GREY = (
    "All figures are taken on whole slices in grey levels: model range -1 to 1 mapped to 0 to 255, rounded, clipped. "
)

#: Definition of each column of the table.
FIGURE_DEFINITIONS: dict[str, str] = {
    "grey_levels": _GREY
    + "Model range is -1024 HU to 1500 HU in CT (piecewise linear, half of it for -200 to 300 HU), "
    "the 0.5 to 99.5 percentiles of the volume else.",
    **{metric.name: metric.definition for metric in METRICS},
    "psnr": "Peak signal-to-noise ratio in dB, peak 255 (MONAI PSNRMetric).",
    "ssim": "Structural similarity, Gaussian window 11x11, sigma 1.5, data range 255 (MONAI SSIMMetric).",
    "ms_ssim": "Multi-scale structural similarity, five scales, window 11x11, sigma 1.5, data range 255 (MONAI "
    f"MultiScaleSSIMMetric); slices with a side below {_MS_SSIM_MIN_SIDE} pixels are too small for it and not counted.",
    "nrmse": "Root mean squared error (MONAI RMSEMetric) divided by the original's range (its greatest minus its least "
    "grey level).",
    "laplacian_variance_foreground": "Laplacian variance over the foreground alone: where the original, averaged over "
    f"{FOREGROUND_WINDOW}x{FOREGROUND_WINDOW} pixels, lies above grey level {FOREGROUND_GREY:g}.",
    "fft_foreground": "FFT score averaged over the same foreground.",
    "laplacian_variance_minus_hr": "Laplacian variance minus that of the original, slice by slice.",
    "fft_minus_hr": "FFT score minus that of the original, slice by slice.",
}

#: What each column of the table should be.
FIGURE_GOALS: dict[str, str] = {
    **{metric.name: metric.goal for metric in METRICS},
    "psnr": "high",
    "ssim": "1",
    "ms_ssim": "1",
    "nrmse": "0",
    "laplacian_variance_foreground": "the original's",
    "fft_foreground": "the original's",
    "laplacian_variance_minus_hr": "0",
    "fft_minus_hr": "0",
    "duration_s": "low",
}


def measure(image: Tensor, reference: Tensor) -> dict[str, float]:
    """Figures of one slice.

    Args:
        image: (1, 1, H, W) in model range.
        reference: the original, likewise.

    Returns:
        One number for each column but ``grey_levels``; NaN where it is not defined (PSNR of the original itself,
        MS-SSIM of a small slice, foreground figures of an empty foreground).
    """
    grey, truth = to_grey8(image, -1.0, 1.0), to_grey8(reference, -1.0, 1.0)
    mask = foreground(truth)
    side, same = min(grey.shape[-2:]), bool(torch.equal(grey, truth))
    spread = float(truth.max() - truth.min())
    sharp = slice_figures(image)
    ssim = SSIMMetric(spatial_dims=2, data_range=255.0)
    ms_ssim = MultiScaleSSIMMetric(spatial_dims=2, data_range=255.0)
    return {
        **sharp,
        "psnr": math.nan if same else float(PSNRMetric(max_val=255.0)(grey, truth)),
        "ssim": float(ssim(grey, truth)),
        "ms_ssim": float(ms_ssim(grey, truth)) if side >= _MS_SSIM_MIN_SIDE else math.nan,
        "nrmse": float(RMSEMetric()(grey, truth)) / spread if spread else math.nan,
        "laplacian_variance_foreground": float(laplacian_variance(grey, mask)),
        "fft_foreground": float(fft_sharpness(grey, mask=mask)),
        "laplacian_variance_minus_hr": sharp["laplacian_variance"] - float(laplacian_variance(truth)),
        "fft_minus_hr": sharp["fft"] - float(fft_sharpness(truth)),
    }


def radial_power(image: Tensor) -> Tensor:
    """Mean power (Hann window, mean removed, grey levels) in each ring of :data:`FREQUENCIES`, (rings,) float64."""
    grey = to_grey8(image, -1.0, 1.0)[0, 0].double()
    window = torch.outer(*(torch.hann_window(n, dtype=torch.double) for n in grey.shape)).to(grey.device)
    power = torch.fft.fft2((grey - grey.mean()) * window, norm="ortho").abs().square()
    ring = ring_numbers(*grey.shape).flatten().to(grey.device)
    inside = ring < N_RINGS
    total = grey.new_zeros(N_RINGS).index_add(0, ring[inside], power.flatten()[inside])
    return total / torch.bincount(ring[inside], minlength=N_RINGS)
