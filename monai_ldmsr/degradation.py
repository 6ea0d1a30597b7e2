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
    "named_operator",
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
    """A linear map from (B, C, H, W) to (B, C, h, w), one matrix for rows and one for columns.

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
        sizes = [
            (fine, max(1, round(fine / factor)))
            for fine, factor in zip(image.shape[-2:], factor_pair(self.factor), strict=True)
        ]
        return _apply([_matrix_like(image, operator_matrix, self.name, *size) for size in sizes], image)

    def adjoint(self, image: Tensor) -> Tensor:
        """Apply the transpose, (B, C, h, w) to (B, C, f h, f w).

        Example:
            >>> AreaOperator(2).adjoint(torch.tensor([[[[4.0]]]]))
            tensor([[[[1., 1.],
                      [1., 1.]]]])
        """
        sizes = self._sizes(image)
        return _apply([_matrix_like(image, operator_matrix, self.name, *size).T for size in sizes], image)

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
        sizes = self._sizes(image)
        return _apply([_matrix_like(image, smooth_inverse_matrix, self.name, *size) for size in sizes], image)

    def _sizes(self, image: Tensor) -> list[tuple[int, int]]:
        """Fine and coarse size of rows and of columns of a coarse image."""
        return [(round(n * factor), n) for n, factor in zip(image.shape[-2:], factor_pair(self.factor), strict=True)]


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

    def __call__(self, image: Tensor) -> Tensor:
        """Degrade (B, C, H, W) to (B, C, H/factor, W/factor)."""
        rows, columns = factor_pair(self.factor)
        if rows == int(rows) and columns == int(columns):
            return functional.avg_pool2d(image, (int(rows), int(columns)))
        return super().__call__(image)


def named_operator(name: str, factor: Factor) -> DegradationOperator:
    """One of ``operators.OPERATORS``, fixed and without noise, as evaluations and projections use it.

    Args:
        name: ``area``, ``gaussian`` (standard deviation 0.42 low-resolution pixels) or ``kspace``.
        factor: factor of the degradation.

    Raises:
        SettingsError: there is no such operator.
    """
    return AreaOperator(factor) if name == "area" else DegradationOperator(name, factor)


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


def _matrix_like(image: Tensor, make: Callable[[str, int, int], Tensor], name: str, fine: int, coarse: int) -> Tensor:
    return matrix_on(image.device, image.dtype, make, name, fine, coarse)


@lru_cache(maxsize=512)
def matrix_on(
    device: torch.device, dtype: torch.dtype, make: Callable[[str, int, int], Tensor], name: str, fine: int, coarse: int
) -> Tensor:
    """One of this module's matrices, kept on a device."""
    # Evaluations run in inference mode; what they leave behind must serve training too.
    with torch.inference_mode(False):
        return make(name, fine, coarse).to(device, dtype)


def _apply(matrices: list[Tensor], image: Tensor) -> Tensor:
    rows, columns = matrices
    return rows @ image @ columns.T
