"""What the readers of volume files do not look at: whether the file ends where its header says, and its checksum."""

from __future__ import annotations

import gzip
import io
import math
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from monai_ldmsr.errors import CorruptSourceError, ReasonCode
from monai_ldmsr.io.binary_header import BinaryHeader
from monai_ldmsr.io.stored_bytes import open_stored
from monai_ldmsr.io.text_header import TextHeader
from monai_ldmsr.io.value_kind import has_colour_table, label_map

__all__ = ["check_binary", "check_meta_image", "check_nrrd"]

_CHUNK = 2**20

#: What follows the voxels of an MGH file: five numbers, then tags.
_MGH_TIMES, _MAX_TAG, _MAX_FOOTER = 20, 1000, 2**24


def check_binary(header: BinaryHeader, n_bytes: int, row_bytes: int) -> None:
    """Refuse a file of nibabel's that goes on where its voxels should end, or whose gzip checksum is wrong.

    nibabel stops at the last voxel: it would neither see that each row is too short, nor read the checksum. Zeros
    that do not fill a row may follow, unless the header tells of an extension that could be what is too much.

    Args:
        header: of the file.
        n_bytes: all before the end of the voxels, as the header says.
        row_bytes: of one row of voxels; fewer than these may follow.

    Raises:
        CorruptSourceError: ``UNREADABLE_FILE``.
        SkippedSourceError: ``LABEL_MAP`` when a table of colours follows the voxels of an MGH file.
        OSError, EOFError, zlib.error: the compressed stream is damaged.
    """
    row_bytes = min(row_bytes, header.spare_bytes or row_bytes)
    with open_stored(header.data) as stream:
        if header.is_mgh:
            _check_mgh(stream, n_bytes)
        elif header.data.suffix.lower() in (".gz", ".zst"):
            _check_pieces(_pieces(stream), n_bytes, row_bytes)  # the last read is what compares the checksum
        else:
            _check_plain(stream, 0, n_bytes, row_bytes)


def _check_mgh(stream: IO[bytes], n_bytes: int) -> None:
    """Four times and an angle follow the voxels, and tags of any length that begin with a small number."""
    found = 0
    while found < n_bytes and (piece := stream.read(min(_CHUNK, n_bytes - found))):
        found += len(piece)
    if found < n_bytes:
        raise _does_not_fit(str(found), n_bytes)
    footer = io.BytesIO(stream.read(_MAX_FOOTER + 1))
    tags = footer.getbuffer()[_MGH_TIMES:]
    if len(tags) > _MAX_FOOTER - _MGH_TIMES or (len(tags) >= 4 and int.from_bytes(tags[:4], "big") > _MAX_TAG):
        raise _does_not_fit(f"{n_bytes + len(tags)} or more", n_bytes)
    footer.seek(_MGH_TIMES)
    if has_colour_table(footer):
        raise label_map("a table of colours and names follows its voxels")


def check_meta_image(path: Path, header: TextHeader, shape: tuple[int, ...], item_bytes: int) -> None:
    """Refuse a MetaImage whose voxels are more than its header says, or whose zlib checksum is wrong.

    Args:
        path: ``.mha`` file, or ``.mhd`` header with its voxels in one other file.
        header: of it.
        shape: of the voxels, as the header says.
        item_bytes: of one voxel.

    Raises:
        CorruptSourceError: ``UNREADABLE_FILE``.
        zlib.error: the stream is damaged.
    """
    n_bytes, row_bytes = math.prod(shape) * item_bytes, shape[0] * item_bytes
    fields, start = header.fields, header.n_bytes
    is_local = fields["elementdatafile"].upper() == "LOCAL"
    is_compressed = fields.get("compresseddata", "")[:1] in ("T", "t", "1")
    data = path if is_local else path.with_name(fields["elementdatafile"])
    skipped = int(fields.get("headersize", 0))
    if skipped and (is_compressed or (is_local and skipped != start)):
        raise CorruptSourceError(
            f"The header gives HeaderSize = {skipped}, which does not fit where the voxels begin. Remove this line "
            "from the header, or convert the file again.",
            ReasonCode.UNREADABLE_FILE,
        )
    if skipped == -1:  # the voxels are whatever is last in the file
        skipped = max(0, data.stat().st_size - n_bytes)
    start = start if is_local else skipped
    with data.open("rb") as stream:
        if is_compressed:
            stream.seek(start)
            _check_pieces(_inflated(stream), n_bytes, row_bytes)
        else:
            _check_plain(stream, start, n_bytes, row_bytes)


def check_nrrd(path: Path, header: TextHeader, shape: tuple[int, ...], item_bytes: int) -> None:
    """Refuse a NRRD file whose voxels are more or fewer than its header says, or whose gzip checksum is wrong.

    Args:
        path: file, or header with its voxels in one other file.
        header: of it.
        shape: of the voxels, as the header says.
        item_bytes: of one voxel.

    Raises:
        CorruptSourceError: ``UNREADABLE_FILE``.
        OSError, EOFError, zlib.error: the gzip stream is damaged.
    """
    n_bytes, row_bytes = math.prod(shape) * item_bytes, shape[0] * item_bytes
    fields = header.fields
    encoding, skipped = fields.get("encoding", "raw").lower(), int(fields.get("byteskip", 0))
    is_detached = "datafile" in fields
    with (path.with_name(fields["datafile"]) if is_detached else path).open("rb") as stream:
        stream.seek(0 if is_detached else header.n_bytes)
        for _ in range(int(fields.get("lineskip", 0))):
            stream.readline()
        if encoding in ("gzip", "gz"):
            with gzip.GzipFile(fileobj=stream) as inflated:
                inflated.read(max(0, skipped))
                _check_pieces(_pieces(inflated), n_bytes, row_bytes)
            return
        if encoding == "raw" and skipped == -1:  # the voxels are whatever is last in the file
            return
        stream.seek(max(0, skipped), 1)
        if encoding == "raw":
            _check_plain(stream, stream.tell(), n_bytes, row_bytes)
        elif encoding == "hex":
            _check_pieces((re.sub(rb"\s", b"", piece) for piece in _pieces(stream)), 2 * n_bytes, 1)
        elif encoding in ("ascii", "text", "txt"):
            _check_pieces(_numbers(stream), math.prod(shape), 1)


def _pieces(stream: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    while piece := stream.read(_CHUNK):
        yield piece


def _numbers(stream: IO[bytes]) -> Iterator[bytes]:
    """One byte for each number of a text."""
    last = b" "
    for piece in _pieces(stream):
        words = re.split(rb"[\s,]+", last + piece)  # a word that goes on was counted where it began
        yield b"1" * (sum(map(bool, words)) - (not last.isspace() and last != b","))
        last = piece[-1:]


def _inflated(stream: IO[bytes]) -> Iterator[bytes]:
    """The pieces that a zlib stream inflates to, one in memory at a time."""
    inflater = zlib.decompressobj()
    while not inflater.eof:
        piece = inflater.decompress(inflater.unconsumed_tail or stream.read(_CHUNK), _CHUNK)
        if not piece and not inflater.eof and not inflater.unconsumed_tail and not stream.peek(1):  # type: ignore[attr-defined]
            raise EOFError("the stream ends too early")
        yield piece


def _check_plain(stream: IO[bytes], start: int, n_bytes: int, row_bytes: int) -> None:
    found = stream.seek(0, 2) - start
    if found < n_bytes or found - n_bytes >= row_bytes:
        raise _does_not_fit(str(found), n_bytes)
    stream.seek(start + n_bytes)
    if stream.read().strip(b"\0"):
        raise _does_not_fit(str(found), n_bytes)


def _check_pieces(pieces: Iterable[bytes], n_bytes: int, row_bytes: int) -> None:
    found = 0
    for piece in pieces:
        surplus = piece[max(0, n_bytes - found) :]
        found += len(piece)
        if found - n_bytes >= row_bytes or surplus.strip(b"\0"):
            raise _does_not_fit(f"{found} or more", n_bytes)
    if found < n_bytes:
        raise _does_not_fit(str(found), n_bytes)


def _does_not_fit(found: str, n_bytes: int) -> CorruptSourceError:
    return CorruptSourceError(
        f"The file holds {found} bytes, but its header makes them {n_bytes}: it was cut short, or sizes, type or "
        "offset in the header are wrong, so voxels would stand at wrong places. Copy or convert it again.",
        ReasonCode.UNREADABLE_FILE,
    )
