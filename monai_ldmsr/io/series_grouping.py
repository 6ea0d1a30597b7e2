"""What grouping needs to know of one image, what it makes of many, and by which name a volume is known."""

from __future__ import annotations

import filecmp
import hashlib
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import pydicom

from monai_ldmsr.errors import ReasonCode
from monai_ldmsr.io.dicom_header import ImagePlane, image_plane, modality_of, read_header, sop_class, sop_instance, text
from monai_ldmsr.io.enhanced_multiframe import FrameHeader
from monai_ldmsr.io.image_kind import complex_component, named_localizer
from monai_ldmsr.io.limits import ReadLimits

__all__ = [
    "ORDER_BY",
    "SPLIT_BY",
    "SeriesFiles",
    "SeriesImage",
    "SkippedItem",
    "case_digest",
    "same_content",
    "series_image",
    "with_unique_cases",
]

#: What may tell volumes of one series apart, tried in this order.
SPLIT_BY = {
    "EchoTime": "Echo Time",
    "EchoNumbers": "Echo Numbers",
    "DiffusionBValue": "Diffusion b-value",
    "TemporalPositionIdentifier": "Temporal Position Identifier",
    "ImageType": "Image Type",
    "InversionTime": "Inversion Time",
    "TriggerTime": "Trigger Time",
    "DiffusionGradientOrientation": "Diffusion Gradient Orientation",
    "FrameReferenceTime": "Frame Reference Time",
    "AcquisitionNumber": "Acquisition Number",
    "AcquisitionTime": "Acquisition Time",
    "KVP": "KVP",
    "ConvolutionKernel": "Convolution Kernel",
    "ComplexImageComponent": "Complex Image Component",
    # Of enhanced frames only:
    "DimensionIndexValues": "Dimension Index Values",
    "object_uid": "multi-frame object",
}

#: What may order the images of each place, where nothing tells volumes apart.
ORDER_BY = {
    "Instance Number": ("InstanceNumber",),
    "Acquisition Time": ("AcquisitionDate", "AcquisitionTime", "AcquisitionDateTime"),
    "Content Time": ("ContentDate", "ContentTime"),
}

_SPLIT_AT = {keyword: n for n, keyword in enumerate(SPLIT_BY)}

_T = TypeVar("_T")

#: Reasons that are no mere "this is something else".
_FAILURES = (
    ReasonCode.UNREADABLE_FILE,
    ReasonCode.DUPLICATE_UID_CONFLICT,
    ReasonCode.TOO_LARGE,
    ReasonCode.MISSING_FILE,
    ReasonCode.BAD_DICOMDIR,
    ReasonCode.UNSAFE_ARCHIVE,
    ReasonCode.ENCRYPTED_ARCHIVE,
    ReasonCode.NESTED_ARCHIVE,
    ReasonCode.CANNOT_WRITE,
)


@dataclass(frozen=True)
class SeriesFiles:
    """Files that make one volume; nothing in it tells who the patient is.

    Args:
        case: 12 hexadecimal digits that stand for the series.
        modality: ``"CT"``, ``"MR"`` or ``"PT"``.
        paths: the file of each slice, not yet in slice order; kept out of ``repr``: names may be patients' names.
        warnings: what the grouping had to decide, for the report.
        frames: the number (from 1) of each slice in its file, 0 where the file holds one image; empty when all do.
    """

    case: str
    modality: str
    paths: tuple[Path, ...] = field(repr=False)
    warnings: tuple[str, ...] = ()
    frames: tuple[int, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class SkippedItem:
    """Files that were left out, and why.

    Args:
        case: 12 hexadecimal digits that stand for the series, or for this kind of file.
        reason: machine-readable code.
        message: one sentence for a person.
        n_files: how many files.
    """

    case: str
    reason: ReasonCode
    message: str
    n_files: int

    @property
    def corrupt(self) -> bool:
        """Whether the bytes of the files are damaged."""
        return self.reason is ReasonCode.UNREADABLE_FILE

    @property
    def failed(self) -> bool:
        """Whether they should have been worked on; the others are simply something else."""
        return self.reason in _FAILURES


@dataclass(frozen=True, slots=True)
class SeriesImage:
    """The few attributes of an image that grouping needs, so that headers need not stay in memory.

    Args:
        path: where its file is listed.
        frame: number in its file, from 1; 0 for the file itself.
        modality: ``"CT"``, ``"MR"`` or ``"PT"``.
        series: Series Instance UID.
        uid: SOP Instance UID.
        grid: SOP class, Frame of Reference UID, Rows, Columns; of a frame its stack and class; digest of study and
            patient.
        plane: where it is; ``None`` when that is not known.
        split_values: what may tell it from another image at its place, as :data:`SPLIT_BY` lists it.
        order_values: what may order images of one place, as :data:`ORDER_BY` lists it.
        named_localizer: whether a description calls it a localizer.
    """

    path: Path
    frame: int
    modality: str
    series: str
    uid: str
    grid: tuple[str, ...]
    plane: ImagePlane | None
    split_values: tuple[str, ...]
    order_values: tuple[str, ...]
    named_localizer: bool

    def value(self, keyword: str) -> str:
        """What may tell it from another image at its place."""
        return self.split_values[_SPLIT_AT[keyword]]


def series_image(path: Path, header: pydicom.Dataset) -> SeriesImage:
    """What grouping needs of an image's header; ``path`` is where its file is listed."""
    grid = [text(header, key) for key in ("FrameOfReferenceUID", "Rows", "Columns")]
    frame = 0
    if isinstance(header, FrameHeader):
        # A stack is a volume or several at one place; two stacks are never one volume (PS3.3 C.7.6.16.2.2.7).
        frame, grid = header.frame_number, [*grid, text(header, "StackID"), header.object_class]
    series = text(header, "SeriesInstanceUID")
    # One Series Instance UID may serve several patients or studies, where somebody made it up.
    keywords = ("StudyInstanceUID", "PatientID") if series else ("StudyInstanceUID", "PatientID", "SeriesNumber")
    owner = case_digest(*(text(header, key) for key in keywords))
    plane = image_plane(header)
    if plane is not None:
        plane = replace(plane, cosines=_shared(plane.cosines), pixel_spacing_mm=_shared(plane.pixel_spacing_mm))
    return SeriesImage(
        path=path,
        frame=frame,
        modality=_shared(modality_of(header)),
        series=_shared(series),
        uid=sop_instance(header),
        grid=_shared((sop_class(header), *grid, owner)),
        plane=plane,
        split_values=tuple(_shared(_split_value(header, key)) for key in SPLIT_BY),
        order_values=tuple(_shared("\\".join(text(header, key) for key in keys)) for keys in ORDER_BY.values()),
        named_localizer=named_localizer(header),
    )


def _split_value(header: pydicom.Dataset, keyword: str) -> str:
    return complex_component(header) if keyword == "ComplexImageComponent" else text(header, keyword)


@lru_cache(maxsize=4096)
def _shared(value: _T) -> _T:
    """An equal object of an earlier image: a hundred thousand images have few values between them."""
    return value


def same_content(first: Path, second: Path, limits: ReadLimits) -> bool:
    """Whether two files are equal byte by byte, or at least in all elements."""
    try:
        if filecmp.cmp(first, second, shallow=False):
            return True
        contents = [read_header(path, limits, with_pixels=True) for path in (first, second)]
        return None not in contents and bool(contents[0] == contents[1])
    except Exception:
        return False


def with_unique_cases(found: list[SeriesFiles]) -> list[SeriesFiles]:
    """Tell volumes apart whose names would be the same."""
    seen: Counter[str] = Counter()
    unique = []
    for item in found:
        case = case_digest(item.case, str(seen[item.case])) if seen[item.case] else item.case
        seen[item.case] += 1
        unique.append(replace(item, case=case))
    return unique


def case_digest(*parts: object, digits: int = 12) -> str:
    """Hexadecimal digits that stand for ``parts``."""
    # File names need be no text: what is no UTF-8 in them reaches Python as surrogates.
    joined = "\n".join(str(part) for part in parts)
    return hashlib.sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()[:digits]
