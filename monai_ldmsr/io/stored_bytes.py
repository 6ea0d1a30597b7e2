"""The bytes of a volume file behind its compression, and files whose name does not say how they are compressed."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

from nibabel.openers import Opener
from nibabel.tripwire import TripWireError

from monai_ldmsr.errors import CorruptSourceError, ReasonCode, SourceError
from monai_ldmsr.io.volume_format import EXTENSIONS, volume_extension

__all__ = ["check_compression", "open_stored"]

_MARKS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "Zstandard", b"BZh": "bzip2", b"PK\x03\x04": "zip"}
_BY_SUFFIX = {".gz": "gzip", ".mgz": "gzip", ".zst": "Zstandard"}

#: Beginnings of files that nibabel reads, uncompressed.
_PLAIN = (b"\x5c\1\0\0", b"\0\0\1\x5c", b"\x1c\2\0\0", b"\0\0\2\x1c", b"\0\0\0\1")


def open_stored(path: Path) -> Any:
    """Open a file for reading what was compressed (a binary stream), by the compression that its name tells.

    Raises:
        SourceError: ``MISSING_CODEC`` where Zstandard is not installed.
    """
    compression = _BY_SUFFIX.get(path.suffix.lower())
    if compression is None:
        return path.open("rb")
    if compression == "gzip":
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


def check_compression(path: Path) -> None:
    """Refuse a file that is compressed in another way than its name says: no reader takes it by that name.

    Raises:
        CorruptSourceError: ``UNREADABLE_FILE``, with what the file is.
    """
    with path.open("rb") as stream:
        start = stream.read(4)
    found = next((name for mark, name in _MARKS.items() if start.startswith(mark)), "")
    expected = _BY_SUFFIX.get(path.suffix.lower(), "")
    if found == expected or not start:
        return
    extension = volume_extension(path) or path.suffix.lower()
    if found:
        said = f"The file is compressed by {found}, which its name ({extension}) does not say. {_remedy(path, found)}"
    elif start in _PLAIN:
        bare = ".mgh" if extension == ".mgz" else extension[: -len(path.suffix)]
        said = f"The file is named {extension} but is not compressed. Rename it to {bare}."
    else:
        said = (
            f"The file is named {extension} but is not compressed by {expected}: it is another kind of file, or its "
            "beginning is damaged. Copy or convert it again."
        )
    raise CorruptSourceError(said, ReasonCode.UNREADABLE_FILE)


def _remedy(path: Path, found: str) -> str:
    """Name under which the file is read, where there is one."""
    bare = path.with_suffix("") if path.suffix.lower() in _BY_SUFFIX else path
    stem = volume_extension(bare) or ""
    names = [name for name in EXTENSIONS if _BY_SUFFIX.get(Path(f"a{name}").suffix) == found]
    name = next((name for name in names if name.startswith(stem) or (stem, name) == (".mgh", ".mgz")), None)
    return f"Rename it to {name}." if stem and name else "Unpack it first."
