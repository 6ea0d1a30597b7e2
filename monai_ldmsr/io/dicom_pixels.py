"""From the bytes of one DICOM image to its stored integers: limits, decoding, the bits that count."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder

from monai_ldmsr.errors import CorruptSourceError, ReasonCode, SourceError
from monai_ldmsr.io.dicom_doubts import check_pixel_length
from monai_ldmsr.io.dicom_header import MAX_SLICE_BYTES, number_list, quiet_pydicom

__all__ = ["StoredType", "padding_range", "stored_pixels"]

IntArray = npt.NDArray[np.int32]

#: Start of frame of JPEG (C0 to CF, of which C4, C8 and CC mean other things) and of JPEG-LS (F7).
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}


class StoredType:
    """Integer type of the stored values, from Bits Allocated, Bits Stored, High Bit and Pixel Representation.

    Args:
        header: of one image.
        place: such as ``"Image 3 of 12"``, for the message.

    Raises:
        SourceError: ``UNSUPPORTED_PIXELS`` when the four do not fit together.
    """

    def __init__(self, header: pydicom.Dataset, place: str) -> None:
        numbers = [
            number_list(header, keyword, 1)
            for keyword in ("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
        ]
        allocated, stored, high, signed = (int(n[0]) if n is not None else -1 for n in numbers)
        if allocated not in (8, 16) or not 1 <= stored <= high + 1 <= allocated or signed not in (0, 1):
            raise SourceError(
                f"{place}: Bits Allocated, Bits Stored, High Bit and Pixel Representation are missing or do "
                "not fit together, so the pixels cannot be read.",
                ReasonCode.UNSUPPORTED_PIXELS,
            )
        self.bits_allocated, self.bits_stored, self.shift = allocated, stored, high + 1 - stored
        self.signed = bool(signed)

    @property
    def range(self) -> tuple[int, int]:
        """Least and greatest integer that can be stored."""
        if self.signed:
            return -(2 ** (self.bits_stored - 1)), 2 ** (self.bits_stored - 1) - 1
        return 0, 2**self.bits_stored - 1

    def wrapped(self, value: int, bits: int) -> int:
        """``value`` modulo ``2**bits``, read with the sign of this type: headers write -2000 as 63536 too."""
        value %= 2**bits
        return value - 2**bits if self.signed and value >= 2 ** (bits - 1) else value


def padding_range(header: pydicom.Dataset, stored_type: StoredType) -> tuple[int, int] | None:
    """Least and greatest stored value that means "outside the image", or ``None``."""
    ends = [number_list(header, keyword, 1) for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if ends[0] is None:
        return None
    values = [stored_type.wrapped(int(end[0]), stored_type.bits_allocated) for end in ends if end is not None]
    return min(values), max(values)


def stored_pixels(path: Path, header: pydicom.Dataset, place: str) -> tuple[IntArray, bool]:
    """Decode the one frame of an image.

    Args:
        path: of the DICOM file.
        header: of that file, read before.
        place: such as ``"Image 3 of 12"``, for messages.

    Returns:
        (rows, columns) stored integers, and whether bits outside Bits Stored were set (they hold overlays or
        nothing, PS3.5 8.1.1, and are not part of the values).

    Raises:
        CorruptSourceError: ``TRUNCATED_PIXELS`` or ``UNDECODABLE_PIXELS``.
        SourceError: ``TOO_LARGE``, ``MISSING_CODEC`` or ``UNSUPPORTED_PIXELS``.
    """
    stored_type = StoredType(header, place)
    shape = _declared_shape(header, place)
    compressed = _is_compressed(header, place)
    n_bytes = shape[0] * shape[1] * stored_type.bits_allocated // 8
    if not path.is_file():
        raise CorruptSourceError(f"{place} is no longer there.", ReasonCode.UNREADABLE_FILE)
    if max(n_bytes, path.stat().st_size // 2) > MAX_SLICE_BYTES:
        raise SourceError(
            f"{place} has {shape[0]} rows and {shape[1]} columns in a file of {path.stat().st_size} bytes; "
            f"the limit for one slice is {MAX_SLICE_BYTES // 2**20} MiB.",
            ReasonCode.TOO_LARGE,
        )
    with quiet_pydicom():
        decoded = _decode(path, header, shape, n_bytes if not compressed else 16, place)
    if compressed:
        return decoded, False
    return _significant_bits(decoded, stored_type)


def _declared_shape(header: pydicom.Dataset, place: str) -> tuple[int, int]:
    size = [number_list(header, keyword, 1) for keyword in ("Rows", "Columns")]
    if any(n is None or n[0] < 1 for n in size):
        raise CorruptSourceError(
            f"{place} has no Rows or Columns: its header is cut short. Fetch the series again.",
            ReasonCode.TRUNCATED_PIXELS,
        )
    rows, columns = (int(n[0]) for n in size if n is not None)
    return rows, columns


def _is_compressed(header: pydicom.Dataset, place: str) -> bool:
    """Tell whether the transfer syntax is compressed, once it is known that it can be decoded here."""
    syntax = header.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise SourceError(
            f"{place} is in a transfer syntax ({_syntax_name(syntax)}) that cannot be decoded. Export the "
            "series uncompressed.",
            ReasonCode.UNDECODABLE_PIXELS,
        ) from None
    if not decoder.is_available:
        raise SourceError(
            f"{place} is compressed ({_syntax_name(syntax)}) and no decoder for it is installed. "
            "Run: pip install monai_ldmsr[codecs]",
            ReasonCode.MISSING_CODEC,
        )
    return bool(syntax.is_compressed and not syntax.is_deflated)


def _syntax_name(syntax: pydicom.uid.UID) -> str:
    """Name of a transfer syntax; never the text itself, which a damaged file may take from anywhere."""
    return "unknown" if syntax.name == str(syntax) else syntax.name


def _decode(path: Path, header: pydicom.Dataset, shape: tuple[int, int], least_bytes: int, place: str) -> IntArray:
    try:
        dataset = pydicom.dcmread(path, force=True)
        dataset.file_meta = header.file_meta
        data = dataset.PixelData if "PixelData" in dataset else b""
    except Exception:
        raise _undecodable(place) from None
    if len(data) < least_bytes:
        raise CorruptSourceError(
            f"{place} holds {len(data)} bytes of pixels, but at least {least_bytes} are expected: the file "
            "is truncated. Fetch the series again.",
            ReasonCode.TRUNCATED_PIXELS,
        )
    if not header.file_meta.TransferSyntaxUID.is_encapsulated:
        check_pixel_length(data, least_bytes, least_bytes // shape[0], place)
    try:
        if dataset["PixelData"].is_undefined_length:
            _check_codestream_shape(data, shape)
        else:
            # pydicom's own correction ignores High Bit; :func:`_significant_bits` does not.
            dataset.pixel_array_options(correct_unused_bits=False)
        pixels = dataset.pixel_array
    except Exception:
        raise _undecodable(place) from None
    if pixels.shape != shape:
        raise _undecodable(place)
    return pixels.astype(np.int32)


def _undecodable(place: str) -> CorruptSourceError:
    return CorruptSourceError(
        f"{place} cannot be decoded: its pixel data are damaged. The series is refused, because leaving out "
        "a slice would shift the others. Fetch the series again.",
        ReasonCode.UNDECODABLE_PIXELS,
    )


def _check_codestream_shape(data: bytes, shape: tuple[int, int]) -> None:
    """Refuse a codestream whose own size is not the header's before a decoder allocates memory for it."""
    frame = next(generate_frames(data, number_of_frames=1))
    found = _jpeg2000_shape(frame) if b"\xff\x4f\xff\x51" in frame[:512] else _jpeg_shape(frame)
    if found is not None and found != shape:
        raise ValueError("codestream and header disagree on rows and columns")


def _jpeg2000_shape(frame: bytes) -> tuple[int, int]:
    """(rows, columns) from the SIZ segment, ISO/IEC 15444-1 A.5.1."""
    at = frame.index(b"\xff\x4f\xff\x51") + 8
    width, height, left, top = (int.from_bytes(frame[at + 4 * n : at + 4 * n + 4], "big") for n in range(4))
    return height - top, width - left


def _jpeg_shape(frame: bytes) -> tuple[int, int] | None:
    """(rows, columns) from the start-of-frame segment, ISO/IEC 10918-1 B.2.2; ``None`` when it is no JPEG."""
    at = 2
    while frame[:2] == b"\xff\xd8" and at + 9 <= len(frame) and frame[at] == 0xFF:
        if frame[at + 1] in _START_OF_FRAME:
            rows, columns = frame[at + 5 : at + 7], frame[at + 7 : at + 9]
            return int.from_bytes(rows, "big"), int.from_bytes(columns, "big")
        at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None


def _significant_bits(pixels: IntArray, stored_type: StoredType) -> tuple[IntArray, bool]:
    if stored_type.bits_stored == stored_type.bits_allocated:
        return pixels, False
    shifted = pixels >> stored_type.shift
    values = shifted & (2**stored_type.bits_stored - 1)
    if stored_type.signed:
        values -= (values >> (stored_type.bits_stored - 1)) << stored_type.bits_stored
    return values, bool((values != shifted).any()) or bool((pixels & (2**stored_type.shift - 1)).any())
