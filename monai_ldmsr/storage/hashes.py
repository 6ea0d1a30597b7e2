"""By what a file is known again: the SHA-256 of its content, or its size and time."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

__all__ = ["file_sha256", "file_stamp", "rest_sha256"]

_CHUNK_BYTES = 2**20


def file_sha256(path: str | Path) -> str:
    """Hexadecimal sha256 of a file.

    Raises:
        OSError: it cannot be read.
    """
    with Path(path).open("rb") as file:
        return rest_sha256(file)


def rest_sha256(file: BinaryIO) -> str:
    """Hexadecimal sha256 of what follows in an open file."""
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def file_stamp(path: Path) -> tuple[int, int]:
    """Size and time of the last change: enough to see that a file was replaced in the meantime.

    Raises:
        OSError: it is gone.
    """
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns
