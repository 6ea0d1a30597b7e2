"""Take files out of a zip archive without trusting it: nothing is written but where the caller says."""

from __future__ import annotations

import io
import lzma
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from monai_ldmsr.errors import CorruptSourceError, OutputError, ReasonCode, SourceError
from monai_ldmsr.io.limits import DEFAULT_LIMITS, ReadLimits, too_large
from monai_ldmsr.storage import output_errors

__all__ = ["ZipMember", "is_zip_name", "open_zip"]

_CHUNK_BYTES = 2**20

#: Of one entry of the list of contents; names are up to 64 KiB long, but not those of an honest study.
_BYTES_PER_ENTRY, _LEAST_LIST_BYTES = 512, 2**20

_ENCRYPTED = 0x1

#: What zipfile and its decompressors raise on damaged bytes.
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, ValueError, RuntimeError)

_DAMAGED = "A zip archive is damaged, cut short or packed in a way that is not known here. Copy or make it again."


@dataclass(frozen=True)
class ZipMember:
    """One file of a zip archive.

    Args:
        index: place of the member in the archive's list of contents.
        name: relative path of the member; kept out of ``repr``: names may be patients' names.
    """

    index: int
    name: PurePosixPath = field(repr=False)


class _OpenZip:
    """An open archive whose list of contents was found harmless."""

    def __init__(self, archive: zipfile.ZipFile, members: list[ZipMember]) -> None:
        self._archive = archive
        self.members = members

    def extract(self, index: int, target: Path) -> None:
        """Write one member to a new file ``target``.

        Raises:
            CorruptSourceError: ``UNREADABLE_FILE`` when it is damaged.
            OutputError: it cannot be written; nothing is left of it then.
        """
        try:
            with (
                _read_errors(),
                self._archive.open(self._archive.infolist()[index]) as packed,
                output_errors("A member of a zip archive"),
                target.open("xb") as file,
            ):
                while piece := _piece(packed):
                    file.write(piece)
        except BaseException:
            target.unlink(missing_ok=True)
            raise


def is_zip_name(name: str) -> bool:
    """Whether a file of that name is taken for a zip archive (office documents are zip archives too)."""
    return name.lower().endswith(".zip")


@contextmanager
def open_zip(path: Path, limits: ReadLimits = DEFAULT_LIMITS) -> Iterator[_OpenZip]:
    """Open an archive when all that its list of contents says is harmless.

    Args:
        path: file.
        limits: ``archive_members``, ``archive_bytes`` and ``expansion`` hold.

    Raises:
        CorruptSourceError: ``UNREADABLE_FILE`` when it is damaged or cut short.
        SourceError: ``UNSAFE_ARCHIVE``, ``ENCRYPTED_ARCHIVE`` or ``TOO_LARGE``.
    """
    with _read_errors():
        stream = _CautiousFile(path, limits)
    with stream:
        with _read_errors():
            archive = zipfile.ZipFile(stream)
        with archive:
            with _read_errors():
                members = _checked_members(archive.infolist(), path.stat().st_size, limits)
            yield _OpenZip(archive, members)


class _CautiousFile(io.FileIO):
    """A file that is never read in large pieces: zipfile reads a list of contents as long as the archive claims."""

    def __init__(self, path: Path, limits: ReadLimits) -> None:
        super().__init__(path)
        self._most = max(_LEAST_LIST_BYTES, limits.archive_members * _BYTES_PER_ENTRY)

    def read(self, size: int | None = -1, /) -> bytes:
        whole = size is None or size < 0
        data = super().read(self._most + 1 if whole else min(size or 0, self._most + 1)) or b""
        if len(data) > self._most:
            raise too_large("A zip archive has too long a list of contents.", "archive_members")
        return data


def _checked_members(infos: list[zipfile.ZipInfo], n_stored: int, limits: ReadLimits) -> list[ZipMember]:
    """Files of an archive; hidden ones are passed over, as those of folders are."""
    if len(infos) > limits.archive_members:
        raise too_large(f"A zip archive has {len(infos)} members.", "archive_members")
    members = []
    names = set()
    for index, info in enumerate(infos):
        name, is_folder = _safe_name(info)
        if not is_folder and name in names:
            raise _unsafe("one name twice")
        names.add(name)
        if info.flag_bits & _ENCRYPTED:
            raise SourceError(
                "A zip archive is encrypted. Unpack it with its password, and give the folder.",
                ReasonCode.ENCRYPTED_ARCHIVE,
            )
        if not is_folder and not any(part.startswith(".") for part in name.parts):
            members.append(ZipMember(index, name))
    n_bytes = sum(info.file_size for info in infos)
    if n_bytes > limits.archive_bytes:
        raise too_large(
            f"A zip archive unpacks to {n_bytes} bytes; the limit is {limits.archive_bytes}.", "archive_bytes"
        )
    # Members may overlap, and what is no member may fill the file: neither buys the right to more bytes.
    n_packed = min(n_stored, sum(info.compress_size for info in infos))
    limits.check_expansion("A zip archive", n_bytes, n_packed, "members")
    return sorted(members, key=lambda member: str(member.name))


def _safe_name(info: zipfile.ZipInfo) -> tuple[PurePosixPath, bool]:
    """The member's relative name, and whether it is a folder; its letters may be of any code: no file is named so."""
    text = info.orig_filename.replace("\\", "/")
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _unsafe("a link or a device")
    leads_out = text.startswith("/") or re.match(r"[A-Za-z]:", text) or ".." in text.split("/")
    if leads_out or "\0" in text or not PurePosixPath(text).parts:
        raise _unsafe("a name that leads out of it, or none")
    return PurePosixPath(text), text.endswith("/")


def _unsafe(what: str) -> SourceError:
    return SourceError(
        f"A zip archive holds {what}, so nothing of it is unpacked. Make it again from plain files.",
        ReasonCode.UNSAFE_ARCHIVE,
    )


@contextmanager
def _read_errors() -> Iterator[None]:
    """Let nothing through that quotes the archive."""
    try:
        yield
    except (SourceError, OutputError):
        raise
    except (*_DAMAGE, OSError):
        raise CorruptSourceError(_DAMAGED, ReasonCode.UNREADABLE_FILE) from None


def _piece(reader: IO[bytes]) -> bytes:
    with _read_errors():
        return reader.read(_CHUNK_BYTES)
