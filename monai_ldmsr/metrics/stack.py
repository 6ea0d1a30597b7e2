"""What new slices of a stack have: how much they change from one to the next, and stripes locked to acquired slices.

Planes here hold the axis of the stack: ``(rows, columns)`` with a row for each new slice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["STACK_DEFINITIONS", "slice_change", "stripes"]

#: Definition of each figure that is measured on planes along a stack and not on slices.
STACK_DEFINITIONS: dict[str, str] = {
    "noise": "Standard deviation in flat tissue: median over the flattest tiles (squares of pixels of the result) of "
    "each measured plane, among those of tissue; chosen on the source, each slice as a band.",
    "comb": "What result minus bicubic has of waves as long as the distance of two acquired slices (or, within slices, "
    "as one pixel of the source), or half as long: root mean square over the source's standard deviation, of the "
    "median over the same tiles, with the same phase in all of them.",
    "z_gradient": "Mean absolute difference between neighbours along the stack, where there is a body, in the source's "
    "unit; that of the result over that of bicubic interpolation. Where slices are thick, interpolation changes too "
    "little; noise raises it, too.",
}


def slice_change(plane: Tensor, where: Tensor) -> float:
    """Sum of absolute differences between rows that are neighbours.

    Args:
        plane: (rows, columns).
        where: (rows, columns) bool; a pair counts where both are true.

    Example:
        >>> ramp = torch.arange(4.0)[:, None].expand(4, 3)
        >>> slice_change(2 * ramp, torch.ones(4, 3, dtype=torch.bool))
        18.0
    """
    both = where[1:] & where[:-1]
    return float((plane.double().diff(dim=0).abs() * both).sum())


def stripes(tiles: Sequence[Tensor], places: Sequence[Tensor], noise: Sequence[float]) -> float:
    """Root mean square of the waves along rows that all tiles share, over the noise.

    Args:
        tiles: (rows, columns), one at least.
        places: (rows,) where each row lies, in periods of the longest wave.
        noise: what each tile's amplitude is divided by.

    Returns:
        That of the waves of one and of half a period together, as far as rows resolve them.

    Example:
        >>> place = torch.arange(24) / 4.0
        >>> wave = torch.cos(2 * torch.pi * place)[:, None].expand(24, 24)
        >>> round(stripes([wave, wave], [place, place], [1.0, 2.0]), 2)
        0.53
    """
    square = 0.0
    for wave in (1, 2):
        step = wave * float(places[0][1] - places[0][0])
        if step > 0.5 + 1e-6:
            break
        found = torch.stack(
            [_amplitude(tile, place, wave) / sd for tile, place, sd in zip(tiles, places, noise, strict=True)]
        )
        shared = torch.complex(found.real.quantile(0.5), found.imag.quantile(0.5)).abs()
        # The finest wave that rows resolve has no phase of its own: all of its power is in one number.
        square += float(shared) ** 2 * (1.0 if step > 0.5 - 1e-6 else 2.0)
    return math.sqrt(square)


def _amplitude(tile: Tensor, place: Tensor, wave: int) -> Tensor:
    """Complex amplitude of a wave along rows, as a share of the sum of its window."""
    profile, window = tile.double().mean(dim=1), torch.hann_window(len(tile) + 2, periodic=False)[1:-1].double()
    centred = profile - (profile * window).sum() / window.sum()
    return (window * centred * torch.exp(-2j * torch.pi * wave * place.double())).sum() / window.sum()
