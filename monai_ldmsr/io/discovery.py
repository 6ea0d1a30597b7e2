"""Find what can be worked on below a folder: DICOM files grouped into series, and other volume files."""

from __future__ import annotations

import filecmp
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from monai_ldmsr.errors import ReasonCode, SourceError
from monai_ldmsr.io.dicom_header import (
    CUT_SHORT,
    ImagePlane,
    image_plane,
    modality_of,
    quiet_pydicom,
    read_header,
    skip_reason,
    sop_class,
    sop_instance,
    text,
)
from monai_ldmsr.io.enhanced_multiframe import FrameHeader, images_of
from monai_ldmsr.io.limits import DEFAULT_LIMITS, ReadLimits
from monai_ldmsr.io.tree import files_below
from monai_ldmsr.io.volume_file import volume_extension

__all__ = ["POSITION_TOLERANCE_MM", "SeriesFiles", "SkippedItem", "find_dicom_series", "find_sources"]

#: Two images closer than this along the normal stand at the same position.
#: No scanner samples finer, and positions of repeated volumes jitter by hundredths.
POSITION_TOLERANCE_MM = 0.05

#: Images whose direction cosines and Pixel Spacing (mm) differ by no more lie on parallel, equal grids.
PLANE_TOLERANCE = 1e-3

#: What may tell volumes of one series apart, tried in this order and only where positions repeat.
_SPLIT_BY = {
    "EchoTime": "Echo Time",
    "EchoNumbers": "Echo Numbers",
    "DiffusionBValue": "Diffusion b-value",
    "TemporalPositionIdentifier": "Temporal Position Identifier",
    "ImageType": "Image Type",
    "InversionTime": "Inversion Time",
    "TriggerTime": "Trigger Time",
    "DiffusionGradientOrientation": "Diffusion Gradient Orientation",
    "FrameReferenceTime": "Frame Reference Time",
    "AcquisitionNumber": "Acquisition Number",
    "AcquisitionTime": "Acquisition Time",
    "KVP": "KVP",
    "ConvolutionKernel": "Convolution Kernel",
    # Of enhanced frames only:
    "ComplexImageComponent": "Complex Image Component",
    "DimensionIndexValues": "Dimension Index Values",
    "object_uid": "multi-frame object",
}

#: Of these, what makes another image of each place: alike in all images of a volume, or volumes may be mixed.
_ALIKE = (
    "EchoTime",
    "DiffusionBValue",
    "ImageType",
    "InversionTime",
    "KVP",
    "ConvolutionKernel",
    "ComplexImageComponent",
)

#: A file named so that is no DICOM file was one before it was emptied or overwritten: a slice may be missing.
_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
_NAMED_DICOM = "A file is named as DICOM files are, but it is empty or its beginning is damaged. Fetch it again."

_NOT_DICOM = "Not a DICOM file and not a volume file (.nii, .nii.gz, .nrrd, .mha, .mhd)."


@dataclass(frozen=True)
class SeriesFiles:
    """Files that make one volume; nothing in it tells who the patient is.

    Args:
        case: 12 hexadecimal digits that stand for the series.
        modality: ``"CT"``, ``"MR"`` or ``"PT"``.
        paths: the file of each slice, not yet in slice order; kept out of ``repr``: names may be patients' names.
        warnings: what the grouping had to decide, for the report.
        frames: the number (from 1) of each slice in its file, 0 where the file holds one image; empty when all do.
    """

    case: str
    modality: str
    paths: tuple[Path, ...] = field(repr=False)
    warnings: tuple[str, ...] = ()
    frames: tuple[int, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class SkippedItem:
    """Files that were left out, and why.

    Args:
        case: 12 hexadecimal digits that stand for the series, or for this kind of file.
        reason: machine-readable code.
        message: one sentence for a person.
        n_files: how many files.
    """

    case: str
    reason: ReasonCode
    message: str
    n_files: int


@dataclass(frozen=True)
class _Image:
    """The few attributes of an image that grouping needs, so that headers need not stay in memory."""

    path: Path
    frame: int
    modality: str
    series: str
    uid: str
    grid: tuple[str, ...]
    plane: ImagePlane | None
    split_values: dict[str, str]


def find_sources(
    source: str | Path, limits: ReadLimits = DEFAULT_LIMITS
) -> tuple[list[SeriesFiles | Path], list[SkippedItem]]:
    """Find everything that one run works on.

    Args:
        source: a folder (searched through, DICOM and volume files mixed), a volume file, or one DICOM file,
            which is then a series of one slice. Links below it are not followed out of it, nor into folders.
        limits: see :class:`~monai_ldmsr.io.limits.ReadLimits`.

    Returns:
        Series and paths of volume files, in a fixed order; and what was left out.

    Raises:
        SourceError: ``NO_SUCH_SOURCE`` when it does not exist, ``EMPTY_SOURCE`` when it holds no file.
    """
    source = Path(source)
    if not os.path.exists(source):
        raise SourceError("The source does not exist. Check the path.", ReasonCode.NO_SUCH_SOURCE)
    files, others = ([source], {}) if source.is_file() else files_below(source)
    if not files and not others:
        raise SourceError("The source folder holds no file.", ReasonCode.EMPTY_SOURCE)
    volumes = [path for path in files if volume_extension(path)]
    series, skipped = _find_series([path for path in files if not volume_extension(path)], limits)
    skipped += [SkippedItem(_digest(message), reason, message, n) for (reason, message), n in sorted(others.items())]
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


def _find_series(files: Sequence[Path], limits: ReadLimits) -> tuple[list[SeriesFiles], list[SkippedItem]]:
    buckets: dict[str, list[_Image]] = defaultdict(list)
    skips: Counter[tuple[str, ReasonCode, str]] = Counter()
    damaged_folders: Counter[Path] = Counter()
    with quiet_pydicom():
        for path in files:
            reasons = set()
            for judged in _judge(path, limits):
                if isinstance(judged, _Image):
                    # Without a Series Instance UID, the folder is what holds a series together.
                    buckets[judged.series or f"folder {path.parent}"].append(judged)
                else:
                    reasons.add(judged)
            for reason in reasons:
                skips[reason] += 1
                damaged_folders[path.parent] += reason[1] in (ReasonCode.UNREADABLE_FILE, ReasonCode.TOO_LARGE)
        found: list[SeriesFiles] = []
        for key in [key for key, images in buckets.items() if not any(image.grid[2] for image in images)]:
            # No image has Rows: files cut within the header, perhaps within the Series Instance UID itself.
            for image in buckets.pop(key):
                skips[("", ReasonCode.UNREADABLE_FILE, CUT_SHORT)] += 1
                damaged_folders[image.path.parent] += 1
        for images in buckets.values():
            try:
                found += _volumes(images, damaged_folders, limits)
            except SourceError as error:
                skips[(images[0].series, error.reason, str(error))] += len({image.path for image in images})
    found.sort(key=lambda item: item.paths[0])
    skipped = [SkippedItem(_digest(*key), key[1], key[2], n) for key, n in sorted(skips.items())]
    return _with_unique_cases(found), skipped


def _judge(path: Path, limits: ReadLimits) -> Iterator[_Image | tuple[str, ReasonCode, str]]:
    """Images to group, or (series UID, reason, message) of what to skip; several of a multi-frame file."""
    try:
        header = read_header(path, limits)
    except SourceError as error:
        yield "", error.reason, str(error)
        return
    if header is None:
        is_named_dicom = path.suffix.lower() in _DICOM_SUFFIXES
        unreadable, foreign = (ReasonCode.UNREADABLE_FILE, _NAMED_DICOM), (ReasonCode.NOT_AN_IMAGE, _NOT_DICOM)
        yield "", *(unreadable if is_named_dicom else foreign)
        return
    for image in images_of(header):
        reason = skip_reason(image)
        yield _image(path, image) if reason is None else (text(header, "SeriesInstanceUID"), *reason)


def _image(path: Path, header: pydicom.Dataset) -> _Image:
    grid = [text(header, key) for key in ("FrameOfReferenceUID", "Rows", "Columns")]
    frame = 0
    if isinstance(header, FrameHeader):
        # A stack is a volume or several at one place; two stacks are never one volume (PS3.3 C.7.6.16.2.2.7).
        frame, grid = header.frame_number, [*grid, text(header, "StackID"), header.object_class]
    series = text(header, "SeriesInstanceUID")
    # One Series Instance UID may serve several patients or studies, where somebody made it up.
    keywords = ("StudyInstanceUID", "PatientID") if series else ("StudyInstanceUID", "PatientID", "SeriesNumber")
    owner = _digest(*(text(header, key) for key in keywords))
    return _Image(
        path=path,
        frame=frame,
        modality=modality_of(header),
        series=series,
        uid=sop_instance(header),
        grid=(sop_class(header), *grid, owner),
        plane=image_plane(header),
        split_values={key: text(header, key) for key in _SPLIT_BY},
    )


def _volumes(images: list[_Image], damaged_folders: Counter[Path], limits: ReadLimits) -> list[SeriesFiles]:
    """Split the images of one series into volumes."""
    images, n_copies = _without_copies(images, limits)
    warnings = []
    if n_copies:
        warnings.append(f"{n_copies} files are identical copies of others (same SOP Instance UID): left out.")
    n_damaged = sum(damaged_folders[folder] for folder in {image.path.parent for image in images})
    if n_damaged:
        warnings.append(f"{n_damaged} DICOM files of the same folder cannot be read. An image may be missing.")
    if any(image.plane is None for image in images):
        # Grouping by a plane that some images lack would drop them silently; reading refuses the whole.
        return [_series_files(images, [], warnings)]
    volumes: list[SeriesFiles] = []
    grids = 0
    for on_grid in _partition(images, lambda image: image.grid):
        for parallel in _parallel(on_grid):
            parts = _split_repeats(parallel, [])
            volumes += [_series_files(part, labels, [*warnings, *_mixed(part)]) for part, labels in parts]
            grids += 1
    if grids > 1:
        apart = (
            f"The images of the series lie on several grids or belong to several studies ({grids} groups): this is one "
            "of them; nothing is resampled."
        )
        volumes = [replace(volume, warnings=(*volume.warnings, apart)) for volume in volumes]
    return volumes


def _mixed(images: list[_Image]) -> list[str]:
    """Warn of images that stand at places of their own and show different things."""
    found = {_SPLIT_BY[key]: len({image.split_values[key] for image in images}) for key in _ALIKE}
    told = ", ".join(f"{name} ({n} values)" for name, n in found.items() if n > 1)
    return [f"The images of the volume differ in {told}: several volumes may be mixed in it."] if told else []


def _without_copies(images: list[_Image], limits: ReadLimits) -> tuple[list[_Image], int]:
    kept: list[_Image] = []
    by_uid: dict[str, Path] = {}
    copies: set[Path] = set()
    for image in images:
        first = by_uid.setdefault(image.uid, image.path) if image.uid else image.path
        if first == image.path:
            kept.append(image)
        elif image.path in copies or _same_content(first, image.path, limits):
            copies.add(image.path)
        else:
            raise SourceError(
                "Two files have the same SOP Instance UID and different content, so one of them is wrong. "
                "Remove the wrong one.",
                ReasonCode.DUPLICATE_UID_CONFLICT,
            )
    return kept, len(copies)


def _same_content(first: Path, second: Path, limits: ReadLimits) -> bool:
    try:
        if filecmp.cmp(first, second, shallow=False):
            return True
        contents = [read_header(path, limits, with_pixels=True) for path in (first, second)]
        return None not in contents and bool(contents[0] == contents[1])
    except Exception:
        return False


def _partition(images: list[_Image], key: Callable[[_Image], Hashable]) -> list[list[_Image]]:
    parts: dict[Hashable, list[_Image]] = defaultdict(list)
    for image in images:
        parts[key(image)].append(image)
    return list(parts.values())


def _parallel(images: list[_Image]) -> list[list[_Image]]:
    """Part images by orientation and pixel spacing; scanners jitter in the last digits."""
    parts: list[tuple[Any, list[_Image]]] = []
    for image in images:
        assert image.plane is not None
        numbers = np.array([*image.plane.cosines, *image.plane.pixel_spacing_mm])
        for first, part in parts:
            if np.abs(first - numbers).max() <= PLANE_TOLERANCE:
                part.append(image)
                break
        else:
            parts.append((numbers, [image]))
    return [part for _, part in parts]


def _split_repeats(images: list[_Image], labels: list[str]) -> list[tuple[list[_Image], list[str]]]:
    """Split until no position repeats, or nothing tells the images apart (then reading refuses them).

    A key with more values than a position has images would cut slices apart rather than volumes, and so would
    one that leaves no part with every position: neither is used.
    """
    positions, repeats = _positions(images)
    if repeats == 1:
        return [(images, labels)]
    for keyword, name in _SPLIT_BY.items():
        parts = _partition(images, lambda image, key=keyword: image.split_values[key])  # type: ignore[misc]
        counts = [_positions(part) for part in parts]
        fewer = max(n for _, n in counts) < repeats
        if len(parts) <= repeats and fewer and max(n for n, _ in counts) == positions:
            return [split for part in parts for split in _split_repeats(part, [*labels, name])]
    return [(images, labels)]


def _positions(images: list[_Image]) -> tuple[int, int]:
    """Number of different positions along the normal, and the most images at one of them."""
    planes = [image.plane for image in images if image.plane is not None]
    along = np.sort([plane.position_mm @ planes[0].normal for plane in planes])
    starts = np.flatnonzero(np.diff(along, prepend=-np.inf) > POSITION_TOLERANCE_MM)
    return len(starts), int(np.diff(starts, append=len(along)).max())


def _series_files(images: list[_Image], labels: list[str], warnings: list[str]) -> SeriesFiles:
    first = images[0]
    plane = [] if first.plane is None else [f"{round(number, 2) + 0.0:.2f}" for number in first.plane.cosines]
    uids = [] if first.series else sorted(image.uid or image.path.name for image in images)
    values = [first.split_values[key] for key, name in _SPLIT_BY.items() if name in labels]
    if labels:
        split = f"The series holds several volumes; this is one of them, told apart by {', '.join(labels)}."
        warnings = [*warnings, split]
    places = sorted((image.path, image.frame) for image in images)
    return SeriesFiles(
        case=_digest(first.series, *first.grid, *plane, *values, *uids),
        modality=first.modality,
        paths=tuple(path for path, _ in places),
        warnings=tuple(warnings),
        frames=tuple(frame for _, frame in places) if any(frame for _, frame in places) else (),
    )


def _with_unique_cases(found: list[SeriesFiles]) -> list[SeriesFiles]:
    seen: Counter[str] = Counter()
    unique = []
    for item in found:
        case = _digest(item.case, str(seen[item.case])) if seen[item.case] else item.case
        seen[item.case] += 1
        unique.append(replace(item, case=case))
    return unique


def _digest(*parts: object) -> str:
    # File names need be no text: what is no UTF-8 in them reaches Python as surrogates.
    return hashlib.sha256("\n".join(str(part) for part in parts).encode("utf-8", "surrogatepass")).hexdigest()[:12]
