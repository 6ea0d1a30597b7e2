"""The rows of the table that need no training: interpolation between the same outer faces."""

from __future__ import annotations

import SimpleITK as sitk  # noqa: N813  # as SimpleITK's own documentation
import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["ROW_DEFINITIONS", "interpolate_bilinear", "interpolate_bspline"]

#: What each row is, for those who read the table alone.
ROW_DEFINITIONS: dict[str, str] = {
    "lr": "the degraded slice, bilinear on the original's grid",
    "bicubic": "the degraded slice, bicubic (a = -0.75, no antialiasing: torch and OpenCV)",
    "bspline": "the degraded slice, cubic B-spline (SimpleITK, sitkBSpline)",
    "srresnet": "SRResNet, trained for the mean absolute error (the MMSE-like anchor)",
    "srgan": "SRGAN, the same generator trained on against a critic",
    "ldm": "the latent diffusion model as the bundle ships it",
    "hr": "the original",
}


def interpolate_bilinear(image: Tensor, factor: int) -> Tensor:
    """Bilinear, (B, 1, h, w) to (B, 1, f h, f w)."""
    return functional.interpolate(image, scale_factor=factor, mode="bilinear", align_corners=False)


def interpolate_bspline(image: Tensor, factor: int) -> Tensor:
    """Cubic B-spline, (1, 1, h, w) to (1, 1, f h, f w), by SimpleITK.

    Example:
        >>> ramp = torch.arange(8.0).expand(1, 1, 8, 8)
        >>> interpolate_bspline(ramp, 2)[0, 0, 8, 7:9].round(decimals=2)
        tensor([3.2500, 3.7500])
    """
    source = sitk.GetImageFromArray(image[0, 0].cpu().numpy())
    # One unit is a pixel of the target; pixel centres of the source lie in the middle of factor x factor of those.
    source.SetSpacing((float(factor), float(factor)))
    source.SetOrigin(((factor - 1) / 2, (factor - 1) / 2))
    size = [n * factor for n in source.GetSize()]
    found = sitk.Resample(source, size, sitk.Transform(), sitk.sitkBSpline, (0.0, 0.0), (1.0, 1.0))
    return torch.from_numpy(sitk.GetArrayFromImage(found)).to(image)[None, None]
