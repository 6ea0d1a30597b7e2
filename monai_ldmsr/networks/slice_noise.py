"""The noise that samples of slices are made of: it follows from a seed, a slice's size and its place alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["SliceNoise", "padding"]

#: Fields that a seed may have before they become another seed's.
_SEEDS = 1_000_003


def padding(size: int, unit: int, margin: int) -> tuple[int, int]:
    """Pixels before and after, ``margin`` at least, that make a side a multiple of ``unit``."""
    # Whole numbers from 0 up, which exporters can follow for sizes that are not known yet.
    total = (size + 2 * margin + unit - 1) // unit * unit - size
    return total // 2, total - total // 2


@dataclass(frozen=True)
class SliceNoise:
    """Standard normal fields for slices, drawn on the CPU so that every device sees the same.

    Args:
        factors: how many times finer rows (H) and columns (W) become.
        block: side of the block of pixels that a place of the latent stands for.
        unit: sides of padded slices are multiples of it.
        margin: pixels of padding on each side at least.
        seed: another one, other fields.
        correlation_mm: slices that are twice as far apart have independent fields; ``inf``, as a number or a word: all
            have the same.

    Example:
        >>> latent, pixels = SliceNoise((2, 2), block=4, unit=32).draw((20, 24), [0.0, 1.5])
        >>> latent.shape, pixels.shape
        (torch.Size([2, 16, 24, 24]), torch.Size([2, 1, 96, 96]))
    """

    factors: Sequence[float]
    block: int
    unit: int
    margin: int = 16
    seed: int = 0
    correlation_mm: float = 2.0

    def draw(self, size: Sequence[int], places_mm: Sequence[float]) -> tuple[Tensor, Tensor]:
        """Fields of a network's call.

        Args:
            size: rows and columns of the slices that are super-resolved.
            places_mm: how far each slice is from the first one of its volume.

        Returns:
            (B, block**2, H/block, W/block) of the latent and (B, 1, H, W) of the pixels, where H and W are the padded
            sides on the target grid.
        """
        fine = [round(n * factor) for n, factor in zip(size, self.factors, strict=True)]
        height, width = (n + sum(padding(n, self.unit, self.margin)) for n in fine)
        return self.draw_padded((height, width), places_mm)

    def draw_padded(self, size: Sequence[int], places_mm: Sequence[float]) -> tuple[Tensor, Tensor]:
        """:meth:`draw` for slices that were padded on the target grid already.

        Between two fields, ``correlation_mm`` apart, lies a mixture of both that is standard normal, too.
        """
        block = self.block
        shapes = [(block**2, size[0] // block, size[1] // block), (1, *size)]

        @lru_cache(maxsize=2)
        def field(number: int) -> list[Tensor]:
            generator = torch.Generator().manual_seed((self.seed * _SEEDS + number) % 2**63)
            return [torch.randn(shape, generator=generator) for shape in shapes]

        drawn = []
        for place in places_mm:
            number, share = divmod(place / float(self.correlation_mm), 1.0)
            angle = share * math.pi / 2
            fields = zip(field(int(number)), field(int(number) + 1) if share else field(int(number)), strict=True)
            drawn.append([a * math.cos(angle) + b * math.sin(angle) if share else a for a, b in fields])
        latent, pixels = (torch.stack([one[n] for one in drawn]) for n in range(2))
        return latent, pixels
