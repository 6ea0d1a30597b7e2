"""What single files hold: images to group into series, volumes, lists of a medium, archives of such; or nothing of use.

An archive is looked at as if it were a folder. All of it is taken or nothing.
"""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath, PurePosixPath

from monai_ldmsr.errors import LdmsrError, ReasonCode, SourceError
from monai_ldmsr.io.dicom_file import is_gzip
from monai_ldmsr.io.dicom_header import image_plane, quiet_pydicom, read_header, text
from monai_ldmsr.io.dicomdir import is_dicomdir_name, read_dicomdir
from monai_ldmsr.io.enhanced_multiframe import images_of
from monai_ldmsr.io.formats import EXTENSIONS, is_voxels_alone, part_names, volume_extension, voxels_beside
from monai_ldmsr.io.image_kind import CUT_SHORT, skip_reason
from monai_ldmsr.io.limits import ReadLimits
from monai_ldmsr.io.packed_source import PackedMember, PackedSource, first_file
from monai_ldmsr.io.series_grouping import SeriesFiles, SeriesImage, series_image
from monai_ldmsr.io.volume_file import NiftiVolume, split_volumes
from monai_ldmsr.io.zip_archive import ZipMember, is_zip_name, open_zip
from monai_ldmsr.storage import file_sha256, file_stamp, working_folder

__all__ = ["CUT_SHORT_SKIP", "FileScan", "Skip", "VolumeItem"]

#: Series Instance UID (or nothing), reason and message of what is left out.
Skip = tuple[str, ReasonCode, str]

CUT_SHORT_SKIP: Skip = ("", ReasonCode.UNREADABLE_FILE, CUT_SHORT)

#: After these, an image of some series of the folder may be missing.
_DAMAGE = (ReasonCode.UNREADABLE_FILE, ReasonCode.TOO_LARGE)

#: Of these reasons, single images may stand in the place of a slice of their series.
_ODD_ONES = (
    ReasonCode.UNSUPPORTED_MODALITY,
    ReasonCode.UNSUPPORTED_PIXELS,
    ReasonCode.UNSUPPORTED_SOP_CLASS,
    ReasonCode.PHASE_IMAGE,
    ReasonCode.LOCALIZER,
)

#: A file named so that is no DICOM file was one before it was emptied or overwritten: a slice may be missing.
_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
_NAMED_DICOM = "A file is named as DICOM files are, but it is empty or its beginning is damaged. Fetch it again."

_OTHER_GZIP = "A gzip file that holds no DICOM file. If it holds an archive or another volume, unpack it."
_NOT_DICOM = f"Not a DICOM file and not a volume file ({', '.join(EXTENSIONS)})."
_HALF = "Not a DICOM file: the voxels of a pair of .hdr and .img, whose .hdr file is not beside it. Put both together."
_NESTED = "A zip archive lies within a zip archive and is not opened. Unpack the outer one."
_UNREADABLE = "A file cannot be read from its disk. Check the disk and its permissions."


@dataclass(frozen=True)
class VolumeItem:
    """One volume file.

    Args:
        path: path of the file; in an archive, as if the archive were a folder.
        volumes: the volumes of a 4D file; the file itself where it is one volume, or damaged.
        parts: places of the files that belong to it, whether they are there or not.
    """

    path: Path = field(repr=False)
    volumes: tuple[NiftiVolume | Path, ...] = field(repr=False)
    parts: tuple[Path, ...] = field(repr=False)


class FileScan:
    """Looks at files one by one and keeps what they hold.

    Args:
        limits: see :class:`~monai_ldmsr.io.limits.ReadLimits`.
        work_dir: where members of archives are unpacked, one at a time; None: among the system's temporary files.
        known: SHA-256 of files, where they are known; any other is computed when it is asked for.

    Attributes:
        images: the images found, by what holds those of a series together.
        skips: files that are left out.
        volumes: volume files.
        listed: Series Instance UID and place of each image that a DICOMDIR lists; None where that is outside.
        seen: all files.
        damaged: files after which an image of some series of the folder may be missing.
        packed: how to unpack what lies in archives.
    """

    def __init__(
        self, limits: ReadLimits, work_dir: Path | None = None, known: Mapping[Path, str] | None = None
    ) -> None:
        self.limits, self.work_dir = limits, work_dir or Path(tempfile.gettempdir())
        self.images: dict[str, list[SeriesImage]] = defaultdict(list)
        self.skips: dict[Skip, list[Path]] = defaultdict(list)
        self.volumes: list[VolumeItem] = []
        self.listed: list[tuple[str, Path | None]] = []
        self.seen: list[Path] = []
        self.damaged: list[Path] = []
        self.packed: dict[Path, PackedMember] = {}
        self._contents = dict(known or {})
        self._parts: set[Path] = set()

    def look(self, files: Sequence[Path]) -> None:
        """Look at files on disk."""
        with quiet_pydicom():
            for path in sorted(files, key=_volumes_first):
                if is_zip_name(path.name):
                    self._look_at_archive(path)
                else:
                    self._look_at(path, path)

    def content(self, path: Path) -> str:
        """SHA-256 of a file that was looked at, or of one beside it; nothing where it is gone or cannot be read."""
        if path not in self._contents:
            try:
                self._contents[path] = file_sha256(path) if os.path.isfile(path) else ""
            except OSError:
                self._contents[path] = ""
        return self._contents[path]

    def same(self, first: Path, second: Path) -> bool:
        """Whether two files hold the same, byte by byte or at least in all elements."""
        if self.content(first) and self.content(first) == self.content(second):
            return True
        try:
            with self._readable(first) as one, self._readable(second) as other:
                headers = [read_header(file, self.limits, with_pixels=True) for file in (one, other)]
                return None not in headers and bool(headers[0] == headers[1])
        except Exception:  # whatever a damaged element raises
            return False

    @contextmanager
    def _readable(self, path: Path) -> Iterator[Path]:
        if path not in self.packed:
            yield path
            return
        alone = SeriesFiles("", "", (path,))
        with first_file(PackedSource(alone, self.members([path]), 0, self.work_dir, self.limits)) as unpacked:
            yield unpacked

    def members(self, paths: Iterable[Path]) -> dict[Path, PackedMember]:
        """How to unpack those of some files that lie in archives."""
        return {path: self.packed[path] for path in paths if path in self.packed}

    def leave_out(self, skip: Skip, path: Path) -> None:
        """Note that a file is left out."""
        self.skips[skip].append(path)
        if skip[1] in _DAMAGE:
            self.damaged.append(path)

    def _look_at(self, path: Path, listed_as: Path) -> None:
        """Look at a file that can be read at ``path``."""
        self.seen.append(listed_as)
        if volume_extension(listed_as):
            self._look_at_volume(path, listed_as)
        elif is_dicomdir_name(listed_as.name):
            self._look_at_dicomdir(path, listed_as)
        else:
            images, skips = _judged(path, self.limits, listed_as)
            for image in images:
                # Without a Series Instance UID, the folder holds the images of a series together.
                self.images[image.series or f"folder {image.path.parent}"].append(image)
            # What belongs to a volume file is nothing by itself, unless it is an image.
            for skip in skips if images or listed_as not in self._parts else ():
                self.leave_out(skip, listed_as)

    def _look_at_dicomdir(self, path: Path, listed_as: Path) -> None:
        try:
            images = read_dicomdir(path, self.limits)
        except SourceError as error:
            self.leave_out(("", error.reason, str(error)), listed_as)
            return
        self.listed += [(series, listed_as.parent / name if name else None) for series, name in images]

    def _look_at_volume(self, path: Path, listed_as: Path) -> None:
        names = part_names(path, self.limits, listed_as.name)
        parts = tuple(listed_as.with_name(name) for name in names if name)
        self._parts.update(parts)
        self.volumes.append(VolumeItem(listed_as, tuple(split_volumes(path, self.limits)), parts))

    def _look_at_archive(self, path: Path) -> None:
        """Look at each member; an archive with one that cannot be read is refused as a whole."""
        inner = FileScan(self.limits, self.work_dir)
        try:
            stamp = file_stamp(path)
            with open_zip(path, self.limits) as opened, working_folder(self.work_dir) as folder:
                by_name = {member.name: member.index for member in opened.members}
                for member in sorted(opened.members, key=lambda member: _volumes_first(member.name)):
                    targets = _targets(member, by_name, folder)
                    for index, target in targets.items():
                        opened.extract(index, target)
                    inner._look_at_member(path, stamp, member, targets[member.index])
                    for target in targets.values():
                        target.unlink()
        except (SourceError, OSError) as error:
            self._refuse_archive(path, error)
        else:
            self._take(inner)

    def _look_at_member(self, archive: Path, stamp: tuple[int, int], member: ZipMember, path: Path) -> None:
        listed_as = archive / member.name
        self.packed[listed_as] = PackedMember(archive, stamp, member.index)
        self._contents[listed_as] = file_sha256(path)
        if is_zip_name(member.name.name):
            self.leave_out(("", ReasonCode.NESTED_ARCHIVE, _NESTED), listed_as)
        else:
            self._look_at(path, listed_as)

    def _refuse_archive(self, path: Path, error: Exception) -> None:
        """List an archive of which not all can be had; its content distinguishes it from others."""
        content = self.content(path)
        if not isinstance(error, LdmsrError) or not content:
            self.leave_out(("", ReasonCode.UNREADABLE_FILE, _UNREADABLE), path)
            return
        message = f"{error} (The archive has {os.path.getsize(path)} bytes, SHA-256 {content[:12]}.)"
        self.skips["", error.reason, message].append(path)  # no image of a series beside it is missing for that

    def _take(self, inner: FileScan) -> None:
        for bucket, images in inner.images.items():
            self.images[bucket] += images
        for skip, paths in inner.skips.items():
            self.skips[skip] += paths
        self.volumes += inner.volumes
        self.listed += inner.listed
        self.seen += inner.seen
        self.damaged += inner.damaged
        self.packed |= inner.packed
        self._contents |= inner._contents


def _volumes_first(path: PurePath) -> bool:
    """Sorts volume files before the files that may belong to them."""
    return volume_extension(path) is None


def _targets(member: ZipMember, by_name: Mapping[PurePosixPath, int], folder: Path) -> dict[int, Path]:
    """Where to unpack a member, and what says with it how many volumes they are."""
    name = member.name
    target = folder / f"member{volume_extension(name) or name.suffix}"
    voxels, beside = voxels_beside(name.name), voxels_beside(target.name)
    if not voxels or not beside or name.with_name(voxels) not in by_name:
        return {member.index: target}
    return {member.index: target, by_name[name.with_name(voxels)]: folder / beside}


def _judged(path: Path, limits: ReadLimits, listed_as: Path) -> tuple[list[SeriesImage], set[Skip]]:
    """Images of a file to group (also some to skip), and why the rest of it (most often all or nothing) is skipped."""
    try:
        header = read_header(path, limits)
    except SourceError as error:
        return [], {("", error.reason, str(error))}
    if header is None:
        return [], {("", *_foreign(path, listed_as))}
    images, skips = [], set()
    for image in images_of(header):
        reason = skip_reason(image)
        if reason is None:
            images.append(series_image(listed_as, image))
        elif reason[0] in _ODD_ONES and text(header, "SeriesInstanceUID") and image_plane(image) is not None:
            images.append(replace(series_image(listed_as, image), skip=reason))
        else:
            skips.add((text(header, "SeriesInstanceUID"), *reason))
    return images, skips


def _foreign(path: Path, listed_as: Path) -> tuple[ReasonCode, str]:
    """What a file is that does not begin as DICOM."""
    name = listed_as.name.lower()
    if name.removesuffix(".gz").endswith(_DICOM_SUFFIXES):
        return ReasonCode.UNREADABLE_FILE, _NAMED_DICOM
    if is_voxels_alone(listed_as.name):
        return ReasonCode.NOT_AN_IMAGE, _HALF
    return ReasonCode.NOT_AN_IMAGE, _OTHER_GZIP if path.is_file() and is_gzip(path) else _NOT_DICOM
