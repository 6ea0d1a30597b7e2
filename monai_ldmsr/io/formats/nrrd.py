"""NRRD: one file, or a header with its voxels in another."""

from __future__ import annotations

import gzip
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from monai_ldmsr.errors import ReasonCode, SourceError
from monai_ldmsr.io.formats.itk import MAX_TEXT, HeaderError, ItkFormat, TextHeader, unusable
from monai_ldmsr.io.formats.stored import check_pieces, check_plain, pieces
from monai_ldmsr.io.limits import ReadLimits, too_large
from monai_ldmsr.io.refusals import label_map, no_grey_values

__all__ = ["NrrdFormat"]

#: Fields of NRRD with one value an axis; those with a vector an axis have as many words without their spaces.
_WORDS = re.compile(r"\([^()]*\)|\"[^\"]*\"|[^\s()\"]+")
_PER_AXIS = {
    *("sizes", "spacings", "thicknesses", "axismins", "axismaxs", "centers", "centerings", "labels", "units", "kinds"),
    "spacedirections",
}
#: Spaces of NRRD that ITK turns to LPS; others it takes as if they were that.
_SPACES = {"ras", "rightanteriorsuperior", "las", "leftanteriorsuperior", "lps", "leftposteriorsuperior"}

#: What NRRD says of an axis: a direction in space, if only by its name or by its one voxel; how many volumes there
#: are; or what a voxel is made of.
_DIRECTIONS, _COUNTS = ("domain", "space", "scalar", "stub", "none", "???"), ("list", "time")
_COLOURS = re.compile(r"complex|.*-color")
_COMPONENTS = re.compile(r"(.*-)?(vector|normal|gradient|matrix|point|quaternion)")

_INTEGERS = {"dimension", "spacedimension", "lineskip", "byteskip"}
_TEXTS = {
    *("type", "space", "spaceunits", "spaceorigin", "endian", "encoding", "content", "sampleunits", "measurementframe"),
    *("datafile", "min", "max", "oldmin", "oldmax", "number"),
}
#: Texts of any length.
_PROSE = {"content", "sampleunits"}

#: How 3D Slicer names a segmentation.
_SEGMENT_NAME = re.compile(r".*\.seg\.(nrrd|nhdr)", re.IGNORECASE | re.DOTALL)


class NrrdFormat(ItkFormat):
    """NRRD, by ITK."""

    extensions = (".nrrd", ".nhdr")
    map_extension = ".nrrd"
    client_extensions = (".nrrd",)
    image_io = "NrrdImageIO"

    def _lines(self, path: Path, limits: ReadLimits) -> TextHeader:
        fields: dict[str, str] = {}
        remarks: dict[str, str] = {}
        with path.open("rb") as stream:
            if not stream.readline(64).startswith(b"NRRD0"):
                raise unusable(path, "it does not begin as a NRRD file does, so it is another kind of file or damaged")
            while stream.tell() < limits.header_bytes:
                line = stream.readline(limits.header_bytes).decode("utf-8", "surrogateescape").strip()
                if not line:
                    return TextHeader(fields, remarks, stream.tell())
                name, separator, value = re.match(r"([^:]*)(:=|:|)(.*)", line, re.DOTALL).groups()  # type: ignore[union-attr]
                if separator == ":=":  # a remark of whoever wrote the file, not a field
                    remarks[name.strip().lower()] = value.strip()
                elif separator and name[:1] != "#":
                    name = re.sub(r"\s", "", name).lower()
                    if name in fields:
                        raise unusable(path, "a field stands in it twice")
                    fields[name] = value.strip()
        raise too_large("The NRRD file has a header that does not end.", "header_bytes")

    def _check_fields(self, fields: dict[str, str], size: int) -> None:
        n_axes = int(fields.get("dimension", 0))
        if not 1 <= n_axes <= 10 or "sizes" not in fields:
            raise HeaderError("it gives no number of axes, or no sizes")
        for name, value in fields.items():
            if name in _PER_AXIS:
                words = _WORDS.findall(value)
                if len(words) != n_axes:
                    raise HeaderError(f"it has {n_axes} axes, but '{name}' has {len(words)} values")
                if name == "sizes" and not all(1 <= int(word) < 2**31 for word in words):
                    raise HeaderError("a size in it is impossible")
            elif name in _INTEGERS:
                if not -1 <= int(value) <= size:
                    raise HeaderError(f"'{name}' is no possible number")
            elif name not in _TEXTS:
                raise HeaderError("a field in it is none of NRRD's (remarks are written 'name:=value')")
            elif name not in _PROSE and len(value) > MAX_TEXT:
                raise HeaderError(f"'{name}' has more than {MAX_TEXT} characters")

    def _data_name(self, header: TextHeader) -> str | None:
        return header.fields.get("datafile")

    def _placed(self, header: TextHeader) -> tuple[set[str], list[str]]:
        fields = header.fields
        units = _WORDS.findall(fields.get("spaceunits", fields.get("units", "")))[:3]
        warnings = []
        directions = [word.lower() for word in _WORDS.findall(fields.get("spacedirections", ""))[:3]]
        if "space" not in fields:
            warnings.append("The NRRD file names no space: only voxel sizes are known; place and sides are not.")
        elif fields["space"].strip('"').replace("-", "").lower() not in _SPACES:
            warnings.append(
                "The NRRD file's space does not say where in the patient it lies: only voxel sizes are known; place "
                "and sides are not."
            )
        elif "spaceorigin" not in fields:
            warnings.append("The NRRD file gives no origin: (0, 0, 0) is assumed.")
        spacings = [word.lower() for word in fields.get("spacings", "nan").split()[:3]]
        sizes = directions or spacings
        if any("none" in word or "nan" in word for word in sizes):
            warnings.append(
                "The NRRD file does not give the spacing of each axis: 1 mm is assumed where it is missing."
            )
        return {word.strip('" ').lower() for word in units}, warnings

    def _refuse(self, path: Path, header: TextHeader) -> None:
        """Refuse a segmentation, and axes of several values that are no directions in space, by what they are."""
        if _SEGMENT_NAME.fullmatch(path.name):
            raise label_map("it is named .seg.nrrd")
        sizes, kinds = (_WORDS.findall(header.fields.get(name, "")) for name in ("sizes", "kinds"))
        for axis, (size, kind) in enumerate(zip(sizes, (word.strip('"').lower() for word in kinds), strict=False)):
            if int(size) == 1 or kind in _DIRECTIONS:
                continue
            if kind in _COUNTS:
                raise SourceError(
                    f"An axis of {int(size)} in the NRRD file is no direction in space but of kind {kind}. Split it "
                    "into one file a volume.",
                    ReasonCode.UNSUPPORTED_DIMENSIONS,
                )
            if _COLOURS.fullmatch(kind) or (axis == 0 and kind == "vector"):  # as ITK calls any channels
                raise SourceError(
                    "An axis of the NRRD file is of colours, channels or complex numbers, but one real number a voxel "
                    "is needed. Split the file into volumes.",
                    ReasonCode.UNSUPPORTED_PIXELS,
                )
            if _COMPONENTS.fullmatch(kind):
                raise no_grey_values("an axis of the NRRD file is of vectors, matrices or points")
            raise unusable(path, "a kind of axis in it is none of NRRD's")

    def _check_voxels(self, path: Path, header: TextHeader, shape: tuple[int, ...], item_bytes: int) -> None:
        n_bytes, row_bytes = math.prod(shape) * item_bytes, shape[0] * item_bytes
        fields = header.fields
        encoding, skipped = fields.get("encoding", "raw").lower(), int(fields.get("byteskip", 0))
        is_detached = "datafile" in fields
        with (path.with_name(fields["datafile"]) if is_detached else path).open("rb") as stream:
            stream.seek(0 if is_detached else header.n_bytes)
            for _ in range(int(fields.get("lineskip", 0))):
                stream.readline()
            if encoding in ("gzip", "gz"):
                with gzip.GzipFile(fileobj=stream) as inflated:
                    inflated.read(max(0, skipped))
                    check_pieces(pieces(inflated), n_bytes, row_bytes)
                return
            if encoding == "raw" and skipped == -1:  # the voxels are whatever is last in the file
                return
            stream.seek(max(0, skipped), 1)
            if encoding == "raw":
                check_plain(stream, stream.tell(), n_bytes, row_bytes)
            elif encoding == "hex":
                check_pieces((re.sub(rb"\s", b"", piece) for piece in pieces(stream)), 2 * n_bytes, 1)
            elif encoding in ("ascii", "text", "txt"):
                check_pieces(_numbers(stream), math.prod(shape), 1)


def _numbers(stream: IO[bytes]) -> Iterator[bytes]:
    """One byte for each number of a text."""
    last = b" "
    for piece in pieces(stream):
        words = re.split(rb"[\s,]+", last + piece)  # a word that goes on was counted where it began
        yield b"1" * (sum(map(bool, words)) - (not last.isspace() and last != b","))
        last = piece[-1:]
