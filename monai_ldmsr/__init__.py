"""Super-resolution of clinical volumes with a conditional latent diffusion model.

For research only, not for diagnosis. Start with :func:`super_resolve`, or with the ten lines in docs/python.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_ldmsr._version import __version__
from monai_ldmsr.lazy_names import lazy_names

if TYPE_CHECKING:
    from monai_ldmsr.calibration import calibrate, measure_coverage
    from monai_ldmsr.errors import LdmsrError
    from monai_ldmsr.export import export_networks
    from monai_ldmsr.geometry import VolumeGeometry
    from monai_ldmsr.image_output import derivation_of
    from monai_ldmsr.images import super_resolve_image
    from monai_ldmsr.inferers import VolumeInferer
    from monai_ldmsr.io import DicomSeries, find_dicom_series, read_dicom_series, write_derived_series
    from monai_ldmsr.networks import LatentCodec, import_generative
    from monai_ldmsr.noise_level import volume_noise
    from monai_ldmsr.report import SRReport
    from monai_ldmsr.transforms import fit_intensity_map, possible_range, project_volume, volume_of
    from monai_ldmsr.workflow import load_super_resolver, super_resolve

__all__ = [
    "DicomSeries",
    "LatentCodec",
    "LdmsrError",
    "SRReport",
    "VolumeGeometry",
    "VolumeInferer",
    "__version__",
    "calibrate",
    "derivation_of",
    "export_networks",
    "find_dicom_series",
    "fit_intensity_map",
    "import_generative",
    "load_super_resolver",
    "measure_coverage",
    "possible_range",
    "project_volume",
    "read_dicom_series",
    "super_resolve",
    "super_resolve_image",
    "volume_noise",
    "volume_of",
    "write_derived_series",
]

__getattr__ = lazy_names(__name__, __file__)
