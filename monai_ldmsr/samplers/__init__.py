"""Diffusion and flow algorithms, one a file: functions of a denoiser and noise."""

from __future__ import annotations

from monai_ldmsr.samplers.anchored_flow import sample_anchored_flow

__all__ = ["sample_anchored_flow"]
