"""Measure a result against its source, and pick the slices that a report shows."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from monai.data import MetaTensor
from torch import Tensor
from torch.nn import functional

from monai_ldmsr.degradation import DegradationOperator, repeat_blocks
from monai_ldmsr.geometry import Factors, spread_slices
from monai_ldmsr.metrics.sharpness import slice_figures
from monai_ldmsr.networks.super_resolver import upsample_bicubic
from monai_ldmsr.report import Agreement, MetricSummary, Sharpness, SlicePanel
from monai_ldmsr.transforms import IntensityMap
from monai_ldmsr.transforms.source import plain

__all__ = ["assess", "display_window", "slice_panels"]

#: Sharpness is measured on at most this many evenly spaced slices.
MAX_MEASURED_SLICES = 12

_N_PANELS = 3

#: Usual windows (low, high) in HU; the lung window is taken when this share of voxels looks like lung.
_SOFT_TISSUE_HU, _LUNG_HU, _LUNG_SHARE = (-160.0, 240.0), (-1350.0, 150.0), 0.12


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
    for k in spread_slices(source.shape[-1], MAX_MEASURED_SLICES):
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
    degrade = DegradationOperator(operator, factors.in_plane)
    agreement = _agreement(source, result, degrade, unit, rms_before_projection)
    sharpness = {name: _mean_sharpness(values) for name, values in rows.items()}
    return MetricSummary(**sharpness, agreement=agreement)


def _mean_sharpness(found: list[dict[str, float]]) -> Sharpness:
    return Sharpness.of({name: float(np.mean([one[name] for one in found])) for name in found[0]}, len(found))


def _agreement(
    source: Tensor, result: Tensor, operator: DegradationOperator, unit: str, rms_before_projection: float | None
) -> Agreement:
    squares = absolutes = difference = magnitude = largest = 0.0
    for measured, image in zip(source.unbind(dim=-1), result.unbind(dim=-1), strict=True):
        error = operator(image[None])[0].double() - measured.double()
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


def slice_panels(
    source: MetaTensor, result: MetaTensor, factors: Factors, intensity: IntensityMap, modality: str
) -> list[SlicePanel]:
    """A few slices as source, bicubic and result at one window, oriented (rows, columns).

    Args:
        source: (1, I, J, K) with affine.
        result: (1, fI, fJ, K) with affine.
        factors: factors of super-resolution.
        intensity: the volume's map.
        modality: DICOM's term.
    """
    window = display_window(source, intensity, modality)
    spacing = np.linalg.norm(result.affine.numpy()[:3, :3], axis=0)
    panels = []
    for k in spread_slices(source.shape[-1], _N_PANELS):
        measured = source.as_tensor()[None, ..., k]
        bicubic = intensity.inverse(upsample_bicubic(intensity.forward(measured), factors.in_plane))
        panel = SlicePanel(
            k,
            source=_rows_columns(repeat_blocks(measured, factors.in_plane)),
            bicubic=_rows_columns(bicubic),
            result=_rows_columns(result.as_tensor()[None, ..., k]),
            window=window,
            spacing_mm=(float(spacing[1]), float(spacing[0])),
        )
        panels.append(panel)
    return panels


def _rows_columns(image: Tensor) -> npt.NDArray[np.float32]:
    """(1, 1, I, J) to (rows, columns): a DICOM row is one value of j."""
    return image[0, 0].T.contiguous().cpu().numpy()
