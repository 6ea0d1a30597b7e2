"""Structure that a degraded slice's results have and the original has not, and whether they keep region means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from torch import Tensor
from torch.nn import functional

from monai_ldmsr.evaluation.pictures import DETAIL, Detail, cut_detail
from monai_ldmsr.evaluation.summaries import Record
from monai_ldmsr.evaluation.trust_part import TrustPart
from monai_ldmsr.metrics.frc import CITED_THRESHOLD, frc_settings, scanned_crossings
from monai_ldmsr.training.volumes import TrainingVolume

__all__ = ["RegionMeans", "ScannedCorrelation"]

#: Thresholds at which the curve is given, in cycles a pixel.
_THRESHOLDS = tuple(round(0.02 * n, 2) for n in range(1, 26))

#: Slices of each modality of which a flagged patch is drawn.
_DRAWN = 3

#: Side of a region in source pixels.
_REGION = 8


def _compared(images: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rows that are compared: interpolations other than bicubic are left out."""
    return {row: image for row, image in images.items() if row not in ("lr", "bspline")}


@dataclass(repr=False)
class ScannedCorrelation(TrustPart):
    """sFRC: patches with structure that is not the original's."""

    name: ClassVar[str] = "sfrc"
    title: ClassVar[str] = "Invented or moved structure"
    explanation: ClassVar[str] = (
        "Patches of a result that correlate too little with the original at low frequencies, where every method should "
        "agree with it. A flagged patch is not yet a hallucination, and noise is flagged too: compare the rows."
    )
    definitions: ClassVar[Mapping[str, str]] = {
        "flagged": "Share of patches (64x64 pixels in CT, 48x48 else; no overlap; eligible where the original shows "
        "enough of the patient) whose Fourier ring correlation with the original first falls below 0.5 (CT) or 0.75 "
        f"(else) at or under {CITED_THRESHOLD} cycles a pixel (arXiv 2603.04673: 0.33 per mm of 0.48 mm pixels in CT, "
        "0.16 a pixel in MR; chosen there by hand on one data set).",
    }
    goals: ClassVar[Mapping[str, str]] = {"flagged": "low"}

    worst: list[tuple[float, str, Detail]] = field(default_factory=list, init=False)

    def see(self, volume: TrainingVolume, number: int, images: Mapping[str, Tensor]) -> None:
        """Scan each row; the last network's worst patch may be drawn."""
        settings, truth = frc_settings(volume.modality), volume.intensity.inverse(images["hr"])
        last = list(self.networks)[-1] if self.networks else "bicubic"
        for row, image in _compared(images).items():
            corners, crossings = scanned_crossings(volume.intensity.inverse(image), truth, settings)
            for crossing in crossings:
                figures = {"crossing": crossing, "flagged": float(crossing <= CITED_THRESHOLD)}
                self.add(volume, number, row, figures)
            if row == last and min(crossings, default=math.inf) <= CITED_THRESHOLD:
                n = int(np.argmin(crossings))
                shift = (DETAIL - settings.side) // 2
                corner = (corners[n][0] - shift, corners[n][1] - shift)
                side = f"middle {settings.side} x {settings.side} pixels"
                says = f"{volume.modality}, the {side} cross at {crossings[n]:.3f} cycles a pixel"
                detail = cut_detail(_compared(images), "hr", corner, says)
                self.worst.append((crossings[n], volume.modality, detail))

    def sheet(self) -> Sequence[Detail]:
        """The worst patches of the last network, a slice each."""
        found: list[Detail] = []
        for modality in sorted({modality for _, modality, _ in self.worst}):
            group = sorted((one for one in self.worst if one[1] == modality), key=lambda one: one[0])
            found += [detail for _, _, detail in group[:_DRAWN]]
        return found

    def as_dict(self) -> dict[str, Any]:
        """With the curve: share of patches flagged at each threshold, by modality and row."""
        groups: dict[str, list[Record]] = {"all": self.records}
        for record in self.records:
            groups.setdefault(record["modality"], []).append(record)
        curves = {name: _curves(records) for name, records in groups.items()}
        return {**super().as_dict(), "curve": {"cycles_a_pixel": list(_THRESHOLDS), "flagged": curves}}


def _curves(records: Sequence[Record]) -> dict[str, list[float]]:
    rows: dict[str, list[float]] = {}
    for record in records:
        rows.setdefault(record["row"], []).append(record["crossing"])
    return {row: [float(np.mean(np.array(found) <= most)) for most in _THRESHOLDS] for row, found in rows.items()}


@dataclass(repr=False)
class RegionMeans(TrustPart):
    """Whether the mean over a region is the original's."""

    name: ClassVar[str] = "regions"
    title: ClassVar[str] = "Means over regions"
    explanation: ClassVar[str] = "What a region measures on average (HU, uptake, signal) should not change."
    definitions: ClassVar[Mapping[str, str]] = {
        "region_error": f"Mean over regions of {_REGION}x{_REGION} source pixels of |mean of the result minus mean of "
        "the original|, in the source's unit, in percent of the original's standard deviation over the slice.",
    }
    goals: ClassVar[Mapping[str, str]] = {"region_error": "0"}

    def see(self, volume: TrainingVolume, number: int, images: Mapping[str, Tensor]) -> None:
        """Compare the means of each row."""
        truth = volume.intensity.inverse(images["hr"]).double()
        spread = float(truth.std())
        for row, image in _compared(images).items():
            error = functional.avg_pool2d(volume.intensity.inverse(image).double() - truth, _REGION * self.factor)
            share = 100 * float(error.abs().mean()) / spread if spread else math.nan
            self.add(volume, number, row, {"region_error": share})
