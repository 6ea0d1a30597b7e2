"""SHA-256 of files, by which content is known again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import BinaryIO

__all__ = ["file_sha256", "rest_sha256"]

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
