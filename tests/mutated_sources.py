"""Small sources, damaged on purpose; for the fuzz test and its long run."""

from __future__ import annotations

import contextlib
import gzip
import struct
import zlib
from collections.abc import Callable
from typing import Any

from dicom_bytes import VRS, elements, nested, raw_element
from hypothesis import strategies as st
from sound_sources import Files, seeds

#: Where values of a NIfTI-1 header stand, and how they are packed.
NIFTI_FIELDS = {
    **dict.fromkeys((*range(40, 56, 2), 68, 70, 72, 252, 254), "h"),
    **dict.fromkeys((*range(56, 68, 4), *range(76, 124, 4), *range(256, 328, 4)), "f"),
    0: "i",
    123: "B",
    344: "I",
}

_LENGTHS = (0, 1, 7, 0xFFFE, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFF0, 0xFFFFFFFE, 0xFFFFFFFF)

_NUMBERS = (
    *("0", "-1", "65535", "1e400", "nan", "inf", "-inf", "1e-45", "1\\2", "1\\2\\3", "0\\0\\0\\0\\0\\0"),
    *("", " ", "x"),
)

_TEXTS = (
    *(*_NUMBERS, "../../x", "/etc/passwd", "$exec('raise SystemExit')", "@seed", "a\0b", "a\nb", "x" * 70, "9" * 5000),
    *("ISO 2022 IR 87\\ISO 2022 IR 13", "2.25." + "1" * 80, "DERIVED\\SECONDARY\\MOSAIC", "MONOCHROME1", "é\udcff"),
)

#: What a line of a header may hold instead.
_LINES = (*_TEXTS, "LIST", "LOCAL", "v%03d.raw 1 3 1", "1 1 1", "99999 99999 99999", "MET_DOUBLE", "gzip", "int16")


def _flip(draw: Callable[..., Any], data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        changed[draw(st.integers(0, len(data) - 1)) % len(data)] = draw(st.integers(0, 255))
    return bytes(changed)


def _cut(draw: Callable[..., Any], data: bytes) -> bytes:
    return data[: draw(st.integers(0, len(data) - 1))]


def _lie_about_a_length(draw: Callable[..., Any], data: bytes) -> bytes:
    at = draw(st.integers(0, max(0, len(data) - 4)))
    packed = struct.pack(draw(st.sampled_from(["<I", ">I"])), draw(st.sampled_from(_LENGTHS)))
    return data[:at] + packed + data[at + 4 :]


def _insert(draw: Callable[..., Any], data: bytes) -> bytes:
    at = draw(st.integers(0, len(data)))
    return data[:at] + draw(st.binary(min_size=1, max_size=12)) + data[at:]


def _repeat(draw: Callable[..., Any], data: bytes) -> bytes:
    at = draw(st.integers(0, len(data) - 1))
    size = draw(st.integers(1, 64))
    return data[:at] + data[at : at + size] * draw(st.integers(2, 50)) + data[at + size :]


BYTE_MUTATIONS = (_flip, _cut, _lie_about_a_length, _insert, _repeat)


def _value(draw: Callable[..., Any]) -> bytes:
    kind = draw(st.sampled_from(["text", "binary", "number"]))
    if kind == "text":
        text: str = draw(st.sampled_from(_TEXTS))
        value = text.encode("utf-8", "surrogateescape")
        return value + b" " * (len(value) % 2)
    if kind == "binary":
        return bytes(draw(st.binary(max_size=24)))
    return struct.pack("<d", draw(st.sampled_from([0.0, -1.0, float("nan"), float("inf"), 1e300, 1e-320])))


def _set_element(draw: Callable[..., Any], data: bytes) -> bytes:
    """Replace an element of a DICOM file by another value, VR or length; or drop, double or nest it."""
    found = elements(data)
    if not found:
        return data
    chosen = found[draw(st.integers(0, len(found) - 1)) % len(found)]
    before, after = data[: chosen.at], data[chosen.end :]
    vr = data[chosen.at + 4 : chosen.at + 6].decode("latin-1")
    kind = draw(st.sampled_from(["value", "value", "value", "vr", "length", "drop", "double", "nest", "private"]))
    if kind == "drop":
        return before + after
    if kind == "double":
        return before + data[chosen.at : chosen.end] * 2 + after
    if kind == "nest":
        return before + nested(draw(st.sampled_from([1, 3, 300, 2000]))) + after
    if kind == "private":
        many = b"".join(raw_element(0x00990000 + n, "LO", b"ab") for n in range(0x10, draw(st.sampled_from([9, 999]))))
        return before + many + data[chosen.at :]
    if kind == "vr":
        vr = draw(st.sampled_from(VRS))
        return before + raw_element(chosen.tag, vr, data[chosen.value_at : chosen.end]) + after
    if vr not in VRS:
        return before + after
    if kind == "length":
        length = draw(st.sampled_from(_LENGTHS))
        return before + raw_element(chosen.tag, vr, data[chosen.value_at : chosen.end], length) + after
    return before + raw_element(chosen.tag, vr, _value(draw)) + after


def _set_nifti_field(draw: Callable[..., Any], data: bytes) -> bytes:
    at, form = draw(st.sampled_from(sorted(NIFTI_FIELDS.items())))
    if at + struct.calcsize(form) > len(data):
        return data
    if form == "f":
        value = draw(st.sampled_from([0.0, -1.0, float("nan"), float("inf"), -1e38, 1e-45, 1e9, 352.0, 353.0]))
    else:
        value = draw(st.sampled_from({"h": [0, 1, 2, 4, 5, 16, 32, 128, 1792, 32767, -1], "B": [0, 2, 10, 255]}.get(
            form, [0, 1, 348, 540, 2**31 - 1])))  # fmt: skip
    return data[:at] + struct.pack(f"<{form}", value) + data[at + struct.calcsize(form) :]


def _set_line(draw: Callable[..., Any], data: bytes) -> bytes:
    """Replace, drop or double a line of a NRRD or MetaImage header."""
    lines = data.split(b"\n")
    n = draw(st.integers(0, min(len(lines) - 1, 14)))
    kind = draw(st.sampled_from(["value", "value", "drop", "double"]))
    if kind == "value":
        key = lines[n].replace(b"=", b":").split(b":")[0]
        separator = b" = " if b"=" in lines[n] else b": "
        lines[n] = key + separator + draw(st.sampled_from(_LINES)).encode("utf-8", "surrogateescape")
    elif kind == "drop":
        del lines[n]
    else:
        lines.insert(n, lines[n])
    return b"\n".join(lines)


@st.composite
def mutated(draw: Callable[..., Any]) -> tuple[str, Files]:
    """Name of a seed and its files, one or more of them damaged in one to three ways."""
    name = draw(st.sampled_from(sorted(seeds())))
    files = dict(seeds()[name])
    special = dict.fromkeys((".nii", ".nii.gz", ".hdr"), _set_nifti_field).get(name)
    if name in (".nrrd", ".mha", ".mhd", ".nhdr"):
        special = _set_line
    elif name in ("CT", "MR", "PT", "rle", "jpegls", "jpeg2000"):
        special = _set_element
    every = draw(st.booleans()) if len(files) > 1 and name[0] != "." else False
    chosen = sorted(files) if every else [draw(st.sampled_from(sorted(files)))]
    mutations = [draw(st.sampled_from(BYTE_MUTATIONS if special is None else (*[special] * 8, *BYTE_MUTATIONS)))
                 for _ in range(draw(st.integers(1, 3)))]  # fmt: skip
    within = draw(st.booleans())
    for mutate in mutations:
        drawn: list[Any] = []
        for file in chosen:
            files[file] = _mutated(_replay(draw, drawn), mutate, name, files[file], within)
    return name, files


def _replay(draw: Callable[..., Any], drawn: list[Any]) -> Callable[..., Any]:
    """Draw what was drawn before, for the same damage in each file, and more where that is not enough."""
    again = iter(list(drawn))

    def choose(strategy: st.SearchStrategy[Any]) -> Any:
        try:
            return next(again)
        except StopIteration:
            drawn.append(draw(strategy))
            return drawn[-1]

    return choose


def _mutated(draw: Callable[..., Any], mutate: Callable[..., bytes], name: str, data: bytes, within: bool) -> bytes:
    """Mutate ``data``, or what it holds compressed."""
    if not data:
        return data
    if name in (".nii.gz", ".mgz") and (within or mutate is _set_nifti_field):
        with contextlib.suppress(OSError, EOFError, zlib.error):
            return gzip.compress(mutate(draw, gzip.decompress(data) or b"\0"), 1)
    if name == "deflated" and within:
        meta = elements(data)
        at = max((e.end for e in meta if e.tag >> 16 == 2 and e.end <= len(data)), default=0)
        with contextlib.suppress(zlib.error):
            body = mutate(draw, zlib.decompress(data[at:], -zlib.MAX_WBITS) or b"\0")
            compressor = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
            return data[:at] + compressor.compress(body) + compressor.flush()
    return mutate(draw, data)
