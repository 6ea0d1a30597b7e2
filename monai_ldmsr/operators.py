"""How a fine slice may have become a coarse one: each operator's name, definition and matrix.

Free of torch until a matrix is made, so that a command's help can list the operators at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from monai_ldmsr.errors import SettingsError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["GAUSSIAN_SIGMA", "OPERATORS", "Operator", "cosine_matrix", "operator_matrix", "operator_place"]

#: Standard deviation of the named Gaussian point spread function, in low-resolution pixels: a width at half height of
#: one pixel.
GAUSSIAN_SIGMA = 0.42


@dataclass(frozen=True)
class Operator:
    """A linear, separable degradation that keeps the outer faces of a slice where they are.

    Args:
        definition: what it assumes of a source, in one sentence for the report.
        matrix: makes one axis of it, a (coarse, fine) float64 matrix whose rows have the sum 1, of the numbers of fine
            and of coarse pixels, and of the width of a point spread function in coarse pixels, where it has one.
        plane: operator as which networks see it: one of those that they were trained with (0 area, 1 gaussian, 2
            kspace), or a new one for networks that are yet to be trained.
        weakest: what it has weakened to less than about this is not brought back in full, or noise would be too.
    """

    definition: str
    matrix: Callable[[int, int, float], Tensor]
    plane: int
    weakest: float = 0.0


def operator_matrix(name: str, fine: int, coarse: int) -> Tensor:
    """One axis of an operator as a (coarse, fine) float64 matrix, of :data:`GAUSSIAN_SIGMA` where it has a width.

    Args:
        name: one of :data:`OPERATORS`.
        fine: high-resolution pixels between the outer faces.
        coarse: low-resolution pixels between the same faces, at most as many.

    Example:
        >>> operator_matrix("area", 3, 2)
        tensor([[0.6667, 0.3333, 0.0000],
                [0.0000, 0.3333, 0.6667]], dtype=torch.float64)
    """
    return OPERATORS[name].matrix(fine, coarse, GAUSSIAN_SIGMA)


def operator_place(name: str) -> int:
    """Place of an operator in :data:`OPERATORS`.

    Raises:
        SettingsError: there is no such operator.
    """
    if name not in OPERATORS:
        raise SettingsError(f"operator is {name!r}; choose one of {', '.join(OPERATORS)}.")
    return list(OPERATORS).index(name)


def cosine_matrix(size: int) -> Tensor:
    """Orthonormal DCT-II as a (size, size) matrix."""
    import torch

    n = torch.arange(size, dtype=torch.float64)
    rows = torch.cos(math.pi * (n[None, :] + 0.5) * n[:, None] / size) * math.sqrt(2.0 / size)
    rows[0] /= math.sqrt(2.0)
    return rows


def _edges_and_pixels(fine: int, coarse: int) -> tuple[Tensor, Tensor]:
    """Edges of the coarse pixels, and first edges of the fine ones, in fine pixels."""
    import torch

    edges = torch.arange(coarse + 1, dtype=torch.float64) * (fine / coarse)
    return edges, torch.arange(fine, dtype=torch.float64)


def _with_sum_one(weight: Tensor) -> Tensor:
    return weight / weight.sum(dim=1, keepdim=True)


def _area(fine: int, coarse: int, sigma: float) -> Tensor:
    import torch

    edges, pixels = _edges_and_pixels(fine, coarse)
    overlap = torch.minimum(edges[1:, None], pixels + 1) - torch.maximum(edges[:-1, None], pixels)
    return _with_sum_one(overlap.clamp(min=0.0))


def _gaussian(fine: int, coarse: int, sigma: float) -> Tensor:
    import torch

    edges, pixels = _edges_and_pixels(fine, coarse)
    centre = (edges[:-1, None] + edges[1:, None]) / 2
    return _with_sum_one(torch.exp(-0.5 * ((pixels + 0.5 - centre) / (sigma * (fine / coarse))).square()))


def _kspace(fine: int, coarse: int, sigma: float) -> Tensor:
    # The spectrum of the slice and its mirror image (a cosine transform): no jump from one edge to the other.
    kept = cosine_matrix(coarse).T @ cosine_matrix(fine)[:coarse]
    return kept * math.sqrt(coarse / fine)


#: The operators by name. Adding one here adds it to every command, evaluation and report.
OPERATORS: dict[str, Operator] = {
    "area": Operator("Each pixel of the source is the mean over its block of finer pixels.", _area, 0),
    "gaussian": Operator(
        "Each pixel of the source is a Gaussian mean around its centre, half as high at half a pixel.",
        _gaussian,
        1,
        weakest=0.03,
    ),
    "kspace": Operator(
        "The source's k-space is the central part of the finer image's, as of a smaller acquisition matrix.",
        _kspace,
        2,
        weakest=0.03,
    ),
}
