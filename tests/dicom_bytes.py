"""DICOM elements as bytes: found in a file, and made by hand, also wrong ones."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pydicom.valuerep import VR

#: Value representations, and one that does not exist.
VRS = [*(str(vr) for vr in VR if len(vr) == 2), "ZZ"]
LONG_VRS = frozenset(["OB", "OD", "OF", "OL", "OV", "OW", "SQ", "UC", "UN", "UR", "UT", "UV", "SV"])


@dataclass(frozen=True)
class Element:
    """Where one explicit VR little endian element stands."""

    tag: int
    at: int
    value_at: int
    end: int


def elements(data: bytes) -> list[Element]:
    """Top-level elements of an explicit VR little endian file as far as they can be followed."""
    at, found = 132, []
    while at + 8 <= len(data):
        group, element, vr, length = struct.unpack_from("<HH2sH", data, at)
        value_at = at + 8
        if vr.decode("latin-1") in LONG_VRS:
            length, value_at = struct.unpack_from("<I", data, at + 8)[0] if at + 12 <= len(data) else 0, at + 12
        end = len(data) if length == 0xFFFFFFFF else value_at + length
        found.append(Element(group << 16 | element, at, value_at, end))
        at = end
    return found


def raw_element(tag: int, vr: str, value: bytes, length: int | None = None) -> bytes:
    """One explicit VR little endian element; ``length`` may lie."""
    length = len(value) if length is None else length
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    if vr in LONG_VRS:
        return head + struct.pack("<HI", 0, length & 0xFFFFFFFF) + value
    return head + struct.pack("<H", length & 0xFFFF) + value


def nested(depth: int, tag: int = 0x00081115) -> bytes:
    """Sequences of undefined length, one within another."""
    opening = raw_element(tag, "SQ", b"", 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    closing = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return opening * depth + closing * depth
