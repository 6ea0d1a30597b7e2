"""Where a slice shows structure, and where nothing but noise: what its local variance says."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from monai_ldmsr.noise_level import GREY_LEVELS

__all__ = ["structure_share"]

#: Standard deviation in pixels of the Gaussian window in which the variance is taken, and its half width.
_SIGMA, _REACH = 1.0, 3

#: Times the noise's variance that count as noise: in so small a window the variance of noise itself scatters by half.
#: Chosen on the calibration split, as what follows; see the model card.
_NOISE_TIMES = 4.0

#: Noise that a kernel has correlated has more variance than its finest part shows, which is what is estimated. So this
#: many times the variance of flat places, which is what this share of all places stays below, counts as noise too. The
#: darkest 40 % (air) are not looked at.
_FLAT_TIMES, _FLATTEST, _CONSTANT = 3.0, 0.2, 1e-10


def structure_share(slices: Tensor, noise: Tensor) -> Tensor:
    """Share of the local variance that noise does not explain (Lee 1980, doi:10.1109/TPAMI.1980.4766994, equation 12).

    Noise is what the slice is said to have, or what its flattest places show, whichever is more. The share is 0 where a
    slice is flat but for noise, near 1 at edges whose contrast is many times the noise.

    Args:
        slices: (B, 1, h, w) in model range.
        noise: (B,) standard deviation of their noise, in grey levels of 255.

    Returns:
        (B, 1, h, w), 0 to 1.

    Example:
        >>> edge = torch.zeros(1, 1, 8, 12)
        >>> edge[..., 6:] = 1.0
        >>> structure_share(edge, torch.tensor([5.0]))[0, 0, 4, [0, 5, 6, 11]].round(decimals=1)
        tensor([0., 1., 1., 0.])
    """
    weights = [math.exp(-0.5 * (n / _SIGMA) ** 2) for n in range(-_REACH, _REACH + 1)]
    window = slices.new_tensor(weights) / sum(weights)
    # Replicated before, so that every pixel has a whole window; on values near 0, where squares lose no digits.
    level = slices.mean(dim=(2, 3), keepdim=True)
    around = functional.pad(slices - level, (_REACH,) * 4, mode="replicate")
    both = torch.cat([around, around.square()], dim=1)
    for kernel in (window[:, None], window[None]):
        both = functional.conv2d(both, kernel.expand(2, 1, *kernel.shape), groups=2)
    variance = (both[:, 1:] - both[:, :1].square()).clamp(min=0.0)
    of_noise = _NOISE_TIMES * (noise / GREY_LEVELS).square()
    of_noise = torch.maximum(of_noise, _FLAT_TIMES * _of_flat_places(variance.flatten(1), both[:, :1].flatten(1)))
    return (variance - of_noise[:, None, None, None]).clamp(min=0.0) / variance.clamp(min=1e-8)


def _of_flat_places(variance: Tensor, level: Tensor) -> Tensor:
    """Variance (B,) of flat places, from that and the level (B, n) of all places; 0 where none says anything."""
    count = level.shape[1]
    at = 2 * count // 5  # a whole number to exporters too: the darkest 40 %
    dark = level <= level.sort(dim=1).values[:, at : at + 1]
    constant = (variance < _CONSTANT) & ~dark
    # What is constant was filled, cut out or clipped, and says nothing; unless most is: then there is no noise.
    most = 2 * constant.sum(dim=1, keepdim=True) > (~dark).sum(dim=1, keepdim=True)
    left_out = dark | (constant & ~most)
    n_left = (~left_out).sum(dim=1, keepdim=True)
    place = (_FLATTEST * n_left).long()
    found = variance.masked_fill(left_out, torch.inf).sort(dim=1).values.gather(1, place.clamp(max=count - 1))[:, 0]
    return torch.where(n_left[:, 0] > 0, found, 0.0)
