"""Read results back from disk: whether they are whole, and by what they are known again."""

from __future__ import annotations

import io
import json
import os
import stat
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pydicom
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_dataset, read_file_meta_info, read_preamble
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from monai_ldmsr.errors import OutputError
from monai_ldmsr.io.dicom_header import quiet_pydicom
from monai_ldmsr.io.formats import inspect_file
from monai_ldmsr.io.limits import ReadLimits
from monai_ldmsr.storage import file_sha256, in_threads

__all__ = [
    "FileCheck",
    "FileMark",
    "check_document",
    "check_json",
    "check_pixels",
    "check_text",
    "check_volume",
    "intact_files",
    "verified_files",
]

#: Reads a file back from disk, and raises anything where it is not whole.
FileCheck = Callable[[Path], object]

#: Results may be larger than any source that is read.
_UNLIMITED = ReadLimits(**dict.fromkeys(("header_bytes", "slice_bytes", "voxels", "expansion"), 2**62))

#: Where DICOM objects have their voxels, and of how many bits a value is where Bits Allocated does not say it.
_PIXELS = {"PixelData": None, "FloatPixelData": 32, "DoubleFloatPixelData": 64}

_UNDEFINED_LENGTH = 0xFFFFFFFF

#: Group of file meta information; bytes of tag, VR and length before long values in explicit little endian.
_META_GROUP, _BEFORE_VALUE = 2, 12

#: Bytes that are read and inflated at once, and kept at most of what stands before the pixels.
_BLOCK, _LONGEST_HEAD = 2**22, 2**26


@dataclass(frozen=True)
class FileMark:
    """By what a file of a result is known again.

    Args:
        size: size in bytes.
        sha256: digest of the content, as read back from disk.
        mtime_ns: time of its last change; moving its folder does not change it.
    """

    size: int
    sha256: str
    mtime_ns: int = 0


def verified_files(folder: Path, checks: Mapping[str, FileCheck] | None = None) -> dict[str, FileMark]:
    """Read every file of a result back and check that it is whole.

    Args:
        folder: folder of one result, written and synced.
        checks: how files that were written into it are checked, by name; any others are read only.

    Returns:
        Mark of each file by its name relative to the folder, with ``/``.

    Raises:
        OutputError: a file is missing or cannot be read back whole; the message names it.
    """
    checks = checks or {}
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    names = sorted(found | checks.keys())
    marks = in_threads(partial(_verified, folder / name, name, checks.get(name)) for name in names)
    return dict(zip(names, marks, strict=True))


def _verified(path: Path, name: str, check: FileCheck | None) -> FileMark:
    try:
        if check is not None:
            check(path)
        status = path.stat()
        return FileMark(status.st_size, file_sha256(path), status.st_mtime_ns)
    except Exception:
        # Whatever a library says of the file may hold its path or quote it.
        raise OutputError(
            f"File '{name}' of the result does not read back from disk as it was written, so the result is not kept. "
            "Check the disk."
        ) from None


def check_pixels(path: Path) -> None:
    """Refuse an image or parametric map of DICOM, of one frame or several, that does not have all its pixels."""
    if _is_deflated(path):
        _check_deflated(path)
        return
    image = _read_dicom(path)
    if image.file_meta.TransferSyntaxUID.is_compressed:
        _ = image.pixel_array  # raises where a frame is missing or damaged
        return
    keyword = next(keyword for keyword in _PIXELS if keyword in image)
    _check_length(image, keyword, len(image[keyword].value))


def _check_length(image: pydicom.Dataset, keyword: str, found: int) -> None:
    n_values = image.Rows * image.Columns * image.get("SamplesPerPixel", 1) * int(image.get("NumberOfFrames", 1))
    n_bytes = (n_values * (_PIXELS[keyword] or image.BitsAllocated) + 7) // 8
    if found != n_bytes + n_bytes % 2:
        raise ValueError("pixels are missing")


def _is_deflated(path: Path) -> bool:
    with quiet_pydicom():
        return read_file_meta_info(path).TransferSyntaxUID == DeflatedExplicitVRLittleEndian


def _check_deflated(path: Path) -> None:
    """The same of a deflated object, whose pixels may be larger than the memory: they are counted, and not kept."""
    inflater, head, n_bytes = zlib.decompressobj(-zlib.MAX_WBITS), io.BytesIO(), 0
    with path.open("rb") as file, quiet_pydicom():
        read_preamble(file, False)
        read_dataset(file, False, True, stop_when=lambda tag, *_: tag.group > _META_GROUP)
        given = file.read(_BLOCK)
        while given and not inflater.eof:
            inflated = inflater.decompress(given, _BLOCK)
            n_bytes += len(inflated)
            if head.tell() < _LONGEST_HEAD:
                head.write(inflated)
            given = inflater.unconsumed_tail or file.read(_BLOCK)
        n_bytes += len(inflater.flush())
        if not inflater.eof:
            raise ValueError("the file is cut short")
        head.seek(0)
        pixels: list[tuple[str, int]] = []

        def is_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
            if keyword_for_tag(tag) in _PIXELS:
                pixels.append((keyword_for_tag(tag), length))
            return bool(pixels)

        image = read_dataset(head, False, True, stop_when=is_pixels)
    (keyword, length), after = pixels[0], head.tell() + _BEFORE_VALUE
    if length > n_bytes - after:
        raise ValueError("the file is cut short")
    _check_length(image, keyword, length)


def check_document(path: Path) -> None:
    """Refuse a structured report of DICOM that has no content."""
    if not _read_dicom(path).ContentSequence:
        raise ValueError("content is missing")


def check_volume(path: Path) -> None:
    """Refuse a volume file that does not end where its header says, or has a wrong checksum."""
    inspect_file(path, _UNLIMITED).check_whole()


def check_json(path: Path) -> None:
    """Refuse what is no JSON."""
    json.loads(path.read_text(encoding="utf-8"))


def check_text(path: Path) -> None:
    """Refuse what is no text, or empty."""
    if not path.read_text(encoding="utf-8"):
        raise ValueError("text is missing")


def _read_dicom(path: Path) -> pydicom.Dataset:
    with quiet_pydicom():
        read = pydicom.dcmread(io.BytesIO(path.read_bytes()))
    # pydicom takes the last attribute of a file that is cut short for whole.
    for element in read.elements():
        if isinstance(element, RawDataElement) and element.length not in (_UNDEFINED_LENGTH, len(element.value or b"")):
            raise ValueError("the file is cut short")
    return read


def intact_files(
    folder: Path, marks: Mapping[str, FileMark], *, by_content: bool = False
) -> dict[str, FileMark] | None:
    """Compare a result with what is remembered of it.

    Args:
        folder: folder of the result.
        marks: what :func:`verified_files` gave.
        by_content: read every file, also those of the same size and time.

    Returns:
        The marks with the times that the files have now; None where a file is gone or has another content, or a folder
        within it has files that are not remembered.
    """
    found = {}
    series = {name.rpartition("/")[0] for name in marks} - {""}
    try:
        images = {f"{parent}/{name}" for parent in series for name in os.listdir(folder / parent)}
    except OSError:
        return None
    if not marks or not images <= marks.keys():
        return None
    for name, mark in marks.items():
        try:
            status = os.stat(folder / name)
            if status.st_size != mark.size or not stat.S_ISREG(status.st_mode):
                return None
            is_known = status.st_mtime_ns == mark.mtime_ns and not by_content
            if not is_known and file_sha256(folder / name) != mark.sha256:
                return None
        except OSError:
            return None
        found[name] = replace(mark, mtime_ns=status.st_mtime_ns)
    return found
