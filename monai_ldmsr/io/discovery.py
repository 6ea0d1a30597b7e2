"""Find what can be worked on below a folder: DICOM files grouped into series, and other volume files."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence, Set
from dataclasses import replace
from functools import partial
from pathlib import Path

from monai_ldmsr.errors import ReasonCode, SourceError
from monai_ldmsr.io.case_names import NamedSource, distinct, series_content
from monai_ldmsr.io.dicom_file import is_gzip
from monai_ldmsr.io.dicom_header import image_plane, quiet_pydicom, read_header, text
from monai_ldmsr.io.enhanced_multiframe import images_of
from monai_ldmsr.io.image_kind import CUT_SHORT, skip_reason
from monai_ldmsr.io.limits import DEFAULT_LIMITS, ReadLimits
from monai_ldmsr.io.series_grouping import (
    SeriesFiles,
    SeriesImage,
    SkippedItem,
    case_digest,
    same_content,
    series_image,
)
from monai_ldmsr.io.series_volumes import volumes_of
from monai_ldmsr.io.tree import empty_source, files_of, given_sources
from monai_ldmsr.io.volume_format import EXTENSIONS, volume_extension
from monai_ldmsr.io.volume_parts import parts_beside

__all__ = [
    "CUT_SHORT_SKIP",
    "DAMAGE",
    "SeriesFiles",
    "Skip",
    "SkippedItem",
    "bucket_of",
    "cut_short",
    "find_dicom_series",
    "find_sources",
    "judged",
]

#: Series Instance UID (or nothing), reason and message of what is left out.
Skip = tuple[str, ReasonCode, str]

CUT_SHORT_SKIP: Skip = ("", ReasonCode.UNREADABLE_FILE, CUT_SHORT)

#: After these, an image of some series of the folder may be missing.
DAMAGE = (ReasonCode.UNREADABLE_FILE, ReasonCode.TOO_LARGE)

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


def find_sources(
    source: str | Path, limits: ReadLimits = DEFAULT_LIMITS
) -> tuple[list[SeriesFiles | Path], list[SkippedItem]]:
    """Find everything that one run works on.

    Args:
        source: a folder (searched through, DICOM and volume files mixed), a volume file, or one DICOM file,
            which is then a series of one slice; or a ``.txt`` file that lists such. Links below it are not followed out
            of it, nor into folders.
        limits: see :class:`~monai_ldmsr.io.limits.ReadLimits`.

    Returns:
        Series and paths of volume files, in a fixed order; and what was left out.

    Raises:
        SourceError: ``NO_SUCH_SOURCE`` when it does not exist, ``EMPTY_SOURCE`` when it holds no file.
    """
    source = Path(source)
    sources, missing = given_sources(source)
    files, others = files_of(sources)
    others = {**missing, **others}
    if not files and not others:
        raise empty_source(source)
    volumes = [path for path in files if volume_extension(path)]
    parts = {part for path in volumes for part in parts_beside(path, limits)}
    series, skipped = _find_series([path for path in files if not volume_extension(path)], limits, parts)
    skipped += [
        SkippedItem(case_digest(message), reason, message, len(paths), tuple(paths))
        for (reason, message), paths in sorted(others.items())
    ]
    return [*series, *volumes], skipped


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
        Series in a fixed order, and what was left out. Volume files are in neither list.

    Raises:
        SourceError: ``NO_SUCH_SOURCE`` or ``EMPTY_SOURCE``.
    """
    found, skipped = find_sources(folder, limits)
    return [item for item in found if isinstance(item, SeriesFiles)], skipped


def _find_series(
    files: Sequence[Path], limits: ReadLimits, parts: Set[Path] = frozenset()
) -> tuple[list[SeriesFiles], list[SkippedItem]]:
    """Series among ``files``, of which ``parts`` belong to volume files unless they are images themselves."""
    buckets: dict[str, list[SeriesImage]] = defaultdict(list)
    skips: dict[Skip, list[Path]] = defaultdict(list)
    damaged_folders: Counter[Path] = Counter()
    with quiet_pydicom():
        for path in files:
            images, reasons = judged(path, limits)
            if path in parts and not images:
                continue
            for image in images:
                buckets[bucket_of(image)].append(image)
            for reason in reasons:
                skips[reason].append(path)
            damaged_folders[path.parent] += sum(reason in DAMAGE for _, reason, _ in reasons)
        found: list[SeriesFiles] = []
        for key in [key for key, images in buckets.items() if cut_short(images)]:
            for image in buckets.pop(key):
                skips[CUT_SHORT_SKIP].append(image.path)
                damaged_folders[image.path.parent] += 1
        for images in buckets.values():
            volumes, refused = volumes_of(images, damaged_folders, partial(same_content, limits=limits))
            found += volumes
            for item in refused:
                skips[(images[0].series, item.reason, item.message)] += item.paths
    found.sort(key=lambda item: item.paths[0])
    skipped = [
        SkippedItem(case_digest(*key), key[1], key[2], len(paths), tuple(paths)) for key, paths in sorted(skips.items())
    ]
    kept, left_out = distinct(NamedSource(item.case, partial(series_content, item), item.paths, item) for item in found)
    return [one.source for one in kept], [*skipped, *left_out]


def judged(path: Path, limits: ReadLimits, listed_as: Path | None = None) -> tuple[list[SeriesImage], set[Skip]]:
    """Images of a file to group (also some to skip), and why the rest of it (most often all or nothing) is skipped.

    Args:
        path: a regular file.
        limits: see :class:`~monai_ldmsr.io.limits.ReadLimits`.
        listed_as: where the file has its place, when it was unpacked from there.
    """
    listed_as = listed_as or path
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
    if name.endswith((".img", ".img.gz")):
        return ReasonCode.NOT_AN_IMAGE, _HALF
    return ReasonCode.NOT_AN_IMAGE, _OTHER_GZIP if path.is_file() and is_gzip(path) else _NOT_DICOM


def bucket_of(image: SeriesImage) -> str:
    """What holds the images of a series together: without a Series Instance UID, the folder."""
    return image.series or f"folder {image.path.parent}"


def cut_short(images: Sequence[SeriesImage]) -> bool:
    """No image has Rows: files cut within the header, perhaps within the Series Instance UID itself."""
    return not any(image.grid[2] for image in images)
