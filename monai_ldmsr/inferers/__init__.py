"""From a network on slices to a network on volumes."""

from __future__ import annotations

from monai_ldmsr.inferers.volume_inferer import VolumeInferer

__all__ = ["VolumeInferer"]
