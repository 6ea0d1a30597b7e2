"""The bytes of a volume file: behind its compression, and whether they end where its header says."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from nibabel.openers import Opener
from nibabel.tripwire import TripWireError

from monai_ldmsr.errors import CorruptSourceError, ReasonCode, SourceError
from monai_ldmsr.io.formats.base import unreadable

__all__ = [
    "CHUNK_BYTES",
    "check_compression",
    "check_pieces",
    "check_plain",
    "compression",
    "does_not_fit",
    "open_stored",
    "pieces",
]

CHUNK_BYTES = 2**20

_MARKS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "Zstandard", b"BZh": "bzip2", b"PK\x03\x04": "zip"}
_BY_SUFFIX = {".gz": "gzip", ".mgz": "gzip", ".zst": "Zstandard"}

#: Beginnings of files that nibabel reads, uncompressed.
_PLAIN = (b"\x5c\1\0\0", b"\0\0\1\x5c", b"\x1c\2\0\0", b"\0\0\2\x1c", b"\0\0\0\1")


def open_stored(path: Path) -> Any:
    """Open a file for reading what was compressed (a binary stream), by the compression that its name gives.

    Raises:
        SourceError: ``MISSING_CODEC`` where Zstandard is not installed.
    """
    found = compression(path.name)
    if not found:
        return path.open("rb")
    if found == "gzip":
        return gzip.open(path)  # which, unlike other openers, compares the checksum
    try:
        stream = Opener(str(path))
    except TripWireError:
        raise SourceError(
            "The file is compressed by Zstandard, for which a decoder is not installed: "
            "pip install 'monai_ldmsr[zstd]', or unpack the file.",
            ReasonCode.MISSING_CODEC,
        ) from None
    return stream.fobj


def compression(name: str) -> str:
    """How a file of that name is compressed; empty where the name does not say that it is."""
    return next((found for suffix, found in _BY_SUFFIX.items() if name.lower().endswith(suffix)), "")


def check_compression(path: Path, extensions: Sequence[str] = ()) -> None:
    """Refuse a file that is compressed in another way than its name says: no reader takes it by that name.

    Raises:
        CorruptSourceError: ``UNREADABLE_FILE``, with what the file is.
    """
    with path.open("rb") as stream:
        start = stream.read(4)
    found = next((name for mark, name in _MARKS.items() if start.startswith(mark)), "")
    expected = compression(path.name)
    if found == expected or not start:
        return
    own = next((extension for extension in extensions if path.name.lower().endswith(extension)), path.suffix.lower())
    if found:
        names = [other for other in extensions if compression(other) == found and _unpacked(other) == _unpacked(own)]
        remedy = f"Rename it to {names[0]}." if names else "Unpack it first."
        raise unreadable(f"The file is compressed by {found}, which its name ({own}) does not say. {remedy}")
    if start in _PLAIN:
        raise unreadable(f"The file is named {own} but is not compressed. Rename it to {_unpacked(own)}.")
    raise unreadable(
        f"The file is named {own} but is not compressed by {expected}: it is another kind of file, or its beginning is "
        "damaged. Copy or convert it again."
    )


def check_plain(stream: IO[bytes], start: int, n_bytes: int, row_bytes: int) -> None:
    """Refuse voxels that are not compressed unless they fit.

    Args:
        stream: the opened file.
        start: where in it they begin.
        n_bytes: how many they are, by the header.
        row_bytes: number of bytes of one row; fewer zeros than these may follow.

    Raises:
        CorruptSourceError: ``UNREADABLE_FILE``.
    """
    found = stream.seek(0, 2) - start
    if found < n_bytes or found - n_bytes >= row_bytes:
        raise does_not_fit(str(found), n_bytes)
    stream.seek(start + n_bytes)
    if stream.read().strip(b"\0"):
        raise does_not_fit(str(found), n_bytes)


def check_pieces(found: Iterable[bytes], n_bytes: int, row_bytes: int) -> None:
    """:func:`check_plain` of voxels that come piece by piece, one in memory at a time."""
    n_found = 0
    for piece in found:
        surplus = piece[max(0, n_bytes - n_found) :]
        n_found += len(piece)
        if n_found - n_bytes >= row_bytes or surplus.strip(b"\0"):
            raise does_not_fit(f"{n_found} or more", n_bytes)
    if n_found < n_bytes:
        raise does_not_fit(str(n_found), n_bytes)


def pieces(stream: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    """All of a stream, a piece at a time."""
    while piece := stream.read(CHUNK_BYTES):
        yield piece


def does_not_fit(found: str, n_bytes: int) -> CorruptSourceError:
    """Error for a file that holds another number of bytes than its header says."""
    return unreadable(
        f"The file holds {found} bytes, but its header makes them {n_bytes}: it was cut short, or sizes, type or "
        "offset in the header are wrong, so voxels would stand at wrong places. Copy or convert it again."
    )


def _unpacked(extension: str) -> str:
    """What a file of an extension is called without its compression."""
    return extension.removesuffix(".gz").removesuffix(".zst").replace(".mgz", ".mgh")
