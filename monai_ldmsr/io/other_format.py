"""A source as a volume file of another format would hold it, for a result in that format."""

from __future__ import annotations

from pathlib import PurePath

import numpy as np

from monai_ldmsr.io.dicom_series import DicomSeries
from monai_ldmsr.io.formats import Storage, format_of, volume_extension
from monai_ldmsr.io.volume_file import VolumeFile

__all__ = ["in_format_of"]

_INT16 = np.iinfo(np.int16)


def in_format_of(path: PurePath, source: DicomSeries | VolumeFile) -> VolumeFile:
    """The source as a file of that name would hold it: one of the same format as it is.

    Another format gets signed voxels of 16 bits where the source's values are such, and else float32.

    Example:
        >>> from pathlib import Path
        >>> from monai_ldmsr.io import read_dicom_series
        >>> series = read_dicom_series("sample_data/dicom/ct_abdomen")  # doctest: +SKIP
        >>> in_format_of(Path("ct.nii.gz"), series).header.dtype  # doctest: +SKIP
        dtype('int16')
    """
    extension, file_format = volume_extension(path) or "", format_of(path)
    if isinstance(source, VolumeFile) and file_format and source.extension in file_format.extensions:
        return source
    voxels = source.voxels
    is_whole = bool(_INT16.min <= voxels.min() and voxels.max() <= _INT16.max and (voxels == np.rint(voxels)).all())
    return VolumeFile(
        case=source.case,
        modality=source.modality,
        unit=source.unit,
        voxels=voxels,
        geometry=source.geometry,
        value_range=source.value_range,
        padding=source.padding,
        warnings=source.warnings,
        header=Storage(np.dtype(np.int16 if is_whole else np.float32), 3),
        extension=extension,
    )
