"""Files in and out: the only room that knows pydicom, highdicom, nibabel and SimpleITK."""

from monai_ldmsr.io.derived_series import Derivation, WrittenSeries, write_derived_series
from monai_ldmsr.io.dicom_series import DicomSeries, read_dicom_series
from monai_ldmsr.io.discovery import SeriesFiles, SkippedItem, find_dicom_series, find_sources
from monai_ldmsr.io.limits import ReadLimits
from monai_ldmsr.io.nifti_volumes import NiftiVolume, nifti_volumes, split_volumes
from monai_ldmsr.io.packed_source import AnySource, PackedSource, on_disk
from monai_ldmsr.io.volume_file import VolumeFile, read_volume_file, volume_case, write_volume_file

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
