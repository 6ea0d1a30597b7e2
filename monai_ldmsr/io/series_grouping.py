"""Group images of one DICOM series into volumes: by grid, plane and, where positions repeat, by what differs."""

from __future__ import annotations

import filecmp
import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pydicom

from monai_ldmsr.errors import ReasonCode, SourceError
from monai_ldmsr.io.dicom_header import ImagePlane, image_plane, modality_of, read_header, sop_class, sop_instance, text
from monai_ldmsr.io.enhanced_multiframe import FrameHeader
from monai_ldmsr.io.limits import ReadLimits
from monai_ldmsr.io.series_labels import VolumeTraits, label_volumes

__all__ = [
    "PLANE_TOLERANCE",
    "POSITION_TOLERANCE_MM",
    "SeriesFiles",
    "SeriesImage",
    "SkippedItem",
    "case_digest",
    "same_content",
    "series_image",
    "volumes_of",
]

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

_SPLIT_AT = {keyword: n for n, keyword in enumerate(_SPLIT_BY)}

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

_T = TypeVar("_T")

#: Reasons that are no mere "this is something else".
_FAILURES = (
    ReasonCode.NO_SUCH_SOURCE,
    ReasonCode.UNREADABLE_FILE,
    ReasonCode.DUPLICATE_UID_CONFLICT,
    ReasonCode.TOO_LARGE,
    ReasonCode.MISSING_FILE,
    ReasonCode.BAD_DICOMDIR,
    ReasonCode.UNSAFE_ARCHIVE,
    ReasonCode.ENCRYPTED_ARCHIVE,
    ReasonCode.NESTED_ARCHIVE,
    ReasonCode.CANNOT_WRITE,
)

#: Compares two files of one SOP Instance UID.
SameContent = Callable[[Path, Path], bool]


@dataclass(frozen=True)
class SeriesFiles:
    """Files that make one volume; nothing in it tells who the patient is.

    Args:
        case: 12 hexadecimal digits that stand for the series.
        modality: ``"CT"``, ``"MR"`` or ``"PT"``.
        paths: the file of each slice, not yet in slice order; kept out of ``repr``: names may be patients' names.
        warnings: what the grouping had to decide, for the report.
        frames: the number (from 1) of each slice in its file, 0 where the file holds one image; empty when all do.
        volume: number from 1 among the volumes of its series, in the order of what tells them apart; 0 when alone.
        label: what tells it from those, such as ``"TE 2.46 ms"``.
    """

    case: str
    modality: str
    paths: tuple[Path, ...] = field(repr=False)
    warnings: tuple[str, ...] = ()
    frames: tuple[int, ...] = field(default=(), repr=False)
    volume: int = 0
    label: str = field(default="", repr=False)


@dataclass(frozen=True)
class SkippedItem:
    """Files that were left out, and why.

    Args:
        case: 12 hexadecimal digits that stand for the series, or for this kind of file.
        reason: machine-readable code.
        message: one sentence for a person.
        n_files: how many files.
        paths: which, where that is known; only for whoever runs this, in no message and no summary.
    """

    case: str
    reason: ReasonCode
    message: str
    n_files: int
    paths: tuple[Path, ...] = field(default=(), repr=False, compare=False)

    @property
    def corrupt(self) -> bool:
        """Whether the bytes of the files are damaged."""
        return self.reason is ReasonCode.UNREADABLE_FILE

    @property
    def failed(self) -> bool:
        """Whether they should have been worked on; the others are simply something else."""
        return self.reason in _FAILURES


@dataclass(frozen=True, slots=True)
class SeriesImage:
    """The few attributes of an image that grouping needs, so that headers need not stay in memory."""

    path: Path
    frame: int
    modality: str
    series: str
    uid: str
    grid: tuple[str, ...]
    plane: ImagePlane | None
    split_values: tuple[str, ...]
    stand_in: str = ""

    def value(self, keyword: str) -> str:
        """What may tell it from another image at its place."""
        return self.split_values[_SPLIT_AT[keyword]]


def series_image(path: Path, header: pydicom.Dataset) -> SeriesImage:
    """What grouping needs of an image's header; ``path`` is where its file is listed."""
    grid = [text(header, key) for key in ("FrameOfReferenceUID", "Rows", "Columns")]
    frame = 0
    if isinstance(header, FrameHeader):
        # A stack is a volume or several at one place; two stacks are never one volume (PS3.3 C.7.6.16.2.2.7).
        frame, grid = header.frame_number, [*grid, text(header, "StackID"), header.object_class]
    series = text(header, "SeriesInstanceUID")
    # One Series Instance UID may serve several patients or studies, where somebody made it up.
    keywords = ("StudyInstanceUID", "PatientID") if series else ("StudyInstanceUID", "PatientID", "SeriesNumber")
    owner = case_digest(*(text(header, key) for key in keywords))
    plane = image_plane(header)
    if plane is not None:
        plane = replace(plane, cosines=_shared(plane.cosines), pixel_spacing_mm=_shared(plane.pixel_spacing_mm))
    uid = sop_instance(header)
    return SeriesImage(
        path=path,
        frame=frame,
        modality=_shared(modality_of(header)),
        series=_shared(series),
        uid=uid,
        grid=_shared((sop_class(header), *grid, owner)),
        plane=plane,
        split_values=tuple(_shared(text(header, key)) for key in _SPLIT_BY),
        # Not the file's name: files of several patients may be called alike.
        stand_in="" if uid else _header_digest(header),
    )


def _header_digest(header: pydicom.Dataset) -> str:
    try:
        return case_digest(str(header))
    except Exception:  # a damaged element, which its reader refuses
        return case_digest(*sorted(str(tag) for tag, _ in header.items()))


@lru_cache(maxsize=4096)
def _shared(value: _T) -> _T:
    """An equal object of an earlier image: a hundred thousand images have few values between them."""
    return value


def volumes_of(images: list[SeriesImage], damaged_folders: Counter[Path], same: SameContent) -> list[SeriesFiles]:
    """Split the images of one series into volumes.

    Args:
        images: all of the series, in the order of their files.
        damaged_folders: how many files of a folder could not be read, for a warning.
        same: whether two files hold the same; asked only of files with one SOP Instance UID.

    Raises:
        SourceError: ``DUPLICATE_UID_CONFLICT``.
    """
    images, n_copies = _without_copies(images, same)
    warnings = []
    if n_copies:
        warnings.append(f"{n_copies} files are identical copies of others (same SOP Instance UID): left out.")
    n_damaged = sum(damaged_folders[folder] for folder in {image.path.parent for image in images})
    if n_damaged:
        warnings.append(f"{n_damaged} DICOM files of the same folder cannot be read. An image may be missing.")
    if any(image.plane is None for image in images):
        # Grouping by a plane that some images lack would drop them silently; reading refuses the whole.
        return [_series_files(images, [], warnings)]
    parts: list[tuple[list[SeriesImage], list[str]]] = []
    grids = 0
    for on_grid in _partition(images, lambda image: image.grid):
        for parallel in _parallel(on_grid):
            parts += _split_repeats(parallel, [])
            grids += 1
    volumes = [_series_files(part, labels, [*warnings, *_mixed(part)]) for part, labels in parts]
    if grids > 1:
        apart = (
            f"The images of the series lie on several grids or belong to several studies ({grids} groups): this is one "
            "of them; nothing is resampled."
        )
        volumes = [replace(volume, warnings=(*volume.warnings, apart)) for volume in volumes]
    return _told_apart(volumes, parts)


def _told_apart(volumes: list[SeriesFiles], parts: list[tuple[list[SeriesImage], list[str]]]) -> list[SeriesFiles]:
    """Give the volumes of a series numbers and labels, and names of their own where they had one in common."""
    labels = label_volumes([_traits(images, names) for images, names in parts])
    n_of_name = Counter(volume.case for volume in volumes)
    told = []
    for volume, (images, _), (number, label) in zip(volumes, parts, labels, strict=True):
        # By an image and not by their order: whatever else the series comes to hold, the name stays the volume's.
        case = volume.case if n_of_name[volume.case] == 1 else case_digest(volume.case, min(map(_identity, images)))
        told.append(replace(volume, case=case, volume=number, label=label))
    return told


def _traits(images: list[SeriesImage], names: list[str]) -> VolumeTraits:
    first = images[0]
    assert first.plane is not None
    numbers = [round(number, 2) + 0.0 for number in (*first.plane.cosines, *first.plane.pixel_spacing_mm)]
    values = {key: first.value(key) for key, name in _SPLIT_BY.items() if name in names}
    uid = min(map(_identity, images))
    return VolumeTraits(first.grid[-1], (*first.grid[:-1], *numbers), first.plane.cosines, values, uid)


def _identity(image: SeriesImage) -> str:
    return image.uid or image.stand_in


def _mixed(images: list[SeriesImage]) -> list[str]:
    """Warn of images that stand at places of their own and show different things."""
    found = {_SPLIT_BY[key]: len({image.value(key) for image in images}) for key in _ALIKE}
    told = ", ".join(f"{name} ({n} values)" for name, n in found.items() if n > 1)
    return [f"The images of the volume differ in {told}: several volumes may be mixed in it."] if told else []


def _without_copies(images: list[SeriesImage], same: SameContent) -> tuple[list[SeriesImage], int]:
    kept: list[SeriesImage] = []
    by_uid: dict[str, Path] = {}
    copies: set[Path] = set()
    for image in images:
        first = by_uid.setdefault(image.uid, image.path) if image.uid else image.path
        if first == image.path:
            kept.append(image)
        elif image.path in copies or same(first, image.path):
            copies.add(image.path)
        else:
            raise SourceError(
                "Two files have the same SOP Instance UID and different content, so one of them is wrong. "
                "Remove the wrong one.",
                ReasonCode.DUPLICATE_UID_CONFLICT,
            )
    return kept, len(copies)


def same_content(first: Path, second: Path, limits: ReadLimits) -> bool:
    """Whether two files are equal byte by byte, or at least in all elements."""
    try:
        if filecmp.cmp(first, second, shallow=False):
            return True
        contents = [read_header(path, limits, with_pixels=True) for path in (first, second)]
        return None not in contents and bool(contents[0] == contents[1])
    except Exception:
        return False


def _partition(images: list[SeriesImage], key: Callable[[SeriesImage], Hashable]) -> list[list[SeriesImage]]:
    parts: dict[Hashable, list[SeriesImage]] = defaultdict(list)
    for image in images:
        parts[key(image)].append(image)
    return list(parts.values())


def _parallel(images: list[SeriesImage]) -> list[list[SeriesImage]]:
    """Part images by orientation and pixel spacing; scanners jitter in the last digits."""
    parts: list[tuple[Any, list[SeriesImage]]] = []
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


def _split_repeats(images: list[SeriesImage], labels: list[str]) -> list[tuple[list[SeriesImage], list[str]]]:
    """Split until no position repeats, or nothing tells the images apart (then reading refuses them).

    A key with more values than a position has images would cut slices apart rather than volumes, and so would
    one that leaves no part with every position: neither is used.
    """
    positions, repeats = _positions(images)
    if repeats == 1:
        return [(images, labels)]
    for keyword, name in _SPLIT_BY.items():
        parts = _partition(images, lambda image, key=keyword: image.value(key))  # type: ignore[misc]
        counts = [_positions(part) for part in parts]
        fewer = max(n for _, n in counts) < repeats
        if len(parts) <= repeats and fewer and max(n for n, _ in counts) == positions:
            return [split for part in parts for split in _split_repeats(part, [*labels, name])]
    return [(images, labels)]


def _positions(images: list[SeriesImage]) -> tuple[int, int]:
    """Number of different positions along the normal, and the most images at one of them."""
    planes = [image.plane for image in images if image.plane is not None]
    along = np.sort([plane.position_mm @ planes[0].normal for plane in planes])
    starts = np.flatnonzero(np.diff(along, prepend=-np.inf) > POSITION_TOLERANCE_MM)
    return len(starts), int(np.diff(starts, append=len(along)).max())


def _series_files(images: list[SeriesImage], labels: list[str], warnings: list[str]) -> SeriesFiles:
    first = images[0]
    plane = [] if first.plane is None else [f"{round(number, 2) + 0.0:.2f}" for number in first.plane.cosines]
    uids = [] if first.series else sorted(map(_identity, images))
    values = [first.value(key) for key, name in _SPLIT_BY.items() if name in labels]
    if labels:
        split = f"The series holds several volumes; this is one of them, told apart by {', '.join(labels)}."
        warnings = [*warnings, split]
    places = sorted((image.path, image.frame) for image in images)
    return SeriesFiles(
        case=case_digest(first.series, *first.grid, *plane, *values, *uids),
        modality=first.modality,
        paths=tuple(path for path, _ in places),
        warnings=tuple(warnings),
        frames=tuple(frame for _, frame in places) if any(frame for _, frame in places) else (),
    )


def case_digest(*parts: object, digits: int = 12) -> str:
    """Hexadecimal digits that stand for ``parts``."""
    # File names need be no text: what is no UTF-8 in them reaches Python as surrogates.
    joined = "\n".join(str(part) for part in parts)
    return hashlib.sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()[:digits]
