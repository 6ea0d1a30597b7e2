"""Find what can be worked on: series and volume files in folders, on media with a DICOMDIR and in zip archives."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePath

from monai_ldmsr.errors import ReasonCode, SettingsError, SourceError
from monai_ldmsr.io.case_names import (
    NAMINGS,
    NamedSource,
    case_name,
    distinct,
    series_place,
    volume_digest,
)
from monai_ldmsr.io.dicomdir import is_dicomdir_name, read_dicomdir
from monai_ldmsr.io.file_scan import CUT_SHORT_SKIP, FileScan, VolumeItem
from monai_ldmsr.io.formats import parts_beside, volume_extension
from monai_ldmsr.io.limits import DEFAULT_LIMITS, ReadLimits
from monai_ldmsr.io.packed_source import AnySource, PackedMember, PackedSource, packed_path
from monai_ldmsr.io.series_grouping import SeriesFiles, SkippedItem, case_digest
from monai_ldmsr.io.series_volumes import volumes_of
from monai_ldmsr.io.tree import Others, empty_source, files_below, files_of, given_sources
from monai_ldmsr.io.value_kind import lies_among_labels
from monai_ldmsr.io.volume_file import NiftiVolume, volume_case

__all__ = ["Listing", "find_dicom_series", "find_sources", "list_files", "search"]

_MISSING = (
    "A DICOMDIR lists images of this series that are missing, cannot be read or lie outside of its folder. Copy the "
    "medium again, or remove the DICOMDIR if they were left out on purpose."
)


@dataclass(frozen=True)
class Listing:
    """What lies below a source.

    Args:
        root: folder that places are relative to.
        files: the files to read, in a fixed order.
        others: what is not, by reason and message.
    """

    root: Path = field(repr=False)
    files: tuple[Path, ...] = field(repr=False)
    others: Others = field(repr=False)


def find_sources(
    source: str | Path,
    limits: ReadLimits = DEFAULT_LIMITS,
    *,
    names: str | None = None,
    work_dir: Path | None = None,
) -> tuple[list[NamedSource[AnySource]], list[SkippedItem]]:
    """Find everything that one run works on.

    Args:
        source: a folder (searched through with its archives, DICOM and volume files mixed), a volume file, a zip
            archive, or one DICOM file, which is then a series of one slice; a DICOMDIR, of which only the files that it
            lists are taken; or a ``.txt`` file that lists such. Links below it are not followed out of it, nor into
            folders.
        limits: see :class:`~monai_ldmsr.io.limits.ReadLimits`.
        names: how results are named, see :data:`~monai_ldmsr.io.case_names.NAMINGS`.
        work_dir: where archives are unpacked, a file at a time here, a source at a time when it is read; None: among
            the system's temporary files.

    Returns:
        Series, volume files and volumes of 4D files with the names of their results, in a fixed order; and what was
        left out.

    Raises:
        SettingsError: there is no such way to name results.
        SourceError: ``NO_SUCH_SOURCE`` when it does not exist, ``EMPTY_SOURCE`` when it holds no file.
    """
    return search(list_files(Path(source), limits), limits, names=names, work_dir=work_dir)


def find_dicom_series(
    folder: str | Path, limits: ReadLimits = DEFAULT_LIMITS
) -> tuple[list[SeriesFiles], list[SkippedItem]]:
    """Group the DICOM files below a folder (or the one file given) into series that make one volume each.

    Images belong together by series, frame of reference, matrix, orientation and pixel spacing. Where two of
    them then stand at the same position, they are split further: by echo, b-value, time and the like.

    Args:
        folder: searched with all its folders; hidden files and links that lead out of it are left alone.
        limits: see :class:`~monai_ldmsr.io.limits.ReadLimits`.

    Returns:
        Series in a fixed order, and what was left out. Volume files, and series of which files lie in zip archives,
        are in neither list.

    Raises:
        SourceError: ``NO_SUCH_SOURCE`` or ``EMPTY_SOURCE``.
    """
    found, skipped = find_sources(folder, limits)
    return [one.source for one in found if isinstance(one.source, SeriesFiles)], skipped


def list_files(source: Path, limits: ReadLimits = DEFAULT_LIMITS) -> Listing:
    """List the files of a source; see :func:`find_sources`."""
    sources, others = given_sources(source)
    media = [path for path in sources if is_dicomdir_name(path.name) and path.is_file()]
    found, more = files_of(path for path in sources if path not in media)
    others = {**others, **more}
    alone = [path for path in found if path in sources and volume_extension(path)]
    parts = [part for path in alone for part in parts_beside(path, limits)]
    listed = [path for medium in media for path in _listed_by(medium, limits)]
    files = tuple(dict.fromkeys([*listed, *found, *parts]))
    if not files and not others:
        raise empty_source(source)
    return Listing(source if source.is_dir() else source.parent, files, others)


def _listed_by(dicomdir: Path, limits: ReadLimits) -> list[Path]:
    """The DICOMDIR and the files that it lists; all of its folder when it cannot be read."""
    files, _ = files_below(dicomdir.parent)
    try:
        images = read_dicomdir(dicomdir, limits)
    except SourceError:
        return files
    listed = {_fold(dicomdir.parent / name) for _, name in images if name}
    return [path for path in files if path == dicomdir or _fold(path) in listed]


def _fold(path: Path) -> str:
    """By what a DICOMDIR and a file are compared: some media are copied with small letters."""
    return os.path.abspath(path).lower()


def search(
    listing: Listing,
    limits: ReadLimits = DEFAULT_LIMITS,
    *,
    names: str | None = None,
    work_dir: Path | None = None,
    contents: Mapping[Path, str] | None = None,
) -> tuple[list[NamedSource[AnySource]], list[SkippedItem]]:
    """Look at files that were listed, group and name what they hold; see :func:`find_sources`.

    Args:
        listing: what :func:`list_files` gave.
        limits: see :func:`find_sources`.
        names: see :func:`find_sources`.
        work_dir: see :func:`find_sources`.
        contents: SHA-256 of files, where they are known.
    """
    if names is not None and names not in NAMINGS:
        raise SettingsError(f"names is {names!r}; choose one of {', '.join(NAMINGS)}.")
    scan = FileScan(limits, work_dir, contents)
    scan.look(listing.files)
    series, refused = _complete_series(scan)
    kept, copies = distinct(
        NamedSource(files.case, partial(_series_content, scan, files), files.paths, files) for files in series
    )
    naming = _Naming(scan, listing.root, names)
    volume_files, more_copies = distinct(map(naming.volume_file, scan.volumes))
    skips = [
        *((case_digest(*skip), *skip[1:], paths) for skip, paths in sorted(scan.skips.items())),
        *(
            (case_digest(message), reason, message, paths)
            for (reason, message), paths in sorted(listing.others.items())
        ),
    ]
    skipped = [SkippedItem(case, reason, message, len(paths), tuple(paths)) for case, reason, message, paths in skips]
    found = [*map(naming.series, kept), *(one for item in volume_files for one in naming.volumes(item))]
    return found, [*skipped, *refused, *copies, *more_copies]


def _complete_series(scan: FileScan) -> tuple[list[SeriesFiles], list[SkippedItem]]:
    """Volumes of all series, and the series that are refused as a DICOMDIR lists more of them than can be read."""
    for bucket in [bucket for bucket, images in scan.images.items() if not any(image.grid[2] for image in images)]:
        for image in scan.images.pop(bucket):  # none has Rows: cut short, perhaps within the UID itself
            scan.leave_out(CUT_SHORT_SKIP, image.path)
    missing = _missing(scan)
    damaged = Counter(path.parent for path in scan.damaged)
    found: list[SeriesFiles] = []
    refused: list[SkippedItem] = []
    for bucket, images in scan.images.items():
        images.sort(key=lambda image: (image.path, image.frame))
        volumes, left_out = volumes_of(images, damaged, scan.same)
        for reason, message, paths in left_out:
            scan.skips[images[0].series, reason, message] += paths
        n_missing = missing[bucket]
        cases = [files.case for files in volumes] or [case_digest("series", bucket)] if n_missing else []
        refused += [SkippedItem(case, ReasonCode.MISSING_FILE, _MISSING, n_missing) for case in cases]
        found += [] if n_missing else volumes
    for series in missing.keys() - scan.images.keys():
        refused.append(SkippedItem(case_digest("series", series), ReasonCode.MISSING_FILE, _MISSING, missing[series]))
    return sorted(found, key=lambda files: files.paths[0]), refused


def _missing(scan: FileScan) -> Counter[str]:
    """How many files a DICOMDIR lists that cannot be read, by Series Instance UID."""
    if not scan.listed:
        return Counter()
    readable = {_fold(path) for path in set(scan.seen) - set(scan.damaged)}
    return Counter(series for series, path in set(scan.listed) if path is None or _fold(path) not in readable)


def _series_content(scan: FileScan, files: SeriesFiles) -> str:
    """Digest of a series' files, wherever they lie and whatever they are called, and of what it calls the volume."""
    frames = files.frames or (0,) * len(files.paths)
    words = [files.volume, files.label] if files.volume else []
    parts = sorted(f"{scan.content(path)} {n}" for path, n in zip(files.paths, frames, strict=True))
    return case_digest("series", *words, *parts, digits=24)


class _Naming:
    """Names what a scan has found, and says how it is read."""

    def __init__(self, scan: FileScan, root: Path, names: str | None) -> None:
        self._scan, self._root, self._names = scan, root, names

    def series(self, one: NamedSource[SeriesFiles]) -> NamedSource[AnySource]:
        """A series that lies in folders or archives."""
        packed = self._scan.members(one.paths)
        shown = {path: packed_path(member, "image.dcm") for path, member in packed.items()}
        files = replace(one.source, paths=tuple(shown.get(path, path) for path in one.paths))
        name = case_name(self._names, files.case, series_place(files.paths, self._root), is_series=True)
        source = self._source(files, {shown[path]: member for path, member in packed.items()})
        return NamedSource(name, one.content, files.paths, source)

    def volume_file(self, item: VolumeItem) -> NamedSource[VolumeItem]:
        """A volume file, with the name that its volumes begin with."""
        contents = [self._scan.content(path) for path in (item.path, *item.parts)]
        digest = volume_digest(item.path, contents)
        member = self._scan.packed.get(item.path)
        place = os.path.relpath(item.path if member is None else member.archive / item.path.name, self._root)
        name = case_name(self._names, digest, PurePath(place), is_series=False)
        return NamedSource(name, lambda: digest, (item.path,), item)

    def volumes(self, one: NamedSource[VolumeItem]) -> Iterator[NamedSource[AnySource]]:
        """Each volume of a file."""
        path, packed = one.source.path, self._scan.members((one.source.path, *one.source.parts))
        stem = "volume" if self._names == "hash" else volume_case(path)
        if lies_among_labels(path):  # which only its folder says
            stem = f"labels_{stem}"
        shown = {place: packed_path(member, f"{stem}{place.suffix}") for place, member in packed.items()}
        if path in shown:
            shown[path] = packed_path(packed[path], f"{stem}{volume_extension(path)}")
        members = {shown[place]: member for place, member in packed.items()}
        for volume in one.source.volumes:
            number, suffix = (volume.number, volume.suffix) if isinstance(volume, NiftiVolume) else (0, "")
            source = self._source(shown[path], members, number) if members else volume
            yield NamedSource(f"{one.name}{suffix}", one.content, (shown.get(path, path),), source)

    def _source(
        self, source: SeriesFiles | Path, members: dict[Path, PackedMember], volume: int = 0
    ) -> SeriesFiles | Path | PackedSource:
        return PackedSource(source, members, volume, self._scan.work_dir, self._scan.limits) if members else source
