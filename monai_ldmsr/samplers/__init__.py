"""Diffusion and flow algorithms, one a file; a bundle's config names the one that its super-resolver uses."""

from __future__ import annotations

from monai_ldmsr.samplers.anchored_flow import AnchoredFlow, posterior_mean
from monai_ldmsr.samplers.interface import LatentSampler, Velocity

__all__ = ["AnchoredFlow", "LatentSampler", "Velocity", "posterior_mean"]
