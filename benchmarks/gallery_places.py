"""Where the gallery's details lie: each by a rule, so that none is picked because it looks good or bad."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from benchmarks.gallery_results import FACTOR, Slice
from monai_ldmsr import fit_intensity_map
from monai_ldmsr.assessment import patient_of
from monai_ldmsr.metrics.native import flattest_tiles
from monai_ldmsr.report.figures import DetailBox, find_edges

__all__ = [
    "SIDE",
    "Place",
    "bright_edges",
    "flat_place",
    "outside",
    "places_of",
    "shown_value",
    "spot_box",
    "window_of",
    "worst_box",
]

FloatImage = npt.NDArray[np.floating]

#: Side of a detail in pixels of the result.
SIDE = 128

#: Soft tissue in HU; share of a slice that other windows leave out at each end; half width of flat tissue's window, in
#: its standard deviations.
SOFT_TISSUE, _LEFT_OUT, _DEVIATIONS = (-160.0, 240.0), 0.003, 3.0

#: Side of flat tissue in pixels of the source: CT has larger flat organs than heads, and than PET's few pixels.
_FLAT = {"CT": 32}
_FLAT_ELSE = 16

#: Widths, in pixels, of what a spot is and of what is around it.
_SPOT, _AROUND = 1.0, 2.5

#: Share of the banner that may be dark: below a tenth of white.
_DARK = 0.02


@dataclass(frozen=True)
class Place:
    """Where a detail lies and how it is shown.

    Args:
        letter: its name in the picture; empty where there is no whole slice.
        rule: what made it be chosen.
        box: in pixels of the result.
        window: values shown as black and white.
    """

    letter: str
    rule: str
    box: DetailBox
    window: tuple[float, float]

    @property
    def heading(self) -> str:
        """The line above its tiles."""
        low, high = self.window
        name = f"{self.letter}: " if self.letter else ""
        return f"{name}{self.rule} (shown: {shown_value(low)} to {shown_value(high)})"


def shown_value(value: float) -> str:
    """A value to three digits, as text that can be read: 30,600 and 51.5."""
    return f"{float(f'{value:.3g}'):,g}" if abs(value) < 1e5 else f"{value:,.0f}"


def window_of(image: FloatImage, modality: str) -> tuple[float, float]:
    """Soft tissue in CT, from 0 in PET, else what a slice holds but for its extremes."""
    if modality == "CT":
        return SOFT_TISSUE
    low, high = (float(x) for x in np.quantile(image, (_LEFT_OUT, 1 - _LEFT_OUT)))
    return (0.0 if modality == "PT" else low), high


def worst_box(score: FloatImage, side: int) -> DetailBox:
    """The square with the greatest mean of a score, the first in reading order.

    Example:
        >>> worst_box(np.eye(4) * [0, 0, 3, 1], 2)
        DetailBox(row=2, column=2, rows=2, columns=2)
    """
    total = np.pad(np.asarray(score, np.float64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    within = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    row, column = np.unravel_index(int(within.round(6).argmax()), within.shape)
    return DetailBox(int(row), int(column), side, side)


def spot_box(
    original: FloatImage, result: FloatImage, side: int, where: npt.NDArray[np.bool_] | None = None
) -> DetailBox:
    """A square around the bright spot that has lost most of its contrast.

    Contrast is the difference of two Gaussians, a spot's width and that of what is around it; only of spots ``where``.
    """
    lost = np.maximum(_contrast(original), 0) - np.maximum(_contrast(result), 0)
    lost = lost if where is None else lost * where
    row, column = np.unravel_index(int(lost.argmax()), lost.shape)
    return _around(int(row), int(column), side, original.shape)


def places_of(one: Slice, source: FloatImage, side: int = SIDE) -> list[Place]:
    """The places of a native slice: most edges, and flat tissue or the greatest value of PET."""
    small, window = side // FACTOR, window_of(source, one.modality)
    body = patient_of(source) if one.modality == "CT" else None
    edges = find_edges(np.clip(source, *window), small, body).finer(FACTOR, FACTOR)
    found = [Place("A", "the square with most edges in the source", edges, window)]
    if one.modality == "PT":
        row, column = np.unravel_index(int(source.argmax()), source.shape)
        hottest = _around(int(row), int(column), small // 2, source.shape).finer(FACTOR, FACTOR)
        return [*found, Place("B", "around the greatest value of the source", hottest, (0.0, float(source.max())))]
    return [*found, flat_place(one, source, small)]


def flat_place(one: Slice, source: FloatImage, side: int) -> Place:
    """A square of so many pixels of the source around the flattest tissue, in a window of that tissue."""
    plane = torch.from_numpy(np.ascontiguousarray(source, np.float32))[None, None]
    tile = min(_FLAT.get(one.modality, _FLAT_ELSE), *source.shape)
    ((row, column),) = flattest_tiles(fit_intensity_map(plane, one.modality).forward(plane), tile, 1)
    values = source[row : row + tile, column : column + tile]
    middle, half = float(values.mean()), _DEVIATIONS * float(values.std())
    box = _around(row + tile // 2, column + tile // 2, side, source.shape).finer(FACTOR, FACTOR)
    return Place("B", "around the flattest tissue, in a window of its own", box, (middle - half, middle + half))


def _contrast(image: FloatImage) -> FloatImage:
    fine, wide = (ndimage.gaussian_filter(np.asarray(image, np.float64), width) for width in (_SPOT, _AROUND))
    return np.asarray(fine - wide)


def _around(row: int, column: int, side: int, shape: tuple[int, ...]) -> DetailBox:
    starts = (max(0, min(at - side // 2, n - side)) for at, n in zip((row, column), shape, strict=True))
    return DetailBox(*starts, side, side)


def bright_edges(source: FloatImage, window: tuple[float, float], side: int) -> DetailBox:
    """The square with most edges, of those that hold hardly any air, bone or fluid."""
    edges = np.hypot(*np.gradient(np.clip(source, *window).astype(np.float64)))
    dark = source < 0.1 * window[1]
    edges = np.minimum(edges, np.percentile(edges[edges > 0], 95))
    # What is dark beyond the share that may be so weighs more than any edge.
    return worst_box(edges - (dark - _DARK).clip(0) * edges.max() / _DARK, side)


def outside(score: FloatImage, boxes: Sequence[DetailBox]) -> FloatImage:
    """The score, and nothing within boxes."""
    left = score.copy()
    for box in boxes:
        box.cut(left)[...] = 0
    return left
