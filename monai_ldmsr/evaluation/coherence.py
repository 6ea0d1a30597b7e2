"""How a result behaves while one scrolls: flicker between neighbouring slices, and a pattern that stands still."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from monai_ldmsr.evaluation.progress import EvaluationSteps
from monai_ldmsr.evaluation.trust_part import TrustPart
from monai_ldmsr.evaluation.volumes import MIN_SIDE
from monai_ldmsr.inferers import VolumeInferer
from monai_ldmsr.metrics.native import cut_tile, flattest_tiles
from monai_ldmsr.metrics.sharpness import foreground, to_grey8
from monai_ldmsr.training.volumes import TrainingVolume

__all__ = ["SliceCoherence"]

#: Neighbouring slices of each volume, and greatest side of their middle part in pixels of the original.
_SLICES, _SIDE = 3, 192

#: Side in source pixels and number of the flat tiles in which added detail is compared.
_TILE, _N_TILES = 8, 4


@dataclass(repr=False)
class SliceCoherence(TrustPart):
    """Neighbouring slices of the middle of each volume, degraded and super-resolved as a run does it."""

    name: ClassVar[str] = "coherence"
    title: ClassVar[str] = "Neighbouring slices"
    explanation: ClassVar[str] = (
        "What one sees while scrolling. Flicker above 1: detail changes more from slice to slice than the patient; "
        "below 1: slices are alike. A frozen pattern stands still in flat tissue while one scrolls."
    )
    definitions: ClassVar[Mapping[str, str]] = {
        "flicker": "Mean |difference of neighbouring slices| over the foreground, in model range, over the original's; "
        f"{_SLICES} slices in the middle of each volume, {_SIDE}x{_SIDE} pixels at most.",
        "frozen": f"Correlation of neighbouring slices in what the result adds to bicubic, mean over the {_N_TILES} "
        f"flattest tiles of {_TILE}x{_TILE} source pixels of the same slices: 1 stands still while one scrolls.",
    }
    goals: ClassVar[Mapping[str, str]] = {"flicker": "1", "frozen": "the original's"}

    def n_pixels(self) -> int:
        """Of all stacks."""
        return sum(stack.numel() for volume in self.volumes if (stack := self._stack(volume)) is not None)

    def run(self, steps: EvaluationSteps) -> None:
        """Super-resolve a stack of each volume."""
        for volume in self.volumes:
            high = self._stack(volume)
            if high is None:
                continue
            source = self.operator(high)
            inferer = VolumeInferer(device=self.device)
            images = {**dict(self.rows(source, volume, steps, inferer=inferer)), "hr": high}
            scaled = {row: volume.intensity.forward(image) for row, image in images.items()}
            tiles = flattest_tiles(scaled["hr"][len(high) // 2][None], _TILE * self.factor, _N_TILES)
            usual = _change(scaled["hr"], scaled["hr"])
            for row, stack in scaled.items():
                flicker = _change(stack, scaled["hr"]) / usual if usual else math.nan
                frozen = _standing_still(stack - scaled["bicubic"], tiles, _TILE * self.factor)
                self.add(volume, len(volume.slices) // 2, row, {"flicker": flicker, "frozen": frozen})

    def _stack(self, volume: TrainingVolume) -> Tensor | None:
        """Middle slices (B, 1, H, W) of a volume; None where there are none beside each other, or they are small."""
        middle = len(volume.slices) // 2
        chosen = volume.slices[max(0, middle - _SLICES // 2) : middle + _SLICES - _SLICES // 2]
        if len(chosen) < 2 or len({image.shape for image in chosen}) > 1 or min(chosen[0].shape) < MIN_SIDE:
            return None
        sides = [min(_SIDE, size) // self.factor * self.factor for size in chosen[0].shape]
        rows, columns = (
            slice((size - side) // 2, (size - side) // 2 + side)
            for size, side in zip(chosen[0].shape, sides, strict=True)
        )
        return torch.from_numpy(np.stack([image[rows, columns] for image in chosen]))[:, None]


def _change(stack: Tensor, original: Tensor) -> float:
    """Mean |difference of neighbouring slices| (B, 1, H, W) where the original shows the patient."""
    body = foreground(to_grey8(original, -1.0, 1.0)).all(dim=0)
    return float(stack.diff(dim=0).abs()[:, body].mean()) if bool(body.any()) else math.nan


def _standing_still(added: Tensor, tiles: list[tuple[int, int]], side: int) -> float:
    """Mean correlation of neighbouring slices of (B, 1, H, W) in tiles."""
    found = []
    for corner in tiles:
        cut = torch.stack([cut_tile(image[None], corner, side=side).flatten() for image in added]).double()
        cut = cut - cut.mean(dim=1, keepdim=True)
        norm = cut.norm(dim=1)
        pairs = (cut[1:] * cut[:-1]).sum(dim=1) / (norm[1:] * norm[:-1])
        found += pairs[torch.isfinite(pairs)].tolist()
    return float(np.mean(found)) if found else math.nan
