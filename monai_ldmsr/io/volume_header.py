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

from monai_ldmsr.errors import CorruptSourceError, ReasonCode, SourceError
from monai_ldmsr.io.limits import ReadLimits, too_large

__all__ = ["MM_PER_UNIT", "checked_shape", "header_fields", "nifti_image_class", "placement", "stored_bytes"]

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
#: Spaces of NRRD that ITK turns to LPS; others it takes as if they were that.
_NRRD_SPACES = {"ras", "rightanteriorsuperior", "las", "leftanteriorsuperior", "lps", "leftposteriorsuperior"}

#: Millimetres of what units are called; without any name they are millimetres.
MM_PER_UNIT = {
    **dict.fromkeys(("", "?", "???", "none", "mm", "millimeter", "millimeters", "millimetre", "millimetres"), 1.0),
    **dict.fromkeys(("um", "\u00b5m", "\u03bcm", "micron", "microns", "micrometer", "micrometers"), 0.001),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre", "centimetres"), 10.0),
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1000.0),
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
            ``UNREADABLE_FILE`` when they begin within it, ``BAD_RESCALE`` when slope or intercept is no number.
    """
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as stream:
        start = stream.read(540)
    order = next(order for order in "<>" if struct.unpack_from(f"{order}i", start)[0] in (348, 540))
    is_first = struct.unpack_from(f"{order}i", start)[0] == 348
    offset = float(struct.unpack_from(f"{order}f" if is_first else f"{order}q", start, 108 if is_first else 168)[0])
    if not math.isfinite(offset):
        raise ValueError("no offset")
    if offset < (352 if is_first else 544) or offset != int(offset):
        raise CorruptSourceError(
            f"The header says that the voxels begin at byte {offset:g}, which is within the header or no whole number "
            "(vox_offset). Repair it, or convert the file again.",
            ReasonCode.UNREADABLE_FILE,
        )
    if offset > limits.header_bytes:
        raise too_large(f"The voxels of the NIfTI file begin {offset:.0f} bytes behind its start.", "header_bytes")
    slope, intercept = struct.unpack_from(f"{order}2f" if is_first else f"{order}2d", start, 112 if is_first else 176)
    # 0 is no scaling, and so is NaN to some writers, which then leave no intercept either.
    is_unscaled = slope == 0 or (math.isnan(slope) and (intercept == 0 or math.isnan(intercept)))
    if not is_unscaled and not (math.isfinite(slope) and math.isfinite(intercept)):
        raise SourceError(
            f"The NIfTI header scales by {slope:g} and {intercept:g} (scl_slope, scl_inter), so the stored values have "
            "no meaning. Repair the header.",
            ReasonCode.BAD_RESCALE,
        )
    return nib.Nifti1Image if is_first else nib.Nifti2Image


def stored_bytes(path: Path, fields: dict[str, str]) -> int:
    """Bytes that a MetaImage or NRRD file has on disk, together with the file beside it that holds its voxels.

    Args:
        path: of the file.
        fields: of its header, as :func:`header_fields` gives them.

    Raises:
        ValueError: its header is damaged; ITK's own parsers end the process on some damages.
        SourceError: ``UNREADABLE_FILE`` when it names anything but a plain file in its own folder: a header may lead
            to any file, or to a pipe that waits.
    """
    size = path.stat().st_size
    is_nrrd = path.suffix.lower() == ".nrrd"
    (_check_nrrd if is_nrrd else _check_meta_image)(fields, size)
    name = _data_file(fields, is_nrrd)
    if name is None:
        return size
    data = path.with_name(name) if _is_plain(name) else None
    if data is None or data.is_symlink() or not data.is_file() or not os.access(data, os.R_OK):
        raise SourceError(
            f"The {path.suffix.lower()} file names no single file in its own folder for its voxels. Put both into one "
            "folder, under plain names without spaces, or write them as one file.",
            ReasonCode.UNREADABLE_FILE,
        )
    return size + data.stat().st_size


def data_file_name(path: Path, limits: ReadLimits) -> str | None:
    """Name of the file beside a MetaImage or NRRD file that holds its voxels; ``None`` where there is none."""
    if path.suffix.lower() not in (".mhd", ".mha", ".nrrd"):
        return None
    try:
        name = _data_file(header_fields(path, limits)[0], path.suffix.lower() == ".nrrd")
    except Exception:  # as the reader meets it again, and says what it is
        return None
    return name if name is not None and _is_plain(name) else None


def _data_file(fields: dict[str, str], is_nrrd: bool) -> str | None:
    name = fields.get("datafile" if is_nrrd else "elementdatafile")
    return None if name == "LOCAL" and not is_nrrd else name


def _is_plain(name: str) -> bool:
    return name not in ("", ".", "..") and not re.search(r"[/\\%\0\s]", name)


def header_fields(path: Path, limits: ReadLimits) -> tuple[dict[str, str], int]:
    """Fields of a text header, with names in small letters and without spaces, and how many bytes it has.

    Raises:
        ValueError: it is damaged.
        SourceError: ``TOO_LARGE`` when it does not end.
    """
    fields: dict[str, str] = {}
    is_nrrd = path.suffix.lower() == ".nrrd"
    with path.open("rb") as stream:
        while stream.tell() < limits.header_bytes:
            line = stream.readline(limits.header_bytes).decode("utf-8", "surrogateescape").strip()
            if not line and (is_nrrd or not stream.peek(1)):
                return fields, stream.tell()
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
                return fields, stream.tell()
    raise too_large(f"The {path.suffix.lower()} file has a header that does not end.", "header_bytes")


def placement(fields: dict[str, str], is_nrrd: bool) -> tuple[float, list[str]]:
    """Millimetres of the unit that a text header counts in, and warnings of what it leaves to be assumed.

    Raises:
        SourceError: ``NO_GEOMETRY`` when the unit is none of length, or not one for all axes.
    """
    if is_nrrd:
        words = _NRRD_WORDS.findall(fields.get("spaceunits", fields.get("units", "")))[:3]
        units = {word.strip('" ').lower() for word in words}
    else:
        units = {fields.get("distanceunits", "").strip('" ').lower()}
    scales = {MM_PER_UNIT.get(unit) for unit in units} or {1.0}
    scale = scales.pop()
    if scale is None or scales:
        raise SourceError(
            "The header counts lengths in a unit other than mm, cm, m or um, or in several, so voxel sizes are not "
            "known. Convert the file to mm.",
            ReasonCode.NO_GEOMETRY,
        )
    return scale, _assumed_in_nrrd(fields) if is_nrrd else _assumed_in_meta_image(fields)


def _assumed_in_nrrd(fields: dict[str, str]) -> list[str]:
    warnings = []
    directions = [word.lower() for word in _NRRD_WORDS.findall(fields.get("spacedirections", ""))[:3]]
    if "space" not in fields:
        warnings.append("The NRRD file names no space: only voxel sizes are known; place and sides are not.")
    elif fields["space"].strip('"').replace("-", "").lower() not in _NRRD_SPACES:
        warnings.append(
            "The NRRD file's space does not say where in the patient it lies: only voxel sizes are known; place and "
            "sides are not."
        )
    elif "spaceorigin" not in fields:
        warnings.append("The NRRD file gives no origin: (0, 0, 0) is assumed.")
    spacings = [word.lower() for word in fields.get("spacings", "nan").split()[:3]]
    sizes = directions or spacings
    if any("none" in word or "nan" in word for word in sizes):
        warnings.append("The NRRD file does not give the spacing of each axis: 1 mm is assumed where it is missing.")
    return warnings


def _assumed_in_meta_image(fields: dict[str, str]) -> list[str]:
    warnings = []
    for what, names in (
        ("spacing (1 mm", ("elementspacing", "elementsize")),
        ("origin ((0, 0, 0)", ("offset", "position", "origin")),
        ("orientation (LPS", ("transformmatrix", "rotation", "orientation")),
    ):
        if not any(name in fields for name in names):
            warnings.append(f"The MetaImage file gives no {what} is assumed).")
    return warnings


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
