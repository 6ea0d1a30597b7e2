"""From the bytes of one DICOM image to its stored integers: limits, decoding, the bits that count."""

from __future__ import annotations

from contextlib import nullcontext
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.encaps import generate_fragments, generate_frames, parse_basic_offsets
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import JPEGTransferSyntaxes, RLELossless

from monai_ldmsr.errors import CorruptSourceError, ReasonCode, SourceError
from monai_ldmsr.io.codestream import check_frame, is_known_process, precision
from monai_ldmsr.io.decoder_messages import refuse_damage_in_print
from monai_ldmsr.io.dicom_header import matrix_size, number_list, quiet_pydicom, read_header, text
from monai_ldmsr.io.enhanced_multiframe import FrameHeader, FramePixels
from monai_ldmsr.io.itk_decoder import ITK_SYNTAXES, itk_pixels
from monai_ldmsr.io.limits import DEFAULT_LIMITS, ReadLimits, too_large

__all__ = ["StoredType", "padding_range", "stored_pixels"]

IntArray = npt.NDArray[np.int32]

#: What must be the same when a file is read for its header and again for its pixels.
_SAME = (
    "SOPInstanceUID",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "ImagePositionPatient",
)


class StoredType:
    """Integer type of the stored values, from Bits Allocated, Bits Stored, High Bit and Pixel Representation.

    Args:
        header: header of one image.
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


def stored_pixels(
    path: Path,
    header: pydicom.Dataset,
    place: str,
    limits: ReadLimits = DEFAULT_LIMITS,
    frames: FramePixels | None = None,
) -> tuple[IntArray, bool]:
    """Decode the one frame of an image.

    Args:
        path: path of the DICOM file.
        header: header of that file, read before, or of one frame in it.
        place: such as ``"Image 3 of 12"``, for messages.
        limits: see :class:`~monai_ldmsr.io.limits.ReadLimits`.
        frames: what read the frame before this one; pass the same for all frames of a volume.

    Returns:
        (rows, columns) stored integers, and whether bits outside Bits Stored were set (they hold overlays or
        nothing, PS3.5 8.1.1, and are not part of the values).

    Raises:
        CorruptSourceError: ``TRUNCATED_PIXELS``, ``UNDECODABLE_PIXELS``, or ``UNREADABLE_FILE`` when the file is no
            longer the one whose header was read.
        SourceError: ``TOO_LARGE``, ``MISSING_CODEC`` or ``UNSUPPORTED_PIXELS``.
    """
    stored_type = StoredType(header, place)
    shape = _declared_shape(header, place)
    compressed = _is_compressed(header, place)
    if compressed:
        _check_high_bit(header, stored_type, place)
    n_bytes = shape[0] * shape[1] * stored_type.bits_allocated // 8
    if not path.is_file():
        raise CorruptSourceError(f"{place} is no longer there.", ReasonCode.UNREADABLE_FILE)
    if max(n_bytes, 0 if isinstance(header, FrameHeader) else path.stat().st_size // 2) > limits.slice_bytes:
        raise too_large(
            f"{place} has {shape[0]} rows and {shape[1]} columns in a file of {path.stat().st_size} bytes; "
            f"the limit for one slice is {limits.slice_bytes} bytes.",
            "slice_bytes",
        )
    if isinstance(header, FrameHeader):
        dataset = _frame(path, header, place, frames or FramePixels(limits))
    else:
        dataset = _read_again(path, header, place, limits)
    with quiet_pydicom():
        decoded = _decode(dataset, shape, n_bytes, compressed, place)
    return _significant_bits(decoded, stored_type)


def _declared_shape(header: pydicom.Dataset, place: str) -> tuple[int, int]:
    size = matrix_size(header)
    if size is None:
        raise CorruptSourceError(
            f"{place} has no Rows or Columns: its header is cut short. Fetch the series again.",
            ReasonCode.TRUNCATED_PIXELS,
        )
    return size


def _is_compressed(header: pydicom.Dataset, place: str) -> bool:
    """Whether the transfer syntax is compressed, once it is known that it can be decoded here."""
    syntax = header.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise SourceError(
            f"{place} is in a transfer syntax ({_syntax_name(syntax)}) that cannot be decoded. Export the "
            "series uncompressed.",
            ReasonCode.UNDECODABLE_PIXELS,
        ) from None
    if not decoder.is_available and syntax not in ITK_SYNTAXES:
        raise SourceError(
            f"{place} is compressed ({_syntax_name(syntax)}) and no decoder for it is installed. "
            "Run: pip install monai_ldmsr[codecs]",
            ReasonCode.MISSING_CODEC,
        )
    return bool(syntax.is_compressed and not syntax.is_deflated)


def _check_high_bit(header: pydicom.Dataset, stored_type: StoredType, place: str) -> None:
    """RLE keeps the allocated bits as they are; of other codestreams nothing says what bits below the values hold."""
    if stored_type.shift and header.file_meta.TransferSyntaxUID != RLELossless:
        raise SourceError(
            f"{place} is compressed, and (0028,0102) 'High Bit' is {stored_type.shift + stored_type.bits_stored - 1} "
            f"where (0028,0101) 'Bits Stored' is {stored_type.bits_stored}: it is uncertain which bits are the values. "
            "Export the series uncompressed.",
            ReasonCode.UNSUPPORTED_PIXELS,
        )


def _syntax_name(syntax: pydicom.uid.UID) -> str:
    """Name of a transfer syntax; never the text itself, which a damaged file may take from anywhere."""
    return "unknown" if syntax.name == str(syntax) else syntax.name


def _read_again(path: Path, header: pydicom.Dataset, place: str, limits: ReadLimits) -> pydicom.Dataset:
    """The whole file, if it still is the one that ``header`` came from."""
    dataset = read_header(path, limits, with_pixels=True)
    if dataset is None or any(text(dataset, keyword) != text(header, keyword) for keyword in _SAME):
        raise CorruptSourceError(
            f"{place} changed while the series was read. Wait until it is complete, and run again.",
            ReasonCode.UNREADABLE_FILE,
        )
    dataset.file_meta = header.file_meta
    return dataset


def _frame(path: Path, header: FrameHeader, place: str, frames: FramePixels) -> pydicom.Dataset:
    """The one frame of a multi-frame file."""
    try:
        with quiet_pydicom():
            return frames.dataset(path, header)
    except SourceError:
        raise
    except Exception:
        raise _undecodable(place) from None


def _decode(dataset: pydicom.Dataset, shape: tuple[int, int], n_bytes: int, compressed: bool, place: str) -> IntArray:
    try:
        data = dataset.PixelData if "PixelData" in dataset else b""
        n_found = len(data)
    except Exception:
        raise _undecodable(place) from None
    least_bytes = 16 if compressed else n_bytes
    if n_found < least_bytes:
        raise CorruptSourceError(
            f"{place} holds {n_found} bytes of pixels, but at least {least_bytes} are expected: the file "
            "is truncated. Fetch the series again.",
            ReasonCode.TRUNCATED_PIXELS,
        )
    if not compressed:
        _check_pixel_length(data, least_bytes, least_bytes // shape[0], place)
    syntax, is_known = dataset.file_meta.TransferSyntaxUID, True
    try:
        if compressed:
            _check_one_frame(data)
            frame = next(generate_frames(data, number_of_frames=1))
            check_frame(frame, syntax, shape, n_bytes)
            is_known = is_known_process(frame, syntax)
            n_bits = precision(frame, syntax)
            _check_precision(n_bits, dataset, place)
        with refuse_damage_in_print() if compressed else nullcontext():
            if compressed and _is_for_itk(syntax):
                pixels = itk_pixels(frame, dataset, syntax, n_bits)
            else:
                # pydicom's own correction ignores High Bit; :func:`_significant_bits` does not.
                dataset.pixel_array_options(correct_unused_bits=False)
                pixels = dataset.pixel_array
    except SourceError:
        raise
    except Exception:
        raise (_undecodable if is_known else _unknown_process)(place) from None
    if pixels.shape != shape:
        raise _undecodable(place)
    return pixels.astype(np.int32)


def _check_precision(n_bits: int, dataset: pydicom.Dataset, place: str) -> None:
    """Refuse a codestream of more bits than the header says: high bits of the values would be lost.

    Many encoders write all allocated bits, whatever is stored; then a warning names the bits beyond those stored.
    """
    stored = int(dataset.BitsStored)
    if n_bits > stored and n_bits != int(dataset.BitsAllocated):
        raise SourceError(
            f"{place} is compressed with {n_bits} bits a value, but (0028,0101) 'Bits Stored' says {stored}: high bits "
            "of values would be lost. Repair the header, or export the series uncompressed.",
            ReasonCode.UNSUPPORTED_PIXELS,
        )


def _check_pixel_length(data: bytes, n_bytes: int, row_bytes: int, place: str) -> None:
    """Refuse uncompressed pixels that are more than the header says: read as it says, each row could slip.

    Args:
        data: value of Pixel Data.
        n_bytes: number of bytes that Rows, Columns and Bits Allocated make.
        row_bytes: number of bytes of one row; fewer zeros than these are taken for padding.
        place: such as ``"Image 3 of 12"``.

    Raises:
        CorruptSourceError: ``UNDECODABLE_PIXELS``.
    """
    excess = data[n_bytes:]
    if len(excess) > 1 and (len(excess) >= row_bytes or any(excess)):
        raise CorruptSourceError(
            f"{place} holds {len(data)} bytes of pixels, but Rows, Columns and Bits Allocated make {n_bytes}: one of "
            "them is wrong, so pixels would stand at wrong places. Fetch the series again.",
            ReasonCode.UNDECODABLE_PIXELS,
        )


def _is_for_itk(syntax: pydicom.uid.UID) -> bool:
    """Where pydicom has no decoder; and all of JPEG, of which others decode damage without a word, or no 12 bits."""
    return syntax in JPEGTransferSyntaxes or (syntax in ITK_SYNTAXES and not get_decoder(syntax).is_available)


def _check_one_frame(data: bytes) -> None:
    """Refuse a second frame in the encapsulated pixels of one image: it would be dropped unseen.

    Raises:
        ValueError: the offset table lists several frames, or several fragments begin as a frame does.
    """
    buffer = BytesIO(data)
    if (
        len(parse_basic_offsets(buffer)) > 1
        or sum(_begins_frame(fragment) for fragment in generate_fragments(buffer)) > 1
    ):
        raise ValueError("more frames than one")


def _begins_frame(fragment: bytes) -> bool:
    """Whether these are the first bytes of JPEG or JPEG-LS, of JPEG 2000 (also in boxes), or of RLE (PS3.5 G.5)."""
    if fragment.startswith((b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")):
        return True
    n_segments, first = (int.from_bytes(fragment[at : at + 4], "little") for at in (0, 4))
    return 1 <= n_segments <= 15 and first == 64


def _undecodable(place: str) -> CorruptSourceError:
    return CorruptSourceError(
        f"{place} cannot be decoded: its pixel data are damaged. The series is refused, because leaving out "
        "a slice would shift the others. Fetch the series again.",
        ReasonCode.UNDECODABLE_PIXELS,
    )


def _unknown_process(place: str) -> SourceError:
    return SourceError(
        f"{place} is compressed by a process of JPEG (progressive, arithmetic or hierarchical) that no decoder here "
        "knows; nothing says that it is damaged. Export the series uncompressed.",
        ReasonCode.UNDECODABLE_PIXELS,
    )


def _significant_bits(pixels: IntArray, stored_type: StoredType) -> tuple[IntArray, bool]:
    if stored_type.bits_stored == stored_type.bits_allocated:
        return pixels, False
    shifted = pixels >> stored_type.shift
    plain = shifted & (2**stored_type.bits_stored - 1)
    values = plain.copy()
    if stored_type.signed:
        values -= (values >> (stored_type.bits_stored - 1)) << stored_type.bits_stored
    # Above a value may stand zeros, or its sign.
    return values, bool(((values != shifted) & (plain != shifted)).any()) or bool(
        (pixels & (2**stored_type.shift - 1)).any()
    )
