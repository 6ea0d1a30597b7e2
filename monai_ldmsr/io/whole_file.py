"""What the readers of volume files do not look at: whether the file ends where its header says, and its checksum."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from monai_ldmsr.errors import CorruptSourceError, ReasonCode

__all__ = ["check_meta_image", "check_nifti"]

_CHUNK = 2**20


def check_nifti(path: Path, n_bytes: int, row_bytes: int) -> None:
    """Refuse a NIfTI file that goes on where its voxels should end, or whose gzip checksum is wrong.

    nibabel stops at the last voxel: it would neither see that each row is too short, nor read the checksum.

    Args:
        path: file, with gzip inside where its name ends in ``.gz``.
        n_bytes: header and voxels, as the header says.
        row_bytes: of one row of voxels; fewer than these may follow.

    Raises:
        CorruptSourceError: ``UNREADABLE_FILE``.
        OSError, EOFError, zlib.error: the gzip stream is damaged.
    """
    if path.suffix.lower() != ".gz":
        _check_end(path.stat().st_size, n_bytes, row_bytes)
        return
    with gzip.open(path) as stream:
        total = 0
        while chunk := stream.read(_CHUNK):  # the last read is what compares the checksum
            total += len(chunk)
            _check_end(total, n_bytes, row_bytes, is_whole=False)
    _check_end(total, n_bytes, row_bytes)


def check_meta_image(path: Path, n_bytes: int, row_bytes: int) -> None:
    """Refuse a MetaImage whose voxels are more than its header says, or whose zlib checksum is wrong.

    Args:
        path: ``.mha`` file, or ``.mhd`` header with its voxels in one other file.
        n_bytes: voxels alone, as the header says.
        row_bytes: see :func:`check_nifti`.

    Raises:
        CorruptSourceError: ``UNREADABLE_FILE``.
        zlib.error: the stream is damaged.
    """
    with path.open("rb") as stream:
        head = stream.read(2**16)
    place = re.search(rb"^ElementDataFile *= *([^\r\n]*?) *\r?\n", head, re.MULTILINE)
    if place is None:
        return
    local = place.group(1).upper() == b"LOCAL"
    data = path if local else path.parent / place.group(1).decode()
    start = place.end() if local else 0
    if not data.is_file():  # several files, of which the reader takes care
        return
    if not re.search(rb"^CompressedData *= *T", head[: place.start()], re.MULTILINE | re.IGNORECASE):
        _check_end(data.stat().st_size - start, n_bytes, row_bytes)
        return
    with data.open("rb") as stream:
        stream.seek(start)
        total = 0
        for size in _inflated(stream):
            total += size
            _check_end(total, n_bytes, row_bytes, is_whole=False)
    _check_end(total, n_bytes, row_bytes)


def _inflated(stream: IO[bytes]) -> Iterator[int]:
    """Sizes of the pieces that a zlib stream inflates to, one in memory at a time."""
    inflater = zlib.decompressobj()
    while not inflater.eof:
        piece = inflater.decompress(inflater.unconsumed_tail or stream.read(_CHUNK), _CHUNK)
        if not piece and not inflater.eof and not inflater.unconsumed_tail and not stream.peek(1):  # type: ignore[attr-defined]
            raise EOFError("the stream ends too early")
        yield len(piece)


def _check_end(found: int, n_bytes: int, row_bytes: int, is_whole: bool = True) -> None:
    if found - n_bytes >= row_bytes or (is_whole and found < n_bytes):
        more = "" if is_whole else "or more "
        raise CorruptSourceError(
            f"The file holds {found} {more}bytes, but its header makes them {n_bytes}: it was cut short, or sizes or "
            "type in the header are wrong, so voxels would stand at wrong places. Copy or convert it again.",
            ReasonCode.UNREADABLE_FILE,
        )
