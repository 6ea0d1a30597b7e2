"""Slices as few bytes, without loss once they are whole numbers: a median edge predictor and LZMA.

Each pixel is predicted from its left, upper and upper left neighbours by the predictor of LOCO-I (Weinberger, Seroussi
and Sapiro 2000, doi 10.1109/83.855427, eq. 1). Residuals are folded to whole numbers from zero, split in planes of
their bytes, and each plane is compressed by the standard library's LZMA. Decoding runs along anti-diagonals, on which
no pixel depends on another, for all slices at once.
"""

from __future__ import annotations

import lzma
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from monai_ldmsr.errors import CorruptSourceError, ReasonCode
from monai_ldmsr.transforms.intensity import IntensityMap

__all__ = ["MAX_STEPS", "decode_slices", "encode_slices", "quantisation_step", "quantise"]

#: Whole numbers (steps) beyond plus or minus this are clipped: 16000 times the model range, and exact in float32.
MAX_STEPS = 2**24

#: Steps that cover the model range of a volume at least, if its source is not coarser itself: ten bits.
_LEVELS = 1023

#: Padding of CT scanners reaches -3024 HU; air is -1000.
_LEAST_HU = -1024.0

#: The literal coder's context is the upper half of the byte before: how noisy it is near there. Noise hardly repeats,
#: so a short search for matches finds what there is in half the time.
_FILTERS = (
    {
        "id": lzma.FILTER_LZMA2,
        "dict_size": 2**22,
        "lc": 4,
        "lp": 0,
        "pb": 0,
        "mode": lzma.MODE_NORMAL,
        "mf": lzma.MF_HC3,
        "nice_len": 32,
        "depth": 4,
    },
)

IntImage = npt.NDArray[np.int32]


def quantisation_step(slices: Sequence[npt.NDArray[np.float32]], modality: str, intensity: IntensityMap) -> float:
    """Width of one step in the source's unit: 1 HU in CT, else at least ten bits over the model range.

    Whole numbers (or quarters, which 2x2 means are) stay exact unless ten bits are coarser than they are.

    Args:
        slices: slices of one volume, in the source's unit.
        modality: ``CT`` is in HU.
        intensity: the volume's map to model range.
    """
    if modality == "CT":
        return 1.0
    finest = (intensity.values[-1] - intensity.values[0]) / _LEVELS
    for unit in (1.0, 0.25):
        if all(bool((np.rint(image / unit) * unit == image).all()) for image in slices):
            return float(max(unit, np.floor(finest / unit) * unit))
    return float(finest)


def quantise(image: npt.NDArray[np.float32], modality: str, step: float) -> IntImage:
    """Whole numbers of steps; padding of CT below -1024 HU is raised to it."""
    values = image.astype(np.float64)
    if modality == "CT":
        values = values.clip(min=_LEAST_HU)
    return np.rint(values / step).clip(-MAX_STEPS, MAX_STEPS).astype(np.int32)


def encode_slices(images: IntImage) -> list[bytes]:
    """Compress slices.

    Args:
        images: (N, H, W), within plus or minus :data:`MAX_STEPS`.

    Returns:
        One compressed plane of bytes each, the lowest first.
    """
    padded = np.pad(images, ((0, 0), (1, 0), (1, 0)))
    left, up, corner = padded[:, 1:, :-1], padded[:, :-1, 1:], padded[:, :-1, :-1]
    residual = images - _predicted(left, up, corner)
    folded = ((residual << 1) ^ (residual >> 31)).astype(np.uint32)
    n_planes = max(1, (int(folded.max()).bit_length() + 7) // 8)
    planes = ((folded >> (8 * n)).astype(np.uint8).tobytes() for n in range(n_planes))
    return [lzma.compress(plane, lzma.FORMAT_RAW, filters=_FILTERS) for plane in planes]


def decode_slices(planes: Sequence[bytes], shape: tuple[int, int, int]) -> IntImage:
    """Slices (N, H, W) of what :func:`encode_slices` made of them.

    Raises:
        CorruptSourceError: the bytes are not whole.

    Example:
        >>> images = np.arange(24, dtype=np.int32).reshape(2, 3, 4) ** 2
        >>> bool((decode_slices(encode_slices(images), images.shape) == images).all())
        True
    """
    folded = np.zeros(shape, np.uint32)
    for n, plane in enumerate(planes):
        folded |= np.frombuffer(_inflated(plane, folded.size), np.uint8).reshape(shape).astype(np.uint32) << (8 * n)
    residual = (folded >> 1).astype(np.int32) ^ -(folded & 1).astype(np.int32)
    count, height, width = shape
    padded = np.zeros((height + 1, width + 1, count), np.int32)
    padded[1:, 1:] = np.moveaxis(residual, 0, -1)
    _restore(padded)
    return np.ascontiguousarray(np.moveaxis(padded[1:, 1:], -1, 0))


def _restore(padded: IntImage) -> None:
    """Turn residuals (1 + H, 1 + W, N) into values in place; the first row and column are zero."""
    height, width = padded.shape[0] - 1, padded.shape[1] - 1
    row = width + 1
    pixels = padded.reshape(-1, padded.shape[2])
    for front in range(height + width - 1):
        first, last = max(0, front - width + 1), min(front, height - 1)
        # One row down and one column left is one row less one pixel further.
        start, stop = (first + 1) * row + front - first + 1, (last + 1) * row + front - last + 2
        left, up, corner = (pixels[start - back : stop - back : width] for back in (1, row, row + 1))
        pixels[start:stop:width] += _predicted(left, up, corner)


def _predicted(left: IntImage, up: IntImage, corner: IntImage) -> IntImage:
    low, high = np.minimum(left, up), np.maximum(left, up)
    return np.asarray(np.minimum(np.maximum(left + up - corner, low), high))


def _inflated(plane: bytes, size: int) -> bytes:
    try:
        # One byte more than there should be is enough to find what is too long, however long it is.
        found = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_FILTERS).decompress(plane, max_length=size + 1)
    except lzma.LZMAError:
        found = b""
    if len(found) != size:
        raise CorruptSourceError(
            "Slices of the packed dataset cannot be decompressed. Copy it again.", ReasonCode.UNREADABLE_FILE
        )
    return found
