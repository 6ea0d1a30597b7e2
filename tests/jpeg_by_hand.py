"""A JPEG of 12 bits (process 4, ISO/IEC 10918-1) that loses nothing: each block of 8 x 8 has one value."""

from __future__ import annotations

import struct

import numpy as np
import pydicom
from pydicom import Dataset

SEQUENTIAL, PROGRESSIVE = 0xC1, 0xC2


def of_blocks(pixels: np.ndarray) -> np.ndarray:
    """Each block of 8 x 8 with the value of its first pixel."""
    return pixels[::8, ::8].repeat(8, 0).repeat(8, 1)[: pixels.shape[0], : pixels.shape[1]]


def encode(pixels: np.ndarray, marker: int = SEQUENTIAL) -> bytes:
    """Codestream of (rows, columns) integers from 0 to 4095 that are alike within each block."""
    rows, columns = pixels.shape
    bits, before = [], 0
    for value in pixels[::8, ::8].ravel().astype(int) - 2048:
        difference, before = int(value) - before, int(value)
        size = abs(difference).bit_length()
        code = difference if difference > 0 else difference + 2**size - 1
        bits.append(f"{size:04b}" + (f"{code:0{size}b}" if size else "") + "0")  # the last bit ends the block
    stream = "".join(bits)
    stream += "1" * (-len(stream) % 8)
    data = int(stream, 2).to_bytes(len(stream) // 8, "big").replace(b"\xff", b"\xff\x00")
    parts = [
        (0xDB, b"\0" + bytes([8] * 64)),  # the mean of a block is its first coefficient by 8
        (marker, struct.pack(">BHHB", 12, rows, columns, 1) + bytes((1, 0x11, 0))),
        (0xC4, b"\x00" + bytes((0, 0, 0, 13, *[0] * 12)) + bytes(range(13))),
        (0xC4, b"\x10" + bytes((1, *[0] * 15)) + b"\0"),
        (0xDA, bytes((1, 1, 0, 0, 63, 0))),
    ]
    head = b"".join(struct.pack(">BBH", 0xFF, kind, len(body) + 2) + body for kind, body in parts)
    return b"\xff\xd8" + head + data + b"\xff\xd9"


def compress(image: Dataset, marker: int = SEQUENTIAL) -> None:
    """Give an image of 12 bits pixels in blocks, as JPEG Extended."""
    image.PixelData = pydicom.encaps.encapsulate([encode(of_blocks(image.pixel_array) & 0xFFF, marker)])
    image["PixelData"].is_undefined_length = True
    image["PixelData"].VR = "OB"
