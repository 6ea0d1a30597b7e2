"""Find every unit of work below a source: in folders, on media with a DICOMDIR, and in zip archives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from functools import partial
from pathlib import Path

from monai_ldmsr.batch.source_groups import grouped
from monai_ldmsr.batch.source_memory import GroupRow, SourceMemory, UnitRow, digest
from monai_ldmsr.batch.source_scan import SourceScan
from monai_ldmsr.batch.unit import FoundUnit
from monai_ldmsr.errors import ReasonCode
from monai_ldmsr.io import AnySource, NiftiVolume, PackedSource, ReadLimits, SeriesFiles, SkippedItem
from monai_ldmsr.io.case_names import NamedSource, case_name, check_naming, distinct, series_place, volume_digest
from monai_ldmsr.io.dicomdir import is_dicomdir_name
from monai_ldmsr.io.discovery import DAMAGE
from monai_ldmsr.io.limits import DEFAULT_LIMITS
from monai_ldmsr.io.nifti_file import NiftiFile
from monai_ldmsr.io.series_grouping import case_digest
from monai_ldmsr.io.tree import Others, empty_source, files_below, files_of, given_sources
from monai_ldmsr.io.volume_format import volume_extension
from monai_ldmsr.io.volume_parts import parts_beside
from monai_ldmsr.source_table import SourceRow, rows_of_skips, source_row

__all__ = ["UnitSources"]

Wanted = Callable[[str, str], bool]


class UnitSources:
    """The units below a folder, a DICOMDIR, an archive or a file, and what to remember of them.

    A file that is as it was is not read; one that was only touched is read for its content, which then is the same.
    Only series of which a file has come, gone or changed are grouped anew.

    Args:
        source: folder, searched with all its folders; file of one volume; zip archive; DICOMDIR, of which only the
            files that it lists are taken; or a ``.txt`` file that lists such, one a line.
        work_dir: where archives are unpacked, a file at a time here, a unit at a time in the worker.
        limits: see :class:`~monai_ldmsr.io.limits.ReadLimits`.
        known: rows that were ``learned`` earlier.
        again: look anew at what was refused last time.
        names: how results are named, see :data:`~monai_ldmsr.io.case_names.NAMINGS`.
        with_rows: find the rows of the table of sources, too.

    Attributes:
        learned: rows to be kept from now on, in place of those with the same key.
        forgotten: keys of rows that no longer hold.
        rows: of the table of sources; None where there is none.
    """

    def __init__(
        self,
        source: str | Path,
        work_dir: str | Path,
        limits: ReadLimits = DEFAULT_LIMITS,
        known: Mapping[str, str] | None = None,
        again: bool = False,
        names: str | None = None,
        with_rows: bool = False,
    ) -> None:
        check_naming(names)
        self._names = names
        self.rows: list[SourceRow] | None = [] if with_rows else None
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
        known = SourceMemory.load(self._known, self.limits, self._names)
        scan = SourceScan(self._root, known, self.limits, self.work_dir, self._again, self._names)
        others = self._scan(scan)
        groups = grouped(scan, known, self.limits)
        self._learn(SourceMemory(scan.files, groups))
        parts = {key for row in scan.files.values() for key in row.beside}
        skips = [skip for key, row in scan.files.items() if key not in parts for skip in row.skips]
        skips += [item for row in groups.values() for item, _ in row.left_out]
        skips += [SkippedItem(case_digest(text), reason, text, len(paths)) for (reason, text), paths in others.items()]
        series, refused = _distinct(scan, _complete(scan, groups))
        volumes, copies = self._named_volumes(scan)
        self._tell_skips(scan, groups, others, parts)
        if self.rows is not None:
            self.rows += rows_of_skips([*refused, *copies], self._root, self.limits)
        units = [self._found(scan, unit, wanted) for unit in series]
        units += list(self._volumes(scan, volumes, wanted))
        return sorted(units, key=lambda unit: unit.unit), _summed([*skips, *refused, *copies])

    def _scan(self, scan: SourceScan) -> Others:
        sources, others = given_sources(self.source)
        media = [source for source in sources if is_dicomdir_name(source.name) and source.is_file()]
        found, more = files_of(source for source in sources if source not in media)
        alone, _ = files_of(source for source in sources if source.is_file())
        parts = [part for path in alone if volume_extension(path) for part in parts_beside(path, self.limits)]
        listed = [path for medium in media for path in self._listed(scan, medium, files_below(medium.parent)[0])]
        files, others = dict.fromkeys([*listed, *found, *parts]), {**others, **more}
        if not files and not others:
            raise empty_source(self.source)
        for path in files:
            scan.see(path)
        return others

    def _listed(self, scan: SourceScan, dicomdir: Path, files: Collection[Path]) -> list[Path]:
        """Of ``files``, those that the DICOMDIR lists; all of them when it cannot be read."""
        folds = scan.dicomdir_files(dicomdir)
        if folds is None:
            return list(files)
        relative = ((path, str(scan.relative(path)).lower()) for path in files)
        return [path for path, name in relative if path == dicomdir or digest(name) in folds]

    def _learn(self, memory: SourceMemory) -> None:
        rows = memory.dump(self.limits, self._names)
        self.learned = {key: text for key, text in rows.items() if self._known.get(key) != text}
        self.forgotten = self._known.keys() - rows.keys()
        self._known = rows

    def _found(self, scan: SourceScan, row: UnitRow, wanted: Wanted | None) -> FoundUnit:
        fingerprint = _fingerprint(scan, row)
        name = self._series_name(scan, row)
        self._tell(scan, name, [key for key, _ in row.members], is_series=True)
        if wanted is not None and not wanted(name, fingerprint):
            return FoundUnit(name, fingerprint)
        paths = [scan.path(key) for key, frames in row.members for _ in frames or (0,)]
        numbers = [frame for _, frames in row.members for frame in frames or (0,)]
        frames = tuple(numbers) if any(numbers) else ()
        files = SeriesFiles(row.unit, row.modality, tuple(paths), row.warnings, frames, row.volume, row.label)
        return FoundUnit(name, fingerprint, self._packed(scan, files, [key for key, _ in row.members]))

    def _series_name(self, scan: SourceScan, row: UnitRow) -> str:
        if self._names in (None, "hash"):  # thousands of paths need not be looked at
            return row.unit
        place = series_place([scan.path(key) for key, _ in row.members], self._root)
        return case_name(self._names, row.unit, place, is_series=True)

    def _packed(
        self, scan: SourceScan, source: SeriesFiles | Path, keys: Collection[str], volume: int = 0
    ) -> AnySource:
        members = {scan.path(key): scan.packed(key) for key in keys if key in scan.files}
        packed = {path: member for path, member in members.items() if member is not None}
        if packed:
            return PackedSource(source, packed, volume, self.work_dir, self.limits)
        return source

    def _volumes(self, scan: SourceScan, found: list[NamedSource[str]], wanted: Wanted | None) -> Iterator[FoundUnit]:
        for one in found:
            key, row = one.source, scan.files[one.source]
            contents = scan.volume_contents(key)
            file = None
            for number in range(1, row.n_volumes + 1) if row.n_volumes else (0,):
                unit = f"{one.name}-vol{number:0{max(4, len(str(row.n_volumes)))}d}" if number else one.name
                fingerprint = digest("volume", number, *contents)
                self._tell(scan, unit, [key])
                if wanted is not None and not wanted(unit, fingerprint):
                    yield FoundUnit(unit, fingerprint)
                    continue
                path = scan.path(key)
                source = self._packed(scan, path, [key, *row.beside], number)
                if number and not isinstance(source, PackedSource):
                    file = file or NiftiFile(path, self.limits)
                    source = NiftiVolume(file, number)
                yield FoundUnit(unit, fingerprint, source)

    def _named_volumes(self, scan: SourceScan) -> tuple[list[NamedSource[str]], list[SkippedItem]]:
        named = []
        for key in filter(scan.is_volume, scan.files):
            content = volume_digest(scan.files[key].stem, scan.volume_contents(key))
            name = case_name(self._names, content, scan.volume_place(key), is_series=False)
            named.append(NamedSource(name, partial(str, content), (scan.path(key),), key))
        return distinct(named)

    def _tell(self, scan: SourceScan, case: str, keys: Sequence[str], is_series: bool = False) -> None:
        """Add a row to the table of sources, if there is to be one."""
        if self.rows is not None:
            paths = [scan.path(key) for key in keys]
            first = partial(scan.readable, keys[0])
            self.rows.append(source_row(case, paths, self._root, self.limits, is_series, first))

    def _tell_skips(self, scan: SourceScan, groups: Mapping[str, GroupRow], others: Others, parts: Set[str]) -> None:
        if self.rows is None:
            return
        for key, row in scan.files.items():
            for skip in () if key in parts else row.skips:
                self._tell(scan, skip.case, [key])
        for item, keys in (pair for row in groups.values() for pair in row.left_out):
            for key in keys:
                self._tell(scan, item.case, [key])
        for (_, message), paths in others.items():
            self.rows += [source_row(case_digest(message), [path], self._root, self.limits) for path in paths]


def _fingerprint(scan: SourceScan, row: UnitRow) -> str:
    """Of the files' contents, and what the series calls the volume: where they lie does not matter."""
    told = [row.volume, row.label] if row.volume else []
    return digest("series", *told, *sorted(f"{scan.files[key].content} {frames}" for key, frames in row.members))


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
    named, refused = [], []
    for unit, refusal in found:
        if refusal is None:
            paths = tuple(scan.path(key) for key, _ in unit.members)
            named.append(NamedSource(unit.unit, partial(_fingerprint, scan, unit), paths, unit))
        else:
            refused.append(refusal)
    kept, left_out = distinct(named)
    names = {item.case for item in refused}
    return [one.source for one in kept if one.name not in names], [*refused, *left_out]


def _summed(skips: Collection[SkippedItem]) -> list[SkippedItem]:
    """One item of each kind, with the number of files of all."""
    n_files: Counter[SkippedItem] = Counter()
    for skip in skips:
        n_files[replace(skip, n_files=0)] += skip.n_files
    return sorted((replace(skip, n_files=n) for skip, n in n_files.items()), key=lambda skip: skip.case)
