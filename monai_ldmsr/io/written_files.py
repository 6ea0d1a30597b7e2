"""Read results back from disk: whether they are whole, and by what they are known again."""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pydicom

from monai_ldmsr.errors import OutputError
from monai_ldmsr.io.dicom_header import quiet_pydicom
from monai_ldmsr.io.formats import inspect_file, volume_extension
from monai_ldmsr.io.limits import ReadLimits
from monai_ldmsr.storage import file_sha256

__all__ = ["FileMark", "intact_files", "verified_files"]

#: Results may be larger than any source that is read.
_UNLIMITED = ReadLimits(**dict.fromkeys(("header_bytes", "slice_bytes", "voxels", "expansion"), 2**62))

_DICOM_FOLDER = "dicom"


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


def verified_files(folder: Path) -> dict[str, FileMark]:
    """Read every file of a result back and check that it is whole.

    Args:
        folder: folder of one result, written and synced.

    Returns:
        Mark of each file by its name relative to the folder, with ``/``.

    Raises:
        OutputError: a file cannot be read back whole; the message names it.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _verified(path, folder) for path in paths}


def _verified(path: Path, folder: Path) -> FileMark:
    try:
        if path.suffix == ".dcm":
            _check_image(path.read_bytes())
        elif path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif volume_extension(path):
            inspect_file(path, _UNLIMITED).check_whole()
        return _mark(path)
    except Exception:
        # Whatever a library says of the file may hold its path or quote it.
        raise OutputError(
            f"File '{path.relative_to(folder).as_posix()}' of the result does not read back from disk as it was "
            "written, so the result is not kept. Check the disk."
        ) from None


def _check_image(content: bytes) -> None:
    with quiet_pydicom():
        image = pydicom.dcmread(io.BytesIO(content))
        n_bytes = image.Rows * image.Columns * image.BitsAllocated // 8
        if len(image.PixelData) != n_bytes + n_bytes % 2:
            raise ValueError("pixels are missing")


def intact_files(
    folder: Path, marks: Mapping[str, FileMark], *, by_content: bool = False
) -> dict[str, FileMark] | None:
    """Compare a result with what is remembered of it.

    Args:
        folder: folder of the result.
        marks: what :func:`verified_files` gave.
        by_content: read every file, also those of the same size and time.

    Returns:
        The marks with the times that the files have now; None where a file is gone or has another content, or the
        series has images that are not remembered.
    """
    found = {}
    try:
        images = {f"{_DICOM_FOLDER}/{name}" for name in os.listdir(folder / _DICOM_FOLDER)}
    except OSError:
        images = set()
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


def _mark(path: Path) -> FileMark:
    status = path.stat()
    return FileMark(status.st_size, file_sha256(path), status.st_mtime_ns)
