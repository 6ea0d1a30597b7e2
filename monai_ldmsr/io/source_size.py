"""How large a source is, by its headers alone: no voxel is decoded."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass

from monai_ldmsr.errors import CorruptSourceError, OutputError, ReasonCode, SourceError
from monai_ldmsr.io.formats import InspectedFile, inspect_file
from monai_ldmsr.io.limits import DEFAULT_LIMITS, ReadLimits, too_large
from monai_ldmsr.io.packed_source import AnySource, PackedSource, on_disk
from monai_ldmsr.io.series_grouping import SeriesFiles
from monai_ldmsr.io.volume_file import NiftiVolume

__all__ = ["SourceSize", "known_size", "source_size"]

#: A DICOM result has 16 bits a voxel, and a header of some kilobytes an image.
_DICOM_BYTES, _HEADER_BYTES = 2, 8192


@dataclass(frozen=True)
class SourceSize:
    """Size of one volume.

    Args:
        shape: (I, J, K).
        item_bytes: bytes of a voxel as it is stored.
        share: bytes on disk for each byte that is stored, below 1 where they are compressed.
        header_bytes: bytes of the headers.
        is_one_file: whether all slices are written at once, not one by one.
    """

    shape: tuple[int, int, int]
    item_bytes: int
    share: float = 1.0
    header_bytes: int = _HEADER_BYTES
    is_one_file: bool = False

    @property
    def voxels(self) -> int:
        """How many."""
        return math.prod(self.shape)


def source_size(source: AnySource, limits: ReadLimits = DEFAULT_LIMITS) -> SourceSize:
    """Size of a source.

    Raises:
        SourceError: its header alone says that it cannot be read rightly.
        OutputError: an archive cannot be unpacked.
    """
    if isinstance(source, SeriesFiles):
        shape = (*source.matrix, len(source.paths))
        limits.check_voxels("The series", shape)
        if shape[0] * shape[1] > limits.slice_bytes:  # as 8 bits, which is the least
            raise too_large(f"The series has slices of {shape[0]} x {shape[1]} pixels.", "slice_bytes")
        return SourceSize(shape, _DICOM_BYTES, header_bytes=_HEADER_BYTES * len(source.paths))
    if isinstance(source, PackedSource):
        if isinstance(source.source, SeriesFiles):
            return source_size(source.source, limits)
        with on_disk(source) as unpacked:
            return source_size(unpacked, limits)
    try:
        file = source.file if isinstance(source, NiftiVolume) else inspect_file(source, limits)
        shape, item_bytes = file.size()
    except SourceError:
        raise
    except Exception:  # a library's, whose message holds the path
        raise CorruptSourceError(
            "The header of the file is damaged or not as its format says. Copy or convert the file again.",
            ReasonCode.UNREADABLE_FILE,
        ) from None
    return SourceSize(shape, item_bytes, _share(file, math.prod(shape) * item_bytes), is_one_file=True)


def known_size(source: AnySource, limits: ReadLimits = DEFAULT_LIMITS) -> SourceSize | None:
    """Size of a source; None where its header does not say it, which its reader refuses."""
    with suppress(SourceError, OutputError):
        return source_size(source, limits)
    return None


def _share(file: InspectedFile, n_bytes: int) -> float:
    return min(1.0, file.stamp[0] / max(1, n_bytes * file.n_volumes))
