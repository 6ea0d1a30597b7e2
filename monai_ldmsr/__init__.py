"""Super-resolution of clinical volumes with a conditional latent diffusion model.

For research only, not for diagnosis. Start with :func:`super_resolve`, or with the ten lines of the README.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from monai_ldmsr._version import __version__

if TYPE_CHECKING:
    from monai_ldmsr.errors import LdmsrError
    from monai_ldmsr.geometry import VolumeGeometry
    from monai_ldmsr.inferers import VolumeInferer
    from monai_ldmsr.io import DicomSeries, find_dicom_series, read_dicom_series, write_derived_series
    from monai_ldmsr.networks import LatentCodec, import_generative
    from monai_ldmsr.report import SRReport
    from monai_ldmsr.result_writer import derivation_of
    from monai_ldmsr.transforms import clip_to_range, fit_intensity_map, possible_range, project_volume, volume_of
    from monai_ldmsr.workflow import load_super_resolver, super_resolve

__all__ = [
    "DicomSeries",
    "LatentCodec",
    "LdmsrError",
    "SRReport",
    "VolumeGeometry",
    "VolumeInferer",
    "__version__",
    "clip_to_range",
    "derivation_of",
    "find_dicom_series",
    "fit_intensity_map",
    "import_generative",
    "load_super_resolver",
    "possible_range",
    "project_volume",
    "read_dicom_series",
    "super_resolve",
    "volume_of",
    "write_derived_series",
]

_HOMES = {
    "DicomSeries": "io",
    "LatentCodec": "networks",
    "LdmsrError": "errors",
    "SRReport": "report",
    "VolumeGeometry": "geometry",
    "VolumeInferer": "inferers",
    "clip_to_range": "transforms",
    "derivation_of": "result_writer",
    "find_dicom_series": "io",
    "fit_intensity_map": "transforms",
    "import_generative": "networks",
    "load_super_resolver": "workflow",
    "possible_range": "transforms",
    "project_volume": "transforms",
    "read_dicom_series": "io",
    "super_resolve": "workflow",
    "volume_of": "transforms",
    "write_derived_series": "io",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that reading DICOM does not load torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
