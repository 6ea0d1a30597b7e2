"""What super-resolution adds to a slice as scanned, where there is no truth to compare with.

Tissue that is flat in the source should stay flat: what a network draws there is noise taken for structure, or a
pattern of its own. All figures take model-range values as they are, not rounded, so that no grain is lost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from monai.utils import convert_to_tensor
from torch import Tensor
from torch.nn import functional

from monai_ldmsr.errors import SettingsError

__all__ = [
    "FLAT_DEFINITIONS",
    "NATIVE_DEFINITIONS",
    "NATIVE_GOALS",
    "TILE_SIDE",
    "cut_tile",
    "flat_figures",
    "flattest_tiles",
    "native_figures",
    "overshoot",
]

#: Side of a tile in source pixels, how many of them are measured, and above which share of the slice's pixels a tile's
#: mean must lie: air is flat, but nobody looks at it. Where more than this share is air, the slice's mean keeps it out.
TILE_SIDE, N_TILES, TISSUE_QUANTILE = 24, 6, 0.4

#: Standard deviation under which a tile is constant: padding, saturation, float round-off.
_CONSTANT = 1e-4

#: Overshoot is this quantile over blocks, in units of the span between these quantiles of the source.
_OVERSHOOT_QUANTILE, _SPAN_QUANTILES = 0.999, (0.005, 0.995)

#: A frequency belongs to a mesh by what its power exceeds this many times the median of its ring; periods above this
#: many result pixels are anatomy's.
_MESH_PEAK, _MESH_PERIOD = 16.0, 12.0

_FLATTEST = (
    f"over the {N_TILES} flattest tiles (least standard "
    f"deviation, but not constant) of {TILE_SIDE}x{TILE_SIDE} source pixels on a grid, among those with a mean above "
    f"both the {100 * TISSUE_QUANTILE:.0f}th percentile and the mean of the slice; chosen on the source. "
)
_TILES = f"Slices as scanned, super-resolved as a run does it. Median {_FLATTEST}"
_COMB = (
    "Standard deviation over the places in the block of one source pixel of (result minus its block's "
    "mean), averaged over all blocks of the tile, over the source's standard deviation: a pattern locked to the "
    "source's pixels."
)

#: Definition of each figure of :func:`flat_figures`.
FLAT_DEFINITIONS: dict[str, str] = {
    "noise": f"Standard deviation in flat tissue: median {_FLATTEST}",
    "comb": f"Median over the same tiles. {_COMB}",
    "mesh": "What result minus bicubic has of regular waves, over the source's standard deviation: root of the power "
    f"(mean over the same tiles, Hann window) that exceeds {_MESH_PEAK:g} times the median of its ring of frequencies, "
    f"at periods up to {_MESH_PERIOD:g} pixels of the result.",
}

#: Definition of each figure.
NATIVE_DEFINITIONS: dict[str, str] = {
    "noise": _TILES + "Standard deviation over that of the bicubic result.",
    "range": _TILES + "Greatest minus least value, over the same of the source.",
    "kurtosis": _TILES + "Fourth central moment over the squared second: 3 for normal noise, more for sparse dashes.",
    "comb": _TILES + _COMB,
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
        _tile_figures(cut_tile(result, corner, block), cut_tile(bicubic, corner, block), cut_tile(source, corner))
        for corner in corners
    ]
    names = ("noise", "range", "kurtosis", "comb")
    # The median: of six tiles there may be one with a vessel in it.
    tiles = torch.tensor(measured or [[math.nan] * len(names)], dtype=torch.double).nanquantile(0.5, dim=0).tolist()
    return {**dict(zip(names, tiles, strict=True)), "overshoot": overshoot(result, source)}


def flat_figures(results: Sequence[Tensor], bicubics: Sequence[Tensor], sources: Sequence[Tensor]) -> dict[str, float]:
    """Noise of source, bicubic and result in flat tissue, and the patterns of the result there.

    Args:
        results: tiles (f s, g s) as :func:`cut_tile` cuts them, one at least, in any linear unit.
        bicubics: likewise.
        sources: the same tiles (s, s) of the source; none is constant.

    Returns:
        ``noise_source``, ``noise_bicubic``, ``noise_result``, ``comb`` and ``mesh``, see :data:`FLAT_DEFINITIONS`.

    Example:
        >>> source = torch.randn(24, 24, generator=torch.Generator().manual_seed(0))
        >>> nearest = source.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)
        >>> figures = flat_figures([nearest + torch.arange(48) % 2], [nearest], [source])
        >>> round(figures["comb"], 1), round(figures["mesh"], 1)
        (0.5, 0.5)
    """
    results, bicubics, sources = ([tile.double() for tile in tiles] for tiles in (results, bicubics, sources))
    spreads = [tile.std(correction=0) for tile in sources]
    added = [(result - plain) / s for result, plain, s in zip(results, bicubics, spreads, strict=True)]
    combs = [_pattern(result, source) / s for result, source, s in zip(results, sources, spreads, strict=True)]
    noise = {"source": sources, "bicubic": bicubics, "result": results}
    return {
        **{f"noise_{name}": _median([tile.std(correction=0) for tile in tiles]) for name, tiles in noise.items()},
        "comb": _median(combs),
        "mesh": _mesh(torch.stack(added)),
    }


def _median(values: Sequence[Tensor]) -> float:
    return float(torch.stack(list(values)).quantile(0.5))


def _mesh(tiles: Tensor) -> float:
    """Root of the power of regular waves in tiles (n, h, w)."""
    height, width = tiles.shape[1:]
    window = torch.outer(*(torch.hann_window(n, dtype=tiles.dtype) for n in (height, width)))
    window = window / window.square().mean().sqrt()
    centred = tiles - tiles.mean(dim=(1, 2), keepdim=True)
    power = torch.fft.fft2(centred * window, norm="ortho").abs().square().mean(dim=0).flatten()
    cycles = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)).flatten()
    ring = (cycles * min(height, width)).round().long()
    usual = torch.stack([power[ring == n].median() for n in range(int(ring.max()) + 1)])
    excess = (power - _MESH_PEAK * usual[ring]).clamp(min=0.0)
    return math.sqrt(float(excess[cycles >= 1 / _MESH_PERIOD].sum()) / power.numel())


def _pattern(result: Tensor, source: Tensor) -> Tensor:
    """Standard deviation of the mean block of a source pixel; result (f s, g s), source (s, t)."""
    rows, columns = source.shape
    blocks = result.view(rows, result.shape[0] // rows, columns, result.shape[1] // columns)
    return (blocks - blocks.mean(dim=(1, 3), keepdim=True)).mean(dim=(0, 2)).std(correction=0)


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


def _tile_figures(result: Tensor, bicubic: Tensor, source: Tensor) -> tuple[float, float, float, float]:
    """Noise, range, kurtosis and comb of one tile; source (s, s), the others (f s, g s)."""
    spread, variance = source.std(correction=0), result.var(correction=0)
    noise = variance.sqrt() / bicubic.std(correction=0)
    extent = (result.max() - result.min()) / (source.max() - source.min())
    # A constant result has no distribution: what round-off leaves of it is not measured.
    kurtosis = (result - result.mean()).pow(4).mean() / variance.square() if variance > _CONSTANT**2 else math.nan
    return float(noise), float(extent), float(kurtosis), float(_pattern(result, source) / spread)


def cut_tile(image: Tensor, corner: tuple[int, int], block: tuple[int, int] = (1, 1), side: int = TILE_SIDE) -> Tensor:
    """The part of an image (1, 1, H, W) that shows a tile of the source, where a source pixel is a block of pixels."""
    top, left = (n * step for n, step in zip(corner, block, strict=True))
    return image[0, 0, top : top + side * block[0], left : left + side * block[1]]


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
