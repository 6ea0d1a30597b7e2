"""What can be read and still may mean something else: refused where it surely does, told in the report where it may."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom import Dataset

from monai_ldmsr.errors import CorruptSourceError, ReasonCode, SourceError
from monai_ldmsr.io.dicom_header import number_list

__all__ = ["check_pixel_length", "doubts"]


def doubts(modality: str, headers: Sequence[Dataset], least_value: float) -> list[str]:
    """Warnings about a series that reads well.

    Args:
        modality: ``"CT"``, ``"MR"`` or ``"PT"``.
        headers: one an image.
        least_value: that the stored type can hold after rescale.

    Raises:
        SourceError: ``BAD_RESCALE`` when a lookup table stands between stored values and their meaning.
    """
    n_tables = sum("ModalityLUTSequence" in header for header in headers)
    if n_tables:
        raise SourceError(
            f"(0028,3000) 'Modality LUT Sequence' stands in {n_tables} of {len(headers)} images: stored values have "
            "their meaning by a lookup table, which super-resolved values cannot keep. Export rescaled values.",
            ReasonCode.BAD_RESCALE,
        )
    found = []
    if modality == "CT" and least_value >= 0:
        found.append("The stored type cannot hold values below 0, but air is -1000 HU: are these Hounsfield units?")
    announced = max((number_list(header, "NumberOfSlices", 1) or (0.0,))[0] for header in headers)
    if modality == "PT" and announced > len(headers):
        found.append(
            f"(0054,0081) 'Number of Slices' is {announced:.0f}, but there are {len(headers)} images. "
            "Images may be missing."
        )
    return found


def check_pixel_length(data: bytes, n_bytes: int, row_bytes: int, place: str) -> None:
    """Refuse uncompressed pixels that are more than the header says: read as it says, each row could slip.

    Args:
        data: value of Pixel Data.
        n_bytes: that Rows, Columns and Bits Allocated make.
        row_bytes: of one row; fewer zeros than these are taken for padding.
        place: such as ``"Image 3 of 12"``.

    Raises:
        CorruptSourceError: ``UNDECODABLE_PIXELS``.
    """
    excess = data[n_bytes:]
    if len(excess) > 1 and (len(excess) >= row_bytes or any(excess)):
        raise CorruptSourceError(
            f"{place} holds {len(data)} bytes of pixels, but Rows, Columns and Bits Allocated make {n_bytes}: one of "
            "them is wrong, so pixels would stand at wrong places. Fetch the series again.",
            ReasonCode.UNDECODABLE_PIXELS,
        )
