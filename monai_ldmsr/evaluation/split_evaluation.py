"""Degrade volumes that are sharp, bring them back in several ways, and compare with the original."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from monai_ldmsr.consistency import project_onto_source
from monai_ldmsr.degradation import AreaOperator, DegradationOperator, GaussianOperator, KSpaceCropOperator
from monai_ldmsr.errors import OutputError, ReasonCode, SettingsError, SourceError
from monai_ldmsr.evaluation.figures import measure, radial_power
from monai_ldmsr.evaluation.pictures import data_uri, draw_examples, draw_spectrum
from monai_ldmsr.evaluation.rows import interpolate_bilinear, interpolate_bspline
from monai_ldmsr.evaluation.table import EvaluationTable
from monai_ldmsr.geometry import spread_slices
from monai_ldmsr.networks.super_resolver import SuperResolver, upsample_bicubic
from monai_ldmsr.training.slices import FloatImage, TrainingVolume

__all__ = ["OPERATORS", "SplitEvaluation"]

#: Slices with a side below this are too small for the FFT metric to mean anything.
_MIN_SIDE = 96

#: Named degradations of an evaluation: fixed, without noise.
OPERATORS: dict[str, Callable[[int], DegradationOperator]] = {
    "area": AreaOperator,
    "gaussian": lambda factor: GaussianOperator(factor, 0.42 * factor),
    "kspace": KSpaceCropOperator,
}


@dataclass(frozen=True)
class _Case:
    """One slice: high resolution and degraded, in the source's unit, as (1, 1, H, W)."""

    volume: TrainingVolume
    number: int
    high: Tensor
    low: Tensor


class SplitEvaluation:
    """Measure all rows of the table on the slices of some volumes.

    Rows are ``lr``, ``bicubic`` and ``bspline``, then one for each network in the order given, then ``hr``.

    Args:
        volumes: volumes that are sharp already.
        networks: row name to network, (B, 1, h, w) to (B, 1, f h, f w) in model range.
        factor: of all networks.
        slices_per_volume: evenly spread slices of each volume.
        operator: ``area``, ``gaussian`` (point spread function of standard deviation 0.42 factor) or ``kspace``.
        consistency: weight of the networks' projection onto the input, see ``project_onto_source``.
        device: where the networks run.
        seed: of the bootstrap.
        settings: further numbers that change the result, for the table.
        max_examples: slices of which a detail is drawn.

    Raises:
        SettingsError: the operator is not one of these.
    """

    def __init__(
        self,
        volumes: Sequence[TrainingVolume],
        networks: Mapping[str, nn.Module],
        factor: int,
        slices_per_volume: int = 4,
        operator: str = "area",
        consistency: float = 1.0,
        device: str | torch.device = "cpu",
        seed: int = 0,
        settings: Mapping[str, Any] | None = None,
        max_examples: int = 6,
    ) -> None:
        if operator not in OPERATORS:
            raise SettingsError(f"operator is {operator!r}; choose one of {', '.join(OPERATORS)}.")
        self.volumes = volumes
        self.networks = {name: network.to(device).eval() for name, network in networks.items()}
        self.factor = factor
        self.slices_per_volume = slices_per_volume
        self.operator = OPERATORS[operator](factor)
        self.consistency = consistency
        self.device = torch.device(device)
        self.seed = seed
        self.max_examples = max_examples
        self.settings = {
            "factor": factor,
            "operator": operator,
            "slices_per_volume": slices_per_volume,
            "consistency": consistency,
            "seed": seed,
            **(settings or {}),
            **{f"{name}_{key}": value for name, network in networks.items() for key, value in _numbers(network)},
        }

    @torch.inference_mode()
    def run(self, output_dir: str | Path) -> EvaluationTable:
        """Measure all rows; write the table, the figures of each slice, ``examples.png`` and ``spectrum.png``.

        Raises:
            OutputError: the output folder cannot be written; found out before anything is computed.
            SourceError: no slice has sides of at least 96 pixels.
        """
        folder = Path(output_dir)
        _make(folder)
        table = EvaluationTable(self.settings, self.seed)
        examples: list[dict[str, Tensor]] = []
        chosen = self._cases_shown()
        for case in self._cases():
            images = self._measure(case, table)
            if (case.volume.name, case.number) in chosen:
                examples.append(images)
        if not table.records:
            raise SourceError(
                f"No slice has sides of at least {_MIN_SIDE} pixels, so nothing can be measured.",
                ReasonCode.EMPTY_SOURCE,
            )
        draw_examples(examples, folder / "examples.png")
        draw_spectrum(table.spectrum_ratio, self.factor, folder / "spectrum.png")
        pictures = {
            "Power over the original's power": data_uri(folder / "spectrum.png"),
            "Details at full zoom": data_uri(folder / "examples.png"),
        }
        written = table.write(folder, pictures)
        for row, cells in written["rows"].items():
            values = ", ".join(f"{name} {cells[name]['mean']}" for name in ("laplacian_variance", "fft", "psnr"))
            logging.getLogger(__name__).info("%s: %s", row, values)
        return table

    def results(self, case: _Case) -> Iterator[tuple[str, Tensor, float]]:
        """Each row of one slice: name, (1, 1, H, W) in model range, seconds."""
        low = case.volume.intensity.forward(case.low)
        plain = {"lr": interpolate_bilinear, "bicubic": upsample_bicubic, "bspline": interpolate_bspline}
        for name, interpolate in plain.items():
            start = time.perf_counter()
            result = interpolate(low, self.factor)
            yield name, result, time.perf_counter() - start
        for name, network in self.networks.items():
            if isinstance(network, SuperResolver):
                network.use_modality(case.volume.modality)
            start = time.perf_counter()
            result = case.volume.intensity.inverse(network(low.to(self.device)).to(low.device))
            if self.consistency:
                result = project_onto_source(result, case.low, AreaOperator(self.factor), self.consistency)
            yield name, case.volume.intensity.forward(result), time.perf_counter() - start
        yield "hr", case.volume.intensity.forward(case.high), 0.0

    def _measure(self, case: _Case, table: EvaluationTable) -> dict[str, Tensor]:
        images = {name: (image, duration_s) for name, image, duration_s in self.results(case)}
        reference = images["hr"][0]
        volume = case.volume
        about = {"volume": volume.name, "subject": volume.subject, "modality": volume.modality, "slice": case.number}
        for row, (image, duration_s) in images.items():
            figures = {**measure(image, reference), "duration_s": duration_s}
            table.add({**about, "row": row}, figures, radial_power(image).numpy())
        return {row: image for row, (image, _) in images.items()}

    def _usable(self, volume: TrainingVolume) -> list[int]:
        usable = [n for n, image in enumerate(volume.slices) if min(image.shape) >= _MIN_SIDE]
        return [usable[n] for n in spread_slices(len(usable), self.slices_per_volume)]

    def _cases(self) -> Iterator[_Case]:
        for volume in self.volumes:
            for n in self._usable(volume):
                high = _cropped(volume.slices[n], self.factor)
                yield _Case(volume, n, high, self.operator(high))

    def _cases_shown(self) -> set[tuple[str, int]]:
        """A middle slice of volumes spread over the split, so that each modality is seen."""
        volumes = [volume for volume in self.volumes if self._usable(volume)]
        shown = [volumes[n] for n in spread_slices(len(volumes), self.max_examples)]
        middle = ((volume, self._usable(volume)) for volume in shown)
        return {(volume.name, numbers[len(numbers) // 2]) for volume, numbers in middle}


def _numbers(network: nn.Module) -> list[tuple[str, float]]:
    """The settings that a network was built with and that change its result."""
    keys = ("num_inference_steps", "start_noise", "seed")
    return [(key, getattr(network, key)) for key in keys if hasattr(network, key)]


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".part").touch()
        (folder / ".part").unlink()
    except OSError as error:
        raise OutputError(
            f"The output folder cannot be written: {error.strerror}. Choose another output folder."
        ) from error


def _cropped(image: FloatImage, factor: int) -> Tensor:
    height, width = (n // factor * factor for n in image.shape)
    return torch.from_numpy(np.ascontiguousarray(image[:height, :width]))[None, None]
