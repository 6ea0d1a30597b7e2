"""Hold the result to what was measured: degraded again, it must give the source."""

from __future__ import annotations

from torch import Tensor

from monai_ldmsr.degradation import AreaOperator

__all__ = ["project_onto_source"]


def project_onto_source(result: Tensor, source: Tensor, operator: AreaOperator, weight: float = 1.0) -> Tensor:
    """Move the result, in place, towards agreement with the source: ``x + w A+ (y - A x)``.

    With the true operator and a noise-free source this never enlarges the error (Wang et al. 2022, DDNM,
    arXiv 2212.00490, equation 12). Work in the source's linear unit, since scanners average signal, not model values.

    Args:
        result: (B, C, f h, f w) super-resolved slices; changed in place.
        source: (B, C, h, w) measured slices.
        operator: assumed degradation.
        weight: 0 leaves the result, 1 makes the agreement exact.

    Example:
        >>> import torch
        >>> x = project_onto_source(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 1, 1), 3.0), AreaOperator(2))
        >>> x.unique()
        tensor([3.])
    """
    if weight:
        result += weight * operator.pseudo_inverse(source - operator(result))
    return result
