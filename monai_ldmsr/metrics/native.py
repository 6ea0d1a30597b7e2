"""What super-resolution adds to a slice as scanned, where there is no truth to compare with.

Tissue that is flat in the source should stay flat: what a network draws there is noise taken for structure, or a
pattern of its own. All figures take model-range values as they are, not rounded, so that no grain is lost.
"""

from __future__ import annotations

import math

import torch
from monai.utils import convert_to_tensor
from torch import Tensor
from torch.nn import functional

from monai_ldmsr.errors import SettingsError

__all__ = ["NATIVE_DEFINITIONS", "NATIVE_GOALS", "flattest_tiles", "native_figures", "overshoot"]

#: Side of a tile in source pixels, how many of them are measured, and above which share of the slice's pixels a tile's
#: mean must lie: air is flat, but nobody looks at it. Where more than this share is air, the slice's mean keeps it out.
TILE_SIDE, N_TILES, TISSUE_QUANTILE = 24, 6, 0.4

#: Standard deviation under which a tile is constant: padding, saturation, float round-off.
_CONSTANT = 1e-4

#: Overshoot is this quantile over blocks, in units of the span between these quantiles of the source.
_OVERSHOOT_QUANTILE, _SPAN_QUANTILES = 0.999, (0.005, 0.995)

_TILES = (
    f"Slices as scanned, super-resolved as a run does it. Median over the {N_TILES} flattest tiles (least standard "
    f"deviation, but not constant) of {TILE_SIDE}x{TILE_SIDE} source pixels on a grid, among those with a mean above "
    f"both the {100 * TISSUE_QUANTILE:.0f}th percentile and the mean of the slice; chosen on the source. "
)

#: Definition of each figure.
NATIVE_DEFINITIONS: dict[str, str] = {
    "noise": _TILES + "Standard deviation over that of the bicubic result.",
    "range": _TILES + "Greatest minus least value, over the same of the source.",
    "kurtosis": _TILES + "Fourth central moment over the squared second: 3 for normal noise, more for sparse dashes.",
    "comb": _TILES + "Standard deviation over the places in the block of one source pixel of (result minus its block's "
    "mean), averaged over all blocks of the tile, over the source's standard deviation: a pattern locked to the "
    "source's pixels.",
    "overshoot": "Slices as scanned, super-resolved as a run does it, over the whole slice. How far the extremes of "
    "the block of a source pixel leave the range of the 3x3 source pixels around it: 99.9th percentile over blocks, "
    "over the span between the 0.5th and 99.5th percentile of the source.",
}

#: What each figure should be.
NATIVE_GOALS: dict[str, str] = {
    "noise": "near 1",
    "range": "near 1",
    "kurtosis": "3",
    "comb": "0",
    "overshoot": "0",
}


def native_figures(result: Tensor, bicubic: Tensor, source: Tensor) -> dict[str, float]:
    """Figures of one slice that was super-resolved as scanned.

    Args:
        result: (1, 1, f h, g w) in model range; f and g are whole, and need not be equal.
        bicubic: the source interpolated, likewise.
        source: (1, 1, h, w) in model range.

    Returns:
        One number for each of :data:`NATIVE_DEFINITIONS`; NaN where it is not defined (no tile of tissue, a constant
        source).

    Raises:
        SettingsError: when a shape is not as above.

    Example:
        >>> source = torch.randn(1, 1, 48, 48, generator=torch.Generator().manual_seed(0))
        >>> nearest = source.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)
        >>> figures = native_figures(nearest, nearest, source)
        >>> figures["noise"], figures["range"], figures["comb"], figures["overshoot"]
        (1.0, 1.0, 0.0, 0.0)
    """
    result, bicubic, source = (convert_to_tensor(x, torch.float64, track_meta=False) for x in (result, bicubic, source))
    block = _block(result, source)
    if bicubic.shape != result.shape:
        raise SettingsError(f"The result has shape {tuple(result.shape)}, but bicubic {tuple(bicubic.shape)}.")
    corners = flattest_tiles(source)
    measured = [
        _tile_figures(_tile(result, corner, block), _tile(bicubic, corner, block), _tile(source, corner, (1, 1)), block)
        for corner in corners
    ]
    names = ("noise", "range", "kurtosis", "comb")
    # The median: of six tiles there may be one with a vessel in it.
    tiles = torch.tensor(measured or [[math.nan] * len(names)], dtype=torch.double).nanquantile(0.5, dim=0).tolist()
    return {**dict(zip(names, tiles, strict=True)), "overshoot": overshoot(result, source)}


def flattest_tiles(image: Tensor, side: int = TILE_SIDE, count: int = N_TILES) -> list[tuple[int, int]]:
    """Where a slice shows tissue and nothing else: the flattest tiles of a grid, flattest first.

    Args:
        image: (1, 1, H, W).
        side: side of a tile, in pixels.
        count: tiles at most.

    Returns:
        Top left corner (row, column) of each; none for a slice that is constant, or smaller than a tile.

    Example:
        >>> image = torch.randn(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> image[..., 8:, :8] = 1 + 0.1 * image[..., 8:, :8]
        >>> flattest_tiles(image, side=8, count=1)
        [(8, 0)]
    """
    plane = image[0, 0].double()
    if min(plane.shape) < side:
        return []
    tiles = plane.unfold(0, side, side).unfold(1, side, side).flatten(2)
    spread, mean = tiles.std(dim=-1, correction=0).flatten(), tiles.mean(dim=-1).flatten()
    eligible = (mean > max(_quantile(plane, TISSUE_QUANTILE), float(plane.mean()))) & (spread > _CONSTANT)
    order = torch.where(eligible, spread, math.inf).argsort(stable=True)[: min(count, int(eligible.sum()))]
    return [(n // tiles.shape[1] * side, n % tiles.shape[1] * side) for n in order.tolist()]


def overshoot(result: Tensor, source: Tensor) -> float:
    """How far results leave the range of the source around them, as defined in :data:`NATIVE_DEFINITIONS`.

    Args:
        result: (1, 1, f h, g w).
        source: (1, 1, h, w), in the same unit.
    """
    block = _block(result, source)
    low, high = (_quantile(source, share) for share in _SPAN_QUANTILES)
    if high <= low:
        return math.nan
    # max_pool2d pads with -inf, so that the border has the neighbours that it has.
    above = functional.max_pool2d(result, block) - functional.max_pool2d(source, 3, stride=1, padding=1)
    below = functional.max_pool2d(-result, block) - functional.max_pool2d(-source, 3, stride=1, padding=1)
    return _quantile(torch.maximum(above, below).clamp(min=0.0), _OVERSHOOT_QUANTILE) / (high - low)


def _tile_figures(
    result: Tensor, bicubic: Tensor, source: Tensor, block: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Noise, range, kurtosis and comb of one tile; source (s, s), the others (f s, g s)."""
    spread, variance = source.std(correction=0), result.var(correction=0)
    noise = variance.sqrt() / bicubic.std(correction=0)
    extent = (result.max() - result.min()) / (source.max() - source.min())
    # A constant result has no distribution: what round-off leaves of it is not measured.
    kurtosis = (result - result.mean()).pow(4).mean() / variance.square() if variance > _CONSTANT**2 else math.nan
    rows, columns = source.shape
    blocks = result.view(rows, block[0], columns, block[1])
    pattern = (blocks - blocks.mean(dim=(1, 3), keepdim=True)).mean(dim=(0, 2))
    return float(noise), float(extent), float(kurtosis), float(pattern.std(correction=0) / spread)


def _tile(image: Tensor, corner: tuple[int, int], block: tuple[int, int]) -> Tensor:
    top, left = (n * step for n, step in zip(corner, block, strict=True))
    return image[0, 0, top : top + TILE_SIDE * block[0], left : left + TILE_SIDE * block[1]]


def _block(result: Tensor, source: Tensor) -> tuple[int, int]:
    """Result pixels per source pixel, along rows and columns of the tensor."""
    shapes = (tuple(result.shape), tuple(source.shape))
    whole = all(n and not m % n for m, n in zip(result.shape[-2:], source.shape[-2:], strict=True))
    if any(len(shape) != 4 or shape[:2] != (1, 1) for shape in shapes) or not whole:
        raise SettingsError(
            f"The result has shape {shapes[0]} and the source {shapes[1]}, but (1, 1, f h, g w) and (1, 1, h, w) with "
            "whole f and g are needed. Pass slices one by one."
        )
    return result.shape[-2] // source.shape[-2], result.shape[-1] // source.shape[-1]


def _quantile(values: Tensor, share: float) -> float:
    """As ``torch.quantile``, linear between values, but for images of any size."""
    ordered = values.flatten().sort().values
    place = share * (ordered.numel() - 1)
    below = math.floor(place)
    low, high = float(ordered[below]), float(ordered[min(below + 1, ordered.numel() - 1)])
    return low + (high - low) * (place - below)
