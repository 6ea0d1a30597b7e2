"""A text file that lists sources: one path a line, relative to the file or absolute; ``#`` begins a comment."""

from __future__ import annotations

import os
import re
from pathlib import Path

from monai_ldmsr.errors import ReasonCode, SourceError

__all__ = ["is_source_list", "listed_sources"]

#: A list is text, and no longer than this.
_MOST_BYTES = 2**24


def is_source_list(source: Path) -> bool:
    """Whether a source is a list of sources: only what the user names is, by the extension ``.txt`` and being text."""
    if source.suffix.lower() != ".txt" or not source.is_file():
        return False
    content = _content(source)
    return len(content) <= _MOST_BYTES and "\0" not in _decoded(content[:4096])


def listed_sources(source: Path) -> list[tuple[int, Path]]:
    """Number of the line and path of each entry, whether anything is there or not.

    Raises:
        SourceError: ``EMPTY_SOURCE`` when there is none.
    """
    folder = source.parent
    entries = []
    for number, line in enumerate(re.split(r"\r\n|\r|\n", _decoded(_content(source))), start=1):
        text = line.strip()
        # A name may hold a "#" of its own.
        if not os.path.lexists(folder / text):
            text = re.split(r"(?:^|\s)#", text)[0].strip()
        if text:
            entries.append((number, folder / text))
    if not entries:
        raise SourceError(
            "The list of sources is empty. Write one path a line, relative to the list or absolute.",
            ReasonCode.EMPTY_SOURCE,
        )
    return entries


def _content(source: Path) -> bytes:
    try:
        with source.open("rb") as file:
            return file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise SourceError(
            f"The list of sources cannot be read: {error.strerror}. Check its permissions.", ReasonCode.UNREADABLE_FILE
        ) from None


def _decoded(content: bytes) -> str:
    """Text of UTF-8, or UTF-16 with its mark; what is neither stays as file names of other encodings do."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16", "replace")
    return content.decode("utf-8-sig", "surrogateescape")
