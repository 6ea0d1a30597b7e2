"""Hold the result to what was measured: degraded again, it must give the source."""

from __future__ import annotations

from torch import Tensor

from monai_ldmsr.degradation import AreaOperator, DegradationOperator, repeat_blocks, whole_factor

__all__ = ["clip_keeping_means", "project_onto_source"]


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


def clip_keeping_means(
    result: Tensor, value_range: tuple[float, float], operator: AreaOperator, tolerance: float = 0.0
) -> int:
    """Clip to a range, in place, without shifting the mean of any block of pixels.

    Plain clipping brightens air and darkens metal, since it cuts noise on one side. Here each block that was cut at one
    end is drawn towards that end until its mean is what it was (or the end itself, where it lay beyond).

    Args:
        result: (B, C, f h, f w) slices; changed in place.
        value_range: least and greatest value allowed.
        operator: gives the blocks.
        tolerance: pixels outside by no more than this are not counted, such as what rounding would bring back.

    Returns:
        Number of pixels that lay outside.

    Example:
        >>> import torch
        >>> x = torch.tensor([[[[-4.0, 2.0], [2.0, 8.0]]]])
        >>> clip_keeping_means(x, (0.0, 10.0), AreaOperator(2)), [round(v, 3) for v in x.flatten().tolist()]
        (1, [0.0, 1.333, 1.333, 5.333])
    """
    low, high = value_range
    if low <= float(result.min()) and float(result.max()) <= high:
        return 0
    n_outside = int(((result < low - tolerance) | (result > high + tolerance)).sum())
    wanted = operator(result).clamp(low, high)
    result.clamp_(low, high)
    found = operator(result)
    # Share of the way to either end; exactly 0 leaves a block's values as they are, to the last bit.
    to_low = ((found - wanted) / (found - low)).where(found > wanted, 0.0)
    to_high = ((wanted - found) / (high - found)).where(found < wanted, 0.0)
    factor = whole_factor(operator.factor)
    result += repeat_blocks(to_low, factor) * (low - result)
    result += repeat_blocks(to_high, factor) * (high - result)
    result.clamp_(low, high)
    return n_outside
