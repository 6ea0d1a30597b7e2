"""Bumps in flat tissue: blobs that a result shows and the original does not."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["SURROGATE", "count_bumps", "with_noise"]

#: Row of bicubic with noise.
SURROGATE = "bicubic_noise"

#: A blob exceeds the first in standard deviations of the original, which stays within the second there.
_HIGH, _NOTHING = 3.0, 1.5

#: Share of a crop's sides that is left out at each border, where filters see what is padded.
_BORDER = 1 / 3


def count_bumps(image: Tensor, original: Tensor, factor: int) -> float:
    """Blobs per 1000 source pixels in the middle of a flat place; NaN where the original is constant.

    Args:
        image: (H, W), in any linear unit.
        original: likewise.
        factor: pixels of the image in a source pixel: blobs are half as wide, or as wide.

    Example:
        >>> flat = torch.randn(96, 96, generator=torch.Generator().manual_seed(0))
        >>> count_bumps(flat, flat, 4)
        0.0
    """
    if float(_inside(original).std()) == 0:
        return math.nan
    found = torch.stack([_excess(image, original, size) for size in (factor / 2, float(factor))]).amax(dim=0)
    # A blob's middle is the greatest value around it.
    is_peak = (found > 0) & (found == functional.max_pool2d(found, 2 * factor + 1, stride=1, padding=factor))
    return 1000.0 * int(is_peak.sum()) * factor**2 / found[0].numel()


def _excess(image: Tensor, original: Tensor, size: float) -> Tensor:
    """How far bright and dark blobs (2, H, W) exceed the threshold where the original has none; 0 elsewhere."""
    found, truth = (_inside(_blobs(one, size)) for one in (image, original))
    mine, usual = (torch.stack([one, -one]) / truth.std() for one in (found, truth))
    reach = round(size)
    near = functional.max_pool2d(usual, 2 * reach + 1, stride=1, padding=reach)
    return torch.where(near < _NOTHING, (mine - _HIGH).clamp(min=0.0), 0.0)


def with_noise(plain: Tensor, original: Tensor, seed: int) -> Tensor:
    """An image (H, W) plus noise with the power spectrum of what it lacks of the original: as sharp, no structure."""
    missing = _inside((original - plain).double())
    spectrum = torch.fft.rfft2(missing - missing.mean()).abs()
    white = torch.randn(missing.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    phases = torch.fft.rfft2(white)
    noise = torch.fft.irfft2(spectrum * phases / phases.abs().clamp(min=1e-12), s=missing.shape)
    # Noise that is made of a spectrum goes on beyond its borders.
    tiles = [-(-size // part) for size, part in zip(plain.shape, missing.shape, strict=True)]
    result: Tensor = plain + noise.repeat(*tiles)[: plain.shape[0], : plain.shape[1]].to(plain.dtype)
    return result


def _inside(image: Tensor) -> Tensor:
    rows, columns = (round(size * _BORDER) for size in image.shape)
    return image[rows : image.shape[0] - rows, columns : image.shape[1] - columns]


def _blobs(image: Tensor, size: float) -> Tensor:
    """Difference of two Gaussians, as a lesion that is ``size`` pixels wide is best seen."""
    return _smooth(image.double(), size / 2) - _smooth(image.double(), size)


def _smooth(image: Tensor, sigma: float) -> Tensor:
    reach = math.ceil(3 * sigma)
    places = torch.arange(-reach, reach + 1, dtype=image.dtype)
    weights = torch.exp(-0.5 * (places / sigma) ** 2)
    weights = weights / weights.sum()
    padded = functional.pad(image[None, None], (reach,) * 4, mode="replicate")
    rows = functional.conv2d(padded, weights[None, None, :, None])
    return functional.conv2d(rows, weights[None, None, None, :])[0, 0]
