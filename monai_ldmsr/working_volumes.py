"""Tensors of whole volumes while a source is worked on; like arrays, in files where memory is short."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor
from torch import Tensor

from monai_ldmsr.storage import new_array

__all__ = ["empty_volume", "evenly_spread", "plain"]


def empty_volume(shape: tuple[int, ...], like: Tensor | None = None, dtype: npt.DTypeLike = np.float32) -> Tensor:
    """A tensor on the CPU whose values are not set, see :func:`~monai_ldmsr.storage.new_array`.

    Args:
        shape: its shape.
        like: where slices across the last axis of this one are contiguous, those of the new one are, too.
        dtype: its type.

    Example:
        >>> empty_volume((2, 3)).shape
        torch.Size([2, 3])
    """
    by_slice = like is not None and like.ndim > 1 and like.stride(-1) == max(like.stride())
    return torch.from_numpy(new_array(shape, dtype, "F" if by_slice else "C"))


def evenly_spread(volume: Tensor, most: int) -> Tensor:
    """At most about that many voxels of any shape, evenly spread in the order of axes, without a copy of the rest.

    Example:
        >>> evenly_spread(torch.arange(10).reshape(2, 5), 4)
        tensor([0, 2, 4, 6, 8])
    """
    step = max(1, volume.numel() // most)
    if step == 1 or volume.is_contiguous():
        return volume.flatten()[::step]
    places = torch.arange(0, math.prod(volume.shape), step)
    return volume[torch.unravel_index(places, volume.shape)]


def plain(volume: Tensor) -> Tensor:
    """The same memory without MONAI's metadata, so that views and in-place changes cost nothing."""
    return volume.as_tensor() if isinstance(volume, MetaTensor) else volume
