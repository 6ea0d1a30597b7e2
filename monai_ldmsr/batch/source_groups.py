"""Group the images below a source into units; series of which no file has changed stay as they are remembered."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from monai_ldmsr.batch.source_memory import FileRow, GroupRow, SourceMemory, UnitRow
from monai_ldmsr.batch.source_scan import SourceScan
from monai_ldmsr.errors import OutputError, SourceError
from monai_ldmsr.io import ReadLimits, SeriesFiles, SkippedItem
from monai_ldmsr.io.discovery import CUT_SHORT_SKIP, DAMAGE, cut_short
from monai_ldmsr.io.series_grouping import case_digest, same_content
from monai_ldmsr.io.series_volumes import LeftOut, volumes_of

__all__ = ["grouped"]


def grouped(scan: SourceScan, known: SourceMemory, limits: ReadLimits) -> dict[str, GroupRow]:
    """What becomes of each series.

    Args:
        scan: all files; those of series that have changed are read again, and their rows renewed.
        known: of last time.
        limits: see :class:`~monai_ldmsr.io.limits.ReadLimits`.
    """
    changed = _changed(scan, known)
    _read(scan, changed)
    damaged = Counter(row.folder for row in scan.files.values() if _is_damaged(row))
    files: dict[str, list[str]] = defaultdict(list)
    for key, row in scan.files.items():
        if row.group:
            files[row.group].append(key)
    n_damaged = {
        group: sum(damaged[folder] for folder in {scan.files[key].folder for key in keys}) if damaged else 0
        for group, keys in files.items()
    }
    # A file that was damaged or mended beside a series changes what its report has to warn of.
    warned = {group for group, row in known.groups.items() if row.n_damaged != n_damaged.get(group, 0)} - changed
    _read(scan, warned)
    rows = {}
    for group, keys in files.items():
        if group in changed or group in warned or group not in known.groups:
            rows[group] = _Series(scan, group, keys, damaged, limits).row(n_damaged[group])
        else:
            rows[group] = known.groups[group]
    return rows


def _changed(scan: SourceScan, known: SourceMemory) -> set[str]:
    """Series that a file has come to, gone from or changed in."""
    gone = known.files.keys() - scan.files.keys()
    before = {known.files[key].group for key in (scan.looked_at | gone) if key in known.files}
    now = {scan.files[key].group for key in scan.looked_at}
    return (before | now) - {""}


def _read(scan: SourceScan, groups: set[str]) -> None:
    """Have the images of ``groups`` at hand; files without Rows are no images but cut short."""
    if not groups:
        return
    scan.look_again([key for key, row in scan.files.items() if row.group in groups and key not in scan.looked_at])
    damage = SkippedItem(case_digest(*CUT_SHORT_SKIP), CUT_SHORT_SKIP[1], CUT_SHORT_SKIP[2], 1)
    cut = {group for group in groups if cut_short(scan.images.get(group, []))}
    for key, row in scan.files.items():
        if row.group in cut:
            scan.files[key] = replace(row, skips=(damage,))


def _is_damaged(row: FileRow) -> bool:
    """Whether an image of some series may be missing, as the file cannot be read."""
    return not row.extension and any(skip.reason in DAMAGE for skip in row.skips)


class _Series:
    """The images of one series, all at hand."""

    def __init__(
        self, scan: SourceScan, group: str, keys: list[str], damaged: Counter[str], limits: ReadLimits
    ) -> None:
        self._scan, self._limits = scan, limits
        self._images = sorted(scan.images.pop(group), key=lambda image: (image.path, image.frame))
        self._keys = {scan.places[key].path: key for key in keys}
        folders = {path.parent: scan.files[key].folder for path, key in self._keys.items()}
        self._damaged = Counter({path: damaged[folder] for path, folder in folders.items()})

    def row(self, n_damaged: int) -> GroupRow:
        if cut_short(self._images):
            return GroupRow(n_damaged=n_damaged)
        volumes, left_out = volumes_of(self._images, self._damaged, self._same)
        units = tuple(self._unit(volume) for volume in volumes)
        return GroupRow(units, tuple(self._left_out(item) for item in left_out), n_damaged)

    def _left_out(self, item: LeftOut) -> tuple[SkippedItem, tuple[str, ...]]:
        said = (item.reason, item.message)
        keys = tuple(self._keys[path] for path in item.paths)
        return SkippedItem(case_digest(self._images[0].series, *said), *said, len(keys)), keys

    def _same(self, first: Path, second: Path) -> bool:
        keys = self._keys[first], self._keys[second]
        if self._scan.same(*keys):
            return True
        try:
            with self._scan.readable(keys[0]) as one, self._scan.readable(keys[1]) as other:
                return same_content(one, other, self._limits)
        except (SourceError, OutputError):
            return False

    def _unit(self, volume: SeriesFiles) -> UnitRow:
        frames = volume.frames or (0,) * len(volume.paths)
        members = [
            (self._keys[path], tuple(frame for _, frame in part if frame))
            for path, part in groupby(zip(volume.paths, frames, strict=True), lambda pair: pair[0])
        ]
        return UnitRow(volume.case, volume.modality, volume.warnings, tuple(members), volume.volume, volume.label)
