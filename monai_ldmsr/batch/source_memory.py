"""What is remembered of the files below a source, so that an unchanged one is recognised without reading it.

Rows of text by digests of relative paths: no path, no file name but the stems that name volumes, no patient attribute.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from monai_ldmsr._version import __version__
from monai_ldmsr.errors import ReasonCode
from monai_ldmsr.io import ReadLimits, SkippedItem
from monai_ldmsr.io.series_grouping import case_digest

__all__ = ["FileRow", "GroupRow", "SourceMemory", "UnitRow", "digest"]

#: Counts the forms that rows have had.
_FORM = 3

_FILE, _GROUP, _HEAD = "f:", "g:", "head"


def digest(*parts: object) -> str:
    """24 hexadecimal digits that stand for ``parts``."""
    return case_digest(*parts, digits=24)


@dataclass(frozen=True)
class FileRow:
    """One file, on disk or in an archive.

    Args:
        mark: size, mtime_ns, ctime_ns and inode; of a file in an archive, its size only.
        content: SHA-256 of its bytes; empty when it could not be read, which makes it looked at anew next time.
        folder: digest of the folder that it lies in.
        fold: digest of its relative path in small letters.
        group: digest of the series that its images belong to.
        skips: what of it is left out.
        unit: stem of a volume file, where results are named by it.
        stem: digits that stand for that stem.
        n_volumes: of a 4D file, 0 of any other volume file.
        extension: of a volume file, and of a JSON file, which may belong to one.
        beside: keys of the files that hold a volume file's voxels and what dcm2niix says of it, if they exist.
        listed: of a DICOMDIR: group, and ``fold`` of the file (empty when it would lie outside), of each image.
        archive: key of the archive that it lies in.
        index: its place in there.
    """

    mark: tuple[int, ...]
    content: str
    folder: str
    fold: str
    group: str = ""
    skips: tuple[SkippedItem, ...] = ()
    unit: str = ""
    stem: str = ""
    n_volumes: int = 0
    extension: str = ""
    beside: tuple[str, ...] = ()
    listed: tuple[tuple[str, str], ...] = ()
    archive: str = ""
    index: int = 0

    def dumps(self) -> str:
        """As text."""
        skips = [_plain(skip) for skip in self.skips]
        volume = [self.unit, self.stem, self.n_volumes, self.extension, self.beside] if self.extension else []
        parts = [self.mark, self.content, self.folder, self.fold, self.group, skips, volume, self.listed]
        return json.dumps([*parts, self.archive, self.index], separators=(",", ":"))

    @classmethod
    def loads(cls, text: str) -> FileRow:
        """From text."""
        mark, content, folder, fold, group, skips, volume, listed, archive, index = json.loads(text)
        unit, stem, n_volumes, extension, beside = volume or ("", "", 0, "", ())
        return cls(
            mark=tuple(mark), content=content, folder=folder, fold=fold, group=group,
            skips=tuple(_skip(skip) for skip in skips),
            unit=unit, stem=stem, n_volumes=n_volumes, extension=extension, beside=tuple(beside),
            listed=tuple((name, of) for name, of in listed), archive=archive, index=index,
        )  # fmt: skip


@dataclass(frozen=True)
class UnitRow:
    """One volume of a series.

    Args:
        unit: its name.
        modality: ``"CT"``, ``"MR"`` or ``"PT"``.
        warnings: of the grouping.
        members: key of each file in order, with the numbers of its frames (none: it holds one image).
        volume: see :class:`~monai_ldmsr.io.series_grouping.SeriesFiles`.
        label: likewise.
    """

    unit: str
    modality: str
    warnings: tuple[str, ...]
    members: tuple[tuple[str, tuple[int, ...]], ...]
    volume: int = 0
    label: str = ""


@dataclass(frozen=True)
class GroupRow:
    """What became of the images of one series.

    Args:
        units: volumes that were made of them.
        left_out: why none was made of others, and the keys of their files.
        n_damaged: how many unreadable files lay in the same folders, of which the units' warnings tell.
    """

    units: tuple[UnitRow, ...] = ()
    left_out: tuple[tuple[SkippedItem, tuple[str, ...]], ...] = ()
    n_damaged: int = 0

    def dumps(self) -> str:
        """As text."""
        units = [
            [unit.unit, unit.modality, unit.warnings, unit.members, unit.volume, unit.label] for unit in self.units
        ]
        left_out = [[_plain(item), keys] for item, keys in self.left_out]
        return json.dumps([units, left_out, self.n_damaged], separators=(",", ":"))

    @classmethod
    def loads(cls, text: str) -> GroupRow:
        """From text."""
        units, left_out, n_damaged = json.loads(text)
        rows = [
            UnitRow(unit, modality, tuple(warnings), tuple((key, tuple(frames)) for key, frames in members), *told)
            for unit, modality, warnings, members, *told in units
        ]
        return cls(tuple(rows), tuple((_skip(item), tuple(keys)) for item, keys in left_out), n_damaged)


@dataclass
class SourceMemory:
    """All rows of one source.

    Args:
        files: by digest of the relative path; of a file in an archive, the archive's path stands before its name.
        groups: by digest of the Series Instance UID, or of the folder where there is none.
    """

    files: dict[str, FileRow] = field(default_factory=dict)
    groups: dict[str, GroupRow] = field(default_factory=dict)

    @classmethod
    def load(cls, rows: Mapping[str, str], limits: ReadLimits, names: str | None = None) -> SourceMemory:
        """From rows of text; empty when another version, limits or names made them, or when they are damaged."""
        memory = cls()
        if rows.get(_HEAD) != _head(limits, names):
            return memory
        try:
            for key, text in rows.items():
                if key.startswith(_FILE):
                    memory.files[key[len(_FILE) :]] = FileRow.loads(text)
                elif key.startswith(_GROUP):
                    memory.groups[key[len(_GROUP) :]] = GroupRow.loads(text)
        except (ValueError, TypeError, KeyError):
            return cls()
        return memory

    def dump(self, limits: ReadLimits, names: str | None = None) -> dict[str, str]:
        """As rows of text."""
        files = {_FILE + key: row.dumps() for key, row in self.files.items()}
        return {_HEAD: _head(limits, names), **files, **{_GROUP + key: row.dumps() for key, row in self.groups.items()}}


def _head(limits: ReadLimits, names: str | None) -> str:
    return json.dumps([_FORM, __version__, repr(limits), names])


def _plain(skip: SkippedItem) -> list[str | int]:
    return [skip.case, skip.reason.value, skip.message, skip.n_files]


def _skip(plain: list[str | int]) -> SkippedItem:
    case, reason, message, n_files = plain
    return SkippedItem(str(case), ReasonCode[str(reason)], str(message), int(n_files))
