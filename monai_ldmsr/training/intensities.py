"""The intensity maps of many volumes at once, each patch of a batch by its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from monai_ldmsr.transforms.intensity import IntensityMap

__all__ = ["PatchIntensities", "knots_of"]

#: Knots of every map; maps with two get further ones on the straight line between them.
_KNOTS = 4


def knots_of(maps: Sequence[IntensityMap]) -> Tensor:
    """Knots of maps with two or four as (N, 2, 4): values in the source's unit, then levels in model range."""
    rows = []
    for found in maps:
        pair = torch.tensor([found.values, found.levels])
        if pair.shape[1] == 2:
            pair = pair[:, :1] + (pair[:, 1:] - pair[:, :1]) * torch.linspace(0.0, 1.0, _KNOTS)
        rows.append(pair)
    return torch.stack(rows)


class PatchIntensities:
    """``IntensityMap`` for batches (B, 1, H, W).

    Args:
        knots: (B, 2, 4) of :func:`knots_of`.
        tail: see ``IntensityMap``.

    Example:
        >>> ct = IntensityMap((-1024.0, -200.0, 300.0, 1500.0), (-1.0, -0.5, 0.5, 1.0))
        >>> both = PatchIntensities(knots_of([ct, IntensityMap((0.0, 90.0), (-1.0, 1.0))]))
        >>> both.forward(torch.full((2, 1, 1, 1), 50.0)).flatten()
        tensor([0.0000, 0.1111])
    """

    def __init__(self, knots: Tensor, tail: float = 0.25) -> None:
        self.knots = knots
        self.tail = tail
        self._x, self._v = (row.T[..., None, None, None] for row in knots.unbind(dim=1))

    @property
    def slope(self) -> Tensor:
        """(B, 1, 1, 1) greatest slope: model range a unit of the source, in soft tissue for CT."""
        return (self._v.diff(dim=0) / self._x.diff(dim=0)).amax(dim=0)

    def forward(self, image: Tensor) -> Tensor:
        """Source values (B, 1, H, W) to model range."""
        x, v = self._x, self._v
        low, high = self._outer_slopes()
        inside = _interpolate(image, x, v)
        inside = inside + self.tail * torch.log1p((image - x[-1]).clamp(min=0) * (high / self.tail))
        return inside - self.tail * torch.log1p((x[0] - image).clamp(min=0) * (low / self.tail))

    def inverse(self, image: Tensor) -> Tensor:
        """Model range (B, 1, H, W) to source values."""
        x, v = self._x, self._v
        low, high = self._outer_slopes()
        inside = _interpolate(image, v, x)
        inside = inside + (self.tail / high) * torch.expm1((image - v[-1]).clamp(min=0) / self.tail)
        return inside - (self.tail / low) * torch.expm1((v[0] - image).clamp(min=0) / self.tail)

    def _outer_slopes(self) -> tuple[Tensor, Tensor]:
        x, v = self._x, self._v
        return (v[1] - v[0]) / (x[1] - x[0]), (v[-1] - v[-2]) / (x[-1] - x[-2])


def _interpolate(image: Tensor, x: Tensor, y: Tensor) -> Tensor:
    slopes = y.diff(dim=0) / x.diff(dim=0)
    ramps = [(torch.minimum(torch.maximum(image, x[n]), x[n + 1]) - x[n]) * slopes[n] for n in range(len(x) - 1)]
    return y[0] + sum(ramps)
