"""Pictures for the report: slices, enlarged details and the difference, as data URIs.

Slices that are too large for a page are reduced, and are there to find one's way; details keep true 8-bit pixels
without interpolation. What stretches them to the shape of the anatomy is the size at which a page shows them. The same
panel gives the same bytes.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from monai_ldmsr.errors import SettingsError

__all__ = [
    "DIFFERENCE_COLOURS",
    "ERROR_COLOURS",
    "Detail",
    "DetailBox",
    "DetailFigures",
    "PanelFigures",
    "SlicePanel",
    "draw_panel",
    "find_edges",
    "palette",
]

FloatImage = npt.NDArray[np.floating]
ByteImage = npt.NDArray[np.uint8]

#: Diverging, dark where nothing changed, distinguished by colour-blind readers: lower is blue, higher is orange.
DIFFERENCE_COLOURS = ("#8fd0ff", "#1f6fb5", "#0d0f12", "#b5541a", "#ffc48a")

#: Perceptually uniform (matplotlib's inferno): dark where little error is expected.
ERROR_COLOURS = (
    *("#000004", "#1b0c41", "#4a0c6b", "#781c6d", "#a52c60"),
    *("#cf4446", "#ed6925", "#fb9b06", "#f7d13d", "#fcffa4"),
)

#: Of the line around what is trusted, which the error's colours have not.
_OUTLINE = (110, 231, 160)

#: Colour limits hold this share of the differences, so that a few extreme pixels do not darken the rest.
_DIFFERENCE_PERCENTILE = 99.5

#: Gradients above this percentile count alike, so that one strong border (skin to air) does not outweigh
#: many fine edges.
_EDGE_PERCENTILE = 95.0

#: About the longest side of a detail on the page; its pixels are enlarged by a whole factor.
_DETAIL_PX = 336

#: Longest side of a slice on the page, which shows two beside each other; narrower ones are enlarged by a whole factor.
_COMFORTABLE_PX = 540

#: Quality of the JPEG that a reduced slice is; it takes a third of a PNG.
_QUALITY = 88


@dataclass(frozen=True)
class DetailBox:
    """Place of a detail within a slice, in pixels."""

    row: int
    column: int
    rows: int
    columns: int

    def cut(self, image: FloatImage) -> FloatImage:
        """Return the part of ``(rows, columns)`` that lies within."""
        return image[self.row : self.row + self.rows, self.column : self.column + self.columns]

    def finer(self, rows: int, columns: int) -> DetailBox:
        """The same place where pixels are whole factors smaller."""
        return DetailBox(self.row * rows, self.column * columns, self.rows * rows, self.columns * columns)


@dataclass(frozen=True)
class Detail:
    """A place of a slice that is shown enlarged.

    Args:
        title: what it shows, in a few words.
        box: where it lies, in pixels of the result.
        window: ``(low, high)`` intensities shown as black and white.
    """

    title: str
    box: DetailBox
    window: tuple[float, float]


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
        details: what is shown enlarged.
        expected_error: ``(rows, columns)``, where it is known.
        trusted: ``(rows, columns)``, above 0 where the error is expected within the tolerance; where that is known.
        title: what the page calls it; empty for a slice, which it calls by its number.
        acquired: ``(rows, columns)``, the share (0 to 1) of each pixel of ``source`` that was acquired: the rest of it
            is drawn black; None where all was.

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
    details: tuple[Detail, ...] = ()
    expected_error: FloatImage | None = None
    trusted: FloatImage | None = None
    title: str = ""
    acquired: FloatImage | None = None

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
class DetailFigures:
    """A drawn detail.

    Args:
        title: what it shows.
        box: where it lies, in pixels of the result.
        window: intensities of black and white.
        images: data URI of ``source``, ``bicubic`` and ``result``; each pixel once.
        size_px: width and height at which a page should show them.
        zoom: how many times a pixel is enlarged then.
        size_mm: height and width of the place.
    """

    title: str
    box: DetailBox
    window: tuple[float, float]
    images: dict[str, str]
    size_px: tuple[int, int]
    zoom: int
    size_mm: tuple[float, float]


@dataclass(frozen=True)
class PanelFigures:
    """A drawn panel.

    Args:
        k: index of the slice, from 0.
        shape: ``(rows, columns)`` of the result.
        size_px: width and height at which a page should show a slice, so that millimetres are alike in both.
        enlarged: how many times a pixel is enlarged at ``size_px``; 0 where the slice is reduced.
        window: intensities of black and white.
        slices: data URI of ``source``, ``bicubic`` and ``result``.
        difference: data URI of result minus bicubic; where several pixels became one, the greatest difference of them.
        difference_limit: intensity of the outermost colours; values beyond share them.
        details: what is shown enlarged.
        error: data URI of the expected error, with a line around what is trusted; empty where it is not known.
        error_limit: intensity of the brightest colour; values beyond share it.
        title: what the page calls it; empty for a slice.
    """

    k: int
    shape: tuple[int, int]
    size_px: tuple[int, int]
    enlarged: int
    window: tuple[float, float]
    slices: dict[str, str]
    difference: str
    difference_limit: float
    details: tuple[DetailFigures, ...]
    error: str = ""
    error_limit: float = 0.0
    title: str = ""


def draw_panel(panel: SlicePanel) -> PanelFigures:
    """Draw one slice: three images in one window, the difference, and each detail in a window of its own."""
    images = {"source": panel.source, "bicubic": panel.bicubic, "result": panel.result}
    acquired = {} if panel.acquired is None else {"source": panel.acquired}
    rows, columns = panel.result.shape
    shown = reduced_shape((rows, columns))
    enlarged = max(1, _COMFORTABLE_PX // columns) if shown == (rows, columns) else 0
    limit = difference_limit(panel.difference)
    error = panel.expected_error
    error_limit = 0.0 if error is None else difference_limit(error)
    return PanelFigures(
        k=panel.k,
        shape=(rows, columns),
        size_px=display_size(shown, panel.spacing_mm, max(1, enlarged)),
        enlarged=enlarged,
        window=panel.window,
        slices={name: _slice_uri(one, shown, panel.window, acquired.get(name)) for name, one in images.items()},
        difference=_png_uri(_difference_image(_strongest(panel.difference, shown), limit)),
        difference_limit=limit,
        details=tuple(_draw_detail(images, acquired, detail, panel.spacing_mm) for detail in panel.details),
        error=""
        if panel.expected_error is None
        else _error_uri(panel.expected_error, panel.trusted, shown, error_limit),
        error_limit=error_limit,
        title=panel.title,
    )


def _error_uri(error: FloatImage, trusted: FloatImage | None, shape: tuple[int, int], limit: float) -> str:
    """The expected error, the greatest of pixels that became one; a line lies within what is trusted."""
    index = np.rint(np.clip(_strongest(error, shape) / limit, 0, 1) * 255).astype(np.uint8)
    colours = palette(ERROR_COLOURS, 256)[index]
    if trusted is not None:
        inside = np.pad(_strongest(-(trusted > 0).astype(np.float32), shape) < 0, 1, mode="edge")
        within = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
        colours[inside[1:-1, 1:-1] & ~within] = _OUTLINE
    return _png_uri(Image.fromarray(colours))


def _draw_detail(
    images: Mapping[str, FloatImage],
    acquired: Mapping[str, FloatImage],
    detail: Detail,
    spacing_mm: tuple[float, float],
) -> DetailFigures:
    box, window = detail.box, detail.window
    zoom = max(1, _DETAIL_PX // max(box.rows, box.columns))
    cut = {name: _to_grey(box.cut(image), window) for name, image in images.items()}
    cut |= {name: _darkened(cut[name], box.cut(share)) for name, share in acquired.items()}
    return DetailFigures(
        title=detail.title,
        box=box,
        window=window,
        images={name: _png_uri(Image.fromarray(grey)) for name, grey in cut.items()},
        size_px=display_size((box.rows, box.columns), spacing_mm, zoom),
        zoom=zoom,
        size_mm=(box.rows * spacing_mm[0], box.columns * spacing_mm[1]),
    )


def reduced_shape(shape: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a slice on the page: its own, or fewer.

    Example:
        >>> reduced_shape((300, 500)), reduced_shape((2048, 1024))
        ((300, 500), (540, 270))
    """
    share = min(1.0, _COMFORTABLE_PX / max(shape))
    rows, columns = (max(1, round(n * share)) for n in shape)
    return rows, columns


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


def find_edges(image: FloatImage, side: int | tuple[int, int], where: npt.NDArray[np.bool_] | None = None) -> DetailBox:
    """Find the square, or rectangle, with most edges, the first in reading order when several have as many.

    Args:
        image: (rows, columns).
        side: side of the square in pixels, or those of a rectangle (rows, columns).
        where: (rows, columns), true where edges count; None for everywhere.
    """
    sides = side if isinstance(side, tuple) else (side, side)
    rows, columns = (min(wanted, n) for wanted, n in zip(sides, image.shape, strict=True))
    edges = np.hypot(*np.gradient(image.astype(np.float64)))
    if where is not None:
        edges = edges * where
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


def _slice_uri(
    image: FloatImage, shape: tuple[int, int], window: tuple[float, float], acquired: FloatImage | None = None
) -> str:
    """A slice with all its pixels, or the mean of those that became one."""
    whole = image.shape == shape
    grey = _to_grey(image if whole else _reduced(image, shape), window)
    if acquired is not None:
        grey = _darkened(grey, acquired if whole else _reduced(acquired, shape))
    return _png_uri(Image.fromarray(grey)) if whole else _uri(Image.fromarray(grey), "JPEG", quality=_QUALITY)


def _reduced(image: FloatImage, shape: tuple[int, int]) -> FloatImage:
    return np.asarray(Image.fromarray(image.astype(np.float32)).resize(shape[::-1], Image.Resampling.BOX))


def _darkened(grey: ByteImage, share: FloatImage) -> ByteImage:
    """Grey levels of which only a share is drawn, and the rest is black."""
    return np.rint(grey * np.clip(share, 0, 1)).astype(np.uint8)


def _strongest(difference: FloatImage, shape: tuple[int, int]) -> FloatImage:
    """Of pixels that become one, the one farthest from 0: their mean would hide what goes up and down."""
    low = high = difference
    for axis, (n, fewer) in enumerate(zip(difference.shape, shape, strict=True)):
        starts = np.arange(fewer) * n // fewer
        low, high = np.minimum.reduceat(low, starts, axis), np.maximum.reduceat(high, starts, axis)
    return np.where(high > -low, high, low)


def _difference_image(difference: FloatImage, limit: float) -> Image.Image:
    """Colour ``-limit..limit`` with an odd palette, so that zero has a colour of its own."""
    half = 127
    index = np.rint((np.clip(difference / limit, -1, 1) + 1) * half).astype(np.uint8)
    image = Image.fromarray(index)
    image.putpalette(palette(DIFFERENCE_COLOURS, 2 * half + 1).tobytes())
    return image


def palette(colours: tuple[str, ...], n: int) -> ByteImage:
    """``n`` colours (n, 3), red, green and blue, from the first to the last of some (``#rrggbb``)."""
    anchors = np.array([[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in colours])
    position = np.linspace(0, n - 1, len(anchors))
    found = np.stack([np.interp(np.arange(n), position, channel) for channel in anchors.T], 1)
    return np.asarray(np.rint(found), np.uint8)


def _png_uri(image: Image.Image) -> str:
    return _uri(image, "PNG")


def _uri(image: Image.Image, form: str, **options: Any) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return f"data:image/{form.lower()};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
