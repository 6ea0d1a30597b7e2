"""A derived series as one multi-frame object: Legacy Converted Enhanced CT, MR or PET, by highdicom.

Each frame has what its classic image would have, in functional groups; the classic images that it is converted from are
those that are written where nobody asks for one object, under the same UIDs.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

from highdicom.legacy import (
    LegacyConvertedEnhancedCTImage,
    LegacyConvertedEnhancedMRImage,
    LegacyConvertedEnhancedPETImage,
)
from pydicom import Dataset, dcmread, dcmwrite

from monai_ldmsr.errors import OutputError
from monai_ldmsr.io.derived_objects import name_dimensions
from monai_ldmsr.io.dicom_header import quiet_pydicom, sop_class, sop_instance

__all__ = ["multiframe_object", "parsed_copy"]

_FORMS = {
    "CT": LegacyConvertedEnhancedCTImage,
    "MR": LegacyConvertedEnhancedMRImage,
    "PT": LegacyConvertedEnhancedPETImage,
}


#: Of the whole object, whatever highdicom makes of it.
_KEPT = (
    "ContentQualification",
    "ContributingEquipmentSequence",
    "ImageComments",
    "InstanceCreationDate",
    "InstanceCreationTime",
    "LossyImageCompression",
    "LossyImageCompressionMethod",
    "LossyImageCompressionRatio",
    "SeriesDescription",
    "SyntheticData",
)


def parsed_copy(image: Dataset) -> Dataset:
    """An image as it reads back from a file: no attribute is left as raw bytes."""
    buffer = BytesIO()
    dcmwrite(buffer, image, enforce_file_format=True)
    buffer.seek(0)
    return dcmread(buffer)


def multiframe_object(
    images: Sequence[Dataset], sources: Sequence[Dataset], modality: str, series_uid: str, object_uid: str
) -> Dataset:
    """One object of classic derived images.

    Args:
        images: parsed classic images with pixels; highdicom chooses the order of the frames.
        sources: the source of each.
        modality: ``CT``, ``MR`` or ``PT``.
        series_uid: Series Instance UID of the object.
        object_uid: its SOP Instance UID.

    Raises:
        OutputError: highdicom cannot make one object of them.
    """
    first = images[0]
    try:
        with quiet_pydicom():
            found: Dataset = _FORMS[modality](
                list(images),
                series_instance_uid=series_uid,
                series_number=int(first.SeriesNumber),
                sop_instance_uid=object_uid,
                instance_number=1,
            )
    except Exception:
        raise OutputError(
            "The series lacks what an enhanced multi-frame object needs, so it is not written. Choose "
            "dicom form classic."
        ) from None
    for keyword in _KEPT:
        if keyword in first:
            found[keyword] = first[keyword]
    _drop_empty_windows(found)
    found.SourceImageEvidenceSequence = _evidence(sources)
    name_dimensions(found)
    return found


def _drop_empty_windows(found: Dataset) -> None:
    """Where no image has a window, there is no functional group of one."""
    for groups in (*found.SharedFunctionalGroupsSequence, *found.PerFrameFunctionalGroupsSequence):
        if "FrameVOILUTSequence" in groups and "WindowCenter" not in groups.FrameVOILUTSequence[0]:
            del groups.FrameVOILUTSequence


def _evidence(sources: Sequence[Dataset]) -> list[Dataset]:
    """The objects that the frames were made of, by study and series; all are of one series."""
    study, series = Dataset(), Dataset()
    study.StudyInstanceUID = sources[0].StudyInstanceUID
    series.SeriesInstanceUID = sources[0].get("SeriesInstanceUID", "")
    references = {sop_instance(source): getattr(source, "object_class", "") or sop_class(source) for source in sources}
    series.ReferencedSOPSequence = []
    for uid, class_uid in references.items():
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = class_uid, uid
        series.ReferencedSOPSequence.append(item)
    study.ReferencedSeriesSequence = [series]
    return [study]
