"""What a DICOMDIR (PS3.3 F, PS3.10 8) says that its folder holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pydicom
from pydicom.uid import MediaStorageDirectoryStorage

from monai_ldmsr.choices import MODALITIES
from monai_ldmsr.errors import CorruptSourceError, ReasonCode
from monai_ldmsr.io.dicom_header import quiet_pydicom, read_header, sop_class, text
from monai_ldmsr.io.limits import DEFAULT_LIMITS, ReadLimits

__all__ = ["is_dicomdir_name", "read_dicomdir"]

#: A DICOMDIR is nothing but a header: this many bytes hold about 200,000 records.
_MOST_BYTES = 2**28


def is_dicomdir_name(name: str) -> bool:
    """Whether a file of that name is a DICOMDIR; some media are copied with small letters."""
    return name.lower() in ("dicomdir", "dicomdir.")


def read_dicomdir(path: Path, limits: ReadLimits = DEFAULT_LIMITS) -> list[tuple[str, PurePosixPath | None]]:
    """Images of CT, MR and PET series that a DICOMDIR lists, as far as its records are in use.

    Returns:
        Series Instance UID of each, and path of its file relative to the folder of the DICOMDIR, or ``None`` when it
        would lie outside.

    Raises:
        SourceError: ``BAD_DICOMDIR``.
    """
    n_bytes = min(path.stat().st_size, _MOST_BYTES)
    wide = replace(limits, header_bytes=limits.header_bytes + n_bytes, header_reads=limits.header_reads + n_bytes)
    try:
        with quiet_pydicom():
            directory = read_header(path, wide)
            if directory is None or sop_class(directory) != MediaStorageDirectoryStorage:
                raise ValueError("no DICOMDIR")
            return list(_images(_in_order(directory)))
    except Exception:  # whatever pydicom says of damaged records: it may quote them
        raise CorruptSourceError(
            "A DICOMDIR cannot be read. The files of its folder are searched all the same; copy the medium again to "
            "know that they are complete.",
            ReasonCode.BAD_DICOMDIR,
        ) from None


def _in_order(directory: pydicom.Dataset) -> Iterator[pydicom.Dataset]:
    """Records, each behind the one that it belongs to, as the offsets between them say."""
    records = {record.seq_item_tell: record for record in directory.DirectoryRecordSequence}
    first = directory.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity
    waiting = [first] if records else []
    while waiting:
        offset = waiting.pop()
        record = records.pop(offset)  # which raises when an offset leads nowhere, or in a circle
        yield record
        following = (record.OffsetOfTheNextDirectoryRecord, record.get("OffsetOfReferencedLowerLevelDirectoryEntity"))
        waiting += [n for n in following if n]


def _images(records: Iterable[pydicom.Dataset]) -> Iterator[tuple[str, PurePosixPath | None]]:
    series, modality = "", ""
    for record in records:
        kind = text(record, "DirectoryRecordType")
        # Zero says that the record was deleted (retired, but met); its value is else FFFFH.
        in_use = text(record, "RecordInUseFlag") != "0"
        if kind in ("PATIENT", "STUDY"):
            series = ""
        elif kind == "SERIES":
            series, modality = text(record, "SeriesInstanceUID") if in_use else "", text(record, "Modality")
        elif kind == "IMAGE" and in_use and series and modality in (*MODALITIES, ""):
            parts = text(record, "ReferencedFileID").split("\\")
            if parts != [""]:
                yield series, _inside(parts)


def _inside(parts: list[str]) -> PurePosixPath | None:
    odd = any(part in ("", ".", "..") or "/" in part or "\0" in part or ":" in part for part in parts)
    return None if odd else PurePosixPath(*parts)
