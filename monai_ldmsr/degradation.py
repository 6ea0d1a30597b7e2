"""How a high-resolution slice becomes a low-resolution one: linear, separable forward operators, and the way back.

All operators keep the outer faces of the slice where they are and the mean of a constant image. They act in the linear
units of the image (HU, counts), not on log-compressed model values, since scanners average signal. Rows and columns
have a factor each, from 1 up, whole or not.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from monai_ldmsr.geometry import Factors
from monai_ldmsr.operators import OPERATORS, operator_matrix, operator_place

__all__ = [
    "AreaOperator",
    "DegradationOperator",
    "Factor",
    "factor_pair",
    "matrix_on",
    "repeat_blocks",
    "smooth_inverse_matrix",
]

#: One factor for rows and columns alike, or (rows, columns).
Factor = float | tuple[float, float]


def factor_pair(factor: Factor) -> tuple[float, float]:
    """Factors of rows (H) and of columns (W).

    Example:
        >>> factor_pair(2), factor_pair((1, 3.5))
        ((2, 2), (1, 3.5))
    """
    return factor if isinstance(factor, tuple) else (factor, factor)


class DegradationOperator:
    """A linear map from (B, C, H, W) to (B, C, h, w), one matrix for rows and one for columns; fixed and without noise.

    Args:
        name: one of ``operators.OPERATORS``.
        factor: H/h and W/w.

    Raises:
        SettingsError: there is no such operator.
    """

    def __init__(self, name: str, factor: Factor) -> None:
        operator_place(name)
        self.name = name
        self.factor = factor

    def __call__(self, image: Tensor) -> Tensor:
        """Degrade (B, C, H, W) to (B, C, H/factor, W/factor)."""
        factors = factor_pair(self.factor)
        if self.name == "area" and all(factor == int(factor) for factor in factors):
            return functional.avg_pool2d(image, (int(factors[0]), int(factors[1])))
        sizes = [(fine, max(1, round(fine / f))) for fine, f in zip(image.shape[-2:], factors, strict=True)]
        return _apply(operator_matrix, self.name, sizes, image)

    def smooth_inverse(self, image: Tensor) -> Tensor:
        """A smooth image that this operator degrades to the given one: ``U y`` with ``A U = 1``.

        ``U = B (A B)^-1`` where B is bicubic interpolation: what is left when the difference to ``y`` is interpolated
        and added again and again (iterative back projection, Irani and Peleg 1991). Unlike the smallest such image it
        has no blocks. Exact for the area operator; what others have all but wiped out is not blown up.

        Args:
            image: (B, C, h, w).

        Returns:
            (B, C, f h, f w).

        Example:
            >>> y = torch.randn(1, 1, 6, 5)
            >>> bool((AreaOperator(4)(AreaOperator(4).smooth_inverse(y)) - y).abs().max() < 1e-5)
            True
        """
        sizes = [(round(n * f), n) for n, f in zip(image.shape[-2:], factor_pair(self.factor), strict=True)]
        return _apply(smooth_inverse_matrix, self.name, sizes, image)


class AreaOperator(DegradationOperator):
    """Mean over blocks of factor x factor pixels: a detector, or a voxel, that is ``factor`` times wider.

    Args:
        factor: block side in pixels.

    Example:
        >>> AreaOperator(2)(torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]]))
        tensor([[[[4.]]]])
    """

    def __init__(self, factor: Factor) -> None:
        super().__init__("area", factor)


def repeat_blocks(image: Tensor, factor: Factor) -> Tensor:
    """Each pixel over its block: (B, C, h, w) to (B, C, f h, f w).

    Raises:
        SettingsError: a factor is not whole, so there are no blocks.
    """
    return functional.interpolate(image, scale_factor=Factors.of(factor).whole[:2], mode="nearest")


def smooth_inverse_matrix(name: str, fine: int, coarse: int) -> Tensor:
    """One axis of :meth:`DegradationOperator.smooth_inverse` as a (fine, coarse) float64 matrix."""
    columns = torch.eye(coarse, dtype=torch.float64)[None, :, :, None]
    interpolation = functional.interpolate(columns, size=(fine, 1), mode="bicubic", align_corners=False)[0, :, :, 0].T
    both = operator_matrix(name, fine, coarse) @ interpolation
    damped = both.T @ both + OPERATORS[name].weakest ** 2 * torch.eye(coarse, dtype=torch.float64)
    solution: Tensor = interpolation @ torch.linalg.solve(damped, both.T)
    return solution


@lru_cache(maxsize=512)
def matrix_on(
    device: torch.device, dtype: torch.dtype, make: Callable[[str, int, int], Tensor], name: str, fine: int, coarse: int
) -> Tensor:
    """One of this module's matrices, kept on a device."""
    # Evaluations run in inference mode; what they leave behind must serve training too.
    with torch.inference_mode(False):
        return make(name, fine, coarse).to(device, dtype)


def _apply(make: Callable[[str, int, int], Tensor], name: str, sizes: list[tuple[int, int]], image: Tensor) -> Tensor:
    """One matrix along rows and one along columns; ``sizes`` are those fine and coarse of each."""
    rows, columns = (matrix_on(image.device, image.dtype, make, name, *size) for size in sizes)
    return rows @ image @ columns.T
