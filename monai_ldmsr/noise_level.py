"""How noisy a slice is, from the slice itself: white noise, or the fine part of what a kernel has correlated."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from monai_ldmsr.choices import MAX_NOISE
from monai_ldmsr.geometry import spread_slices

__all__ = ["GREY_LEVELS", "estimate_noise", "volume_noise"]

#: Grey levels of 0..255 in a unit of the model range -1..1.
GREY_LEVELS = 127.5

#: Noise of a volume is the median over this many spread slices.
_NOISE_SLICES = 12

#: Side of the windows, and the share of them (flattest first) whose greatest noise is taken.
_WINDOW, _FLATTEST = 6, 0.2

#: Share of windows, darkest first, that are left out: air is stored without noise, or with another distribution.
_DARKEST = 0.4

#: What the flattest fifth of windows of white noise have, over its standard deviation; by simulation.
_BIAS = 0.81


def volume_noise(volume: Tensor) -> float:
    """Noise of a volume (1, 1, I, J, K) in model range, in grey levels of 255; slices lie across the last axis."""
    places = spread_slices(volume.shape[-1], _NOISE_SLICES)
    found = [float(estimate_noise(volume[..., k])) for k in places]
    return sorted(found)[len(found) // 2]


def estimate_noise(image: Tensor) -> Tensor:
    """Standard deviation of noise, as the flattest windows of tissue show it.

    The second difference in both directions leaves noise and takes away what is linear (Immerkaer 1996,
    doi:10.1006/cviu.1996.0060); its root mean square is taken over small windows, and of those the flattest count.

    Args:
        image: (B, 1, h, w) slices in model range.

    Returns:
        (B,) grey levels of 255, at most :data:`MAX_NOISE`. A constant slice has 0; so has one with a side below 8
        pixels, which is too small for an estimate.

    Example:
        >>> noise = torch.randn(1, 1, 96, 96, generator=torch.Generator().manual_seed(0)) * 5 / 127.5
        >>> abs(float(estimate_noise(noise)) - 5) < 0.5
        True
    """
    if min(image.shape[-2:]) < _WINDOW + 2:
        return image.new_zeros(image.shape[0])
    image = image.float()
    second = image.new_tensor([1.0, -2.0, 1.0])
    kernel = (second[:, None] * second / 6.0)[None, None]
    power = functional.conv2d(image, kernel).square()
    rms = functional.avg_pool2d(power, _WINDOW, stride=_WINDOW // 2).sqrt().flatten(1)
    level = functional.avg_pool2d(image[..., 1:-1, 1:-1], _WINDOW, stride=_WINDOW // 2).flatten(1)
    dark = level <= level.quantile(_DARKEST, dim=1, keepdim=True)
    # Zeros are windows that were filled, cut out or clipped, and say nothing; unless most are: then there is no noise.
    zero = rms < 1e-6
    left_out = dark | (zero & ((zero & ~dark).sum(dim=1, keepdim=True) <= 0.5 * (~dark).sum(dim=1, keepdim=True)))
    order = rms.masked_fill(zero, 0.0).masked_fill(left_out, torch.inf).sort(dim=1).values
    count = (~left_out).sum(dim=1, keepdim=True)
    place = (count * _FLATTEST).long().clamp(max=order.shape[1] - 1)
    found = order.gather(1, place)[:, 0] * (GREY_LEVELS / _BIAS)
    return torch.where(count[:, 0] > 0, found, 0.0).clamp(max=MAX_NOISE)
