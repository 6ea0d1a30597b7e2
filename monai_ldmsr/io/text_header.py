"""Text headers of NRRD and MetaImage, looked into before ITK does: what they say, and in which file the voxels are."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from monai_ldmsr.errors import CorruptSourceError, ReasonCode, SourceError
from monai_ldmsr.io.limits import ReadLimits, too_large
from monai_ldmsr.io.value_kind import no_grey_values
from monai_ldmsr.io.volume_format import MM_PER_UNIT, NRRD, volume_extension

__all__ = ["TextHeader", "check_kinds", "is_plain", "placement", "stored_bytes", "text_header", "unusable"]

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

#: All that says where MetaImage's voxels are and what they mean, beside the numbers above.
_META_TEXTS = {
    *("objecttype", "ndims", "binarydata", "binarydatabyteordermsb", "elementbyteordermsb", "compresseddata"),
    *("anatomicalorientation", "elementtype", "elementdatafile"),
}
_META_FIELDS = _META_TEXTS | _NUMBERS_PER_AXIS.keys() | _INTEGERS

#: MetaIO copies texts into arrays of 255 characters, and NRRD's reader some into those of 256, whatever their length.
_MAX_TEXT = 250

#: The longest line of a field that says anything: ten axes with ten numbers of 25 digits each.
_MAX_LINE = 2500

#: Fields of NRRD with one value an axis; those with a vector an axis have as many words without their spaces.
_NRRD_WORDS = re.compile(r"\([^()]*\)|\"[^\"]*\"|[^\s()\"]+")
_NRRD_PER_AXIS = {
    *("sizes", "spacings", "thicknesses", "axismins", "axismaxs", "centers", "centerings", "labels", "units", "kinds"),
    "spacedirections",
}
#: Spaces of NRRD that ITK turns to LPS; others it takes as if they were that.
_NRRD_SPACES = {"ras", "rightanteriorsuperior", "las", "leftanteriorsuperior", "lps", "leftposteriorsuperior"}


#: What NRRD says of an axis: a direction in space, if only by its name or by its one voxel; how many volumes there
#: are; or what a voxel is made of.
_DIRECTIONS, _COUNTS = ("domain", "space", "scalar", "stub", "none", "???"), ("list", "time")
_COLOURS = re.compile(r"complex|.*-color")
_COMPONENTS = re.compile(r"(.*-)?(vector|normal|gradient|matrix|point|quaternion)")

_NRRD_INTEGERS = {"dimension", "spacedimension", "lineskip", "byteskip"}
_NRRD_TEXTS = {
    *("type", "space", "spaceunits", "spaceorigin", "endian", "encoding", "content", "sampleunits", "measurementframe"),
    *("datafile", "min", "max", "oldmin", "oldmax", "number"),
}
#: Texts of any length.
_NRRD_PROSE = {"content", "sampleunits"}


@dataclass(frozen=True)
class TextHeader:
    """A header of lines.

    Args:
        is_nrrd: else it is of MetaImage.
        fields: values by names in small letters and without spaces.
        remarks: what whoever wrote the file noted besides, likewise.
        n_bytes: of the header.
        lines: of MetaImage, names and values as they stand there, of the fields that say anything of the voxels.
        is_clean: whether nothing else in it is longer than what MetaIO has room for.
    """

    is_nrrd: bool
    fields: dict[str, str] = field(repr=False)
    remarks: dict[str, str] = field(repr=False)
    n_bytes: int
    lines: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    is_clean: bool = True

    @property
    def data_name(self) -> str | None:
        """Name that it gives to the file with the voxels; ``None`` where they follow it. It may lead anywhere."""
        name = self.fields.get("datafile" if self.is_nrrd else "elementdatafile")
        return None if name is None or (name.upper() == "LOCAL" and not self.is_nrrd) else name


def unusable(extension: str, why: str) -> CorruptSourceError:
    """Error for a header that was read and makes no sense."""
    return CorruptSourceError(
        f"The header of the {extension} file cannot be used: {why}. Repair it, or convert the file again.",
        ReasonCode.UNREADABLE_FILE,
    )


def text_header(path: Path, limits: ReadLimits) -> TextHeader:
    """Header of a NRRD or MetaImage file, looked through; ITK's own parsers end the process on some damages.

    Raises:
        CorruptSourceError: ``UNREADABLE_FILE`` when it cannot be used; the message says why.
        SourceError: ``TOO_LARGE`` when it does not end.
    """
    extension = volume_extension(path) or ""
    is_nrrd = extension in NRRD
    header = _nrrd_lines(path, limits) if is_nrrd else _meta_lines(path, limits)
    try:
        (_check_nrrd if is_nrrd else _check_meta_image)(header.fields, path.stat().st_size)
    except ValueError as error:
        # Of Python's own errors nothing is kept: they quote the header.
        why = str(error) if type(error) is _HeaderError else "a number in it is none"
        raise unusable(extension, why) from None
    return header


class _HeaderError(ValueError):
    """Says why a header makes no sense, without quoting it."""


def _nrrd_lines(path: Path, limits: ReadLimits) -> TextHeader:
    fields: dict[str, str] = {}
    remarks: dict[str, str] = {}
    with path.open("rb") as stream:
        if not stream.readline(64).startswith(b"NRRD0"):
            raise unusable(".nrrd", "it does not begin as a NRRD file does, so it is another kind of file or damaged")
        while stream.tell() < limits.header_bytes:
            line = stream.readline(limits.header_bytes).decode("utf-8", "surrogateescape").strip()
            if not line:
                return TextHeader(True, fields, remarks, stream.tell())
            name, separator, value = re.match(r"([^:]*)(:=|:|)(.*)", line, re.DOTALL).groups()  # type: ignore[union-attr]
            if separator == ":=":  # a remark of whoever wrote the file, not a field
                remarks[name.strip().lower()] = value.strip()
            elif separator and name[:1] != "#":
                name = re.sub(r"\s", "", name).lower()
                if name in fields:
                    raise unusable(".nrrd", "a field stands in it twice")
                fields[name] = value.strip()
    raise too_large("The NRRD file has a header that does not end.", "header_bytes")


def _meta_lines(path: Path, limits: ReadLimits) -> TextHeader:
    fields: dict[str, str] = {}
    remarks: dict[str, str] = {}
    lines, is_clean = [], True
    with path.open("rb") as stream:
        while stream.tell() < limits.header_bytes:
            line = stream.readline(limits.header_bytes).decode("utf-8", "surrogateescape")
            written, separator, value = re.match(r"([^:=]*)(:|=|)(.*)", line, re.DOTALL).groups()  # type: ignore[union-attr]
            name, value = re.sub(r"\s", "", written).lower(), value.strip()
            if separator and name in _META_FIELDS:
                if name in fields:
                    raise unusable(path.suffix.lower(), "a field stands in it twice")
                fields[name] = value
                lines.append((written.strip(), value))
            elif separator:
                remarks[name] = value
                is_clean &= max(len(written), len(value)) <= _MAX_TEXT
            if name == "elementdatafile" or not line:
                return TextHeader(False, fields, remarks, stream.tell(), tuple(lines), is_clean)
    raise too_large(f"The {path.suffix.lower()} file has a header that does not end.", "header_bytes")


def check_kinds(header: TextHeader) -> None:
    """Refuse a NRRD file by what its axes are, where one of several values is no direction in space.

    Raises:
        SourceError: ``UNSUPPORTED_DIMENSIONS`` for a list or time, ``UNSUPPORTED_PIXELS`` for colours, channels and
            complex numbers, ``UNREADABLE_FILE`` for what NRRD does not know.
        SkippedSourceError: ``NO_GREY_VALUES`` for vectors, matrices and points.
    """
    if not header.is_nrrd:
        return
    sizes, kinds = (_NRRD_WORDS.findall(header.fields.get(name, "")) for name in ("sizes", "kinds"))
    for axis, (size, kind) in enumerate(zip(sizes, (word.strip('"').lower() for word in kinds), strict=False)):
        if int(size) == 1 or kind in _DIRECTIONS:
            continue
        if kind in _COUNTS:
            raise SourceError(
                f"An axis of {int(size)} in the NRRD file is no direction in space but of kind {kind}. Split it into "
                "one file a volume.",
                ReasonCode.UNSUPPORTED_DIMENSIONS,
            )
        if _COLOURS.fullmatch(kind) or (axis == 0 and kind == "vector"):  # as ITK calls any channels
            raise SourceError(
                "An axis of the NRRD file is of colours, channels or complex numbers, but one real number a voxel is "
                "needed. Split the file into volumes.",
                ReasonCode.UNSUPPORTED_PIXELS,
            )
        if _COMPONENTS.fullmatch(kind):
            raise no_grey_values("an axis of the NRRD file is of vectors, matrices or points")
        raise unusable(".nrrd", "a kind of axis in it is none of NRRD's")


def stored_bytes(path: Path, header: TextHeader) -> int:
    """Bytes that a MetaImage or NRRD file has on disk, together with the file beside it that holds its voxels.

    Raises:
        SourceError: ``UNREADABLE_FILE`` when it names anything but a plain file in its own folder: a header may lead
            to any file, or to a pipe that waits.
    """
    size, name = path.stat().st_size, header.data_name
    if name is None:
        return size
    data = path.with_name(name) if is_plain(name) else None
    if data is None or data.is_symlink() or not data.is_file() or not os.access(data, os.R_OK):
        raise SourceError(
            f"The {path.suffix.lower()} file names no single file in its own folder for its voxels. Put both into one "
            "folder, under plain names, or write them as one file.",
            ReasonCode.UNREADABLE_FILE,
        )
    return size + data.stat().st_size


def is_plain(name: str) -> bool:
    """Whether a name is of one file; ``LIST`` begins a list of any."""
    is_list = name.startswith("LIST")
    return name not in ("", ".", "..") and not is_list and name.isprintable() and not re.search(r"[/\\%]", name)


def placement(header: TextHeader) -> tuple[float, list[str]]:
    """Millimetres of the unit that a text header counts in, and warnings of what it leaves to be assumed.

    Raises:
        SourceError: ``NO_GEOMETRY`` when the unit is none of length, or not one for all axes.
    """
    fields = header.fields
    if header.is_nrrd:
        words = _NRRD_WORDS.findall(fields.get("spaceunits", fields.get("units", "")))[:3]
        units = {word.strip('" ').lower() for word in words}
    else:
        units = {header.remarks.get("distanceunits", "").strip('" ').lower()}
    scales = {MM_PER_UNIT.get(unit) for unit in units} or {1.0}
    scale = scales.pop()
    if scale is None or scales:
        raise SourceError(
            "The header counts lengths in a unit other than mm, cm, m or um, or in several, so voxel sizes are not "
            "known. Convert the file to mm.",
            ReasonCode.NO_GEOMETRY,
        )
    return scale, _assumed_in_nrrd(fields) if header.is_nrrd else _assumed_in_meta_image(fields)


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
        raise _HeaderError("it gives no number of axes, or no sizes")
    for name, value in fields.items():
        if name in _NRRD_PER_AXIS:
            words = _NRRD_WORDS.findall(value)
            if len(words) != n_axes:
                raise _HeaderError(f"it has {n_axes} axes, but '{name}' has {len(words)} values")
            if name == "sizes" and not all(1 <= int(word) < 2**31 for word in words):
                raise _HeaderError("a size in it is impossible")
        elif name in _NRRD_INTEGERS:
            if not -1 <= int(value) <= size:
                raise _HeaderError(f"'{name}' is no possible number")
        elif name not in _NRRD_TEXTS:
            raise _HeaderError("a field in it is none of NRRD's (remarks are written 'name:=value')")
        elif name not in _NRRD_PROSE and len(value) > _MAX_TEXT:
            raise _HeaderError(f"'{name}' has more than {_MAX_TEXT} characters")


def _check_meta_image(fields: dict[str, str], size: int) -> None:
    n_axes = int(fields.get("ndims", 0))
    if not 1 <= n_axes <= 10 or not {"dimsize", "elementdatafile"} <= fields.keys():
        raise _HeaderError("it gives no NDims, DimSize or ElementDataFile, so it is another kind of file or damaged")
    names = list(fields)
    for name, value in fields.items():
        if len(value) > (_MAX_LINE if name in _NUMBERS_PER_AXIS else _MAX_TEXT):
            raise _HeaderError(f"'{name}' has {len(value)} characters")
        if name in _NUMBERS_PER_AXIS:
            numbers = [float(number) for number in value.split()]
            if len(numbers) != n_axes ** _NUMBERS_PER_AXIS[name] or names.index(name) < names.index("ndims"):
                raise _HeaderError(f"'{name}' does not fit its {n_axes} axes")
            if name == "dimsize" and not all(1 <= number < 2**31 for number in numbers):
                raise _HeaderError("a size in it is impossible")
        elif name in _INTEGERS and not -1 <= int(value) <= max(size, 2**16):
            raise _HeaderError(f"'{name}' is no possible number")
