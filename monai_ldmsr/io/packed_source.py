"""A series or volume of which files lie in zip archives, and how it comes onto the disk while it is read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from monai_ldmsr.errors import CorruptSourceError, ReasonCode
from monai_ldmsr.io.formats import inspect_file, part_names, volume_extension
from monai_ldmsr.io.limits import ReadLimits
from monai_ldmsr.io.series_grouping import SeriesFiles
from monai_ldmsr.io.volume_file import NiftiVolume, volume_case
from monai_ldmsr.io.zip_archive import open_zip
from monai_ldmsr.storage import clear_working_folders, file_stamp, working_folder

__all__ = [
    "WORK_DIR",
    "AnySource",
    "PackedMember",
    "PackedSource",
    "first_file",
    "listed",
    "on_disk",
    "packed_path",
    "remove_unpacked",
]

#: Folder in an output folder where archives are unpacked.
WORK_DIR = ".work"

_SIDECAR = ".json"


@dataclass(frozen=True)
class PackedMember:
    """One file in an archive.

    Args:
        archive: path; kept out of ``repr``, as are all paths.
        stamp: stamp of the archive when its list of contents was read, see :func:`~monai_ldmsr.storage.file_stamp`.
        index: place in the archive's list of contents.
    """

    archive: Path = field(repr=False)
    stamp: tuple[int, int]
    index: int


@dataclass(frozen=True)
class PackedSource:
    """A source of which some or all files have to be unpacked before it is read; it can be pickled.

    Args:
        source: the series or volume file; paths of packed files are where they would be if archives were folders.
        members: for each such path, what to unpack; files that belong to a volume file are among them.
        volume: number of the volume in a 4D NIfTI file, 0 when it is the whole file.
        work_dir: where to unpack; made when missing.
        limits: see :class:`~monai_ldmsr.io.limits.ReadLimits`.
    """

    source: SeriesFiles | Path = field(repr=False)
    members: dict[Path, PackedMember] = field(repr=False)
    volume: int
    work_dir: Path = field(repr=False)
    limits: ReadLimits


def packed_path(member: PackedMember, name: str) -> Path:
    """Where a packed file would be if archives were folders: it is called by its number there, and ``name``."""
    return member.archive / f"{member.index:06d}-{name}"


#: What one result is made from: a series' files, a volume file, one volume of a 4D file, or such within an archive.
AnySource: TypeAlias = SeriesFiles | NiftiVolume | Path | PackedSource


@contextmanager
def on_disk(source: Any) -> Iterator[Any]:
    """Unpack what is packed for as long as the block lasts; any other source is given back as it is.

    Args:
        source: :class:`PackedSource`, or what the readers take.

    Yields:
        ``SeriesFiles``, path of a volume file, or ``NiftiVolume``.

    Raises:
        CorruptSourceError: ``UNREADABLE_FILE`` when an archive is damaged, or was changed since it was searched.
        OutputError: ``CANNOT_WRITE``, such as on a full disk.
    """
    if not isinstance(source, PackedSource):
        yield source
        return
    with working_folder(source.work_dir) as folder:
        if isinstance(source.source, SeriesFiles):
            places = {path: folder / f"{n:06d}.dcm" for n, path in enumerate(source.members)}
            _extract({member: places[path] for path, member in source.members.items()}, source.limits)
            yield replace(source.source, paths=tuple(places.get(path, path) for path in source.source.paths))
        else:
            path = _volume(source, source.source, folder)
            yield NiftiVolume(inspect_file(path, source.limits), source.volume) if source.volume else path


def listed(source: AnySource) -> SeriesFiles | Path:
    """The series or volume file that a source is, or is a volume of; of a packed one as if archives were folders."""
    if isinstance(source, PackedSource):
        return source.source
    return source.file.path if isinstance(source, NiftiVolume) else source


@contextmanager
def first_file(series: AnySource) -> Iterator[Path]:
    """The first file of a series, unpacked for as long as the block lasts where it lies in an archive."""
    if isinstance(series, PackedSource) and isinstance(series.source, SeriesFiles):
        path = series.source.paths[0]
        alone = replace(series.source, paths=(path,), frames=())
        members = {path: series.members[path]} if path in series.members else {}
        series = replace(series, source=alone, members=members)
    with on_disk(series) as unpacked:
        yield unpacked.paths[0]


def _volume(source: PackedSource, listed: Path, folder: Path) -> Path:
    path = folder / f"{volume_case(listed)}{volume_extension(listed)}"
    _extract({source.members[listed]: path}, source.limits)
    # The header alone knows how the file beside it has to be called.
    data, sidecar = part_names(path, source.limits)
    others = {member: place.suffix == _SIDECAR for place, member in source.members.items() if place != listed}
    targets = {member: folder / (sidecar if is_sidecar else data) for member, is_sidecar in others.items()}
    _extract({member: target for member, target in targets.items() if target != folder}, source.limits)
    return path


def _extract(targets: dict[PackedMember, Path], limits: ReadLimits) -> None:
    by_archive: dict[tuple[Path, tuple[int, int]], dict[int, Path]] = defaultdict(dict)
    for member, target in targets.items():
        by_archive[member.archive, member.stamp][member.index] = target
    for (archive, stamp), by_index in by_archive.items():
        with open_zip(archive, limits) as opened:
            if file_stamp(archive) != stamp:
                raise CorruptSourceError(
                    "A zip archive was changed while it was worked on. Run again once it is complete.",
                    ReasonCode.UNREADABLE_FILE,
                )
            # In the order of the file, which reads it once from begin to end.
            for index, target in sorted(by_index.items()):
                opened.extract(index, target)


def remove_unpacked(work_dir: Path) -> None:
    """Remove what processes that were killed have left unpacked."""
    clear_working_folders(work_dir)
    with suppress(OSError):  # it is not there, or not empty
        work_dir.rmdir()
