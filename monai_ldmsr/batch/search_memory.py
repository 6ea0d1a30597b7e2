"""The last search of a source, remembered: while no file has come, gone or changed, no header is read again.

Rows of text: the content of each file by a digest of its relative path, and what was found. There is no path in them,
no file name but the stems that name results, and no patient's attribute. Where a file has changed, its content is read
and then the headers of all; reading 100,000 takes five to ten minutes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_ldmsr._version import __version__
from monai_ldmsr.errors import ReasonCode
from monai_ldmsr.io import AnySource, NiftiVolume, PackedSource, ReadLimits, SeriesFiles, SkippedItem
from monai_ldmsr.io.case_names import NamedSource
from monai_ldmsr.io.discovery import Listing, list_files, search
from monai_ldmsr.io.formats import InspectedFile, inspect_file
from monai_ldmsr.io.packed_source import PackedMember, listed, packed_path
from monai_ldmsr.io.series_grouping import case_digest
from monai_ldmsr.storage import file_sha256, file_stamp

__all__ = ["SearchMemory"]

_FILE, _FOUND = "f:", "found"

_SHA256_DIGITS = 64

Found = tuple[list[NamedSource[AnySource]], list[SkippedItem]]


class SearchMemory:
    """Searches a source as :func:`~monai_ldmsr.io.find_sources` does, and remembers what it found.

    Args:
        rows: what an earlier search kept.

    Attributes:
        rows: what is to be kept for the next search.
        root: folder that places of sources are relative to.
    """

    def __init__(self, rows: Mapping[str, str] | None = None) -> None:
        self.rows = dict(rows or {})
        self.root = Path()

    def find(
        self, source: Path, limits: ReadLimits, *, names: str | None, work_dir: Path, again: bool = False
    ) -> Found:
        """Search; see :func:`~monai_ldmsr.io.find_sources`, also for what it raises.

        With ``again`` the headers of an unchanged source are read too, where something could not be read.
        """
        listing = list_files(source, limits)
        self.root = listing.root
        contents = self._contents(listing)
        state = _state(listing, contents, limits, names)
        found = self._recalled(listing, state, limits, work_dir)
        if found is None or (again and any(item.failed for item in found[1])):
            found = search(listing, limits, names=names, work_dir=work_dir, contents=contents)
            self._remember(listing, state, *found)
        return found

    def _contents(self, listing: Listing) -> dict[Path, str]:
        """SHA-256 of all files; those of the same size, times and inode as last time are not read."""
        rows, contents = {}, {}
        for path in listing.files:
            key = _FILE + case_digest(os.path.relpath(path, listing.root), digits=24)
            try:
                mark = _mark(path)
                begin, _, content = self.rows.get(key, "").rpartition(" ")
                contents[path] = content if begin == mark and len(content) == _SHA256_DIGITS else file_sha256(path)
                rows[key] = f"{mark} {contents[path]}"
            except OSError:
                contents[path] = ""
        self.rows = {_FOUND: self.rows[_FOUND], **rows} if _FOUND in self.rows else rows
        return contents

    def _recalled(self, listing: Listing, state: str, limits: ReadLimits, work_dir: Path) -> Found | None:
        try:
            known, found, skipped = json.loads(self.rows.get(_FOUND, "[0, 0, 0]"))
            if known != state:
                return None
            places = _Places(listing, limits, work_dir)
            return [places.source(row) for row in found], [places.skipped(row) for row in skipped]
        except Exception:  # rows are damaged, or a file was lost since it was listed
            return None

    def _remember(
        self, listing: Listing, state: str, found: list[NamedSource[AnySource]], skipped: list[SkippedItem]
    ) -> None:
        self.rows.pop(_FOUND, None)
        passes = any(item.reason is ReasonCode.CANNOT_WRITE for item in skipped)
        if state and not passes:
            numbers = {path: n for n, path in enumerate(_all_paths(listing))}
            rows = [[_plain(one, numbers) for one in found], [_plain_skip(item, numbers) for item in skipped]]
            self.rows[_FOUND] = json.dumps([state, *rows], separators=(",", ":"))


def _mark(path: Path) -> str:
    """Size, times and inode, which all stay the same where a file is as it was."""
    status = os.stat(path)
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def _state(listing: Listing, contents: Mapping[Path, str], limits: ReadLimits, names: str | None) -> str:
    """Digest of everything that a search depends on; nothing where a file cannot be read, which may pass."""
    if not all(contents.values()):
        return ""
    files = [f"{os.path.relpath(path, listing.root)}\n{contents[path]}" for path in listing.files]
    others = [(*key, os.path.relpath(path, listing.root)) for key, paths in listing.others.items() for path in paths]
    return case_digest(__version__, limits, names, *files, *others, digits=24)


def _all_paths(listing: Listing) -> list[Path]:
    """In the same order for the same state: a path is remembered by its number here."""
    return [*listing.files, *(path for paths in listing.others.values() for path in paths)]


def _plain(one: NamedSource[AnySource], numbers: Mapping[Path, int]) -> list[Any]:
    """A source as JSON: name, content, number in a 4D file, series or file, and files of archives."""
    source = one.source
    packed = source.members if isinstance(source, PackedSource) else {}
    places = {
        path: [numbers[member.archive], member.index, path.name.partition("-")[2]] for path, member in packed.items()
    }

    def place(path: Path) -> int | list[Any]:
        return places[path] if path in places else numbers[path]

    number = source.volume if isinstance(source, PackedSource) else getattr(source, "number", 0)
    item = listed(source)
    if isinstance(item, SeriesFiles):
        files = {**vars(item), "paths": [place(path) for path in item.paths]}
        return [one.name, one.content(), number, files, list(places.values())]
    return [one.name, one.content(), number, place(item), list(places.values())]


def _plain_skip(item: SkippedItem, numbers: Mapping[Path, int]) -> list[Any]:
    """What is left out as JSON; of a file in an archive, the archive stands for it."""
    found = (next((numbers[at] for at in (path, *path.parents) if at in numbers), None) for path in item.paths)
    return [item.case, item.reason.value, item.message, item.n_files, [n for n in found if n is not None]]


class _Places:
    """Makes sources of what :func:`_plain` wrote."""

    def __init__(self, listing: Listing, limits: ReadLimits, work_dir: Path) -> None:
        self._paths, self._limits, self._work_dir = _all_paths(listing), limits, work_dir
        self._files: dict[Path, InspectedFile] = {}
        self._stamps: dict[int, tuple[int, int]] = {}

    def source(self, row: list[Any]) -> NamedSource[AnySource]:
        """A source."""
        name, content, number, item, packed = row
        members = dict(map(self._member, packed))
        listed_as: SeriesFiles | Path
        if isinstance(item, dict):
            paths = tuple(map(self._path, item["paths"]))
            tuples = {key: tuple(item[key]) for key in ("warnings", "frames", "matrix")}
            listed_as = SeriesFiles(**{**item, **tuples, "paths": paths})
        else:
            listed_as = self._path(item)
            paths = (listed_as,)
        source: AnySource = listed_as
        if members:
            source = PackedSource(listed_as, members, number, self._work_dir, self._limits)
        elif number and isinstance(listed_as, Path):
            if listed_as not in self._files:
                self._files[listed_as] = inspect_file(listed_as, self._limits)
            source = NiftiVolume(self._files[listed_as], number)
        return NamedSource(name, lambda: content, paths, source)

    def skipped(self, row: list[Any]) -> SkippedItem:
        """What is left out."""
        case, reason, message, n_files, places = row
        return SkippedItem(case, ReasonCode[reason], message, n_files, tuple(self._paths[n] for n in places))

    def _path(self, place: int | list[Any]) -> Path:
        return self._paths[place] if isinstance(place, int) else self._member(place)[0]

    def _member(self, place: list[Any]) -> tuple[Path, PackedMember]:
        n, index, name = place
        if n not in self._stamps:
            self._stamps[n] = file_stamp(self._paths[n])
        member = PackedMember(self._paths[n], self._stamps[n], index)
        return packed_path(member, name), member
