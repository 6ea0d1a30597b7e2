"""Hold the result to what was measured: degraded again, it must give the source."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn import functional

from monai_ldmsr.degradation import AreaOperator, DegradationOperator, Factor, factor_pair, repeat_blocks

__all__ = [
    "OVERSHOOT_SHARES",
    "clip_keeping_means",
    "neighbourhood_range",
    "overshoot_share",
    "project_onto_source",
    "project_within",
]

#: By factor, how far pixels of real images leave the range of the 3 x 3 means around them, as a share of its contrast:
#: the 99th percentile over the training volumes (CT and MR together) where structure makes the contrast, that is, where
#: it is above 0.8 times the span of the volume; rounded down (``benchmarks/overshoot_shares.py``). The 99.9th
#: percentile is 0.31, 0.44 and 0.53 there, and 1.7, 2.9 and 4.0 over all places, where noise makes it: too wide to
#: bound metal by.
OVERSHOOT_SHARES = {2: 0.13, 3: 0.19, 4: 0.24}


def project_onto_source(result: Tensor, source: Tensor, operator: DegradationOperator, weight: float = 1.0) -> Tensor:
    """Move the result, in place, towards agreement with the source: ``x + w U (y - A x)`` with ``A U = 1``.

    As DDNM's range-null space step (Wang et al. 2022, arXiv 2212.00490, equation 12), but with a smooth right inverse
    instead of the smallest one: what was measured and the network left out, noise above all, comes back smoothly
    interpolated, without blocks. Work in the source's linear unit, since scanners average signal, not model values.

    Args:
        result: (B, C, f h, f w) super-resolved slices; changed in place.
        source: (B, C, h, w) measured slices.
        operator: assumed degradation.
        weight: 0 leaves the result, 1 makes the agreement exact (area), or nearly so (others).

    Example:
        >>> import torch
        >>> x = project_onto_source(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 1, 1), 3.0), AreaOperator(2))
        >>> x.unique()
        tensor([3.])
    """
    if weight:
        result += weight * operator.smooth_inverse(source - operator(result))
    return result


def project_within(
    result: Tensor,
    source: Tensor,
    operator: DegradationOperator,
    low: Tensor,
    high: Tensor,
    weight: float = 1.0,
    tolerance: float = 0.0,
) -> int:
    """Project onto the source within bounds, in place.

    What the network set outside the bounds is clipped first, so that the projection does not spread it to blocks
    around; what the projection moves out of them is clipped after, keeping the mean of each block.

    Args:
        result: (B, C, f h, f w) slices; changed in place.
        source: (B, C, h, w) measured slices.
        operator: assumed degradation.
        low: (B, C, h, w), least value of each block.
        high: likewise the greatest.
        weight: see :func:`project_onto_source`.
        tolerance: pixels outside by no more than this are not counted, such as what rounding would bring back.

    Returns:
        Number of pixels that lay outside, before or after the projection.
    """
    least, most = (repeat_blocks(end, operator.factor) for end in (low, high))
    outside = (result < least - tolerance) | (result > most + tolerance)
    result.clamp_(least, most)
    project_onto_source(result, source, operator, weight)
    outside |= (result < least - tolerance) | (result > most + tolerance)
    clip_keeping_means(result, low, high, AreaOperator(operator.factor))
    return int(outside.sum())


def neighbourhood_range(source: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Least and greatest value that the finer pixels of each source pixel may take.

    Pixels finer than the source do leave the range of the means around them, by a share of their contrast: see
    :data:`OVERSHOOT_SHARES`.

    Args:
        source: (B, C, h, w) measured slices, in the unit that the scanner averaged.
        share: share of the contrast (greatest less least) of the 3 x 3 source pixels around, by which a result may
            leave their range.

    Returns:
        Two tensors (B, C, h, w).

    Example:
        >>> import torch
        >>> low, high = neighbourhood_range(torch.tensor([[[[0.0, 0.0, 0.0, 100.0]]]]), 0.1)
        >>> low.flatten().tolist(), high.flatten().tolist()
        ([0.0, 0.0, -10.0, -10.0], [0.0, 0.0, 110.0, 110.0])
    """
    # Padding of pooling counts as -inf, so that edges have smaller neighbourhoods.
    high = functional.max_pool2d(source, 3, stride=1, padding=1)
    low = -functional.max_pool2d(-source, 3, stride=1, padding=1)
    allowed = share * (high - low)
    return low - allowed, high + allowed


def overshoot_share(factor: Factor) -> float:
    """Share of :func:`neighbourhood_range` for the greater factor, linear between those of :data:`OVERSHOOT_SHARES`.

    Example:
        >>> overshoot_share(2), overshoot_share((1, 1))
        (0.13, 0.0)
    """
    return float(np.interp(max(factor_pair(factor)), [1.0, *OVERSHOOT_SHARES], [0.0, *OVERSHOOT_SHARES.values()]))


def clip_keeping_means(result: Tensor, low: Tensor, high: Tensor, operator: AreaOperator) -> None:
    """Clip each block of pixels to a range of its own, in place, without shifting its mean.

    Plain clipping brightens air and darkens metal, since it cuts noise on one side. Here each block that was cut at one
    end is drawn towards that end until its mean is what it was (or the end itself, where it lay beyond).

    Args:
        result: (B, C, f h, f w) slices; changed in place.
        low: (B, C, h, w), least value allowed in each block.
        high: likewise the greatest.
        operator: gives the blocks.

    Example:
        >>> import torch
        >>> x = torch.tensor([[[[-4.0, 2.0], [2.0, 8.0]]]])
        >>> clip_keeping_means(x, torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), 10.0), AreaOperator(2))
        >>> [round(v, 3) for v in x.flatten().tolist()]
        [0.0, 1.333, 1.333, 5.333]
    """
    least, most = (repeat_blocks(end, operator.factor) for end in (low, high))
    allowed = operator(result).clamp(low, high)
    result.clamp_(least, most)
    found = operator(result)
    # Share of the way to either end; exactly 0 leaves a block's values as they are, to the last bit.
    to_low = ((found - allowed) / (found - low)).where(found > allowed, 0.0)
    to_high = ((allowed - found) / (high - found)).where(found < allowed, 0.0)
    result += repeat_blocks(to_low, operator.factor) * (least - result)
    result += repeat_blocks(to_high, operator.factor) * (most - result)
    result.clamp_(least, most)
