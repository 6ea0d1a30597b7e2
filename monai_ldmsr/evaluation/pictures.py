"""Pictures of an evaluation: details row beside row at full zoom, and the radial spectrum."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor
from torch.nn import functional

from monai_ldmsr.evaluation.figures import FREQUENCIES
from monai_ldmsr.evaluation.labels import label
from monai_ldmsr.metrics.native import flattest_tiles
from monai_ldmsr.metrics.sharpness import to_grey8

__all__ = [
    "DETAIL",
    "Detail",
    "cut_detail",
    "data_uri",
    "draw_details",
    "draw_spectrum",
    "find_details",
    "flattest_detail",
    "sharpest_detail",
]

#: Side of a detail in result pixels (whole source pixels for factors 2, 3 and 4), and how often each is repeated.
DETAIL, _ZOOM = 96, 3

#: Steps in which the sharpest detail is looked for.
_STEP = 8

#: Share of the guide's detail that the window leaves out on each side, and the least half-width of a window.
_WINDOW_SHARE, _MIN_HALF_WINDOW = 0.005, 0.04

#: Images of a detail beside each other on a sheet, so that a page need not shrink it; the others follow below.
_ACROSS = 4

#: Pixels of the line above each image, of its letters, and between images.
_CAPTION, _LETTERS, _GAP = 24, 15, 4


@dataclass(frozen=True)
class Detail:
    """One line of a sheet: the same place of one slice in all rows.

    Args:
        label: what it shows.
        images: row name to (h, w) in model range.
        window: values that become black and white, the same in all rows.
    """

    label: str
    images: Mapping[str, Tensor]
    window: tuple[float, float]


def find_details(images: Mapping[str, Tensor], guide: str, shows: str) -> list[Detail]:
    """The flattest and the sharpest place of a slice; the first only where there is flat tissue.

    Args:
        images: row name to slice (1, 1, H, W) in model range, all on one grid.
        guide: row in which places and windows are found.
        shows: what the slice shows.
    """
    places = {"flat tissue": flattest_detail(images[guide]), "edge": sharpest_detail(images[guide])}
    return [cut_detail(images, guide, place, f"{shows}, {kind}") for kind, place in places.items() if place is not None]


def cut_detail(images: Mapping[str, Tensor], guide: str, corner: tuple[int, int], shows: str) -> Detail:
    """The detail whose top left corner lies there.

    Args:
        images: row name to slice (1, 1, H, W) in model range, all on one grid.
        guide: row in which the window is found.
        corner: row and column; a detail that would leave the slice is moved into it.
        shows: what it shows.
    """
    sizes = images[guide].shape[-2:]
    starts = [max(0, min(start, size - DETAIL)) for start, size in zip(corner, sizes, strict=True)]
    rows, columns = (slice(start, start + DETAIL) for start in starts)
    # Copies, so that whole slices need not be kept.
    cut = {name: image[0, 0, rows, columns].clone() for name, image in images.items()}
    return Detail(shows, cut, _window(cut[guide]))


def flattest_detail(image: Tensor) -> tuple[int, int] | None:
    """Top left corner of the flattest detail of tissue in (1, 1, H, W), or None."""
    return next(iter(flattest_tiles(image, DETAIL, 1)), None)


def sharpest_detail(image: Tensor) -> tuple[int, int]:
    """Top left corner of the detail with most structure in (1, 1, H, W)."""
    along_rows, along_columns = (image.diff(dim=axis).abs().clamp(max=0.3) for axis in (-1, -2))
    gradient = functional.pad(along_rows, (0, 1)) + functional.pad(along_columns, (0, 0, 0, 1))
    coarse = functional.avg_pool2d(gradient, _STEP)
    side = min(DETAIL // _STEP, *coarse.shape[-2:])
    energy = functional.avg_pool2d(coarse, side, stride=1)[0, 0]
    top, left = divmod(int(energy.argmax()), energy.shape[1])
    return top * _STEP, left * _STEP


def draw_details(details: Sequence[Detail], path: Path) -> None:
    """Each detail in all rows, pixels repeated; patients lie as radiologists see them.

    Args:
        details: all with the same rows; first axis the column index i.
        path: PNG file to write.
    """
    names = list(details[0].images) if details else []
    step, lines = DETAIL * _ZOOM + _GAP, -(-len(names) // _ACROSS)
    height = _CAPTION + lines * (step + _CAPTION)
    sheet = Image.new("L", (max(1, min(_ACROSS, len(names))) * step, max(1, len(details) * height)))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_LETTERS)
    for number, detail in enumerate(details):
        top = number * height
        draw.rectangle((0, top, sheet.width, top + _CAPTION - 1), fill=60)
        draw.text((4, top + 3), detail.label, fill=255, font=font)
        for n, name in enumerate(names):
            left, below = n % _ACROSS * step, top + _CAPTION + n // _ACROSS * (step + _CAPTION)
            draw.text((left + 4, below + 3), label(name), fill=220, font=font)
            pixels = to_grey8(detail.images[name].T, *detail.window).numpy().astype(np.uint8)
            zoomed = ImageOps.scale(Image.fromarray(pixels), _ZOOM, Image.Resampling.NEAREST)
            sheet.paste(zoomed, (left, below + _CAPTION))
    sheet.save(path)


def draw_spectrum(ratio: Mapping[str, Sequence[float]], factor: int, path: Path) -> None:
    """Plot power over the original's power against spatial frequency, one line a row.

    Args:
        ratio: power ratios, as ``EvaluationTable.spectrum_ratio`` gives them.
        factor: marks the Nyquist frequency of the low-resolution grid.
        path: PNG file to write.
    """
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for row, values in ratio.items():
        axes.semilogy(FREQUENCIES, values, label=label(row), color="black" if row == "hr" else None)
    axes.axvline(0.5 / factor, color="grey", linestyle=":")
    axes.text(0.5 / factor, 2.2, " Nyquist of the source", color="grey", fontsize=8)
    axes.set(xlabel="cycles a pixel", ylabel="power / original's power", ylim=(1e-4, 4), xlim=(0, 0.5))
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def data_uri(path: Path) -> str:
    """A PNG file as text for a self-contained page."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def _window(detail: Tensor) -> tuple[float, float]:
    """Black and white for a detail (h, w): what the guide holds, and a tenth more on each side."""
    shares = detail.new_tensor([_WINDOW_SHARE, 1.0 - _WINDOW_SHARE])
    low, high = torch.quantile(detail.flatten(), shares).tolist()
    middle, half = (low + high) / 2, max(0.6 * (high - low), _MIN_HALF_WINDOW)
    return middle - half, middle + half
