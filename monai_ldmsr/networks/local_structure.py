"""Where a slice shows structure, and where nothing but noise: what its local variance says."""

from __future__ import annotations

import math
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional

from monai_ldmsr.noise_level import GREY_LEVELS

__all__ = ["structure_share"]

#: Standard deviation in pixels of the Gaussian that takes away what is coarse, and of the window in which the rest is
#: looked at; and half its width.
_SIGMA, _REACH = 1.0, 3

_WEIGHTS = [math.exp(-0.5 * (n / _SIGMA) ** 2) for n in range(-_REACH, _REACH + 1)]

#: Variance that white noise keeps where that Gaussian is taken away.
_KEPT = 1 - 2 / sum(_WEIGHTS) ** 2 + (sum(w * w for w in _WEIGHTS) / sum(_WEIGHTS) ** 2) ** 2

#: Times the noise's variance that count as noise: in so small a window the variance of noise itself scatters by half.
#: Chosen on the calibration split, as what follows; see the model card.
_NOISE_TIMES = 4.0

#: Noise that a kernel has correlated is not what is estimated, which is its finest part. So this many times the
#: variance of flat places, which is what this share of all places stays below, counts as noise too. The darkest 40 %
#: (air) are not looked at.
_FLAT_TIMES, _FLATTEST = 3.0, 0.2

#: Variance below which a place is constant: that of an eighth of a grey level, more than rounding leaves.
_CONSTANT = 1e-6


def structure_share(slices: Tensor, noise: Tensor) -> Tensor:
    """Share of the local variance at fine scale that noise does not explain.

    The share is that of Lee 1980 (doi:10.1109/TPAMI.1980.4766994, equation 12), of what a Gaussian of 1 pixel leaves:
    near 1 at edges as sharp as pixels whose contrast is many times the noise, 0 where a slice is flat but for noise, or
    changes slowly, as across an edge that is blurred already: there is nothing that could be sharper. Noise is what the
    slice is said to have, or what its flattest places show, whichever is more.

    Args:
        slices: (B, 1, h, w) in model range.
        noise: (B,) standard deviation of their noise, in grey levels of 255.

    Returns:
        (B, 1, h, w), 0 to 1.

    Example:
        >>> edge = torch.zeros(1, 1, 8, 12)
        >>> edge[..., 6:] = 1.0
        >>> structure_share(edge, torch.tensor([5.0]))[0, 0, 4, [0, 5, 6, 11]].round(decimals=1)
        tensor([0.0000, 0.9000, 0.9000, 0.0000])
    """
    # Replicated, so that every pixel has a whole window.
    around = functional.pad(slices, (2 * _REACH,) * 4, mode="replicate")
    coarse = _smoothed(around)
    variance = _smoothed((_inside(around) - coarse).square())
    variance = torch.where(variance < _CONSTANT, 0.0, variance)
    of_noise = _NOISE_TIMES * _KEPT * (noise / GREY_LEVELS).square()
    flat = _of_flat_places(variance.flatten(1), _inside(coarse).flatten(1))
    of_noise = torch.maximum(of_noise, _FLAT_TIMES * flat)[:, None, None, None]
    return (variance - of_noise).clamp(min=0.0) / variance.clamp(min=_CONSTANT)


def _inside(image: Tensor) -> Tensor:
    """All but the margin that a window takes on each side."""
    return image[..., _REACH:-_REACH, _REACH:-_REACH]


def _smoothed(image: Tensor) -> Tensor:
    """Gaussian means, of where windows are whole; by sums, since a convolution may be one of reduced precision."""
    for dim in (2, 3):
        side = image.shape[dim] - 2 * _REACH
        parts = (w / sum(_WEIGHTS) * image.narrow(dim, n, side) for n, w in enumerate(_WEIGHTS))
        image = reduce(torch.add, parts)
    return image


def _of_flat_places(variance: Tensor, level: Tensor) -> Tensor:
    """Variance (B,) of flat places, from that and the level (B, n) of all places; 0 where none says anything."""
    count = level.shape[1]
    at = 2 * count // 5  # a whole number to exporters too: the darkest 40 %
    dark = level <= level.sort(dim=1).values[:, at : at + 1]
    constant = (variance == 0.0) & ~dark
    # What is constant was filled, cut out or clipped, and says nothing; unless most is: then there is no noise.
    most = 2 * constant.sum(dim=1, keepdim=True) > (~dark).sum(dim=1, keepdim=True)
    left_out = dark | (constant & ~most)
    n_left = (~left_out).sum(dim=1, keepdim=True)
    place = (_FLATTEST * n_left).long()
    found = variance.masked_fill(left_out, torch.inf).sort(dim=1).values.gather(1, place.clamp(max=count - 1))[:, 0]
    return torch.where(n_left[:, 0] > 0, found, 0.0)
