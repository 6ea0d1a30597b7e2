"""Files in and out: the only room that knows pydicom, highdicom, nibabel and SimpleITK."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_ldmsr.lazy_names import lazy_names

if TYPE_CHECKING:
    from monai_ldmsr.io.derived_header import Derivation
    from monai_ldmsr.io.derived_series import WrittenSeries, write_derived_series
    from monai_ldmsr.io.dicom_series import DicomSeries, read_dicom_series
    from monai_ldmsr.io.discovery import find_dicom_series, find_sources
    from monai_ldmsr.io.limits import ReadLimits
    from monai_ldmsr.io.packed_source import AnySource, PackedSource, on_disk
    from monai_ldmsr.io.series_grouping import SeriesFiles, SkippedItem
    from monai_ldmsr.io.volume_file import (
        NiftiVolume,
        VolumeFile,
        nifti_volumes,
        read_volume_file,
        split_volumes,
        volume_case,
        write_volume_file,
    )

__all__ = [
    "AnySource",
    "Derivation",
    "DicomSeries",
    "NiftiVolume",
    "PackedSource",
    "ReadLimits",
    "SeriesFiles",
    "SkippedItem",
    "VolumeFile",
    "WrittenSeries",
    "find_dicom_series",
    "find_sources",
    "nifti_volumes",
    "on_disk",
    "read_dicom_series",
    "read_volume_file",
    "split_volumes",
    "volume_case",
    "write_derived_series",
    "write_volume_file",
]

__getattr__ = lazy_names(__name__, __file__)
