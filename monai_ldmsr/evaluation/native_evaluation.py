"""Super-resolve slices as they were scanned, as a run does it, and measure what that adds to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from monai_ldmsr.degradation import DegradationOperator
from monai_ldmsr.evaluation.pictures import Detail, find_details
from monai_ldmsr.evaluation.rows import super_resolved
from monai_ldmsr.evaluation.table import EvaluationTable
from monai_ldmsr.evaluation.volumes import measured_slices, shown_slices
from monai_ldmsr.metrics.native import native_figures
from monai_ldmsr.networks import SliceNetwork, upsample_bicubic
from monai_ldmsr.training.volumes import TrainingVolume

__all__ = ["NativeEvaluation"]


class NativeEvaluation:
    """Measure slices of some volumes to which nothing was done.

    Rows are ``bicubic``, then one for each network in the order given, see :func:`super_resolved`.

    Args:
        volumes: volumes as scanned.
        networks: row name to network, on ``device``.
        operator: assumed degradation, with the factor of all networks.
        slices_per_volume: evenly spread slices of each volume; 0 measures nothing.
        consistency: weight of the networks' projection onto the source.
        device: where the networks run.
        max_examples: slices of which details are drawn.
        side: greatest side, in source pixels, of the middle part of a slice that is measured: results are the square of
            the factor as many.
    """

    def __init__(
        self,
        volumes: Sequence[TrainingVolume],
        networks: Mapping[str, SliceNetwork],
        operator: DegradationOperator,
        slices_per_volume: int = 1,
        consistency: float = 1.0,
        device: str | torch.device = "cpu",
        max_examples: int = 6,
        side: int = 256,
    ) -> None:
        self.volumes = volumes
        self.networks = networks
        self.operator = operator
        self.slices_per_volume = slices_per_volume
        self.side = side
        self.consistency = consistency
        self.device = torch.device(device)
        self.max_examples = max_examples

    def run(self, table: EvaluationTable) -> list[Detail]:
        """Add all rows of all slices to the table; return the details to be drawn."""
        shown = shown_slices(self.volumes, self.slices_per_volume, self.max_examples)
        details: list[Detail] = []
        for volume in self.volumes:
            for n in measured_slices(volume, self.slices_per_volume):
                images = self._measure(volume, n, table)
                if (volume.name, n) in shown:
                    details.extend(find_details(images, "source", volume.modality))
        return details

    def results(self, volume: TrainingVolume, number: int) -> Iterator[tuple[str, Tensor]]:
        """Each row of one slice: name, and (1, 1, f h, f w) in model range."""
        source = self._part(volume, number)
        yield "bicubic", upsample_bicubic(volume.intensity.forward(source), self.operator.factor)
        for name, network in self.networks.items():
            result = super_resolved(network, source, volume, self.operator, self.consistency, self.device)
            yield name, volume.intensity.forward(result)

    def _measure(self, volume: TrainingVolume, number: int, table: EvaluationTable) -> dict[str, Tensor]:
        source = volume.intensity.forward(self._part(volume, number))
        images = dict(self.results(volume, number))
        about = {"volume": volume.name, "subject": volume.subject, "modality": volume.modality, "slice": number}
        for row, image in images.items():
            table.add_native({**about, "row": row}, native_figures(image, images["bicubic"], source))
        return {"source": functional.interpolate(source, scale_factor=self.operator.factor, mode="nearest"), **images}

    def _part(self, volume: TrainingVolume, number: int) -> Tensor:
        image = volume.slices[number]
        rows, columns = (slice(max(0, (n - self.side) // 2), (n + self.side) // 2) for n in image.shape)
        return torch.from_numpy(np.ascontiguousarray(image[rows, columns]))[None, None]
