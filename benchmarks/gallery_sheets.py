"""Sheets of small pictures: greys and the colours of a map in one palette, details enlarged by whole factors.

A tile holds indices of the palette, so that a sheet is drawn without any conversion: the same values give the same
bytes, as long as Pillow and its font stay the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from monai_ldmsr.report.figures import ERROR_COLOURS, DetailBox, palette

__all__ = ["Overview", "Row", "Tile", "colours", "draw_sheet", "enlarged", "greys", "overview"]

FloatImage = npt.NDArray[np.floating]
Indices = npt.NDArray[np.uint8]

#: How many entries of the palette are greys, black first, and how many are colours of a map, least first.
_GREYS, _COLOURS = 96, 48

#: Entry of frames and its colour, which neither greys nor the map's colours have; and the grey of the background.
_FRAME, _FRAME_COLOUR, _GROUND = _GREYS + _COLOURS, (110, 231, 160), 9

#: Greys of headings and of other text.
_HEADING, _TEXT = _GREYS - 1, round(0.8 * _GREYS)

#: Letters, the line that holds them, and the space between tiles, in pixels.
_LETTERS, _LINE, _GAP = 16, 23, 4

#: Width that is kept free beside a whole slice, for its lines and the scale of colours.
_BESIDE = 560

#: From this much ink on, of 255, a letter in the colour of frames has a pixel.
_INK = 110


@dataclass(frozen=True, eq=False)
class Tile:
    """One picture of a row.

    Args:
        label: what it shows, in a few words; drawn above it, and cut where it is wider.
        pixels: (rows, columns) indices of the palette, see :func:`greys` and :func:`colours`.
    """

    label: str
    pixels: Indices


@dataclass(frozen=True, eq=False)
class Row:
    """Tiles beside each other, below a heading; an empty one takes no space."""

    heading: str
    tiles: Sequence[Tile]


@dataclass(frozen=True, eq=False)
class Overview:
    """A whole slice with frames where details lie, and lines of text beside it.

    Args:
        pixels: (rows, columns) indices of the palette.
        frames: letter and (left, top, right, bottom) in its pixels.
        lines: lines of text.
        scale: what the outermost colour stands for; empty where there are no colours.
    """

    pixels: Indices
    frames: Sequence[tuple[str, tuple[int, int, int, int]]]
    lines: Sequence[str]
    scale: str = ""


def greys(image: FloatImage, window: tuple[float, float], is_inverted: bool = False) -> Indices:
    """Values as greys, the first of the window black.

    Example:
        >>> greys(np.array([[-5.0, 0.0, 10.0]]), (0.0, 10.0)).tolist()
        [[0, 0, 95]]
    """
    low, high = window
    share = np.clip((image.astype(np.float64) - low) / (high - low), 0, 1)
    return np.rint((_GREYS - 1) * (1 - share if is_inverted else share)).astype(np.uint8)


def colours(values: FloatImage, limit: float) -> Indices:
    """Values of a map as colours, from 0 to a limit.

    Example:
        >>> colours(np.array([[0.0, 9.0]]), 3.0).tolist()
        [[96, 143]]
    """
    share = np.clip(values.astype(np.float64) / limit, 0, 1)
    return (_GREYS + np.rint((_COLOURS - 1) * share)).astype(np.uint8)


def enlarged(pixels: npt.NDArray[Any], zoom: int) -> npt.NDArray[Any]:
    """Each pixel as a square of ``zoom`` by ``zoom``.

    Example:
        >>> enlarged(np.array([[7]], np.uint8), 2).tolist()
        [[7, 7], [7, 7]]
    """
    return pixels.repeat(zoom, axis=0).repeat(zoom, axis=1)


def overview(
    image: FloatImage,
    window: tuple[float, float],
    boxes: Sequence[tuple[str, DetailBox]],
    lines: Sequence[str],
    scale: str = "",
    is_inverted: bool = False,
    height: int = 230,
) -> Overview:
    """A whole slice at a height, reduced by averaging or enlarged, with frames around boxes of its own pixels."""
    share = height / image.shape[0]
    size = (round(image.shape[1] * share), height)
    small = np.asarray(Image.fromarray(image.astype(np.float32)).resize(size, Image.Resampling.BOX))
    frames = [
        (letter, tuple(round(share * n) for n in (b.column, b.row, b.column + b.columns, b.row + b.rows)))
        for letter, b in boxes
    ]
    return Overview(greys(small, window, is_inverted), frames, lines, scale)  # type: ignore[arg-type]


def draw_sheet(rows: Sequence[Row], path: Path, head: Overview | None = None) -> None:
    """Write a sheet as PNG with a palette.

    Args:
        rows: what it shows, row below row.
        path: file to write; its folder exists.
        head: the whole slice above them.
    """
    width = max(sum(tile.pixels.shape[1] + _GAP for tile in row.tiles) + _GAP for row in rows)
    if head:
        width = max(width, head.pixels.shape[1] + _BESIDE)
    heights = [_LINE * (bool(row.heading) + 1) + max(t.pixels.shape[0] for t in row.tiles) + _GAP for row in rows]
    top = head.pixels.shape[0] + 2 * _GAP if head else _GAP
    sheet = np.full((top + sum(heights), width), _GROUND, np.uint8)
    if head:
        _draw_head(sheet, head)
    for row, height in zip(rows, heights, strict=True):
        _draw_row(sheet, row, top)
        top += height
    image = Image.fromarray(sheet)
    image.putpalette(_palette())
    image.save(path, optimize=True)


def _draw_row(sheet: Indices, row: Row, top: int) -> None:
    if row.heading:
        _write(sheet, row.heading, (_GAP, top), _HEADING)
        top += _LINE
    left = _GAP
    for tile in row.tiles:
        height, width = tile.pixels.shape
        _write(sheet[:, : left + width], tile.label, (left, top), _TEXT)
        sheet[top + _LINE : top + _LINE + height, left : left + width] = tile.pixels
        left += width + _GAP


def _draw_head(sheet: Indices, head: Overview) -> None:
    height, width = head.pixels.shape
    sheet[_GAP : _GAP + height, _GAP : _GAP + width] = head.pixels
    part = sheet[_GAP : _GAP + height, _GAP : _GAP + width]
    for n, (letter, (left, top, right, bottom)) in enumerate(head.frames):
        for edge in (part[top:bottom, left], part[top:bottom, right - 1], part[top, left:right]):
            edge[...] = _FRAME
        part[bottom - 1, left:right] = _FRAME
        # The first letter to the right of its frame, the second to the left, so that none lies on the other.
        _write(part, letter, (right + 3 if n % 2 == 0 else max(0, left - 15), max(0, top - 3)), _FRAME)
    left, top = width + 4 * _GAP, _GAP
    for n, line in enumerate(head.lines):
        _write(sheet, line, (left, top), _TEXT if n else _HEADING)
        top += _LINE
    if head.scale:
        bar = np.tile((_GREYS + np.arange(_COLOURS)).astype(np.uint8).repeat(5), (14, 1))
        sheet[top + 6 : top + 20, left : left + bar.shape[1]] = bar
        _write(sheet, f"colours: 0 to {head.scale}", (left + bar.shape[1] + 8, top + 2), _TEXT)


def _write(sheet: Indices, text: str, at: tuple[int, int], entry: int) -> None:
    """Text with its left top corner there, as far as the sheet has room for whole letters."""
    font, (left, top) = ImageFont.load_default(_LETTERS), at
    while text and font.getlength(text) > sheet.shape[1] - left:
        text = text[:-1]
    mask = Image.new("L", (max(1, sheet.shape[1] - left), _LINE))
    ImageDraw.Draw(mask).text((0, 1), text, fill=255, font=font)
    part = sheet[top : top + _LINE, left:]
    ink = np.asarray(mask)[: part.shape[0]]
    if entry == _FRAME:
        part[ink > _INK] = _FRAME
    else:
        blended = np.rint(_GROUND + (entry - _GROUND) * (ink / 255.0)).astype(np.uint8)
        part[ink > 0] = blended[ink > 0]


def _palette() -> list[int]:
    """Red, green and blue of each entry."""
    grey = np.repeat(np.linspace(0, 255, _GREYS)[:, None], 3, axis=1)
    return [int(x) for x in np.rint(np.concatenate([grey, palette(ERROR_COLOURS, _COLOURS), [_FRAME_COLOUR]])).ravel()]
