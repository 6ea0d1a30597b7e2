"""Pictures for the report: slices, an enlarged detail and the difference, as PNG data URIs with true pixels.

All are 8-bit pixels without interpolation; what stretches them to the shape of the anatomy is the size at
which a page shows them (`PanelFigures.size_px`). The same panel gives the same bytes.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from monai_ldmsr.errors import SettingsError

__all__ = ["DIFFERENCE_COLOURS", "DetailBox", "PanelFigures", "SlicePanel", "draw_panel"]

FloatImage = npt.NDArray[np.floating]
ByteImage = npt.NDArray[np.uint8]

#: Diverging, dark where nothing changed, distinguished by colour-blind readers: lower is blue, higher is orange.
DIFFERENCE_COLOURS = ("#8fd0ff", "#1f6fb5", "#0d0f12", "#b5541a", "#ffc48a")

#: Colour limits hold this share of the differences, so that a few extreme pixels do not darken the rest.
_DIFFERENCE_PERCENTILE = 99.5

#: Gradients above this percentile count alike, so that one strong border (skin to air) does not outweigh
#: many fine edges.
_EDGE_PERCENTILE = 95.0

#: Side of the detail in pixels of the result, and how many times it is enlarged.
_DETAIL_PIXELS, _DETAIL_ZOOM = 84, 4

#: Slices narrower than this are enlarged by a whole factor; at 1:1 they would be stamps.
_COMFORTABLE_WIDTH_PX = 540


@dataclass(frozen=True, eq=False)
class SlicePanel:
    """One slice as source, bicubic interpolation and result, all on the result's grid.

    Args:
        k: index of the slice, from 0.
        source: ``(rows, columns)``, each pixel of the source repeated (nearest neighbour).
        bicubic: ``(rows, columns)``.
        result: ``(rows, columns)``.
        window: ``(low, high)`` intensities shown as black and white in all three.
        spacing_mm: spacing of the result: distance between rows, and between columns.

    Raises:
        SettingsError: when the three differ in shape, are not finite, or window or spacing are impossible.

    Example:
        >>> ramp = np.arange(12.0).reshape(3, 4)
        >>> panel = SlicePanel(0, ramp, ramp, ramp + 1, window=(0, 10), spacing_mm=(1.0, 0.5))
        >>> float(panel.difference.max())
        1.0
    """

    k: int
    source: FloatImage
    bicubic: FloatImage
    result: FloatImage
    window: tuple[float, float]
    spacing_mm: tuple[float, float]

    def __post_init__(self) -> None:
        shapes = {image.shape for image in (self.source, self.bicubic, self.result)}
        if len(shapes) != 1 or self.result.ndim != 2 or min(self.result.shape) < 2:
            raise SettingsError(f"Panel of slice {self.k} needs three images of one 2D shape, but has {shapes}.")
        if not all(np.isfinite(image).all() for image in (self.source, self.bicubic, self.result)):
            raise SettingsError(f"Panel of slice {self.k} holds values that are not finite.")
        if not self.window[0] < self.window[1] or not min(self.spacing_mm) > 0:
            raise SettingsError(
                f"Panel of slice {self.k} has window {self.window} and spacing {self.spacing_mm} mm; "
                "the window's low end must lie below its high end, and spacings above 0."
            )

    @property
    def difference(self) -> FloatImage:
        """``result - bicubic``: what the network added to plain interpolation."""
        return np.asarray(self.result - self.bicubic)


@dataclass(frozen=True)
class DetailBox:
    """Place of the detail within a slice, in pixels of the result."""

    row: int
    column: int
    rows: int
    columns: int

    def cut(self, image: ByteImage) -> ByteImage:
        """Return the part of ``(rows, columns)`` that lies within."""
        return image[self.row : self.row + self.rows, self.column : self.column + self.columns]


@dataclass(frozen=True)
class PanelFigures:
    """A drawn panel.

    Args:
        k: index of the slice, from 0.
        shape: ``(rows, columns)`` of the result.
        size_px: width and height at which a page should show a slice, so that millimetres are alike in both.
        enlarged: how many times a pixel is enlarged at ``size_px``.
        window: intensities of black and white.
        slices: data URI of ``source``, ``bicubic`` and ``result``.
        difference: data URI of result minus bicubic.
        difference_limit: intensity of the outermost colours; values beyond share them.
        box: where the detail lies.
        details: data URI of the detail in ``source``, ``bicubic`` and ``result``.
        detail_px: width and height of the detail as drawn.
        detail_zoom: how many times the detail's pixels are enlarged.
        detail_mm: height and width of the detail.
    """

    k: int
    shape: tuple[int, int]
    size_px: tuple[int, int]
    enlarged: int
    window: tuple[float, float]
    slices: dict[str, str]
    difference: str
    difference_limit: float
    box: DetailBox
    details: dict[str, str]
    detail_px: tuple[int, int]
    detail_zoom: int
    detail_mm: tuple[float, float]


def draw_panel(panel: SlicePanel) -> PanelFigures:
    """Draw one slice: three images in one window, the detail of each, and the difference."""
    images = {"source": panel.source, "bicubic": panel.bicubic, "result": panel.result}
    grey = {name: _to_grey(image, panel.window) for name, image in images.items()}
    box = find_detail(panel.bicubic)
    limit = difference_limit(panel.difference)
    rows, columns = panel.result.shape
    enlarged = max(1, _COMFORTABLE_WIDTH_PX // columns)
    return PanelFigures(
        k=panel.k,
        shape=(rows, columns),
        size_px=display_size((rows, columns), panel.spacing_mm, enlarged),
        enlarged=enlarged,
        window=panel.window,
        slices={name: _png_uri(Image.fromarray(image)) for name, image in grey.items()},
        difference=_png_uri(_difference_image(panel.difference, limit)),
        difference_limit=limit,
        box=box,
        details={name: _png_uri(_enlarge(box.cut(image), panel.spacing_mm)) for name, image in grey.items()},
        detail_px=display_size((box.rows, box.columns), panel.spacing_mm, _DETAIL_ZOOM),
        detail_zoom=_DETAIL_ZOOM,
        detail_mm=(box.rows * panel.spacing_mm[0], box.columns * panel.spacing_mm[1]),
    )


def display_size(shape: tuple[int, int], spacing_mm: tuple[float, float], zoom: int = 1) -> tuple[int, int]:
    """Width and height in pixels of a page that give rows and columns the same millimetres a pixel.

    The axis of finer spacing keeps its true pixels times ``zoom``; the other one is stretched, never shrunk.

    Example:
        >>> display_size((100, 100), spacing_mm=(2.0, 1.0))
        (100, 200)
    """
    finest = min(spacing_mm)
    height, width = (round(n * zoom * mm / finest) for n, mm in zip(shape, spacing_mm, strict=True))
    return width, height


def find_detail(image: FloatImage) -> DetailBox:
    """Find the square with most edges, the first in reading order when several have as many."""
    rows, columns = (min(_DETAIL_PIXELS, n) for n in image.shape)
    edges = np.hypot(*np.gradient(image.astype(np.float64)))
    # Only where there are edges at all: with much empty background, every percentile would be 0.
    if edges.any():
        edges = np.minimum(edges, np.percentile(edges[edges > 0], _EDGE_PERCENTILE))
    # Sum over every window from an integral image: total[a, b] = sum of edges[:a, :b].
    total = np.pad(edges.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    within = total[rows:, columns:] - total[:-rows, columns:] - total[rows:, :-columns] + total[:-rows, :-columns]
    row, column = np.unravel_index(int(within.argmax()), within.shape)
    return DetailBox(int(row), int(column), rows, columns)


def difference_limit(difference: FloatImage) -> float:
    """Return the intensity of the outermost colours: a percentile of |difference|, to 2 digits."""
    limit = float(np.percentile(np.abs(difference), _DIFFERENCE_PERCENTILE))
    if limit == 0:
        limit = float(np.abs(difference).max()) or 1.0
    return float(f"{limit:.1e}")


def _to_grey(image: FloatImage, window: tuple[float, float]) -> ByteImage:
    low, high = window
    grey = (image.astype(np.float64) - low) * (255.0 / (high - low))
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)


def _enlarge(image: ByteImage, spacing_mm: tuple[float, float]) -> Image.Image:
    """Repeat each pixel about `_DETAIL_ZOOM` times, one more here and there where spacings differ."""
    size = display_size((image.shape[0], image.shape[1]), spacing_mm, _DETAIL_ZOOM)
    return Image.fromarray(image).resize(size, Image.Resampling.NEAREST)


def _difference_image(difference: FloatImage, limit: float) -> Image.Image:
    """Colour ``-limit..limit`` with an odd palette, so that zero has a colour of its own."""
    half = 127
    index = np.rint((np.clip(difference / limit, -1, 1) + 1) * half).astype(np.uint8)
    anchors = np.array([[int(colour[n : n + 2], 16) for n in (1, 3, 5)] for colour in DIFFERENCE_COLOURS])
    position = np.linspace(0, 2 * half, len(anchors))
    palette = np.stack([np.interp(np.arange(2 * half + 1), position, channel) for channel in anchors.T], 1)
    image = Image.fromarray(index)
    image.putpalette(np.rint(palette).astype(np.uint8).tobytes())
    return image


def _png_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
