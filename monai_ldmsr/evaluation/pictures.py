"""Pictures of an evaluation: details row beside row at full zoom, and the radial spectrum."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional

from monai_ldmsr.evaluation.figures import FREQUENCIES
from monai_ldmsr.metrics.sharpness import to_grey8

__all__ = ["data_uri", "draw_examples", "draw_spectrum", "sharpest_detail"]

#: Side in pixels of a detail, and how many times it is enlarged.
_DETAIL, _ZOOM = 112, 2

_CAPTION = 16


def sharpest_detail(reference: Tensor) -> tuple[int, int]:
    """Top left corner of the detail with most structure in (1, 1, H, W)."""
    height, width = reference.shape[-2:]
    side = min(_DETAIL, height, width)
    gradient = functional.pad(reference.diff(dim=-1), (0, 1)).abs().clamp(max=0.3)
    energy = functional.avg_pool2d(gradient, side, stride=1)[0, 0]
    top, left = divmod(int(energy.argmax()), energy.shape[1])
    return top, left


def draw_examples(examples: Sequence[Mapping[str, Tensor]], path: Path) -> None:
    """One line a slice, one column a row of the table, pixels repeated; patients lie as radiologists see them.

    Args:
        examples: row name to slice (1, 1, H, W) in model range, first axis the column index i; all of one slice.
        path: of the PNG.
    """
    names = list(examples[0])
    side = _DETAIL * _ZOOM
    sheet = Image.new("L", (len(names) * (side + 2), len(examples) * (side + 2) + _CAPTION))
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(names):
        draw.text((column * (side + 2) + 4, 2), name, fill=255)
        for line, example in enumerate(examples):
            top, left = sharpest_detail(example["hr"])
            detail = example[name][0, 0, top : top + _DETAIL, left : left + _DETAIL].T
            pixels = to_grey8(detail, -1.0, 1.0).numpy().astype(np.uint8)
            picture = Image.fromarray(pixels).resize((pixels.shape[1] * _ZOOM, pixels.shape[0] * _ZOOM), 0)
            sheet.paste(picture, (column * (side + 2), line * (side + 2) + _CAPTION))
    sheet.save(path)


def draw_spectrum(ratio: Mapping[str, Sequence[float]], factor: int, path: Path) -> None:
    """Plot power over the original's power against spatial frequency, one line a row.

    Args:
        ratio: of ``EvaluationTable.spectrum_ratio``.
        factor: marks the Nyquist frequency of the low-resolution grid.
        path: of the PNG.
    """
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for row, values in ratio.items():
        axes.semilogy(FREQUENCIES, values, label=row, color="black" if row == "hr" else None)
    axes.axvline(0.5 / factor, color="grey", linestyle=":")
    axes.text(0.5 / factor, 2.2, " Nyquist of the source", color="grey", fontsize=8)
    axes.set(xlabel="cycles a pixel", ylabel="power / original's power", ylim=(1e-4, 4), xlim=(0, 0.5))
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def data_uri(path: Path) -> str:
    """A PNG file as text for a self-contained page."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
