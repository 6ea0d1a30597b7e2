"""Look into the header of a volume file before a library does: how far to the voxels, and in which file they are."""

from __future__ import annotations

import gzip
import math
import re
import struct
from pathlib import Path
from typing import Any

import nibabel as nib

from monai_ldmsr.errors import ReasonCode, SourceError
from monai_ldmsr.io.limits import ReadLimits, too_large

__all__ = ["nifti_image_class", "stored_bytes"]

#: Field that ends a MetaImage header, and the one of NRRD; both may name another file.
_DATA_FILE = {
    ".mha": re.compile(rb"\s*ElementDataFile\s*[=:]\s*(.*)", re.IGNORECASE),
    ".mhd": re.compile(rb"\s*ElementDataFile\s*[=:]\s*(.*)", re.IGNORECASE),
    ".nrrd": re.compile(rb"\s*data\s*file\s*:=?\s*(.*)", re.IGNORECASE),
}


def nifti_image_class(path: Path, limits: ReadLimits) -> Any:
    """Nibabel's class for a NIfTI-1 or NIfTI-2 file; of no other kind, whatever the file claims to be.

    Raises:
        ValueError: it is neither.
        SourceError: ``TOO_LARGE`` when the voxels begin too far behind the header: nibabel reads all that is between.
    """
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as stream:
        start = stream.read(540)
    order = next(order for order in "<>" if struct.unpack_from(f"{order}i", start)[0] in (348, 540))
    is_first = struct.unpack_from(f"{order}i", start)[0] == 348
    offset = float(struct.unpack_from(f"{order}f" if is_first else f"{order}q", start, 108 if is_first else 168)[0])
    if not math.isfinite(offset):
        raise ValueError("no offset")
    if offset > limits.header_bytes:
        raise too_large(f"The voxels of the NIfTI file begin {offset:.0f} bytes behind its start.", "header_bytes")
    return nib.Nifti1Image if is_first else nib.Nifti2Image


def stored_bytes(path: Path, limits: ReadLimits) -> int:
    """Bytes that a MetaImage or NRRD file has on disk, together with the file beside it that holds its voxels.

    Raises:
        SourceError: ``UNREADABLE_FILE`` when it names anything but a plain file in its own folder: a header may lead
            to any file, or to a pipe that waits. ``TOO_LARGE`` when its header does not end.
    """
    size = path.stat().st_size
    name = _data_file(path, limits)
    if name is None:
        return size
    data = path.with_name(name) if name not in ("", ".", "..") and not re.search(r"[/\\%\0\s]", name) else None
    if data is None or data.is_symlink() or not data.is_file():
        raise SourceError(
            f"The {path.suffix.lower()} file names no single file in its own folder for its voxels. Put both into one "
            "folder, under plain names without spaces, or write them as one file.",
            ReasonCode.UNREADABLE_FILE,
        )
    return size + data.stat().st_size


def _data_file(path: Path, limits: ReadLimits) -> str | None:
    """Name that the header gives for the voxels; ``None`` when they follow in the same file."""
    field = _DATA_FILE[path.suffix.lower()]
    with path.open("rb") as stream:
        while stream.tell() < limits.header_bytes:
            line = stream.readline(limits.header_bytes)
            found = field.match(line)
            if found is not None:
                name = found.group(1).strip().decode("utf-8", "surrogateescape")
                return None if name.upper() == "LOCAL" and path.suffix.lower() != ".nrrd" else name
            if not line or (path.suffix.lower() == ".nrrd" and not line.strip()):
                return None
    raise too_large(f"The {path.suffix.lower()} file has a header that does not end.", "header_bytes")
