"""MONAI dictionary transforms between sources and the networks' range."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_ldmsr.lazy_names import lazy_names
from monai_ldmsr.transforms.intensity import (
    IntensityMap,
    ScaleFromModelRanged,
    ScaleToModelRanged,
    fit_intensity_map,
)

if TYPE_CHECKING:
    from monai_ldmsr.transforms.slices import PlanSlicesd, project_between
    from monai_ldmsr.transforms.source import (
        ProjectOntoSourced,
        ReadSourced,
        RestorePaddingd,
        possible_range,
        project_volume,
        source_of,
        volume_of,
    )
    from monai_ldmsr.transforms.trust import AddResultMapsd

__all__ = [
    "AddResultMapsd",
    "IntensityMap",
    "PlanSlicesd",
    "ProjectOntoSourced",
    "ReadSourced",
    "RestorePaddingd",
    "ScaleFromModelRanged",
    "ScaleToModelRanged",
    "fit_intensity_map",
    "possible_range",
    "project_between",
    "project_volume",
    "source_of",
    "volume_of",
]

__getattr__ = lazy_names(__name__, __file__)
