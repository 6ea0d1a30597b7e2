"""What one part of the trust figures is: it sees degraded slices, runs networks of its own, and keeps records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from monai_ldmsr.degradation import DegradationOperator, factor_pair
from monai_ldmsr.evaluation.pictures import Detail
from monai_ldmsr.evaluation.progress import EvaluationSteps
from monai_ldmsr.evaluation.rows import super_resolved
from monai_ldmsr.evaluation.summaries import Record, summarised_groups
from monai_ldmsr.inferers import VolumeInferer
from monai_ldmsr.networks import SliceNetwork, upsample_bicubic
from monai_ldmsr.training.volumes import TrainingVolume
from monai_ldmsr.uncertainty import Calibration

__all__ = ["TrustPart"]


@dataclass(repr=False)
class TrustPart:
    """One part of the trust figures. Its rows are ``bicubic``, one for each network, and ``hr``.

    Args:
        volumes: volumes that are sharp already.
        networks: row name to network, on ``device``.
        operator: degradation, with the factor of all networks.
        slices_per_volume: evenly spread slices of each volume that are degraded.
        consistency: weight of the networks' projection onto the source.
        device: where the networks run.
        seed: seed of whatever is drawn, and of the bootstrap.
        calibration: calibration of intervals of the networks that expect errors; None takes the nominal width.
    """

    #: Key in ``trust.json``, title and explanation on the page.
    name: ClassVar[str]
    title: ClassVar[str]
    explanation: ClassVar[str]

    #: Definition and goal of each column.
    definitions: ClassVar[Mapping[str, str]]
    goals: ClassVar[Mapping[str, str]]

    volumes: Sequence[TrainingVolume]
    networks: Mapping[str, SliceNetwork]
    operator: DegradationOperator
    slices_per_volume: int = 4
    consistency: float = 1.0
    device: str | torch.device = "cpu"
    seed: int = 0
    calibration: Calibration | None = None
    records: list[Record] = field(default_factory=list, init=False)

    @property
    def factor(self) -> int:
        """The factor of all networks."""
        return int(factor_pair(self.operator.factor)[0])

    def n_pixels(self) -> int:
        """Pixels that each network makes in :meth:`run`."""
        return 0

    def see(self, volume: TrainingVolume, number: int, images: Mapping[str, Tensor]) -> None:
        """Take the figures of a degraded slice, whose rows (1, 1, H, W) in model range were made for the tables."""

    def run(self, steps: EvaluationSteps) -> None:
        """Take the figures for which networks must run once more."""

    def sheet(self) -> Sequence[Detail]:
        """What is drawn."""
        return []

    def as_dict(self) -> dict[str, Any]:
        """What ``trust.json`` holds of it."""
        found = summarised_groups(self.records, tuple(self.definitions), self.seed)
        return {**found, "n": len(self.records), "n_patients": len({record["subject"] for record in self.records})}

    def add(self, volume: TrainingVolume, number: int, row: str, figures: Mapping[str, Any]) -> None:
        """Keep the figures of one row."""
        about = {"volume": volume.name, "subject": volume.subject, "modality": volume.modality, "slice": number}
        self.records.append({**about, "row": row, **figures})

    def rows(
        self,
        source: Tensor,
        volume: TrainingVolume,
        steps: EvaluationSteps,
        noise: float | None = None,
        inferer: VolumeInferer | None = None,
    ) -> Iterator[tuple[str, Tensor]]:
        """Bicubic and each network: name, and (B, 1, f h, f w) in the source's unit, of (B, 1, h, w)."""
        plain = upsample_bicubic(volume.intensity.forward(source), self.operator.factor)
        yield "bicubic", volume.intensity.inverse(plain)
        for name, network in self.networks.items():
            with steps.step(volume, self.name, name, plain.numel()):
                result = super_resolved(
                    network, source, volume, self.operator, self.consistency, self.device, noise, inferer
                )
            yield name, result
