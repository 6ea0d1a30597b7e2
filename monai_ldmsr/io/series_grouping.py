"""What grouping needs to know of one image, what it makes of many, and by which name a volume is known."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import pydicom

from monai_ldmsr.errors import ReasonCode
from monai_ldmsr.io.dicom_header import ImagePlane, image_plane, modality_of, sop_class, sop_instance, text
from monai_ldmsr.io.enhanced_multiframe import FrameHeader
from monai_ldmsr.io.image_kind import complex_component, named_localizer
from monai_ldmsr.outcome import Outcome

__all__ = [
    "ORDER_BY",
    "SPLIT_BY",
    "SeriesFiles",
    "SeriesImage",
    "SkippedItem",
    "case_digest",
    "series_image",
]

#: What may distinguish volumes of one series, tried in this order.
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

#: What may order the images of each place, where nothing distinguishes volumes.
ORDER_BY = {
    "Instance Number": ("InstanceNumber",),
    "Acquisition Time": ("AcquisitionDate", "AcquisitionTime", "AcquisitionDateTime"),
    "Content Time": ("ContentDate", "ContentTime"),
}

_SPLIT_AT = {keyword: n for n, keyword in enumerate(SPLIT_BY)}

_T = TypeVar("_T")

#: Reasons that are no mere "this is something else".
_FAILURES = (
    ReasonCode.NO_SUCH_SOURCE,
    ReasonCode.UNREADABLE_FILE,
    ReasonCode.DUPLICATE_UID_CONFLICT,
    ReasonCode.DUPLICATE_POSITION,
    ReasonCode.NO_GEOMETRY,
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
    """Files that make one volume; nothing in it identifies the patient.

    Args:
        case: 12 hexadecimal digits that stand for the series.
        modality: ``"CT"``, ``"MR"`` or ``"PT"``.
        paths: the file of each slice, not yet in slice order; kept out of ``repr``: names may be patients' names.
        warnings: what the grouping had to decide, for the report.
        frames: the number (from 1) of each slice in its file, 0 where the file holds one image; empty when all do.
        volume: number from 1 among the volumes of its series, in the order of what distinguishes them; 0 when alone.
        label: what distinguishes it from those, such as ``"TE 2.46 ms"``.
        matrix: columns and rows of its images.
    """

    case: str
    modality: str
    paths: tuple[Path, ...] = field(repr=False)
    warnings: tuple[str, ...] = ()
    frames: tuple[int, ...] = field(default=(), repr=False)
    volume: int = 0
    label: str = field(default="", repr=False)
    matrix: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class SkippedItem:
    """Files that were left out, and why.

    Args:
        case: 12 hexadecimal digits that stand for the series, or for this kind of file.
        reason: machine-readable code.
        message: one sentence for a person.
        n_files: how many files.
        paths: which, where that is known; only for whoever runs this, in no message and no summary.
    """

    case: str
    reason: ReasonCode
    message: str
    n_files: int
    paths: tuple[Path, ...] = field(default=(), repr=False, compare=False)

    @property
    def failed(self) -> bool:
        """Whether they should have been worked on; the others are simply something else."""
        return self.reason in _FAILURES

    @property
    def outcome(self) -> Outcome:
        """What became of them: ``failed`` or ``skipped``."""
        message = f"{self.message} ({self.n_files} {'file' if self.n_files == 1 else 'files'})"
        status, is_corrupt = "failed" if self.failed else "skipped", self.reason is ReasonCode.UNREADABLE_FILE
        return Outcome(status, self.reason.value, message, is_corrupt)


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
        split_values: what may distinguish it from another image at its place, as :data:`SPLIT_BY` lists it.
        order_values: what may order images of one place, as :data:`ORDER_BY` lists it.
        named_localizer: whether a description calls it a localizer.
        stand_in: digest of its header, where it has no SOP Instance UID.
        skip: why it is not worked on, as code and sentence; it then only shows what its series lacks.
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
    stand_in: str = ""
    skip: tuple[ReasonCode, str] | None = None

    def value(self, keyword: str) -> str:
        """What may distinguish it from another image at its place."""
        return self.split_values[_SPLIT_AT[keyword]]

    @property
    def identity(self) -> str:
        """What distinguishes it from all other images."""
        return self.uid or self.stand_in


def series_image(path: Path, header: pydicom.Dataset) -> SeriesImage:
    """What grouping needs of an image's header; ``path`` is where its file is listed."""
    grid = [text(header, key) for key in ("FrameOfReferenceUID", "Rows", "Columns")]
    frame = 0
    if isinstance(header, FrameHeader):
        # A stack is a volume or several at one place; two stacks are never one volume (PS3.3 C.7.6.16.2.2.7).
        frame, grid = header.frame_number, [*grid, text(header, "StackID"), header.object_class]
    series = text(header, "SeriesInstanceUID")
    # One Series Instance UID may serve several patients or studies, where somebody made it up.
    keywords = ("StudyInstanceUID",) if series else ("StudyInstanceUID", "SeriesNumber")
    owners = (case_digest(text(header, "PatientID")), case_digest(*(text(header, key) for key in keywords)))
    plane = image_plane(header)
    if plane is not None:
        plane = replace(plane, cosines=_shared(plane.cosines), pixel_spacing_mm=_shared(plane.pixel_spacing_mm))
    uid = sop_instance(header)
    return SeriesImage(
        path=path,
        frame=frame,
        modality=_shared(modality_of(header)),
        series=_shared(series),
        uid=uid,
        grid=_shared((sop_class(header), *grid, *owners)),
        plane=plane,
        split_values=tuple(_shared(_split_value(header, key)) for key in SPLIT_BY),
        order_values=tuple(_shared("\\".join(text(header, key) for key in keys)) for keys in ORDER_BY.values()),
        named_localizer=named_localizer(header),
        # Not the file's name: files of several patients may be called alike.
        stand_in="" if uid else _header_digest(header),
    )


def _split_value(header: pydicom.Dataset, keyword: str) -> str:
    return complex_component(header) if keyword == "ComplexImageComponent" else text(header, keyword)


def _header_digest(header: pydicom.Dataset) -> str:
    try:
        return case_digest(str(header))
    except Exception:  # a damaged element, which its reader refuses
        return case_digest(*sorted(str(tag) for tag, _ in header.items()))


@lru_cache(maxsize=4096)
def _shared(value: _T) -> _T:
    """An equal object of an earlier image: a hundred thousand images have few values between them."""
    return value


def case_digest(*parts: object, digits: int = 12) -> str:
    """Hexadecimal digits that stand for ``parts``."""
    # File names need be no text: what is no UTF-8 in them reaches Python as surrogates.
    joined = "\n".join(str(part) for part in parts)
    return hashlib.sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()[:digits]
