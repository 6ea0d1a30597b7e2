"""Rows and figures of an evaluation as people read them: names, what is better, and arrows that say which is."""

from __future__ import annotations

__all__ = ["goal_phrase", "label", "mark"]

#: Names of rows and figures; one that is not here is shown as it is written, without underscores.
_LABELS = {
    "source": "Source",
    "lr": "Bilinear",
    "linear": "Linear",
    "bicubic": "Bicubic",
    "bicubic_noise": "Bicubic and noise",
    "bspline": "B-spline",
    "bspline_projected": "B-spline, projected",
    "srresnet": "SRResNet",
    "srgan": "SRGAN",
    "plain_ldm": "plain LDM",
    "ldm_mean": "Diffusion, mean",
    "ldm_sample": "Diffusion, sample",
    "ldm": "Diffusion",
    "hr": "Original",
    "grey_levels": "Grey levels",
    "laplacian_variance": "Laplacian variance",
    "fft": "FFT sharpness",
    "psnr": "PSNR in dB",
    "psnr_foreground": "PSNR of the foreground in dB",
    "ssim": "SSIM",
    "ssim_foreground": "SSIM of the foreground",
    "stack_gradient": "Differences along the stack over the original's",
    "source_missing": "Missing of the thick slices",
    "ms_ssim": "MS-SSIM",
    "nrmse": "NRMSE",
    "laplacian_variance_foreground": "Laplacian variance of the foreground",
    "fft_foreground": "FFT sharpness of the foreground",
    "laplacian_variance_minus_hr": "Laplacian variance minus the original's",
    "fft_minus_hr": "FFT sharpness minus the original's",
    "duration_s": "Seconds a slice",
    "edge_width": "Width of edges",
    "lattice": "Lattice",
    "lattice_ratio": "Lattice over the original's",
    "flat_noise": "Grain in flat tissue",
    "patch_distance_fine": "Distance of patches, fine",
    "patch_distance_middle": "Distance of patches, middle",
    "patch_distance_coarse": "Distance of patches, coarse",
    "ring_correlation": "Ring correlation",
    "noise": "Noise over bicubic's",
    "range": "Range over the source's",
    "kurtosis": "Kurtosis",
    "comb": "Comb",
    "overshoot": "Overshoot",
    "flagged": "Share of patches flagged by sFRC",
    "outside": "Share of voxels outside the interval",
    "region_error": "Error of region means, %",
    "contrast_kept": "Contrast of lesions kept",
    "size_kept": "Size of lesions kept",
    "detectability": "Detectability of lesions (AUC)",
    "lost": "Share of lesions lost",
    "bumps": "Invented bumps per 1000 source pixels",
    "flicker": "Flicker between neighbouring slices",
    "frozen": "Frozen pattern",
    "uptake": "Uptake of hot spots",
    "uptake_peak": "Peak uptake of hot spots",
    "uptake_max": "Greatest value of hot spots",
    "uptake_kept": "Share of hot spots kept within 5 %",
    "mean": "Mean",
    "ci95": "Interval",
}

#: What each goal asks for, in words with an arrow.
_GOALS = {
    "high": "\u2191 higher is better",
    "low": "\u2193 lower is better",
    "the original's": "\u2192 the original's is right",
    "1 at most": "\u2193 1 at most",
}

#: Differences below this share of a figure are no difference.
_ALIKE = 0.005


def label(name: str) -> str:
    """Name of a row or figure, as people read it.

    Example:
        >>> label("hr"), label("psnr"), label("my_net")
        ('Original', 'PSNR in dB', 'my net')
    """
    return _LABELS.get(name, name.replace("_", " "))


def goal_phrase(goal: str) -> str:
    """What a figure should be, with an arrow.

    Example:
        >>> goal_phrase("low"), goal_phrase("near 1")
        ('↓ lower is better', '→ 1 is right')
    """
    return _GOALS.get(goal, f"\u2192 {goal.removeprefix('near ')} is right")


def mark(goal: str, value: float | None, usual: float | None, original: float | None = None) -> str:
    """Whether a figure is ``better`` or ``worse`` than the usual one; empty where they are alike or nothing says it.

    Args:
        goal: what it should be, as tables say it.
        value: the figure.
        usual: what it is compared with: bicubic interpolation's.
        original: the original's.

    Example:
        >>> mark("high", 31.0, 30.0), mark("0", -0.2, 0.1), mark("the original's", 5.0, 2.0, 9.0), mark("1", 0.9, 0.9)
        ('better', 'worse', 'better', '')
    """
    if value is None or usual is None or (goal == "the original's" and original is None):
        return ""
    if goal in ("high", "low"):
        gain = value - usual if goal == "high" else usual - value
    else:
        wanted = (
            float(goal.removeprefix("near ").split()[0]) if original is None or goal != "the original's" else original
        )
        misses = [max(0.0, x - wanted) if goal == "1 at most" else abs(x - wanted) for x in (value, usual)]
        gain = misses[1] - misses[0]
    if abs(gain) <= _ALIKE * max(abs(value), abs(usual)):
        return ""
    return "better" if gain > 0 else "worse"
