"""Measure a result that has new slices, on planes that hold the axis of its stack, and against its source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from monai_ldmsr.assessment import (
    LEAST_NOISE,
    MAX_MEASURED_PIXELS,
    MAX_MEASURED_SLICES,
    agreement_of,
    mean_sharpness,
    tile_side,
)
from monai_ldmsr.degradation import DegradationOperator
from monai_ldmsr.metrics.native import cut_tile, flattest_tiles
from monai_ldmsr.metrics.sharpness import slice_figures
from monai_ldmsr.metrics.stack import slice_change, stripes
from monai_ldmsr.reformats import StackPlanes
from monai_ldmsr.report import FlatTissue, MetricSummary
from monai_ldmsr.slice_plan import SlicePlan
from monai_ldmsr.working_volumes import plain

__all__ = ["assess_stack"]


def assess_stack(
    planes: StackPlanes, unit: str, rms_before_projection: float | None = None, operator: str = "area"
) -> MetricSummary:
    """Sharpness, flat tissue and change along the stack on planes that hold its axis; agreement with the source.

    Args:
        planes: source and result, and where new slices lie.
        unit: unit of intensities, for the report.
        rms_before_projection: what the projection measured.
        operator: assumed degradation within slices, one of ``operators.OPERATORS``; unused where they stay as fine.
    """
    rows: dict[str, list[dict[str, float]]] = {"source": [], "bicubic": [], "result": []}
    flat, change = _FlatTiles(), {"bicubic": 0.0, "result": 0.0}
    number, columns = planes.result.shape[-1], max(planes.result.shape[1:3])
    affordable = min(MAX_MEASURED_SLICES, MAX_MEASURED_PIXELS // (number * columns))
    for axis in (0, 1):
        for index in planes.places(axis, max(1, affordable // 2)):
            result = planes.result_plane(axis, index).contiguous()
            images = {
                "source": planes.linear(axis, index),
                "bicubic": planes.bicubic(axis, index),
                "result": planes.intensity.forward(result),
            }
            for name, image in images.items():
                rows[name].append(slice_figures(image[None, None]))
            body = planes.body_of(images["bicubic"])
            values = {"bicubic": planes.intensity.inverse(images["bicubic"]), "result": result}
            for name, plane in values.items():
                change[name] += slice_change(plane, body)
            flat.find(planes, axis, planes.bands(axis, index), values)
    factors = planes.factors.in_plane
    degrade = DegradationOperator(operator, factors) if max(factors) > 1 else None
    errors = _errors(planes.source, planes.result, planes.plan, degrade)
    return MetricSummary(
        source=mean_sharpness(rows["source"]),
        bicubic=mean_sharpness(rows["bicubic"]),
        result=mean_sharpness(rows["result"]),
        agreement=agreement_of(errors, planes.source, unit, rms_before_projection),
        flat_tissue=flat.summary(),
        z_gradient=change["result"] / change["bicubic"] if change["bicubic"] > 0 else None,
    )


def _errors(source: Tensor, result: Tensor, plan: SlicePlan, degrade: DegradationOperator | None) -> Iterator[Tensor]:
    """For each acquired slice (1, I, J): the new ones as it averaged them, less what was measured."""
    fine, measured = plain(result), plain(source)
    for k, weights in enumerate(plan.averaging):
        mean = torch.zeros(fine.shape[:3], dtype=torch.float64, device=fine.device)
        for m in np.flatnonzero(weights):
            mean.add_(fine[..., m], alpha=float(weights[m]))
        yield (mean if degrade is None else degrade(mean[None])[0]) - measured[..., k].double()


@dataclass
class _FlatTiles:
    """Flat tissue of all planes: result less bicubic, where rows and columns lie in the source, and noise."""

    added: list[Tensor] = field(default_factory=list)
    places: tuple[list[Tensor], list[Tensor]] = field(default_factory=lambda: ([], []))
    noise: dict[str, list[float]] = field(default_factory=lambda: {"source": [], "bicubic": [], "result": []})

    def find(self, planes: StackPlanes, axis: int, source: Tensor, values: dict[str, Tensor]) -> None:
        """Add those of a plane; all are (n, columns) in the source's unit."""
        scaled = planes.intensity.forward(source)[None, None]
        side, step = tile_side(scaled), planes.factors.in_plane[1 - axis]
        along = planes.plan.places
        images = {"source": source, **values}
        for top, left in flattest_tiles(scaled, side):
            if cut_tile(scaled, (top, left), side=side).std() < LEAST_NOISE:
                continue
            tiles = {name: cut_tile(one[None, None], (top, left), side=side) for name, one in images.items()}
            for name, tile in tiles.items():
                self.noise[name].append(float(tile.double().std(correction=0)))
            self.added.append(tiles["result"] - tiles["bicubic"])
            self.places[0].append(along.first + along.step * (top + torch.arange(side).double()))
            self.places[1].append((left + torch.arange(side).double() + 0.5) / step)

    def summary(self) -> FlatTissue | None:
        """Figures of all tiles; None without any."""
        if not self.added:
            return None
        sd = self.noise["source"]
        combs = [stripes(self.added, self.places[0], sd)]
        # Columns across j and those across i differ in fineness where factors do: each group alone would be small.
        finest = min(float(one[1] - one[0]) for one in self.places[1])
        if finest < 1 - 1e-6:
            turned = [(tile.T, place, one) for tile, place, one in zip(self.added, self.places[1], sd, strict=True)]
            alike = [one for one in turned if abs(float(one[1][1] - one[1][0]) - finest) < 1e-6]
            tiles, places, noise = zip(*alike, strict=True)
            combs.append(stripes(tiles, places, noise))
        median = {f"noise_{name}": float(np.median(found)) for name, found in self.noise.items()}
        return FlatTissue(**median, comb=max(combs), mesh=None, n_tiles=len(self.added))
