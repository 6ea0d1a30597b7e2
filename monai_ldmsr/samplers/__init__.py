"""Diffusion and flow algorithms, one a file: functions of a denoiser and noise."""

from __future__ import annotations

from monai_ldmsr.samplers.anchored_flow import sample_anchored_flow
from monai_ldmsr.samplers.gaussian_diffusion import sample_gaussian_diffusion

__all__ = ["sample_anchored_flow", "sample_gaussian_diffusion"]
