"""From stored values to those in the file's unit, and back to what the file's type can hold."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from monai_ldmsr.errors import CorruptSourceError, ReasonCode, SettingsError, SourceError
from monai_ldmsr.io.formats.base import ReadVolume, Storage
from monai_ldmsr.storage import new_array

__all__ = ["scaled_values", "stored_values", "value_range"]

#: Values beyond this, or that differ by less than its inverse, are not worked on.
_GREATEST = 1e30

#: Integers beyond this are no longer all exact in float32.
_EXACT_IN_FLOAT32 = 2**24


def scaled_values(read: ReadVolume, warnings: list[str]) -> npt.NDArray[np.float32]:
    """(I, J, K) in the file's unit.

    Args:
        read: what a format gives.
        warnings: what single precision loses is added.

    Raises:
        CorruptSourceError: ``NOT_FINITE``.
        SourceError: ``UNSUPPORTED_PIXELS`` for values that single precision cannot work with.
    """
    slope, intercept = read.storage.slope, read.storage.intercept
    _check_magnitude(read.raw, slope, intercept)
    voxels = new_array(read.raw.shape, np.float32, "F" if read.raw.flags.f_contiguous else "C")
    for k in range(read.raw.shape[2]):
        plane = read.raw[:, :, k]
        voxels[:, :, k] = plane if (slope, intercept) == (1.0, 0.0) else plane * np.float64(slope) + intercept
    n_bad = voxels.size - int(np.count_nonzero(np.isfinite(voxels)))
    if n_bad:
        raise CorruptSourceError(
            f"{n_bad} of {voxels.size} voxels are NaN or infinite. Replace them before super-resolution.",
            ReasonCode.NOT_FINITE,
        )
    if read.raw.dtype.kind in "iu" and read.raw.dtype.itemsize > 2:
        least, greatest = int(read.raw.min()), int(read.raw.max())
        if max(-least, greatest) > _EXACT_IN_FLOAT32:
            warnings.append("Integers beyond 16777216 are rounded to float32.")
            return voxels
    low, high = (float(end) * slope + intercept for end in (read.raw.min(), read.raw.max()))
    # What a type keeps apart: its stored steps, or of floats a part of their range that grey levels would have.
    step = abs(slope) if read.raw.dtype.kind in "iub" else abs(high - low) / 2**12
    exact = read.raw.dtype == np.float32 and (slope, intercept) == (1.0, 0.0)
    if low != high and not exact and np.spacing(np.float32(max(abs(low), abs(high)))) > step:
        warnings.append("Values lie too close together for their size: differences are rounded to float32.")
    return voxels


def _check_magnitude(raw: npt.NDArray[Any], slope: float, intercept: float) -> None:
    """Refuse values that float32 cannot work with, before it makes them zero or infinite.

    Raises:
        SourceError: ``UNSUPPORTED_PIXELS``.
    """
    if raw.dtype.kind != "f" and slope == 1.0:
        return
    with np.errstate(all="ignore"):
        low, high = (
            float(end) * slope + intercept for end in (np.fmin.reduce(raw, axis=None), np.fmax.reduce(raw, axis=None))
        )
    if not math.isfinite(low + high):
        return  # which is said of all that are not finite
    if max(-low, high) > _GREATEST or 0 < high - low < 1 / _GREATEST:
        raise SourceError(
            f"Values lie between {low:g} and {high:g}: single precision cannot work with them. Scale them, so that "
            f"they stay within {_GREATEST:g} and differ by more than {1 / _GREATEST:g}.",
            ReasonCode.UNSUPPORTED_PIXELS,
        )


def value_range(voxels: npt.NDArray[np.float32], storage: Storage) -> tuple[float, float]:
    """Least and greatest value that the stored type can hold after scaling; of the voxels for floats."""
    if storage.dtype.kind == "f":
        return float(voxels.min()), float(voxels.max())
    ends = [end * storage.slope + storage.intercept for end in _stored_range(storage.dtype)]
    return min(ends), max(ends)


def _stored_range(dtype: np.dtype[Any]) -> tuple[float, float]:
    """Least and greatest float64 that ``dtype`` can hold (2**63 - 1 itself is no float64)."""
    if dtype.kind == "b":
        return 0.0, 1.0
    least, greatest = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    top = float(greatest)
    return float(least), top if int(top) <= greatest else float(np.nextafter(top, 0))


def stored_values(voxels: npt.NDArray[np.float32], storage: Storage) -> tuple[npt.NDArray[Any], int]:
    """Values as the source stores them, and how many had to be clipped to its range; a slice of memory at a time.

    Raises:
        SettingsError: a voxel is not finite.
    """
    if not all(np.isfinite(voxels[:, :, k]).all() for k in range(voxels.shape[2])):
        raise SettingsError("The result holds NaN or infinite voxels, so it is not written.")
    if storage.dtype.kind == "f":
        return voxels.astype(np.float32, copy=False), 0
    least, greatest = _stored_range(storage.dtype)
    stored, clipped = new_array(voxels.shape, storage.dtype, "F"), 0
    for k in range(voxels.shape[2]):
        rounded = np.rint((voxels[:, :, k].astype(np.float64) - storage.intercept) / storage.slope)
        clipped += int(np.count_nonzero((rounded < least) | (rounded > greatest)))
        stored[:, :, k] = np.clip(rounded, least, greatest).astype(storage.dtype)
    return stored, clipped
