"""MetaImage: one file, or a header with its voxels in another."""

from __future__ import annotations

import math
import re
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from monai_ldmsr.io.formats.base import unreadable
from monai_ldmsr.io.formats.itk import MAX_TEXT, HeaderError, ItkFormat, TextHeader, unusable
from monai_ldmsr.io.formats.stored import CHUNK_BYTES, check_pieces, check_plain
from monai_ldmsr.io.limits import ReadLimits, too_large

__all__ = ["MetaImageFormat"]

#: Fields of the header with one number an axis, or one for each pair of axes.
_NUMBERS_PER_AXIS = {
    **dict.fromkeys(
        ("dimsize", "elementspacing", "elementsize", "offset", "position", "origin", "centerofrotation"), 1
    ),
    **dict.fromkeys(("transformmatrix", "rotation", "orientation"), 2),
}

#: Fields of the header with one whole number, which may be a size in bytes.
_INTEGERS = frozenset(
    ("compresseddatasize", "headersize", "elementnumberofchannels", "id", "parentid", "compressionlevel")
)

#: All that says where the voxels are and what they mean, beside the numbers above.
_META_TEXTS = {
    *("objecttype", "ndims", "binarydata", "binarydatabyteordermsb", "elementbyteordermsb", "compresseddata"),
    *("anatomicalorientation", "elementtype", "elementdatafile"),
}
_META_FIELDS = _META_TEXTS | _NUMBERS_PER_AXIS.keys() | _INTEGERS

#: The longest line of a field that says anything: ten axes with ten numbers of 25 digits each.
_MAX_LINE = 2500


class MetaImageFormat(ItkFormat):
    """MetaImage, by ITK."""

    extensions = (".mha", ".mhd")
    map_extension = ".mha"
    image_io = "MetaImageIO"

    def _lines(self, path: Path, limits: ReadLimits) -> TextHeader:
        """Keep the lines of fields where MetaIO has no room for a remark."""
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
                        raise unusable(path, "a field stands in it twice")
                    fields[name] = value
                    lines.append((written.strip(), value))
                elif separator:
                    remarks[name] = value
                    is_clean &= max(len(written), len(value)) <= MAX_TEXT
                if name == "elementdatafile" or not line:
                    return TextHeader(fields, remarks, stream.tell(), () if is_clean else tuple(lines))
        raise too_large(f"The {path.suffix.lower()} file has a header that does not end.", "header_bytes")

    def _check_fields(self, fields: dict[str, str], size: int) -> None:
        n_axes = int(fields.get("ndims", 0))
        if not 1 <= n_axes <= 10 or not {"dimsize", "elementdatafile"} <= fields.keys():
            raise HeaderError("it gives no NDims, DimSize or ElementDataFile, so it is another kind of file or damaged")
        names = list(fields)
        for name, value in fields.items():
            if len(value) > (_MAX_LINE if name in _NUMBERS_PER_AXIS else MAX_TEXT):
                raise HeaderError(f"'{name}' has {len(value)} characters")
            if name in _NUMBERS_PER_AXIS:
                numbers = [float(number) for number in value.split()]
                if len(numbers) != n_axes ** _NUMBERS_PER_AXIS[name] or names.index(name) < names.index("ndims"):
                    raise HeaderError(f"'{name}' does not fit its {n_axes} axes")
                if name == "dimsize" and not all(1 <= number < 2**31 for number in numbers):
                    raise HeaderError("a size in it is impossible")
            elif name in _INTEGERS and not -1 <= int(value) <= max(size, 2**16):
                raise HeaderError(f"'{name}' is no possible number")

    def _data_name(self, header: TextHeader) -> str | None:
        name = header.fields.get("elementdatafile", "")
        return None if name.upper() == "LOCAL" else name

    def _placed(self, header: TextHeader) -> tuple[set[str], list[str]]:
        warnings = [
            f"The MetaImage file gives no {what} is assumed)."
            for what, names in (
                ("spacing (1 mm", ("elementspacing", "elementsize")),
                ("origin ((0, 0, 0)", ("offset", "position", "origin")),
                ("orientation (LPS", ("transformmatrix", "rotation", "orientation")),
            )
            if not any(name in header.fields for name in names)
        ]
        return {header.remarks.get("distanceunits", "").strip('" ').lower()}, warnings

    @contextmanager
    def _readable(self, path: Path, header: TextHeader) -> Iterator[Path]:
        """The file; or, where MetaIO has no room for a remark, a header without any that leads to the same voxels."""
        if not header.lines:
            yield path
            return
        name = self._data_name(header)
        skipped = str(header.n_bytes) if name is None else header.fields.get("headersize", "0")
        with tempfile.TemporaryDirectory() as folder:
            voxels, clean = Path(folder, "voxels"), Path(folder, "header.mhd")
            # A link under a plain name: MetaIO takes signs in a path for a pattern of names.
            voxels.symlink_to((path if name is None else path.with_name(name)).resolve())
            left_out = ("headersize", "elementdatafile")
            kept = [f"{key} = {value}" for key, value in header.lines if "".join(key.split()).lower() not in left_out]
            clean.write_text("\n".join([*kept, f"HeaderSize = {skipped}", "ElementDataFile = voxels", ""]))
            yield clean

    def _check_voxels(self, path: Path, header: TextHeader, shape: tuple[int, ...], item_bytes: int) -> None:
        n_bytes, row_bytes = math.prod(shape) * item_bytes, shape[0] * item_bytes
        name, start = self._data_name(header), header.n_bytes
        is_compressed = header.fields.get("compresseddata", "")[:1] in ("T", "t", "1")
        data = path if name is None else path.with_name(name)
        skipped = int(header.fields.get("headersize", 0))
        if skipped and (is_compressed or (name is None and skipped != start)):
            raise unreadable(
                f"The header gives HeaderSize = {skipped}, which does not fit where the voxels begin. Remove this line "
                "from the header, or convert the file again."
            )
        if skipped == -1:  # the voxels are whatever is last in the file
            skipped = max(0, data.stat().st_size - n_bytes)
        start = start if name is None else skipped
        with data.open("rb") as stream:
            if is_compressed:
                stream.seek(start)
                check_pieces(_inflated(stream), n_bytes, row_bytes)
            else:
                check_plain(stream, start, n_bytes, row_bytes)


def _inflated(stream: IO[bytes]) -> Iterator[bytes]:
    """The pieces that a zlib stream inflates to, one in memory at a time."""
    inflater = zlib.decompressobj()
    while not inflater.eof:
        piece = inflater.decompress(inflater.unconsumed_tail or stream.read(CHUNK_BYTES), CHUNK_BYTES)
        if not piece and not inflater.eof and not inflater.unconsumed_tail and not stream.peek(1):  # type: ignore[attr-defined]
            raise EOFError("the stream ends too early")
        yield piece
