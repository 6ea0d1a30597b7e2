"""Parse one DICOM file without trusting it: what it makes pydicom read, keep and inflate is limited."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, cast

import pydicom
from pydicom.filereader import read_dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from monai_ldmsr.errors import CorruptSourceError, ReasonCode, SourceError
from monai_ldmsr.io.limits import DEFAULT_LIMITS, ReadLimits, too_large

__all__ = ["is_gzip", "open_dicom", "read_dicom_file"]

_PIXEL_TAGS = frozenset((0x7FE00008, 0x7FE00009, 0x7FE00010))

_CHUNK_BYTES = 2**16

_GZIP = b"\x1f\x8b"

#: Of real headers at least; those that are made to take long have fewer.
_BYTES_PER_READ = 12

_MAYBE_SEQUENCES = ("SQ", "UN", None)

#: Tag of an item, little and big endian.
_ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")


def read_dicom_file(
    path: Path, limits: ReadLimits = DEFAULT_LIMITS, *, with_pixels: bool = False
) -> pydicom.Dataset | None:
    """Parse a regular file, by default up to its pixels; ``None`` when it does not begin as DICOM.

    Without the preamble and magic word of PS3.10, a file of group 0002 or 0008 in little endian is tried.

    Raises:
        SourceError: ``TOO_LARGE``.
        Exception: whatever pydicom and zlib raise; their messages may quote the file.
    """
    with open_dicom(path, limits) as file:
        if file is None:
            return None
        start = file.read(132)
        has_preamble = start[128:] == b"DICM"
        if not has_preamble and not (len(start) == 132 and start[:2] in (b"\x02\x00", b"\x08\x00")):
            return None
        size = file.seek(0, os.SEEK_END)
        most = limits.for_dicom_file(size)
        max_bytes = most.header_bytes + (2 * limits.slice_bytes if with_pixels else 0)
        meta, end_of_meta = _file_meta(file, 132 if has_preamble else 0, size, limits)
        is_deflated = meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian
        file.seek(end_of_meta if is_deflated else 0)
        source = io.BytesIO(_inflated(file, limits)) if is_deflated else file
        n_bytes = len(source.getvalue()) if isinstance(source, io.BytesIO) else size
        stream = _LimitedStream(source, n_bytes, max_bytes, limits.header_reads, most.header_reads)
        try:
            parsed = _parsed(stream, meta if is_deflated else None, start, with_pixels)
        except Exception as error:
            # pydicom takes some errors of its stream for the end of the file.
            raise stream.refusal or error from None
        _check_items(parsed, most)
        parsed.buffer, parsed.fileobj_type, parsed.filename = None, open, os.fspath(path)
        return parsed


def _parsed(
    stream: _LimitedStream, meta: pydicom.Dataset | None, start: bytes, with_pixels: bool
) -> pydicom.FileDataset:
    """The data set of a whole file, or of what was deflated behind ``meta``."""
    if meta is None:
        return pydicom.dcmread(stream, stop_before_pixels=not with_pixels, force=start[128:] != b"DICM")
    at_pixels = None if with_pixels else lambda tag, vr, length: tag in _PIXEL_TAGS
    dataset = read_dataset(cast(BinaryIO, stream), False, True, stop_when=at_pixels)
    file_meta = pydicom.dataset.FileMetaDataset(meta)
    parsed = pydicom.FileDataset("", dataset, start[:128], file_meta, False, True)
    parsed.set_original_encoding(False, True, dataset.original_character_set)
    return parsed


def _check_items(dataset: pydicom.Dataset, limits: ReadLimits) -> None:
    """Count the items of sequences that pydicom has kept as bytes, to parse them when somebody asks."""
    values = (element.value for element in dataset.elements() if element.VR in _MAYBE_SEQUENCES)
    n_items = sum(value.count(item) for value in values if isinstance(value, bytes) for item in _ITEMS)
    if n_items > limits.header_reads:
        raise too_large("A DICOM file has too many sequence items to be an image.", "header_reads")


class _LimitedStream:
    """The reading half of a file: counts what is read, since pydicom keeps all of it.

    Args:
        stream: a file of which all reads are small but those of values.
        size: size of the file in bytes.
        max_bytes: most bytes that may be read.
        reads: number of reads that may be made, and one more for each 12 bytes.
        most_reads: number of reads that may be made at all.

    Attributes:
        refusal: the error that ended reading, if a limit did.
    """

    def __init__(self, stream: BinaryIO, size: int, max_bytes: int, reads: int, most_reads: int) -> None:
        self.seek, self.tell = stream.seek, stream.tell
        self._read = stream.read
        self._size = size
        self._n_bytes, self._n_reads = 0, 0
        self._max_bytes, self._reads, self._most_reads = max_bytes, reads, most_reads
        self.refusal: SourceError | None = None

    def read(self, n_bytes: int = -1) -> bytes:
        if n_bytes < 0:
            # Only to inflate does pydicom read to the end, and that has no limit there.
            raise CorruptSourceError(
                "The file meta information of a DICOM file is damaged. Fetch the series again.",
                ReasonCode.UNREADABLE_FILE,
            )
        # A length that a header only claims must not become a buffer.
        data = self._read(min(n_bytes, self._size, self._max_bytes - self._n_bytes + 1))
        self._n_bytes += len(data)
        self._n_reads += 1
        if self._n_bytes > self._max_bytes:
            self.refusal = too_large("A DICOM file has too many bytes to be the header of an image.", "header_bytes")
        elif self._n_reads > min(self._most_reads, self._reads + self._n_bytes // _BYTES_PER_READ):
            self.refusal = too_large("A DICOM file has too many elements to be the header of an image.", "header_reads")
        if self.refusal:
            raise self.refusal
        return data


def _file_meta(file: BinaryIO, begin: int, size: int, limits: ReadLimits) -> tuple[pydicom.Dataset, int]:
    """Elements of group 0002, and where they end; what their group length says is not needed."""
    file.seek(begin)
    stream = _LimitedStream(file, size, limits.header_bytes, limits.header_reads, limits.header_reads)
    meta = read_dataset(cast(BinaryIO, stream), False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    return meta, file.tell()


@contextmanager
def open_dicom(path: Path, limits: ReadLimits = DEFAULT_LIMITS) -> Iterator[BinaryIO | None]:
    """Open a regular file, inflated in memory where it is DICOM in gzip; ``None`` where gzip holds something else.

    Raises:
        SourceError: ``TOO_LARGE``.
        CorruptSourceError: ``UNREADABLE_FILE`` when the gzip stream is truncated.
        OSError: it is damaged, as is ``zlib.error``.
    """
    with path.open("rb") as file:
        if file.read(2) != _GZIP:
            file.seek(0)
            yield file
            return
        file.seek(0)
        # A look at the beginning first: what else is in gzip may be of any size.
        start = b""
        with suppress(zlib.error, EOFError, OSError), gzip.GzipFile(fileobj=file) as members:
            start = members.read(132)
        file.seek(0)
        yield io.BytesIO(_gunzipped(file, limits)) if start[128:] == b"DICM" else None


def is_gzip(path: Path) -> bool:
    """Whether a regular file begins as gzip does."""
    with path.open("rb") as file:
        return file.read(2) == _GZIP


def _gunzipped(file: BinaryIO, limits: ReadLimits) -> bytes:
    """All members of a gzip file."""
    inflated, room = [], limits.slice_bytes
    try:
        with gzip.GzipFile(fileobj=file) as members:
            while chunk := members.read(min(_CHUNK_BYTES, room + 1)):
                inflated.append(chunk)
                room -= len(chunk)
                if room < 0:
                    raise _inflates_too_far(limits)
    except EOFError:
        raise _cut_short() from None
    return b"".join(inflated)


def _inflated(file: BinaryIO, limits: ReadLimits) -> bytes:
    """What was deflated, from where ``file`` stands."""
    inflater, inflated, room = zlib.decompressobj(-zlib.MAX_WBITS), [], limits.slice_bytes
    while not inflater.eof:
        chunk = inflater.unconsumed_tail or file.read(_CHUNK_BYTES)
        if not chunk:
            raise _cut_short()
        inflated.append(inflater.decompress(chunk, room + 1))
        room -= len(inflated[-1])
        if room < 0:
            raise _inflates_too_far(limits)
    return b"".join(inflated)


def _cut_short() -> CorruptSourceError:
    return CorruptSourceError(
        "A deflated or gzipped DICOM file is truncated. Fetch the series again.", ReasonCode.UNREADABLE_FILE
    )


def _inflates_too_far(limits: ReadLimits) -> SourceError:
    return too_large(
        f"A deflated or gzipped DICOM file inflates to more than {limits.slice_bytes} bytes.", "slice_bytes"
    )
