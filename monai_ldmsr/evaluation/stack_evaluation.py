"""Average near-isotropic volumes to thick slices, bring them back in several ways, and compare with the original."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_ldmsr.errors import ReasonCode, SourceError
from monai_ldmsr.evaluation.pictures import Detail, cut_detail, data_uri, draw_details, sharpest_detail
from monai_ldmsr.evaluation.progress import EvaluationProgress, EvaluationSteps
from monai_ldmsr.evaluation.stack_figures import StackMeasure
from monai_ldmsr.evaluation.stack_rows import StackRows
from monai_ldmsr.evaluation.stack_table import StackTable
from monai_ldmsr.evaluation.stacks import CASES, SharpStack, StackVolume, ThickSlices, axes_of, stacks_of
from monai_ldmsr.geometry import spread_slices
from monai_ldmsr.networks import SliceNetwork
from monai_ldmsr.networks.interface import PlaneNetwork, on_device
from monai_ldmsr.storage import make_writable
from monai_ldmsr.through_plane import PlaneBatches

__all__ = ["StackEvaluation"]

#: Rows that pictures leave out, beside which the others can be seen better.
_NOT_DRAWN = ("linear", "bspline_projected")

#: By the patient's axis that a plane lies across.
_PLANE_NAMES = ("sagittal", "coronal", "axial")


@dataclass(repr=False)
class StackEvaluation:
    """Measure all rows of the tables of stacks on some volumes.

    Rows are those of :data:`~monai_ldmsr.evaluation.stack_rows.STACK_ROWS`; ``linear``, ``bspline`` and
    ``bspline_projected`` come first, then the networks in the order given, then ``hr``.

    Args:
        volumes: near-isotropic volumes, and by name why others were left out; see ``load_stack_volumes``.
        planes: row name to a network that makes planes finer along one axis.
        slices: row name to networks by factor, that make slices finer along both axes.
        axes: along which axes slices are averaged, see ``axes_of``.
        cases: thicknesses and gaps; each is measured where the volume's voxels allow it.
        consistency: weight of the projection onto the thick slices.
        device: where the networks run.
        seed: seed of the bootstrap; that of the samples is the networks' own.
        max_examples: volumes of which details are drawn.

    Raises:
        SettingsError: there is no such axis.
    """

    volumes: tuple[Sequence[StackVolume], Mapping[str, str]]
    planes: Mapping[str, PlaneNetwork]
    slices: Mapping[str, Mapping[int, SliceNetwork]] = field(default_factory=dict)
    axes: str = "k"
    cases: Sequence[ThickSlices] = CASES
    consistency: float = 1.0
    device: str | torch.device = "cpu"
    seed: int = 0
    max_examples: int = 4

    def __post_init__(self) -> None:
        self._axes = axes_of(self.axes)
        self.planes = {name: on_device(network, self.device) for name, network in self.planes.items()}
        self.slices = {
            name: {int(factor): on_device(network, self.device) for factor, network in networks.items()}
            for name, networks in self.slices.items()
        }

    @property
    def settings(self) -> dict[str, Any]:
        """Every number that changes the result, for the table."""
        own: dict[str, Any] = {"axes": self.axes, "cases": ", ".join(map(str, self.cases)), "profile": "box"}
        own |= {"consistency": self.consistency, "seed": self.seed}
        return own | {f"{row}_{key}": x for row, net in self.planes.items() for key, x in net.describe().items()}

    @torch.inference_mode()
    def run(self, output_dir: str | Path, progress: EvaluationProgress | None = None) -> StackTable:
        """Measure all rows; write the tables, the figures of each stack, and a picture of each case.

        Args:
            output_dir: made when missing.
            progress: called as each network begins with a stack.

        Raises:
            OutputError: the output folder cannot be written; found out before anything is computed.
            SourceError: no case fits any volume.
        """
        folder, (volumes, left_out) = Path(output_dir), self.volumes
        make_writable(folder)
        table = StackTable(self.settings, left_out, self.seed)
        rows = StackRows(self.planes, self.slices, self.consistency, PlaneBatches(device=self.device))
        total = sum(rows.n_pixels(stack) for one in volumes for stack in stacks_of(one, self._axes, self.cases))
        rows.steps = EvaluationSteps(volumes, total, progress)
        shown = {volumes[n].name for n in spread_slices(len(volumes), self.max_examples)}
        sheets: dict[str, list[Detail]] = {str(case): [] for case in self.cases}
        for volume in volumes:
            for stack in stacks_of(volume, self._axes, self.cases):
                images = self._measure(stack, rows, table)
                if volume.name in shown:
                    sheets[str(stack.thick)].extend(_details(stack, images))
        if not table.records:
            raise SourceError(
                f"None of {len(volumes)} volumes has voxels that slices of {', '.join(map(str, self.cases))} can be "
                "averaged of (1.5 voxels thick or more, 8 voxels apart at most). Give volumes of other spacing.",
                ReasonCode.EMPTY_SOURCE,
            )
        rows.steps.end()
        table.write(folder, _draw(sheets, folder))
        return table

    def _measure(self, stack: SharpStack, rows: StackRows, table: StackTable) -> dict[str, Tensor]:
        """Add all rows of a stack to the table; those that are drawn, in model range."""
        measure, volume, shown = StackMeasure(stack), stack.volume, {}
        about = {"volume": volume.name, "subject": volume.subject, "modality": volume.modality}
        about |= {"axis": "ijk"[stack.axis], "case": str(stack.thick)}
        for row, image, seconds in rows.of(stack):
            figures = {**measure.of(image), "duration_s": seconds / stack.plan.places.number}
            table.records.append({**about, "factor": round(stack.plan.factor, 4), "row": row, **figures})
            log = logging.getLogger(__name__)
            log.info("%s, %s, %s: PSNR %.2f dB", volume.modality, stack.thick, row, figures["psnr"])
            if row not in _NOT_DRAWN:
                shown[row] = volume.intensity.forward(image)
        return shown


def _details(stack: SharpStack, images: Mapping[str, Tensor]) -> list[Detail]:
    """The sharpest place of the middle plane of both directions, with the stack's upper end on top."""
    bands = stack.volume.intensity.forward(stack.low)[..., torch.from_numpy(stack.plan.nearest())]
    affine, found = stack.volume.geometry.affine, []
    upwards = affine[int(np.abs(affine[:3, stack.axis]).argmax()), stack.axis] > 0
    for axis, across in enumerate(stack.planes):
        name = _PLANE_NAMES[int(np.abs(affine[:3, across]).argmax())]
        number = stack.high.shape[axis] // 2
        cut = {row: one.select(axis, number)[None, None] for row, one in {"source": bands, **images}.items()}
        planes = {row: one.flip(-1) if upwards else one for row, one in cut.items()}
        says = f"{stack.volume.modality}, slices of {stack.thick}, {name}"
        found.append(cut_detail(planes, "hr", sharpest_detail(planes["hr"]), says))
    return found


def _draw(sheets: Mapping[str, Sequence[Detail]], folder: Path) -> dict[str, str]:
    """Write a picture of each case; titles and data URIs."""
    pictures = {}
    for case, details in sheets.items():
        if details:
            path = folder / f"slices_{case.replace('|', '_').replace(' mm', '_mm')}.png"
            draw_details(details, path)
            pictures[f"Details of slices of {case} at full zoom"] = data_uri(path)
    return pictures
