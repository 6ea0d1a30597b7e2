"""Find every unit of work below a source: in folders, on media with a DICOMDIR, and in zip archives."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from monai_ldmsr.batch.source_groups import grouped
from monai_ldmsr.batch.source_memory import GroupRow, SourceMemory, UnitRow, digest
from monai_ldmsr.batch.source_scan import SourceScan
from monai_ldmsr.batch.unit import FoundUnit
from monai_ldmsr.errors import ReasonCode, SourceError
from monai_ldmsr.io import AnySource, NiftiVolume, PackedSource, ReadLimits, SeriesFiles, SkippedItem
from monai_ldmsr.io.dicomdir import is_dicomdir_name
from monai_ldmsr.io.discovery import DAMAGE
from monai_ldmsr.io.limits import DEFAULT_LIMITS
from monai_ldmsr.io.nifti_file import NiftiFile
from monai_ldmsr.io.series_grouping import case_digest
from monai_ldmsr.io.tree import files_below
from monai_ldmsr.io.volume_format import header_beside, volume_extension
from monai_ldmsr.io.volume_parts import parts_beside

__all__ = ["UnitSources"]

Wanted = Callable[[str, str], bool]


class UnitSources:
    """The units below a folder, a DICOMDIR, an archive or a file, and what to remember of them.

    A file that is as it was is not read; one that was only touched is read for its content, which then is the same.
    Only series of which a file has come, gone or changed are grouped anew.

    Args:
        source: folder, searched with all its folders; file of one volume; zip archive; or DICOMDIR, of which only the
            files that it lists are taken.
        work_dir: where archives are unpacked, a file at a time here, a unit at a time in the worker.
        limits: see :class:`~monai_ldmsr.io.limits.ReadLimits`.
        known: rows that were ``learned`` earlier.
        again: look anew at what was refused last time.

    Attributes:
        learned: rows to be kept from now on, in place of those with the same key.
        forgotten: keys of rows that no longer hold.
    """

    def __init__(
        self,
        source: str | Path,
        work_dir: str | Path,
        limits: ReadLimits = DEFAULT_LIMITS,
        known: Mapping[str, str] | None = None,
        again: bool = False,
    ) -> None:
        self.source, self.work_dir, self.limits = Path(source), Path(work_dir), limits
        self.learned: dict[str, str] = {}
        self.forgotten: set[str] = set()
        self._known, self._again = dict(known or {}), again
        self._root = self.source if self.source.is_dir() else self.source.parent

    def find(self, wanted: Wanted | None = None) -> tuple[list[FoundUnit], list[SkippedItem]]:
        """Search the source.

        Args:
            wanted: told a unit's name and fingerprint; only if it says yes is the unit's ``source`` given.

        Returns:
            Units in a fixed order, and what was left out and why.

        Raises:
            SourceError: ``NO_SUCH_SOURCE``, or ``EMPTY_SOURCE`` when there is no file.
        """
        known = SourceMemory.load(self._known, self.limits)
        scan = SourceScan(self._root, known, self.limits, self.work_dir, self._again)
        others = self._scan(scan)
        groups = grouped(scan, known, self.limits)
        self._learn(SourceMemory(scan.files, groups))
        parts = {key for row in scan.files.values() for key in row.beside}
        skips = [skip for key, row in scan.files.items() if key not in parts for skip in row.skips]
        skips += [row.failure for row in groups.values() if row.failure]
        skips += [SkippedItem(case_digest(text), reason, text, n) for (reason, text), n in others.items()]
        series, refused = _distinct(scan, _complete(scan, groups))
        units = [self._found(scan, unit, wanted) for unit in series]
        units += list(self._volumes(scan, wanted))
        return sorted(units, key=lambda unit: unit.unit), _summed([*skips, *refused])

    def _scan(self, scan: SourceScan) -> Counter[tuple[ReasonCode, str]]:
        if not os.path.exists(self.source):
            raise SourceError("The source does not exist. Check the path.", ReasonCode.NO_SUCH_SOURCE)
        others: Counter[tuple[ReasonCode, str]] = Counter()
        if self.source.is_dir() or is_dicomdir_name(self.source.name):
            files, others = files_below(self._root)
            if not self.source.is_dir():
                files, others = self._listed(scan, files), Counter()
        else:
            source = header_beside(self.source) or self.source
            files = [source, *(parts_beside(source, self.limits) if volume_extension(source) else ())]
        if not files and not others:
            raise SourceError("The source folder holds no file.", ReasonCode.EMPTY_SOURCE)
        for path in files:
            scan.see(path)
        return others

    def _listed(self, scan: SourceScan, files: Collection[Path]) -> list[Path]:
        """Of ``files``, those that the DICOMDIR lists; all of them when it cannot be read."""
        folds = scan.dicomdir_files(self.source)
        if folds is None:
            return list(files)
        relative = ((path, path.relative_to(self._root).as_posix().lower()) for path in files)
        return [path for path, name in relative if path == self.source or digest(name) in folds]

    def _learn(self, memory: SourceMemory) -> None:
        rows = memory.dump(self.limits)
        self.learned = {key: text for key, text in rows.items() if self._known.get(key) != text}
        self.forgotten = self._known.keys() - rows.keys()
        self._known = rows

    def _found(self, scan: SourceScan, row: UnitRow, wanted: Wanted | None) -> FoundUnit:
        fingerprint = _fingerprint(scan, row)
        if wanted is not None and not wanted(row.unit, fingerprint):
            return FoundUnit(row.unit, fingerprint)
        paths = [scan.path(key) for key, frames in row.members for _ in frames or (0,)]
        numbers = [frame for _, frames in row.members for frame in frames or (0,)]
        files = SeriesFiles(row.unit, row.modality, tuple(paths), row.warnings, tuple(numbers) if any(numbers) else ())
        return FoundUnit(row.unit, fingerprint, self._packed(scan, files, [key for key, _ in row.members]))

    def _packed(
        self, scan: SourceScan, source: SeriesFiles | Path, keys: Collection[str], volume: int = 0
    ) -> AnySource:
        members = {scan.path(key): scan.packed(key) for key in keys if key in scan.files}
        packed = {path: member for path, member in members.items() if member is not None}
        if packed:
            return PackedSource(source, packed, volume, self.work_dir, self.limits)
        return source

    def _volumes(self, scan: SourceScan, wanted: Wanted | None) -> Iterator[FoundUnit]:
        for key, row in scan.files.items():
            if not row.unit:
                continue
            contents = [row.content, *(scan.files[key].content if key in scan.files else "" for key in row.beside)]
            file = None
            for number in range(1, row.n_volumes + 1) if row.n_volumes else (0,):
                unit = f"{row.unit}-vol{number:0{max(4, len(str(row.n_volumes)))}d}" if number else row.unit
                fingerprint = digest("volume", number, *contents)
                if wanted is not None and not wanted(unit, fingerprint):
                    yield FoundUnit(unit, fingerprint)
                    continue
                path = scan.path(key)
                source = self._packed(scan, path, [key, *row.beside], number)
                if number and not isinstance(source, PackedSource):
                    file = file or NiftiFile(path, self.limits)
                    source = NiftiVolume(file, number)
                yield FoundUnit(unit, fingerprint, source)


def _fingerprint(scan: SourceScan, row: UnitRow) -> str:
    """Of the files' contents: where they lie and what they are called does not matter."""
    return digest("series", *sorted(f"{scan.files[key].content} {frames}" for key, frames in row.members))


def _complete(scan: SourceScan, groups: Mapping[str, GroupRow]) -> Iterator[tuple[UnitRow, SkippedItem | None]]:
    """Units, each with the reason why it is refused if a DICOMDIR lists more of its series than can be read."""
    missing: Counter[str] = Counter()
    listed = [pair for row in scan.files.values() for pair in row.listed]
    if listed:
        readable = {row.fold for row in scan.files.values() if not any(skip.reason in DAMAGE for skip in row.skips)}
        missing.update(group for group, fold in set(listed) if fold not in readable)
    for group, n_files in missing.items():
        if not groups.get(group, GroupRow()).units:
            yield UnitRow(group[:12], "", (), ()), _missing(group[:12], n_files)
    for group, row in groups.items():
        for unit in row.units:
            yield unit, _missing(unit.unit, missing[group]) if missing[group] else None


def _missing(unit: str, n_files: int) -> SkippedItem:
    message = (
        "A DICOMDIR lists images of this series that are missing, cannot be read or lie outside of its folder. Copy "
        "the medium again, or remove the DICOMDIR if they were left out on purpose."
    )
    return SkippedItem(unit, ReasonCode.MISSING_FILE, message, n_files)


def _distinct(
    scan: SourceScan, found: Iterator[tuple[UnitRow, SkippedItem | None]]
) -> tuple[list[UnitRow], list[SkippedItem]]:
    """One unit of each name: of the same series in two folders, where no Series Instance UID holds it together."""
    by_name: dict[str, list[UnitRow]] = defaultdict(list)
    refused = []
    for unit, refusal in found:
        if refusal is None:
            by_name[unit.unit].append(unit)
        else:
            refused.append(refusal)
    for name, units in by_name.items():
        prints = {_fingerprint(scan, unit) for unit in units}
        n_files = sum(len(unit.members) for unit in units[1:])
        if len(prints) > 1:
            message = (
                "Two folders hold images with the same SOP Instance UIDs and different content, so one of them is "
                "wrong. Remove the wrong one."
            )
            refused.append(SkippedItem(name, ReasonCode.DUPLICATE_UID_CONFLICT, message, n_files))
        elif len(units) > 1:
            message = "The same series stands in another place too, with the same content. It is worked on once."
            refused.append(SkippedItem(case_digest(name), ReasonCode.DUPLICATE_SERIES, message, n_files))
    names = {item.case for item in refused}
    return [units[0] for name, units in by_name.items() if name not in names], refused


def _summed(skips: Collection[SkippedItem]) -> list[SkippedItem]:
    """One item of each kind, with the number of files of all."""
    n_files: Counter[SkippedItem] = Counter()
    for skip in skips:
        n_files[replace(skip, n_files=0)] += skip.n_files
    return sorted((replace(skip, n_files=n) for skip, n in n_files.items()), key=lambda skip: skip.case)
