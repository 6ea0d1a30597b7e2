"""Look into the header of a volume file before a library does: how far to the voxels, and in which file they are."""

from __future__ import annotations

import gzip
import math
import os
import re
import struct
from pathlib import Path
from typing import Any

import nibabel as nib

from monai_ldmsr.errors import ReasonCode, SourceError
from monai_ldmsr.io.limits import ReadLimits, too_large

__all__ = ["checked_shape", "nifti_image_class", "stored_bytes"]

#: Fields of MetaImage with one number an axis, or one for each pair of axes.
_NUMBERS_PER_AXIS = {
    **dict.fromkeys(
        ("dimsize", "elementspacing", "elementsize", "offset", "position", "origin", "centerofrotation"), 1
    ),
    **dict.fromkeys(("transformmatrix", "rotation", "orientation"), 2),
}

#: Fields of MetaImage with one whole number, which may be a size in bytes.
_INTEGERS = frozenset(
    ("compresseddatasize", "headersize", "elementnumberofchannels", "id", "parentid", "compressionlevel")
)

#: MetaIO copies texts into arrays of 255 characters, and NRRD's reader into those of 256, whatever their length.
_MAX_TEXT = 250

#: The longest line of a header that names anything: ten axes with ten numbers of 25 digits each.
_MAX_LINE = 2500

#: Programs keep whole documents in the remarks of a NRRD file.
_MAX_PAIR = 2**16

#: Fields of NRRD with one value an axis; those with a vector an axis have as many words without their spaces.
_NRRD_WORDS = re.compile(r"\([^()]*\)|\"[^\"]*\"|[^\s()\"]+")
_NRRD_PER_AXIS = {
    *("sizes", "spacings", "thicknesses", "axismins", "axismaxs", "centers", "centerings", "labels", "units", "kinds"),
    "spacedirections",
}
_NRRD_INTEGERS = {"dimension", "spacedimension", "lineskip", "byteskip"}
_NRRD_TEXTS = {
    *("type", "space", "spaceunits", "spaceorigin", "endian", "encoding", "content", "sampleunits", "measurementframe"),
    *("datafile", "min", "max", "oldmin", "oldmax", "number"),
}


def checked_shape(
    shape: tuple[int, ...], limits: ReadLimits, counts_volumes: bool = False
) -> tuple[tuple[int, int, int], int]:
    """(I, J, K) of a 2D or 3D volume, and how many there are, known before any voxel is decoded.

    Args:
        shape: of the file's array.
        limits: its voxels are all of the file.
        counts_volumes: whether the fourth dimension may count volumes.

    Raises:
        SourceError: ``UNSUPPORTED_DIMENSIONS`` or ``TOO_LARGE``.
    """
    n_volumes = math.prod(int(n) for n in shape[3:])
    beyond = math.prod(int(n) for n in shape[4 if counts_volumes else 3 :])
    if len(shape) < 2 or min(shape) < 1 or beyond > 1:
        raise SourceError(
            f"The file has {len(shape)} dimensions and {n_volumes} volumes, but one 2D or 3D volume is needed, or a "
            "NIfTI file whose fourth dimension alone counts volumes. Split it into one file a volume.",
            ReasonCode.UNSUPPORTED_DIMENSIONS,
        )
    if n_volumes > limits.volumes:
        raise too_large(f"The file has {n_volumes} volumes; the limit is {limits.volumes}.", "volumes")
    full = (int(shape[0]), int(shape[1]), int(shape[2]) if len(shape) > 2 else 1)
    limits.check_voxels("The volume" if n_volumes == 1 else "The file", full, n_volumes)
    return full, n_volumes


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
        ValueError: its header is damaged; ITK's own parsers end the process on some damages.
        SourceError: ``UNREADABLE_FILE`` when it names anything but a plain file in its own folder: a header may lead
            to any file, or to a pipe that waits. ``TOO_LARGE`` when its header does not end.
    """
    size = path.stat().st_size
    is_nrrd = path.suffix.lower() == ".nrrd"
    fields = _fields(path, limits, is_nrrd)
    (_check_nrrd if is_nrrd else _check_meta_image)(fields, size)
    name = fields.get("datafile" if is_nrrd else "elementdatafile")
    if name is None or (name == "LOCAL" and not is_nrrd):
        return size
    data = path.with_name(name) if name not in ("", ".", "..") and not re.search(r"[/\\%\0\s]", name) else None
    if data is None or data.is_symlink() or not data.is_file() or not os.access(data, os.R_OK):
        raise SourceError(
            f"The {path.suffix.lower()} file names no single file in its own folder for its voxels. Put both into one "
            "folder, under plain names without spaces, or write them as one file.",
            ReasonCode.UNREADABLE_FILE,
        )
    return size + data.stat().st_size


def _fields(path: Path, limits: ReadLimits, is_nrrd: bool) -> dict[str, str]:
    """Fields of the text header, with names in small letters and without spaces."""
    fields: dict[str, str] = {}
    with path.open("rb") as stream:
        while stream.tell() < limits.header_bytes:
            line = stream.readline(limits.header_bytes).decode("utf-8", "surrogateescape").strip()
            if not line and (is_nrrd or not stream.peek(1)):
                return fields
            name, separator, value = re.match(r"([^:=]*)(:=|:|=|)(.*)", line, re.DOTALL).groups()  # type: ignore[union-attr]
            name = re.sub(r"\s", "", name).lower()
            if separator and name in fields:
                raise ValueError("a field stands twice")
            if len(name) > _MAX_TEXT or len(value) > (_MAX_PAIR if separator == ":=" else _MAX_LINE):
                raise ValueError("a line is too long")
            # "name:=value" is a remark of whoever wrote the NRRD file, not a field.
            if separator in (":", "=") and name[:1] != "#":
                fields[name] = value.strip()
            if name == "elementdatafile" and not is_nrrd:
                return fields
    raise too_large(f"The {path.suffix.lower()} file has a header that does not end.", "header_bytes")


def _check_nrrd(fields: dict[str, str], size: int) -> None:
    n_axes = int(fields.get("dimension", 0))
    if not 1 <= n_axes <= 10 or "sizes" not in fields:
        raise ValueError("no number of dimensions")
    for name, value in fields.items():
        if name in _NRRD_PER_AXIS:
            words = _NRRD_WORDS.findall(value)
            if len(words) != n_axes:
                raise ValueError("values do not fit the dimensions")
            if name == "sizes" and not all(1 <= int(word) < 2**31 for word in words):
                raise ValueError("an impossible size")
        elif name in _NRRD_INTEGERS:
            if not -1 <= int(value) <= size:
                raise ValueError("an impossible number")
        elif name not in _NRRD_TEXTS or len(value) > _MAX_TEXT:
            raise ValueError("an unknown field, or a text that is too long")


def _check_meta_image(fields: dict[str, str], size: int) -> None:
    n_axes = int(fields.get("ndims", 0))
    if not 1 <= n_axes <= 10 or "dimsize" not in fields:
        raise ValueError("no number of dimensions")
    names = list(fields)
    for name, value in fields.items():
        if name in _NUMBERS_PER_AXIS:
            numbers = [float(number) for number in value.split()]
            if len(numbers) != n_axes ** _NUMBERS_PER_AXIS[name] or names.index(name) < names.index("ndims"):
                raise ValueError("numbers do not fit the dimensions")
            if name == "dimsize" and not all(1 <= number < 2**31 for number in numbers):
                raise ValueError("an impossible size")
        elif name in _INTEGERS:
            if not -1 <= int(value) <= max(size, 2**16):
                raise ValueError("an impossible number")
        elif len(value) > _MAX_TEXT:
            raise ValueError("a text is too long")
