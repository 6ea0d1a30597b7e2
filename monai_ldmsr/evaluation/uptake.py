"""Whether hot spots of PET keep their uptake: means over regions, peaks, and greatest values, beside the original's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from monai_ldmsr.evaluation.progress import EvaluationSteps
from monai_ldmsr.evaluation.trust_part import TrustPart
from monai_ldmsr.geometry import spread_slices
from monai_ldmsr.training.volumes import TrainingVolume

__all__ = ["HotSpotUptake", "hot_spots"]

#: Slices of each volume; hot spots of a slice, and their least share of its greatest value; share that is kept.
_SLICES, _SPOTS, _LEAST, _KEPT = 8, 3, 0.5, 0.05


@dataclass(repr=False)
class HotSpotUptake(TrustPart):
    """Hot spots of degraded PET slices, of whatever size the slices are."""

    name: ClassVar[str] = "uptake"
    title: ClassVar[str] = "Uptake in PET"
    explanation: ClassVar[str] = (
        "Hot spots of degraded PET slices over the original's. The greatest pixel depends on the size of pixels and on "
        "noise; peak and mean do so less."
    )
    definitions: ClassVar[Mapping[str, str]] = {
        "uptake": f"Mean over 3x3 source pixels around a hot spot (a local maximum of the degraded slice of {_LEAST:g} "
        f"of its greatest value at least, {_SPOTS} a slice at most), over the original's.",
        "uptake_peak": "Greatest mean over the area of a source pixel, anywhere in that region, over the original's.",
        "uptake_max": "Greatest pixel in that region, over the original's (SUVmax).",
        "uptake_kept": f"Share of hot spots with mean and peak both within {100 * _KEPT:g} % of the original's.",
    }
    goals: ClassVar[Mapping[str, str]] = {
        "uptake": "1",
        "uptake_peak": "1",
        "uptake_max": "1",
        "uptake_kept": "high",
    }

    def n_pixels(self) -> int:
        """Of all slices."""
        return sum(high.numel() for volume in self.volumes if (high := self._slices(volume)) is not None)

    def run(self, steps: EvaluationSteps) -> None:
        """Super-resolve some slices of each PET volume."""
        for volume in self.volumes:
            high = self._slices(volume)
            if high is None:
                continue
            source = self.operator(high)
            images = {**dict(self.rows(source, volume, steps)), "hr": high}
            for n, number in enumerate(spread_slices(len(volume.slices), _SLICES)):
                for spot in hot_spots(source[n : n + 1]):
                    for row, image in images.items():
                        self.add(volume, number, row, _kept(image[n], high[n], spot, self.factor))

    def _slices(self, volume: TrainingVolume) -> Tensor | None:
        """Some slices (B, 1, H, W) of a PET volume of whole source pixels."""
        chosen = [volume.slices[n] for n in spread_slices(len(volume.slices), _SLICES)]
        if volume.modality != "PT" or len({image.shape for image in chosen}) != 1:
            return None
        height, width = (size // self.factor * self.factor for size in chosen[0].shape)
        return torch.from_numpy(np.stack([image[:height, :width] for image in chosen]))[:, None]


def hot_spots(source: Tensor) -> list[tuple[int, int]]:
    """Local maxima of a slice (1, 1, h, w), greatest first.

    Example:
        >>> source = torch.zeros(1, 1, 9, 9)
        >>> source[..., 2, 3], source[..., 7, 7], source[..., 0, 8] = 5.0, 3.0, 1.0
        >>> hot_spots(source)
        [(2, 3), (7, 7)]
    """
    greatest = float(source.max())
    is_peak = (source == functional.max_pool2d(source, 3, stride=1, padding=1)) & (source >= _LEAST * greatest)
    places = (is_peak & (source > 0))[0, 0].nonzero().tolist()
    ordered = sorted(places, key=lambda place: -float(source[0, 0, place[0], place[1]]))
    return [(row, column) for row, column in ordered[:_SPOTS]]


def _kept(image: Tensor, original: Tensor, spot: tuple[int, int], factor: int) -> dict[str, float]:
    rows, columns = (slice(max(0, n - 1) * factor, (n + 2) * factor) for n in spot)
    found, truth = (one[..., rows, columns].double() for one in (image, original))
    peaks = [functional.avg_pool2d(region, factor, stride=1).max() for region in (found, truth)]
    ratios = {
        "uptake": float(found.mean() / truth.mean()),
        "uptake_peak": float(peaks[0] / peaks[1]),
        "uptake_max": float(found.max() / truth.max()),
    }
    is_kept = all(abs(ratios[name] - 1) <= _KEPT for name in ("uptake", "uptake_peak"))
    return {**ratios, "uptake_kept": float(is_kept)}
