"""Enhanced multi-frame CT and MR: each frame as the header of a classic image, and its pixels one frame at a time.

Everything after this file works on single images: grouping, checks, decoding and writing are those of classic series.

``highdicom.io.ImageFileReader`` reads single frames as well, but neither files without a preamble nor deflated ones,
and it prints the path of a file that it cannot read on standard error.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom import Dataset
from pydicom.encaps import encapsulate, generate_fragments, get_frame, parse_basic_offsets, parse_fragments
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
)

from monai_ldmsr.errors import CorruptSourceError, ReasonCode, SourceError
from monai_ldmsr.io.classic_attributes import ONLY_IN_GROUPS, add_functional_groups, carry, check_groups, put
from monai_ldmsr.io.dicom_file import open_dicom
from monai_ldmsr.io.dicom_header import number_list, read_header, sop_class, sop_instance
from monai_ldmsr.io.limits import DEFAULT_LIMITS, ReadLimits

__all__ = ["CLASSIC_FORM", "FrameHeader", "FramePixels", "image_headers", "images_of"]

#: More frames than this in one object are refused.
MAX_FRAMES = 2**16

#: SOP class of an enhanced object, and of the classic images that its frames become.
CLASSIC_FORM = {
    EnhancedCTImageStorage: CTImageStorage,
    LegacyConvertedEnhancedCTImageStorage: CTImageStorage,
    EnhancedMRImageStorage: MRImageStorage,
    LegacyConvertedEnhancedMRImageStorage: MRImageStorage,
}

#: What speaks of all frames at once, and so of no single one.
_OF_OBJECTS = """NumberOfFrames SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence ExtendedOffsetTable
    ExtendedOffsetTableLengths"""
_OBJECT_LEVEL = {Tag(keyword) for keyword in _OF_OBJECTS.split()}


class FrameHeader(Dataset):
    """Header of one frame in the form of a classic CT or MR image; SOP Instance UID is the whole object's."""

    #: Number of the frame, from 1.
    frame_number: int = 0

    #: SOP Class UID of the object that the frame is in.
    object_class: str = ""

    @property
    def object_uid(self) -> str:
        """SOP Instance UID of the object that the frame is in."""
        return sop_instance(self)


def images_of(header: Dataset) -> Iterator[Dataset]:
    """Headers of the frames of an enhanced CT or MR object; of any other file the header itself.

    Where functional groups are missing, there is one frame without a place in the patient: reading refuses it.
    """
    if sop_class(header) not in CLASSIC_FORM:
        yield header
        return
    try:
        yield from _frames(header, None)
    except SourceError:
        yield _unplaced_frame(header, 1)


def image_headers(
    paths: Sequence[Path], frames: Sequence[int], read: Callable[[Path], Dataset]
) -> list[Dataset | FrameHeader]:
    """One header an image, each file parsed once.

    Args:
        paths: the file of each image.
        frames: the number of each image in its file, from 1; 0 for the file itself; empty when all are that.
        read: gives the header of a file.

    Raises:
        CorruptSourceError: ``UNREADABLE_FILE`` when functional groups are damaged.
        SourceError: ``NO_GEOMETRY`` when functional groups are missing or are not one for each frame, ``BAD_RESCALE``
            when those of the rescale are not; ``TOO_LARGE`` when there are more than ``MAX_FRAMES``.
    """
    if not frames:
        return [read(path) for path in paths]
    numbers: dict[Path, list[int]] = {}
    for path, frame in zip(paths, frames, strict=True):
        numbers.setdefault(path, []).append(frame)
    found: dict[tuple[Path, int], Dataset | FrameHeader] = {}
    for path, wanted in numbers.items():
        header = read(path)
        images = [header] if wanted == [0] else _frames(header, wanted)
        found |= {(path, number): image for number, image in zip(wanted, images, strict=True)}
    return [found[place] for place in zip(paths, frames, strict=True)]


def _frames(header: Dataset, numbers: Sequence[int] | None) -> Iterator[FrameHeader]:
    shared, per_frame = _functional_groups(header)
    for number in range(1, len(per_frame) + 1) if numbers is None else numbers:
        frame = _unplaced_frame(header, number)
        try:
            add_functional_groups(frame, shared, per_frame[number - 1])
        except Exception:
            # Whatever a parser says of hostile bytes may quote them, so nothing of it is kept.
            raise CorruptSourceError(
                f"The functional groups of frame {number} cannot be read: they are damaged. Fetch the object again.",
                ReasonCode.UNREADABLE_FILE,
            ) from None
        yield frame


def _unplaced_frame(header: Dataset, number: int) -> FrameHeader:
    """What the object says of all its frames, without functional groups: no place in the patient."""
    frame = FrameHeader()
    for tag in header.keys():  # noqa: SIM118  # iterating the data set itself would parse every element
        if tag not in _OBJECT_LEVEL and tag not in ONLY_IN_GROUPS:
            carry(frame, header, tag)
    implicit, little_endian = header.original_encoding
    frame.set_original_encoding(implicit, little_endian, header.original_character_set)
    frame.file_meta = header.file_meta
    frame.frame_number, frame.object_class = number, sop_class(header)
    put(frame, "SOPClassUID", CLASSIC_FORM[UID(frame.object_class)])
    return frame


def _functional_groups(header: Dataset) -> tuple[Dataset, Sequence[Dataset]]:
    n_frames = (number_list(header, "NumberOfFrames", 1) or (0,))[0]
    if n_frames > MAX_FRAMES:
        raise SourceError(
            f"(0028,0008) 'Number of Frames' is {n_frames:.0f}; the limit is {MAX_FRAMES}. Split the object.",
            ReasonCode.TOO_LARGE,
        )
    try:
        shared = header.get("SharedFunctionalGroupsSequence") or [Dataset()]
        per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
        n_items = len(per_frame)
        n_shared = len(shared)
    except Exception:
        n_items, n_shared = 0, 0
    if n_items != n_frames or n_shared != 1 or not n_items:
        raise SourceError(
            f"(5200,9229) 'Shared Functional Groups Sequence' has {n_shared} items (1 is needed) and (5200,9230) "
            f"'Per-Frame Functional Groups Sequence' {n_items} for {n_frames:.0f} frames, so the frames have no place "
            "in the patient. Export the series again.",
            ReasonCode.NO_GEOMETRY,
        )
    check_groups(shared[0], per_frame)
    return shared[0], per_frame


class FramePixels:
    """Pixels of multi-frame files, read one frame at a time; a deflated file is inflated once."""

    def __init__(self, limits: ReadLimits = DEFAULT_LIMITS) -> None:
        self._files: dict[Path, _PixelElement] = {}
        self._limits = limits

    def dataset(self, path: Path, header: FrameHeader) -> Dataset:
        """``header`` with the Pixel Data of its frame alone, as a single-frame image has them."""
        if path not in self._files:
            self._files = {path: _PixelElement(path, header.file_meta.TransferSyntaxUID, self._limits)}
        image = Dataset()
        for tag in header.keys():  # noqa: SIM118
            if tag.group == 0x0028:
                carry(image, header, tag)
        element = self._files[path]
        n_bytes = int(header.Rows) * int(header.Columns) * int(header.BitsAllocated) // 8
        image.PixelData = element.frame(header.frame_number - 1, n_bytes)
        image["PixelData"].VR = element.vr
        image["PixelData"].is_undefined_length = element.is_encapsulated
        image.file_meta = header.file_meta
        return image


class _PixelElement:
    """Where the Pixel Data of one file begin and end."""

    def __init__(self, path: Path, syntax: UID, limits: ReadLimits) -> None:
        self._path = path
        with open_dicom(path, limits) as opened:
            self._inflated = opened.getvalue() if isinstance(opened, BytesIO) else None
        if syntax.is_deflated:
            header = read_header(path, limits, with_pixels=True) or Dataset()
            element = header["PixelData"]
            self._inflated, self.vr, self._start, length = element.value, element.VR, 0, len(element.value)
        else:
            with self._open() as file:
                header = pydicom.dcmread(file, stop_before_pixels=True, force=True)
                # Reading stopped right before the tag of Pixel Data.
                order = "<" if syntax.is_little_endian else ">"
                implicit = syntax.is_implicit_VR
                self.vr = "OW" if implicit else file.read(6)[4:].decode("ascii")
                length = struct.unpack(f"{order}L", file.read(8 if implicit else 6)[-4:])[0]
                self._start = file.tell()
        self.is_encapsulated = bool(syntax.is_encapsulated)
        self._end = self._start + length
        self._n_frames = int(header.NumberOfFrames)
        tables = [header.get(f"ExtendedOffsetTable{end}") for end in ("", "Lengths")]
        self._extended = (tables[0], tables[1]) if all(tables) else None
        self._fragments: list[int] | None = None

    def _open(self) -> BinaryIO:
        return BytesIO(self._inflated) if self._inflated is not None else self._path.open("rb")

    def frame(self, index: int, n_bytes: int) -> bytes:
        """Bytes of frame ``index``, from 0: as stored, or its codestream as the only one of encapsulated data."""
        with self._open() as file:
            if self.is_encapsulated:
                file.seek(self._start)
                return encapsulate([self._codestream(file, index)])
            if self._end - self._start > self._n_frames * n_bytes + 1:  # one byte makes an odd length even
                raise ValueError("the pixels are more than Rows, Columns and Number of Frames make")
            begin = self._start + index * n_bytes
            file.seek(begin)
            return file.read(max(0, min(n_bytes, self._end - begin)))

    def _codestream(self, file: BinaryIO, index: int) -> bytes:
        if self._extended is not None:
            return get_frame(file, index, extended_offsets=self._extended, number_of_frames=self._n_frames)
        if self._fragments is None:
            has_table = bool(parse_basic_offsets(file))
            n_fragments, offsets = parse_fragments(file)
            self._fragments = offsets if n_fragments == self._n_frames and not has_table else []
        file.seek(self._start)
        if not self._fragments:
            return get_frame(file, index, number_of_frames=self._n_frames)
        # One fragment a frame, and no table: found once, not once a frame.
        file.seek(self._fragments[index])
        return next(generate_fragments(file))
