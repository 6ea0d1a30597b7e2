"""One image as it comes from a PACS: written as received, safely on disk, and identified by its own header."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from monai_ldmsr.errors import CorruptSourceError, ReasonCode
from monai_ldmsr.io.dicom_header import read_header, sop_class, sop_instance, text
from monai_ldmsr.io.image_kind import skip_reason
from monai_ldmsr.io.limits import DEFAULT_LIMITS, ReadLimits
from monai_ldmsr.io.series_grouping import case_digest
from monai_ldmsr.storage import rest_sha256

__all__ = [
    "InstanceHeader",
    "dataset_sha256",
    "instance_name",
    "is_uid",
    "read_instance",
    "series_digest",
]

#: Preamble, magic word, then the element (0002,0000) whose value is how many bytes of group 0002 follow it.
_META_LENGTH_AT, _META_AT = 140, 144


@dataclass(frozen=True)
class InstanceHeader:
    """What of an image's header decides where it belongs; UIDs are kept out of ``repr``.

    Args:
        study, series, uid, sop_class: UIDs.
        is_own_result: this package made it.
    """

    study: str = field(repr=False)
    series: str = field(repr=False)
    uid: str = field(repr=False)
    sop_class: str
    is_own_result: bool


def read_instance(path: Path, limits: ReadLimits = DEFAULT_LIMITS) -> InstanceHeader:
    """Read the header of a received file.

    Raises:
        SourceError: it is no DICOM image, its header is damaged or beyond the limits, or an identifier is missing.
    """
    header = read_header(path, limits)
    if header is None:
        raise CorruptSourceError("What the PACS sent is not a DICOM object.", ReasonCode.UNREADABLE_FILE)
    study, series = text(header, "StudyInstanceUID"), text(header, "SeriesInstanceUID")
    uid = sop_instance(header)
    if not all(is_uid(value) for value in (study, series, uid)):
        raise CorruptSourceError(
            "A study, series or instance UID is missing in what the PACS sent, or is not a UID.",
            ReasonCode.UNREADABLE_FILE,
        )
    skipped = skip_reason(header)
    is_own = skipped is not None and skipped[0] is ReasonCode.OWN_RESULT
    return InstanceHeader(study, series, uid, sop_class(header), is_own)


def is_uid(value: str) -> bool:
    """Whether a text is a DICOM UID, so that it is no pattern and no list when it is asked for."""
    return 0 < len(value) <= 64 and value.isascii() and all(part.isdigit() for part in value.split("."))


def series_digest(study: str, series: str) -> str:
    """Name that stands for a series; the study is part of it, for some Series Instance UIDs serve in several."""
    return case_digest(study, series)


def instance_name(uid: str) -> str:
    """File name that stands for an instance."""
    return f"{case_digest(uid, digits=24)}.dcm"


def dataset_sha256(path: Path) -> str:
    """Hash of a file's data set, without the file meta information, which names who wrote the file."""
    with path.open("rb") as file:
        start = file.read(_META_AT)
        file.seek(_META_AT + int.from_bytes(start[_META_LENGTH_AT:_META_AT], "little"))
        return rest_sha256(file)
