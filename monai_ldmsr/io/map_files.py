"""Write a number for each voxel of a result, or of its source, as a volume file beside the result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePath

import numpy as np
import numpy.typing as npt

from monai_ldmsr.geometry import ResultGrid
from monai_ldmsr.io.dicom_series import DicomSeries
from monai_ldmsr.io.formats import FORMATS, format_of
from monai_ldmsr.io.other_format import in_format_of
from monai_ldmsr.io.parametric_map import rounded
from monai_ldmsr.io.volume_file import MAP_MARK, VolumeFile, write_volume_file

__all__ = ["map_file_name", "write_map_file"]

_DESCRIPTION = f"{MAP_MARK}. For research only, not for diagnosis."


def map_file_name(name: str, result: PurePath) -> str:
    """Name of the file of a map beside a result's file.

    Args:
        name: its name without an extension.
        result: the result's file; of what is none, the usual format is taken.
    """
    return f"{name}{(format_of(result) or FORMATS[0]).map_extension}"


def write_map_file(
    source: DicomSeries | VolumeFile, values: npt.NDArray[np.float32], grid: ResultGrid, path: Path, is_mask: bool
) -> None:
    """Write ``values`` where they are in the patient; see :func:`~monai_ldmsr.io.volume_file.write_volume_file`.

    Args:
        source: what the result was made of.
        values: (I, J, K) on ``grid``.
        grid: how it lies on that of the source.
        path: file to write; a name of :func:`map_file_name`.
        is_mask: whether values are 0 and 1, and stored as bytes; else they are rounded as in DICOM, and float32.

    Raises:
        SettingsError: a value is not finite.
        OutputError: the file cannot be written.
    """
    volume = in_format_of(path, source)
    storage = replace(volume.header, dtype=np.dtype(np.uint8 if is_mask else np.float32), slope=1.0, intercept=0.0)
    stored = values if is_mask else rounded(values)
    write_volume_file(replace(volume, header=storage), stored, grid, path, _DESCRIPTION)
