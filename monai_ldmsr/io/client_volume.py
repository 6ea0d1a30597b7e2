"""Volume files in the formats that clients of a server ask for."""

from __future__ import annotations

import shutil
from pathlib import Path

import SimpleITK

from monai_ldmsr.errors import OutputError
from monai_ldmsr.geometry import VolumeGeometry
from monai_ldmsr.io.formats import volume_extension

__all__ = ["copy_volume_file", "write_empty_labels"]


def copy_volume_file(source: Path, target: Path) -> None:
    """Copy a volume file; where the extensions differ, voxels, their type and the geometry go into the other format.

    Raises:
        OutputError: it cannot be read or written.
    """
    try:
        if volume_extension(source) == volume_extension(target):
            shutil.copyfile(source, target)
        else:
            SimpleITK.WriteImage(SimpleITK.ReadImage(str(source)), str(target))
    except (OSError, RuntimeError):
        raise OutputError(f"The image cannot be copied as {volume_extension(target)}.") from None


def write_empty_labels(geometry: VolumeGeometry, path: Path) -> None:
    """Write a label map (I, J, K) of uint8 without any label.

    Raises:
        OutputError: it cannot be written.
    """
    labels = SimpleITK.Image([int(n) for n in geometry.shape], SimpleITK.sitkUInt8)
    labels.SetSpacing([float(step) for step in geometry.spacing_mm])
    labels.SetOrigin([float(x) for x in geometry.origin_lps_mm])
    labels.SetDirection([float(x) for x in geometry.direction_lps.ravel()])
    try:
        SimpleITK.WriteImage(labels, str(path))
    except RuntimeError:
        raise OutputError("The empty label map cannot be written. Check the space for temporary files.") from None
