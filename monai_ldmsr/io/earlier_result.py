"""Whether a result that lies in the way is an earlier one of the same source."""

from __future__ import annotations

from pathlib import Path

from pydicom import dcmread

from monai_ldmsr.io.derived_header import source_uid
from monai_ldmsr.io.dicom_header import quiet_pydicom
from monai_ldmsr.io.dicom_series import DicomSeries
from monai_ldmsr.io.volume_file import VolumeFile

__all__ = ["is_of_another_source"]


def is_of_another_source(folder: Path, source: DicomSeries | VolumeFile) -> bool:
    """Whether the derived series in a result folder names source images, and none of them is of this source.

    A series may have grown or been repaired since. A volume file that has changed has another name, by its content.

    Args:
        folder: folder of a result; it need not exist.
        source: what a result is about to be made of.
    """
    if not isinstance(source, DicomSeries):
        return False
    own = {source_uid(header, "SOPInstanceUID") for header in source.headers} - {""}
    is_named = False
    for path in sorted((folder / "dicom").glob("*.dcm")):
        named = _source_images(path)
        if named & own:
            return False
        is_named = is_named or bool(named)
    return is_named and bool(own)


def _source_images(path: Path) -> set[str]:
    """SOP Instance UIDs of what a derived image was made of; nothing where it is damaged, and so no result."""
    try:
        with quiet_pydicom():
            image = dcmread(path, stop_before_pixels=True, specific_tags=["SourceImageSequence"])
            return {str(item.ReferencedSOPInstanceUID) for item in image.get("SourceImageSequence") or []}
    except Exception:
        return set()
