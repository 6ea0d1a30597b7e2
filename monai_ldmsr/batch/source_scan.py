"""Look at the files below a source: which are those of last time, and what the others hold."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from monai_ldmsr.batch.source_memory import FileRow, SourceMemory, digest
from monai_ldmsr.errors import OutputError, ReasonCode, SourceError
from monai_ldmsr.io import ReadLimits, SkippedItem, nifti_volumes, volume_case
from monai_ldmsr.io.case_names import stem_digest, volume_contents
from monai_ldmsr.io.dicom_header import quiet_pydicom
from monai_ldmsr.io.dicomdir import is_dicomdir_name, read_dicomdir
from monai_ldmsr.io.discovery import judged
from monai_ldmsr.io.packed_source import PackedMember
from monai_ldmsr.io.series_grouping import SeriesImage, case_digest
from monai_ldmsr.io.volume_format import NIBABEL, volume_extension, voxels_beside
from monai_ldmsr.io.volume_parts import part_names
from monai_ldmsr.io.zip_archive import is_zip_name, open_zip
from monai_ldmsr.storage import file_sha256, file_stamp, working_folder

__all__ = ["Place", "SourceScan", "group_of", "place_of"]

#: Extension in the row of an archive.
_ARCHIVE = ".zip"
_SIDECAR = ".json"

_NESTED = "A zip archive lies within a zip archive and is not opened. Unpack the outer one."
_UNREADABLE = "A file cannot be read from its disk. Check the disk and its permissions."


@dataclass(frozen=True)
class Place:
    """Where a file is found.

    Args:
        path: its path; of a file in an archive, as if the archive were a folder.
        key: digest of the path relative to the source.
        folder: digest of the folder's relative path.
        fold: digest of the relative path in small letters.
    """

    path: Path = field(repr=False)
    key: str
    folder: str
    fold: str


def place_of(path: Path, relative: PurePosixPath) -> Place:
    """Place of a file by its path relative to the source."""
    return Place(path, digest(relative), digest(relative.parent), digest(str(relative).lower()))


def group_of(image: SeriesImage, root: Path) -> str:
    """Digest of what holds the images of one series together; a folder counts relative to the source."""
    series = image.series
    return digest("series", series) if series else digest("folder", os.path.relpath(image.path.parent, root))


class SourceScan:
    """Rows of all files below ``root``, by what is remembered where a file is the same.

    Args:
        root: folder that paths are relative to.
        known: of last time.
        limits: see :class:`~monai_ldmsr.io.limits.ReadLimits`.
        work_dir: where members of archives are unpacked, one at a time.
        again: look anew at files that were refused last time.
        names: how results are named; with ``hash`` no stem of a file is remembered.

    Attributes:
        files: row of each file that is there now.
        places: of each file on disk, and of those in archives that were opened.
        images: by group, of the files that had to be looked at.
        looked_at: keys of these.
    """

    def __init__(
        self,
        root: Path,
        known: SourceMemory,
        limits: ReadLimits,
        work_dir: Path,
        again: bool = False,
        names: str | None = None,
    ) -> None:
        self.files: dict[str, FileRow] = {}
        self.places: dict[str, Place] = {}
        self.images: dict[str, list[SeriesImage]] = defaultdict(list)
        self.looked_at: set[str] = set()
        self._root, self._known, self._limits, self._work_dir, self._again = root, known, limits, work_dir, again
        self._names = names
        self._packed: dict[str, list[str]] = defaultdict(list)
        for key, row in known.files.items():
            if row.archive:
                self._packed[row.archive].append(key)

    def see(self, path: Path) -> None:
        """Take in one file on disk."""
        place = place_of(path, self.relative(path))
        self.places[place.key] = place
        old = self._known.files.get(place.key)
        if old is not None and (not old.content or (self._again and any(skip.failed for skip in old.skips))):
            old = None
        try:
            mark = _mark(path)
            if old is not None and old.mark == mark:
                self._keep(place.key, old)
                return
            content = file_sha256(path)
        except OSError:
            skips = (_skip(ReasonCode.UNREADABLE_FILE, _UNREADABLE),)
            self.files[place.key] = FileRow((), "", place.folder, place.fold, skips=skips)
            return
        if old is not None and old.content == content:
            self._keep(place.key, replace(old, mark=mark))
            return
        row = FileRow(mark, content, place.folder, place.fold)
        if is_zip_name(path.name):
            self._see_archive(place, replace(row, extension=_ARCHIVE))
        else:
            self._look(place, path, row)

    def relative(self, path: Path) -> PurePosixPath:
        """Path of a file relative to the root; a list of sources may name files anywhere."""
        return PurePosixPath(Path(os.path.relpath(path, self._root)).as_posix())

    def volume_place(self, key: str) -> PurePosixPath:
        """Where a volume file lies, by names that may be told: in an archive that is not opened, by its stem."""
        row = self.files[key]
        if not row.archive:
            return self.relative(self.places[key].path)
        return self.relative(self.places[row.archive].path) / f"{row.unit}{row.extension}"

    def volume_contents(self, key: str) -> list[str]:
        """SHA-256 of a volume file, and of the files that belong to it where they are beside it."""
        row = self.files[key]
        if row.archive or all(other in self.files for other in row.beside[:-1]):  # the JSON file is the last
            return [row.content, *(self.content(other) for other in row.beside)]
        return volume_contents(self.places[key].path, self._limits)  # the file alone is the source

    def content(self, key: str) -> str:
        """SHA-256 of a file, empty where there is none."""
        return self.files[key].content if key in self.files else ""

    def is_volume(self, key: str) -> bool:
        """Whether a file is a volume file."""
        return self.files[key].extension not in ("", _ARCHIVE, _SIDECAR)

    def dicomdir_files(self, path: Path) -> set[str] | None:
        """``fold`` of each file that a DICOMDIR lists; ``None`` when it is damaged."""
        self.see(path)
        row = self.files[self._key(path)]
        return None if row.skips else {fold for _, fold in row.listed}

    def look_again(self, keys: Sequence[str]) -> None:
        """Find the images of files that were kept unread, since others of their series have changed."""
        by_archive: dict[str, list[str]] = defaultdict(list)
        for key in keys:
            by_archive[self.files[key].archive].append(key)
        for key in by_archive.pop("", ()):
            self._look(self.places[key], self.places[key].path, replace(self.files[key], skips=()))
        for archive, members in by_archive.items():
            try:
                with ExitStack() as stack:
                    for place, path, row in self._unpacked(stack, archive, members):
                        self._look(place, path, replace(row, skips=()))
            except (SourceError, OutputError) as error:
                self._refuse(archive, error)

    def _refuse(self, archive: str, error: SourceError | OutputError) -> None:
        """List an archive of which not all can be had; it is looked at anew next time if this may be better then."""
        row = self.files[archive]
        message = f"{error} (The archive has {row.mark[0]} bytes, SHA-256 {row.content[:12]}.)"
        gone = [key for key, member in self.files.items() if member.archive == archive]
        for key in gone:
            del self.files[key]
        passes = bool(gone) or error.reason is ReasonCode.CANNOT_WRITE
        skips = (_skip(error.reason, message),)
        self.files[archive] = replace(row, content="" if passes else row.content, skips=skips)

    def same(self, first: str, second: str) -> bool:
        """Whether two files hold the same bytes."""
        one, other = self.files[first], self.files[second]
        return bool(one.content) and one.content == other.content

    @contextmanager
    def readable(self, key: str) -> Iterator[Path]:
        """The file itself, unpacked for as long as the block lasts where it lies in an archive."""
        archive = self.files[key].archive
        with ExitStack() as stack:
            if archive:
                _, path, _ = next(iter(self._unpacked(stack, archive, [key])))
            else:
                path = self.places[key].path
            yield path

    def packed(self, key: str) -> PackedMember | None:
        """How to unpack a file; ``None`` when it lies on disk."""
        row = self.files[key]
        if not row.archive:
            return None
        archive = self.places[row.archive].path
        mark = self.files[row.archive].mark
        return PackedMember(archive, (mark[0], mark[1]), row.index)

    def path(self, key: str) -> Path:
        """Where a file lies; one in an archive, which need not be opened for this, has its number for a name."""
        row = self.files[key]
        if not row.archive:
            return self.places[key].path
        return self.places[row.archive].path / f"{row.index:06d}-{row.unit or 'image'}{row.extension or '.dcm'}"

    def _keep(self, key: str, row: FileRow) -> None:
        self.files[key] = row
        for member in self._packed.get(key, ()):
            self.files[member] = self._known.files[member]

    def _unpacked(self, stack: ExitStack, archive: str, keys: Sequence[str]) -> Iterator[tuple[Place, Path, FileRow]]:
        """Members of an archive, each on disk until the next one is asked for."""
        path = self.places[archive].path
        opened = stack.enter_context(open_zip(path, self._limits))
        folder = stack.enter_context(working_folder(self._work_dir))
        names = {member.index: member.name for member in opened.members}
        for key in keys:
            row = self.files[key]
            place = self._member_place(path, names[row.index])
            self.places[key] = place
            target = folder / f"{row.index}{''.join(PurePosixPath(names[row.index].name).suffixes[-1:])}"
            opened.extract(row.index, target)
            yield place, target, row
            target.unlink()

    def _member_place(self, archive: Path, name: PurePosixPath) -> Place:
        return place_of(archive / name, self.relative(archive) / name)

    def _see_archive(self, place: Place, row: FileRow) -> None:
        """Look at each member, unpacked alone; an archive of which one cannot be had is refused as a whole."""
        found = SourceScan(self._root, self._known, self._limits, self._work_dir, names=self._names)
        try:
            with open_zip(place.path, self._limits) as opened, working_folder(self._work_dir) as folder:
                if file_stamp(place.path) != row.mark[:2]:
                    raise SourceError(_UNREADABLE, ReasonCode.UNREADABLE_FILE)
                by_name = {member.name: member.index for member in opened.members}
                for member in opened.members:
                    at = self._member_place(place.path, member.name)
                    targets = _targets(member.name, member.index, by_name, folder)
                    for index, target in targets.items():
                        opened.extract(index, target)
                    found._see_member(at, targets[member.index], place.key, member.index)
                    for target in targets.values():
                        target.unlink()
        except (SourceError, OutputError) as error:
            self.files[place.key] = row
            self._refuse(place.key, error)
            return
        self.files[place.key] = row
        self.files.update(found.files)
        self.places.update(found.places)
        self.looked_at |= found.looked_at
        for group, images in found.images.items():
            self.images[group] += images

    def _see_member(self, place: Place, path: Path, archive: str, index: int) -> None:
        self.places[place.key] = place
        content = file_sha256(path)
        old = self._known.files.get(place.key)
        if old is not None and old.archive == archive and old.content == content:
            self.files[place.key] = replace(old, index=index)
            return
        row = FileRow((), content, place.folder, place.fold, archive=archive, index=index)
        if is_zip_name(place.path.name):
            self.files[place.key] = replace(row, skips=(_skip(ReasonCode.NESTED_ARCHIVE, _NESTED),))
        else:
            self._look(place, path, row)

    def _look(self, place: Place, path: Path, row: FileRow) -> None:
        """Read what has to be known of a file; ``path`` is where it can be read."""
        self.looked_at.add(place.key)
        if is_dicomdir_name(place.path.name):
            self.files[place.key] = self._look_at_dicomdir(place, path, row)
        elif volume_extension(place.path):
            self.files[place.key] = self._look_at_volume(place, path, row)
        else:
            self._look_at_images(place, path, row)

    def _look_at_dicomdir(self, place: Place, path: Path, row: FileRow) -> FileRow:
        try:
            images = read_dicomdir(path, self._limits)
        except SourceError as error:
            return replace(row, skips=(_skip(error.reason, str(error)),))
        folder = self.relative(place.path.parent)
        listed = [
            (digest("series", image.series), digest(str(folder / image.name).lower()) if image.name else "")
            for image in images
        ]
        return replace(row, listed=tuple(listed))

    def _look_at_volume(self, place: Place, path: Path, row: FileRow) -> FileRow:
        n_volumes = 0
        extension = volume_extension(place.path) or ""
        if extension in NIBABEL:
            try:
                n_volumes = len(nifti_volumes(path, self._limits))
            except Exception:  # as the reader meets it again, and says what it is
                n_volumes = 0
        names = part_names(path, self._limits, place.path.name)
        beside = tuple(self._key(place.path.with_name(name)) for name in names if name)
        unit = "" if self._names == "hash" else volume_case(place.path)
        n_volumes = n_volumes if n_volumes > 1 else 0
        stem = stem_digest(place.path)
        return replace(row, unit=unit, stem=stem, n_volumes=n_volumes, extension=extension, beside=beside)

    def _key(self, path: Path) -> str:
        return digest(self.relative(path))

    def _look_at_images(self, place: Place, path: Path, row: FileRow) -> None:
        try:
            with quiet_pydicom():
                images, skips = judged(path, self._limits, place.path)
        except SourceError as error:
            images, skips = [], {("", error.reason, str(error))}
        group = group_of(images[0], self._root) if images else ""
        if images:
            self.images[group] += images
        items = [SkippedItem(case_digest(*skip), skip[1], skip[2], 1) for skip in sorted(skips)]
        extension = _SIDECAR if place.path.suffix.lower() == _SIDECAR else ""
        self.files[place.key] = replace(row, group=group, skips=tuple(items), extension=extension)


def _targets(name: PurePosixPath, index: int, by_name: Mapping[PurePosixPath, int], folder: Path) -> dict[int, Path]:
    """Where to unpack a member, and what tells with it how many volumes they are."""
    target = folder / f"member{volume_extension(name) or ''}"
    voxels, beside = voxels_beside(name.name), voxels_beside(target.name)
    if voxels is None or beside is None or name.with_name(voxels) not in by_name:
        return {index: target}
    return {index: target, by_name[name.with_name(voxels)]: folder / beside}


def _skip(reason: ReasonCode, message: str) -> SkippedItem:
    return SkippedItem(case_digest("", reason, message), reason, message, 1)


def _mark(path: Path) -> tuple[int, int, int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
