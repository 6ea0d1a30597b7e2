"""Parse one DICOM file without trusting it: what it makes pydicom read, keep and inflate is limited."""

from __future__ import annotations

import io
import os
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import pydicom
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from monai_ldmsr.errors import CorruptSourceError, ReasonCode
from monai_ldmsr.io.limits import DEFAULT_LIMITS, ReadLimits, too_large

__all__ = ["read_dicom_file"]

_PIXEL_TAGS = frozenset((0x7FE00008, 0x7FE00009, 0x7FE00010))

_CHUNK_BYTES = 2**16

_MAYBE_SEQUENCES = ("SQ", "UN", None)

#: Tag of an item, little and big endian.
_ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")


def read_dicom_file(
    path: Path, limits: ReadLimits = DEFAULT_LIMITS, *, with_pixels: bool = False
) -> pydicom.Dataset | None:
    """Parse a file, by default up to its pixels; ``None`` when it does not begin as DICOM.

    Without the preamble and magic word of PS3.10, a file of group 0002 or 0008 in little endian is tried.

    Args:
        path: a regular file.
        limits: see :class:`ReadLimits`.
        with_pixels: parse the whole file.

    Raises:
        SourceError: ``TOO_LARGE``.
        Exception: whatever pydicom and zlib raise; their messages may quote the file.
    """
    with path.open("rb") as file:
        start = file.read(132)
        has_preamble = start[128:] == b"DICM"
        if not has_preamble and not (len(start) == 132 and start[:2] in (b"\x02\x00", b"\x08\x00")):
            return None
        size = os.fstat(file.fileno()).st_size
        limits = limits.for_dicom_file(size)
        max_bytes = limits.header_bytes + (2 * limits.slice_bytes if with_pixels else 0)
        meta, end_of_meta = _file_meta(file, 132 if has_preamble else 0, size, limits)
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            file.seek(end_of_meta)
            inflated = _inflated(file, limits)
            stream = _LimitedStream(io.BytesIO(inflated), len(inflated), max_bytes, limits)
            dataset = read_dataset(cast(BinaryIO, stream), False, True, stop_when=None if with_pixels else _at_pixels)
            parsed = pydicom.FileDataset(
                os.fspath(path), dataset, start[:128], pydicom.dataset.FileMetaDataset(meta), False, True
            )
            parsed.set_original_encoding(False, True, dataset.original_character_set)
            _check_items(parsed, limits)
            return parsed
        file.seek(0)
        stream = _LimitedStream(file, size, max_bytes, limits)
        parsed = pydicom.dcmread(stream, stop_before_pixels=not with_pixels, force=not has_preamble)
        _check_items(parsed, limits)
        parsed.buffer, parsed.fileobj_type, parsed.filename = None, open, os.fspath(path)
        return parsed


def _check_items(dataset: pydicom.Dataset, limits: ReadLimits) -> None:
    """Count the items of sequences that pydicom has kept as bytes, to parse them when somebody asks."""
    values = (element.value for element in dataset.elements() if element.VR in _MAYBE_SEQUENCES)
    n_items = sum(value.count(item) for value in values if isinstance(value, bytes) for item in _ITEMS)
    if n_items > limits.header_reads:
        raise too_large("A DICOM file has too many sequence items to be an image.", "header_reads")


class _LimitedStream:
    """The reading half of a file: counts what is read, since pydicom keeps all of it."""

    def __init__(self, stream: BinaryIO, size: int, max_bytes: int, limits: ReadLimits) -> None:
        self.seek, self.tell = stream.seek, stream.tell
        self._read = stream.read
        self._size = size
        self._bytes_left, self._reads_left = max_bytes, limits.header_reads

    def read(self, n_bytes: int = -1) -> bytes:
        if n_bytes < 0:
            # Only to inflate does pydicom read to the end, and that has no limit there.
            raise CorruptSourceError(
                "The file meta information of a DICOM file is damaged. Fetch the series again.",
                ReasonCode.UNREADABLE_FILE,
            )
        # A length that a header only claims must not become a buffer.
        data = self._read(min(n_bytes, self._size, self._bytes_left + 1))
        self._bytes_left -= len(data)
        self._reads_left -= 1
        if self._bytes_left < 0:
            raise too_large("A DICOM file has too many bytes to be the header of an image.", "header_bytes")
        if self._reads_left < 0:
            raise too_large("A DICOM file has too many elements to be the header of an image.", "header_reads")
        return data


def _file_meta(file: BinaryIO, begin: int, size: int, limits: ReadLimits) -> tuple[pydicom.Dataset, int]:
    """Elements of group 0002, and where they end; what their group length says is not needed."""
    file.seek(begin)
    stream = _LimitedStream(file, size, limits.header_bytes, limits)
    meta = read_dataset(cast(BinaryIO, stream), False, True, stop_when=_after_meta)
    return meta, file.tell()


def _after_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag.group != 2


def _at_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag in _PIXEL_TAGS


def _inflated(file: BinaryIO, limits: ReadLimits) -> bytes:
    inflater, inflated, room = zlib.decompressobj(-zlib.MAX_WBITS), [], limits.slice_bytes
    while not inflater.eof:
        chunk = inflater.unconsumed_tail or file.read(_CHUNK_BYTES)
        if not chunk:
            raise CorruptSourceError(
                "A deflated DICOM file is truncated. Fetch the series again.", ReasonCode.UNREADABLE_FILE
            )
        inflated.append(inflater.decompress(chunk, room + 1))
        room -= len(inflated[-1])
        if room < 0:
            raise too_large(f"A deflated DICOM file inflates to more than {limits.slice_bytes} bytes.", "slice_bytes")
    return b"".join(inflated)
