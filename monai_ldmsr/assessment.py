"""Measure a result against its source, and pick the slices that a report shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.data import MetaTensor
from torch import Tensor
from torch.nn import functional

from monai_ldmsr.degradation import DegradationOperator, repeat_blocks
from monai_ldmsr.geometry import Factors, spread_slices
from monai_ldmsr.metrics.native import TILE_SIDE, cut_tile, flat_figures, flattest_tiles
from monai_ldmsr.metrics.sharpness import slice_figures
from monai_ldmsr.networks.generator_module import upsample_bicubic
from monai_ldmsr.report import Agreement, FlatTissue, MetricSummary, Sharpness, SlicePanel
from monai_ldmsr.report.figures import Detail, DetailBox, find_edges
from monai_ldmsr.transforms import IntensityMap
from monai_ldmsr.working_volumes import plain

__all__ = [
    "LEAST_NOISE",
    "MAX_MEASURED_PIXELS",
    "MAX_MEASURED_SLICES",
    "agreement_of",
    "assess",
    "detail_window",
    "display_window",
    "mean_sharpness",
    "patient_of",
    "slice_panels",
    "tile_side",
]

#: Sharpness and noise are measured on at most this many evenly spaced slices, and so many pixels of the result.
MAX_MEASURED_SLICES, MAX_MEASURED_PIXELS = 12, 12 * 1024**2

_N_PANELS = 3

#: Usual windows (low, high) in HU; the lung window is taken when this share of voxels looks like lung.
_SOFT_TISSUE_HU, _LUNG_HU, _BONE_HU, _LUNG_SHARE = (-160.0, 240.0), (-1350.0, 150.0), (-600.0, 1400.0), 0.12

#: Above it, a pixel of CT is tissue, or something as dense.
_AIR_HU = -300.0

#: Share of a detail's pixels that a usual window may show as black or white; else the next one is taken.
_SATURATED = 0.02

#: Without a usual window: share of the detail's pixels left out on each side, and how much more than the range of the
#: rest is shown there. Flat tissue gets more: its noise is to be seen beside what would be contrast.
_LEFT_OUT, _MORE, _MORE_IF_FLAT = 0.005, 0.1, 0.5

#: Slices with a side below this have flat places half as wide.
_SMALL_MATRIX = 8 * TILE_SIDE

#: Side of the detail with most edges, in pixels of the result.
_DETAIL_PIXELS = 84

#: Flat tiles with less noise than a grey level of 255 (model range -1 to 1) say nothing of noise: there is none.
LEAST_NOISE = 2 / 255


def assess(
    source: Tensor,
    result: Tensor,
    factors: Factors,
    intensity: IntensityMap,
    unit: str,
    rms_before_projection: float | None = None,
    operator: str = "area",
) -> MetricSummary:
    """Sharpness of source, bicubic and result on one grid, and agreement of the result with the source.

    Args:
        source: (1, I, J, K) in the source's unit.
        result: (1, fI, fJ, K) in the source's unit.
        factors: factors of super-resolution.
        intensity: the volume's map; sharpness is taken on grey levels 0..255 of its model range -1..1.
        unit: unit of intensities, for the report.
        rms_before_projection: what ``ProjectOntoSourced`` measured.
        operator: assumed degradation, one of ``operators.OPERATORS``.
    """
    source, result = plain(source), plain(result)
    rows: dict[str, list[dict[str, float]]] = {"source": [], "bicubic": [], "result": []}
    flat: tuple[list[Tensor], ...] = ([], [], [])
    affordable = max(1, MAX_MEASURED_PIXELS // result[0, ..., 0].numel())
    for k in spread_slices(source.shape[-1], min(MAX_MEASURED_SLICES, affordable)):
        scaled = intensity.forward(source[None, ..., k])
        images = {
            "source": functional.interpolate(
                scaled, scale_factor=factors.in_plane, mode="bilinear", align_corners=False
            ),
            "bicubic": upsample_bicubic(scaled, factors.in_plane),
            "result": intensity.forward(result[None, ..., k]),
        }
        for name, image in images.items():
            rows[name].append(slice_figures(image))
        for tiles, found in zip(flat, _flat_tiles(scaled, images, intensity, factors), strict=True):
            tiles += found
    degrade = DegradationOperator(operator, factors.in_plane)
    agreement = agreement_of(_slice_errors(source, result, degrade), source, unit, rms_before_projection)
    sharpness = {name: mean_sharpness(values) for name, values in rows.items()}
    flat_tissue = FlatTissue(**flat_figures(*flat), n_tiles=len(flat[0])) if flat[0] else None
    return MetricSummary(
        sharpness["source"], sharpness["bicubic"], sharpness["result"], agreement=agreement, flat_tissue=flat_tissue
    )


def _flat_tiles(
    scaled: Tensor, images: Mapping[str, Tensor], intensity: IntensityMap, factors: Factors
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Flat tissue of result, bicubic and source, in the source's unit; ``scaled`` is the source in model range."""
    side, (rows, columns) = tile_side(scaled), (round(factor) for factor in factors.in_plane)
    corners = flattest_tiles(scaled, side)
    sources = [cut_tile(scaled, corner, side=side) for corner in corners]
    noisy = [n for n, tile in enumerate(sources) if tile.std() >= LEAST_NOISE]
    cut = [[cut_tile(images[name], one, (rows, columns), side) for one in corners] for name in ("result", "bicubic")]
    result, bicubic, source = (
        [intensity.inverse(tiles[n][None, None])[0, 0] for n in noisy] for tiles in (*cut, sources)
    )
    return result, bicubic, source


def tile_side(image: Tensor) -> int:
    """Side of a flat place: in a small matrix, usual tiles would hold whole organs and their borders."""
    return TILE_SIDE if min(image.shape[-2:]) >= _SMALL_MATRIX else TILE_SIDE // 2


def mean_sharpness(found: list[dict[str, float]]) -> Sharpness:
    """Mean of the figures of some slices."""
    return Sharpness.of({name: float(np.mean([one[name] for one in found])) for name in found[0]}, len(found))


def _slice_errors(source: Tensor, result: Tensor, operator: DegradationOperator) -> Iterator[Tensor]:
    for measured, image in zip(source.unbind(dim=-1), result.unbind(dim=-1), strict=True):
        yield operator(image[None])[0].double() - measured.double()


def agreement_of(
    errors: Iterable[Tensor], source: Tensor, unit: str, rms_before_projection: float | None = None
) -> Agreement:
    """The result, degraded again, against the source.

    Args:
        errors: what was degraded less the source, slice by slice, each once.
        source: (1, I, J, K).
        unit: unit of both.
        rms_before_projection: what ``ProjectOntoSourced`` measured.
    """
    squares = absolutes = difference = magnitude = largest = 0.0
    for error, measured in zip(errors, plain(source).unbind(dim=-1), strict=True):
        squares += float(error.square().sum())
        absolutes += float(error.abs().sum())
        difference += float(error.sum())
        magnitude += float(measured.double().abs().sum())
        largest = max(largest, float(error.abs().max()))
    n = source.numel()
    span = float(source.max()) - float(source.min())
    rmse = math.sqrt(squares / n)
    return Agreement(
        psnr_db=20 * math.log10(span / rmse) if rmse > 0 and span > 0 else None,
        nrmse=rmse / span if span > 0 else None,
        mean_abs=absolutes / n,
        max_abs=largest,
        mean_difference_percent=100 * difference / magnitude if magnitude > 0 else None,
        unit=unit,
        rms_before_projection=rms_before_projection,
    )


def display_window(source: Tensor, intensity: IntensityMap, modality: str) -> tuple[float, float]:
    """Black and white for pictures: a usual CT window, or the linear part of the intensity map."""
    if modality != "CT":
        return intensity.values[0], intensity.values[-1]
    sample = source.flatten()[:: max(1, source.numel() // 1_000_000)]
    lung = float(((sample > -950) & (sample < -600)).float().mean())
    return _LUNG_HU if lung > _LUNG_SHARE else _SOFT_TISSUE_HU


def detail_window(values: npt.NDArray[np.floating], modality: str, is_flat: bool) -> tuple[float, float]:
    """Black and white for a detail, in which it is not saturated: a usual CT window, or one of its own values."""
    for low, high in (_SOFT_TISSUE_HU, _BONE_HU, _LUNG_HU) if modality == "CT" and not is_flat else ():
        if np.mean((values < low) | (values > high)) <= _SATURATED:
            return low, high
    low, high = (float(end) for end in np.quantile(values, (_LEFT_OUT, 1 - _LEFT_OUT)))
    more = (_MORE_IF_FLAT if is_flat else _MORE) * (high - low) or 1.0
    lowest = 0.0 if values.min() >= 0 else -math.inf  # where nothing is below 0, no grey is
    return max(low - more, lowest), high + more


def patient_of(image: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    """Where the patient lies in a slice of CT (rows, columns) in HU; the couch and what lies on it are left out.

    What is thinner than a fortieth of the slice is removed (a morphological opening), as couch tops are; what has
    the rest on all four sides, such as lung, belongs to it. Everywhere, where nothing is left.
    """
    side = max(3, min(image.shape) // 40) | 1
    tissue = torch.from_numpy(image > _AIR_HU).float()[None, None]
    thick = functional.max_pool2d(-functional.max_pool2d(-tissue, side, 1, side // 2), side, 1, side // 2)[0, 0] > 0
    ahead = [thick.int().cummax(axis).values > 0 for axis in (0, 1)]
    behind = [thick.int().flip(axis).cummax(axis).values.flip(axis) > 0 for axis in (0, 1)]
    body = (ahead[0] & behind[0] & ahead[1] & behind[1]).numpy()
    return body if body.any() else np.ones(image.shape, np.bool_)


def slice_panels(
    source: MetaTensor,
    result: MetaTensor,
    factors: Factors,
    intensity: IntensityMap,
    modality: str,
    maps: Mapping[str, Tensor] | None = None,
) -> list[SlicePanel]:
    """A few slices as source, bicubic and result at one window, oriented (rows, columns).

    Args:
        source: (1, I, J, K) with affine.
        result: (1, fI, fJ, K) with affine.
        factors: factors of super-resolution.
        intensity: the volume's map.
        modality: DICOM's term.
        maps: ``expected_error`` and ``trusted`` on the result's grid, where there are such.
    """
    window = display_window(source, intensity, modality)
    spacing = np.linalg.norm(result.affine.numpy()[:3, :3], axis=0)
    panels = []
    for k in spread_slices(source.shape[-1], _N_PANELS):
        measured = source.as_tensor()[None, ..., k]
        bicubic = intensity.inverse(upsample_bicubic(intensity.forward(measured), factors.in_plane))
        known: dict[str, Any] = {name: _rows_columns(one[None, ..., k]) for name, one in (maps or {}).items()}
        panel = SlicePanel(
            k,
            source=_rows_columns(repeat_blocks(measured, factors.in_plane)),
            bicubic=_rows_columns(bicubic),
            result=_rows_columns(result.as_tensor()[None, ..., k]),
            window=window,
            spacing_mm=(float(spacing[1]), float(spacing[0])),
            details=_details(measured, intensity, factors, modality),
            **known,
        )
        panels.append(panel)
    return panels


def _details(measured: Tensor, intensity: IntensityMap, factors: Factors, modality: str) -> tuple[Detail, ...]:
    """Where a slice (1, 1, I, J) has most edges, and where it is flat; found in the source, on whole pixels of it."""
    columns, rows = (round(factor) for factor in factors.in_plane)
    image = _rows_columns(measured)
    body = patient_of(image) if modality == "CT" else None
    places = {"Most edges": find_edges(image, _DETAIL_PIXELS // max(rows, columns), body)}
    side = tile_side(measured)
    for corner in flattest_tiles(intensity.forward(measured).transpose(-1, -2), side, count=1):
        places["Flat tissue"] = DetailBox(*corner, side, side)
    return tuple(
        Detail(title, box.finer(rows, columns), detail_window(box.cut(image), modality, title == "Flat tissue"))
        for title, box in places.items()
    )


def _rows_columns(image: Tensor) -> npt.NDArray[np.float32]:
    """(1, 1, I, J) to (rows, columns): a DICOM row is one value of j."""
    return image[0, 0].T.contiguous().cpu().numpy()
