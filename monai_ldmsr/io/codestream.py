"""Look into a compressed frame before a decoder does: does it hold the image that the header describes?

Decoders allocate what the codestream says, and 3 kB of JPEG-LS may say 274 MB.
"""

from __future__ import annotations

from pydicom.uid import UID, JPEG2000TransferSyntaxes, RLELossless

__all__ = ["check_frame", "is_known_process", "precision"]

#: Start of frame of JPEG (C0 to CF, of which C4, C8 and CC mean other things) and of JPEG-LS (F7).
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}

#: Sequential Huffman coding of 8 and 12 bits, lossless coding, and JPEG-LS: what decoders know.
_KNOWN_PROCESSES = frozenset({0xC0, 0xC1, 0xC3, 0xF7})

#: JPEG markers without a length (ISO/IEC 10918-1 B.1.1.3): TEM, RST0 to RST7, SOI.
_NO_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})

_SIZ = b"\xff\x4f\xff\x51"


def check_frame(frame: bytes, syntax: UID, shape: tuple[int, int], n_bytes: int) -> None:
    """Check a frame of one grey image.

    Args:
        frame: bytes of the frame.
        syntax: compressed transfer syntax.
        shape: (rows, columns) of the header.
        n_bytes: size of the decoded image.

    Raises:
        ValueError: the frame has another size, more than one component, none that can be found, or was cut.
        IndexError: it ends too early.
    """
    if syntax == RLELossless:
        # PackBits grows by 1 byte in 128 at most (PS3.5 G.3.1), and shrinks 64-fold.
        if len(frame) > n_bytes + n_bytes // 64 + 4096:
            raise ValueError("more RLE data than the image can have")
        return
    is_jpeg2000 = syntax in JPEG2000TransferSyntaxes
    found = _jpeg2000_size(frame) if is_jpeg2000 else _jpeg_frame(frame)[2:]
    if found != (*shape, 1):
        raise ValueError("codestream and header disagree on rows, columns or components")
    if is_jpeg2000:
        _check_tile_parts(frame)


def is_known_process(frame: bytes, syntax: UID) -> bool:
    """Whether a frame that was checked is coded as the decoders know it: not progressive, arithmetic, hierarchical."""
    return syntax in (RLELossless, *JPEG2000TransferSyntaxes) or _jpeg_frame(frame)[0] in _KNOWN_PROCESSES


def precision(frame: bytes, syntax: UID) -> int:
    """Bits of each value by the codestream of a frame that was checked; 0 for RLE, which does not say."""
    if syntax == RLELossless:
        return 0
    if syntax in JPEG2000TransferSyntaxes:
        return (frame[_codestream_at(frame) + 42] & 0x7F) + 1  # Ssiz, ISO/IEC 15444-1 A.5.1; above it the sign
    return _jpeg_frame(frame)[1]


def _check_tile_parts(frame: bytes) -> None:
    """Follow the lengths of tile-parts to the end of the codestream, ISO/IEC 15444-1 A.4.2.

    Raises:
        ValueError: the codestream was cut: decoders take what is missing for zeros.
    """
    at = _codestream_at(frame) + 2
    while (marker := frame[at : at + 2]) != b"\xff\x90":
        if marker[:1] != b"\xff":
            raise ValueError("no tile-part")
        at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    while frame[at : at + 2] == b"\xff\x90":
        length = int.from_bytes(frame[at + 6 : at + 10], "big")
        if not length:  # up to the end, which decoders look for
            return
        at += max(length, 12)
    if frame[at : at + 2] != b"\xff\xd9":
        raise ValueError("the tile-parts do not end at the end of the codestream")


def _jpeg2000_size(frame: bytes) -> tuple[int, int, int]:
    """(rows, columns, components) from the SIZ segment, ISO/IEC 15444-1 A.5.1."""
    at = _codestream_at(frame)
    if frame[at : at + 4] != _SIZ:
        raise ValueError("no JPEG 2000 codestream")
    width, height, left, top = (int.from_bytes(frame[at + n : at + n + 4], "big") for n in (8, 12, 16, 20))
    return height - top, width - left, int.from_bytes(frame[at + 40 : at + 42], "big")


def _codestream_at(frame: bytes) -> int:
    """Where the codestream begins: at once, or in the box ``jp2c`` (I.4) that DICOM does not ask for."""
    at = 0
    while frame[:4] != _SIZ and frame[at + 4 : at + 8] != b"jp2c":
        length = int.from_bytes(frame[at : at + 4], "big")
        if length < 8 or at + length >= len(frame):
            raise ValueError("no JPEG 2000 codestream")
        at += length
    return at + 8 if at else 0


def _jpeg_frame(frame: bytes) -> tuple[int, int, int, int, int]:
    """(marker, precision, rows, columns, components) of the start-of-frame segment, ISO/IEC 10918-1 B.2.2."""
    at = 0
    while frame[at] == 0xFF:
        marker = frame[at + 1]
        if marker in _START_OF_FRAME:
            rows, columns = frame[at + 5 : at + 7], frame[at + 7 : at + 9]
            return marker, frame[at + 4], int.from_bytes(rows, "big"), int.from_bytes(columns, "big"), frame[at + 9]
        if marker == 0xFF:  # a fill byte (B.1.1.2)
            at += 1
        else:
            at += 2 + (0 if marker in _NO_LENGTH else int.from_bytes(frame[at + 2 : at + 4], "big"))
    raise ValueError("no start of frame")
