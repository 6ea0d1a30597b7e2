"""How many voxels err by more than the network expected: the share that lies outside of its interval."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from monai_ldmsr.evaluation.progress import EvaluationSteps
from monai_ldmsr.evaluation.rows import projected
from monai_ldmsr.evaluation.trust_part import TrustPart
from monai_ldmsr.evaluation.volumes import measured_slices
from monai_ldmsr.metrics.sharpness import foreground, to_grey8
from monai_ldmsr.networks.interface import EstimatingNetwork
from monai_ldmsr.noise_level import volume_noise
from monai_ldmsr.training.volumes import TrainingVolume
from monai_ldmsr.transforms.trust import error_in_unit
from monai_ldmsr.uncertainty import COVERAGE, NOMINAL

__all__ = ["IntervalCoverage"]

#: Greatest side of the middle part of a slice in pixels of the original.
_SIDE = 192


@dataclass(repr=False)
class IntervalCoverage(TrustPart):
    """Intervals of the networks that expect errors, on degraded slices."""

    name: ClassVar[str] = "intervals"
    title: ClassVar[str] = "Voxels outside their interval"
    explanation: ClassVar[str] = (
        "Each voxel's interval is a multiple of the error that the network expects there, calibrated on patients where "
        f"the bundle has a calibration. It is meant to hold {COVERAGE:.0%} of the body's voxels."
    )
    definitions: ClassVar[Mapping[str, str]] = {
        "outside": "Share of the foreground's pixels whose distance from the original is greater than half the width "
        f"of their interval; middle {_SIDE}x{_SIDE} pixels at most of each degraded slice.",
    }
    goals: ClassVar[Mapping[str, str]] = {"outside": f"{1 - COVERAGE:g}"}

    def n_pixels(self) -> int:
        """Of all parts."""
        return sum(high.numel() for volume in self.volumes for _, high in self._middles(volume))

    def run(self, steps: EvaluationSteps) -> None:
        """Compare each row that has intervals."""
        rows = {name: net for name, net in self.networks.items() if isinstance(net, EstimatingNetwork)}
        for volume in self.volumes if rows else ():
            for number, high in self._middles(volume):
                # Of the whole slice, as a run measures it.
                whole = self.operator(torch.from_numpy(np.ascontiguousarray(volume.slices[number]))[None, None])
                noise = volume_noise(volume.intensity.forward(whole)[..., None])
                source = self.operator(high)
                scaled = volume.intensity.forward(source).to(self.device)
                body = foreground(to_grey8(volume.intensity.forward(high), -1.0, 1.0))
                for row, network in rows.items():
                    with steps.step(volume, self.name, row, high.numel()):
                        ((found, error),) = network.estimates(scaled, volume.modality, noise)
                    result = projected(found, source, volume, self.operator, self.consistency)
                    half = self._multiplier(network, volume.modality) * error_in_unit(
                        result, error.to(result.device), volume.intensity
                    )
                    outside = ((result - high).abs() > half)[body]
                    share = float(outside.double().mean()) if outside.numel() else math.nan
                    self.add(volume, number, row, {"outside": share})

    def _multiplier(self, network: EstimatingNetwork, modality: str) -> float:
        """Half the width of an interval over the expected error."""
        if self.calibration is None:
            return NOMINAL
        found = self.calibration.group(modality).multiplier(
            self.factor, network.describe(modality).get("detail") or 0.0
        )
        return NOMINAL if found is None else found

    def _middles(self, volume: TrainingVolume) -> Iterator[tuple[int, Tensor]]:
        """Number of each measured slice, and its middle part (1, 1, H, W)."""
        for n in measured_slices(volume, self.slices_per_volume):
            image = torch.from_numpy(np.ascontiguousarray(volume.slices[n]))[None, None]
            sides = [min(_SIDE, size) // self.factor * self.factor for size in image.shape[-2:]]
            rows, columns = (
                slice(start := (size - side) // 2 // self.factor * self.factor, start + side)
                for size, side in zip(image.shape[-2:], sides, strict=True)
            )
            yield n, image[..., rows, columns]
