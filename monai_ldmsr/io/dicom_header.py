"""Read the header of one DICOM file safely, and what it says of modality, matrix and place."""

from __future__ import annotations

import logging
import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
)

from monai_ldmsr.errors import CorruptSourceError, ReasonCode, SourceError
from monai_ldmsr.io.dicom_file import read_dicom_file
from monai_ldmsr.io.limits import DEFAULT_LIMITS, ReadLimits

__all__ = [
    "CLASSIC",
    "PET_UNITS",
    "ImagePlane",
    "image_plane",
    "length_mm",
    "matrix_size",
    "modality_of",
    "number_list",
    "quiet_pydicom",
    "read_header",
    "sop_class",
    "sop_instance",
    "text",
]

_TRANSFER_SYNTAX = pydicom.tag.Tag(0x0002, 0x0010)

#: Defined terms of Units (PS3.3 C.8.9.1.1.3). Others are allowed, but may be anything, so no report repeats them.
PET_UNITS = {
    *("CNTS", "NONE", "CM2", "CM2ML", "PCNT", "CPS", "BQML", "MGMINML", "UMOLMINML", "MLMING", "MLG", "1CM", "UMOLML"),
    *("PROPCNTS", "PROPCPS", "MLMINML", "MLML", "GML", "STDDEV"),
}

#: Modality of the images of each class that is read and written.
CLASSIC = {CTImageStorage: "CT", MRImageStorage: "MR", PositronEmissionTomographyImageStorage: "PT"}

#: A plane is nonsense when its cosines are less orthogonal than this, or their lengths further from 1.
_COSINE_TOLERANCE = 1e-2

#: Positions of repeated volumes jitter by hundredths of a mm in clinical scanners, but never by a good part of a voxel:
#: whole volumes of small animals have slices closer than that.
_POSITION_JITTER_MM, _POSITION_TOLERANCE = 0.05, 0.2


@dataclass(frozen=True)
class ImagePlane:
    """Where one image is in the patient, in LPS millimetres.

    Args:
        cosines: six: two unit vectors, of growing column index, then of growing row index.
        position_mm: centre of the first voxel.
        pixel_spacing_mm: (between rows, between columns), as in Pixel Spacing.
        thickness_mm: Slice Thickness, else Spacing Between Slices; 0 where neither is said.
    """

    cosines: tuple[float, ...]
    position_mm: tuple[float, ...]
    pixel_spacing_mm: tuple[float, ...]
    thickness_mm: float = 0.0

    @property
    def normal(self) -> npt.NDArray[np.float64]:
        """(3,) unit vector of growing column index x growing row index."""
        normal = np.cross(self.cosines[:3], self.cosines[3:])
        return np.asarray(normal / np.linalg.norm(normal))

    @property
    def position_tolerance_mm(self) -> float:
        """Two images closer than this along the normal stand at the same position."""
        voxel_mm = (*self.pixel_spacing_mm, self.thickness_mm or math.inf)
        return min(_POSITION_JITTER_MM, _POSITION_TOLERANCE * min(voxel_mm))


class _Quiet:
    """Warnings and loggers belong to the whole process: the first thread that comes silences, the last one restores."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = 0
        self._restored = ExitStack()

    def begin(self) -> None:
        with self._lock:
            self._threads += 1
            if self._threads > 1:
                return
            self._restored.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            # By level, which the loggers below inherit: those of the decoders quote what they cannot decode.
            for logger in (logging.getLogger(name) for name in ("pydicom", "highdicom", "pylibjpeg", "openjpeg")):
                self._restored.callback(logger.setLevel, logger.level)
                logger.setLevel(logging.CRITICAL + 1)

    def end(self) -> None:
        with self._lock:
            self._threads -= 1
            if not self._threads:
                self._restored.close()


_quiet = _Quiet()


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Keep warnings and log lines of pydicom and highdicom from the console: they may quote values of the patient."""
    _quiet.begin()
    try:
        yield
    finally:
        _quiet.end()


def read_header(
    path: Path, limits: ReadLimits = DEFAULT_LIMITS, *, with_pixels: bool = False
) -> pydicom.Dataset | None:
    """Read all of a file that stands before its pixels; ``None`` when it is no DICOM file.

    Args:
        path: anything; what is no regular file is ``None``.
        limits: see :class:`~monai_ldmsr.io.limits.ReadLimits`.
        with_pixels: read the pixels too.

    Raises:
        CorruptSourceError: ``UNREADABLE_FILE`` when it begins as DICOM and cannot be parsed.
        SourceError: ``TOO_LARGE``.
    """
    try:
        # A pipe would wait for its writer.
        if not path.is_file():
            return None
        with quiet_pydicom():
            header = read_dicom_file(path, limits, with_pixels=with_pixels)
            if header is None:
                return None
            header = _with_transfer_syntax(header)
            return header if getattr(header, "preamble", b"") is not None or "SOPClassUID" in header else None
    except SourceError:
        raise
    except Exception:
        # Whatever a parser says of hostile bytes may quote them, so nothing of it is kept.
        raise CorruptSourceError(
            "A DICOM file cannot be read: its header is damaged, or the file may not be opened. "
            "Fetch the series again.",
            ReasonCode.UNREADABLE_FILE,
        ) from None


def _with_transfer_syntax(header: pydicom.Dataset) -> pydicom.Dataset:
    if not hasattr(header, "file_meta"):
        header.file_meta = pydicom.dataset.FileMetaDataset()
    syntax = header.file_meta.get("TransferSyntaxUID")
    if not syntax:
        implicit, little = header.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        syntax = ImplicitVRLittleEndian if implicit else explicit
    # Set again, since a damaged value representation makes something else of it; several values raise here.
    header.file_meta[_TRANSFER_SYNTAX] = pydicom.DataElement(_TRANSFER_SYNTAX, "UI", pydicom.uid.UID(syntax))
    return header


def matrix_size(header: pydicom.Dataset) -> tuple[int, int] | None:
    """(rows, columns), or ``None`` when they are missing or impossible."""
    size = [number_list(header, keyword, 1) for keyword in ("Rows", "Columns")]
    rows, columns = (0 if n is None or n[0] % 1 else int(n[0]) for n in size)
    return (rows, columns) if min(rows, columns) > 0 else None


def text(header: pydicom.Dataset, keyword: str) -> str:
    r"""Value of an attribute as text, several values joined by ``\``; ``""`` when there is none."""
    try:
        value = header.get(keyword)
    except Exception:
        return ""
    if value is None:
        return ""
    if isinstance(value, (list, tuple, pydicom.multival.MultiValue)):
        return "\\".join(str(part).strip() for part in value)
    return str(value).strip()


def number_list(header: pydicom.Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """Exactly ``count`` finite numbers, or ``None``."""
    try:
        numbers = tuple(float(part) for part in text(header, keyword).split("\\"))
    except ValueError:
        return None
    return numbers if len(numbers) == count and all(math.isfinite(n) for n in numbers) else None


def image_plane(header: pydicom.Dataset) -> ImagePlane | None:
    """Place of the image in the patient, or ``None`` when any part of it is missing or impossible."""
    cosines = number_list(header, "ImageOrientationPatient", 6)
    position = number_list(header, "ImagePositionPatient", 3)
    spacing = number_list(header, "PixelSpacing", 2)
    if cosines is None or position is None or spacing is None or min(spacing) <= 0:
        return None
    row, column = np.array(cosines[:3]), np.array(cosines[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    deviations = (abs(row @ column), abs(lengths[0] - 1), abs(lengths[1] - 1))
    if max(deviations) > _COSINE_TOLERANCE:
        return None
    # DICOM's decimal strings round; unit length keeps voxel sizes equal to Pixel Spacing.
    unit = (*(row / lengths[0]).tolist(), *(column / lengths[1]).tolist())
    return ImagePlane(unit, position, spacing, length_mm(header, "SliceThickness", "SpacingBetweenSlices"))


def length_mm(header: pydicom.Dataset, *keywords: str) -> float:
    """The first of some lengths that is given and not 0, else 0; a minus, as some write for a stack's sense, goes."""
    found = (abs((number_list(header, keyword, 1) or (0.0,))[0]) for keyword in keywords)
    return next(filter(None, found), 0.0)


def sop_class(header: pydicom.Dataset) -> str:
    """SOP Class UID, from the file meta information when the data set was emptied of it."""
    return text(header, "SOPClassUID") or text(header.file_meta, "MediaStorageSOPClassUID")


def sop_instance(header: pydicom.Dataset) -> str:
    """SOP Instance UID, from the file meta information when the data set was emptied of it."""
    return text(header, "SOPInstanceUID") or text(header.file_meta, "MediaStorageSOPInstanceUID")


def modality_of(header: pydicom.Dataset) -> str:
    """``"CT"``, ``"MR"`` or ``"PT"`` as SOP class and Modality agree, else ``""``."""
    modality = text(header, "Modality").upper()
    expected = CLASSIC.get(pydicom.uid.UID(sop_class(header)), modality)
    return expected if modality in ("", expected) and expected in CLASSIC.values() else ""
