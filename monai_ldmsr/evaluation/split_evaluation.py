"""Degrade volumes that are sharp, bring them back in several ways, and compare with the original."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from monai_ldmsr.consistency import project_onto_source
from monai_ldmsr.degradation import named_operator
from monai_ldmsr.errors import OutputError, ReasonCode, SettingsError, SourceError
from monai_ldmsr.evaluation.figures import measure, radial_power
from monai_ldmsr.evaluation.pictures import data_uri, draw_examples, draw_spectrum
from monai_ldmsr.evaluation.rows import interpolate_bilinear, interpolate_bspline
from monai_ldmsr.evaluation.table import EvaluationTable
from monai_ldmsr.geometry import spread_slices
from monai_ldmsr.networks.super_resolver import SuperResolver, upsample_bicubic
from monai_ldmsr.training.slices import FloatImage, TrainingVolume

__all__ = ["SplitEvaluation"]

#: Slices with a side below this are too small for the FFT metric to mean anything.
_MIN_SIDE = 96


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
        operator: degradation, one of ``degradation.OPERATORS``; what the networks were told of it stands with them.
        noise_grey: standard deviation of white noise in the degraded slices, in grey levels of 255.
        consistency: weight of the networks' projection onto the input, see ``project_onto_source``.
        device: where the networks run.
        seed: of noise and bootstrap.
        settings: further numbers that change the result, for the table.
        max_examples: slices of which a detail is drawn.
        max_failures: slices of which a detail is drawn because the last network gains least on bicubic in PSNR.

    Raises:
        SettingsError: there is no such operator, or the noise is outside its range.
    """

    def __init__(
        self,
        volumes: Sequence[TrainingVolume],
        networks: Mapping[str, nn.Module],
        factor: int,
        slices_per_volume: int = 4,
        operator: str = "area",
        noise_grey: float = 0.0,
        consistency: float = 1.0,
        device: str | torch.device = "cpu",
        seed: int = 0,
        settings: Mapping[str, Any] | None = None,
        max_examples: int = 6,
        max_failures: int = 4,
    ) -> None:
        self.volumes = volumes
        self.networks = {name: network.to(device).eval() for name, network in networks.items()}
        self.factor = factor
        self.slices_per_volume = slices_per_volume
        self.operator = named_operator(operator, factor)
        if not 0.0 <= noise_grey <= 255.0:
            raise SettingsError(f"noise_grey is {noise_grey}; give grey levels, 0 to 255.")
        self.noise_grey = noise_grey
        self.consistency = consistency
        self.device = torch.device(device)
        self.seed = seed
        self.max_examples = max_examples
        self.max_failures = max_failures
        self.settings = {
            "factor": factor,
            "operator": operator,
            "noise_grey": noise_grey,
            "slices_per_volume": slices_per_volume,
            "consistency": consistency,
            "seed": seed,
            **(settings or {}),
            **{f"{name}_{key}": value for name, network in networks.items() for key, value in _numbers(network)},
        }

    @torch.inference_mode()
    def run(self, output_dir: str | Path) -> EvaluationTable:
        """Measure all rows; write the table, the figures of each slice, and pictures.

        The pictures are ``examples.png``, ``failures.png`` (where there is a network) and ``spectrum.png``.

        Raises:
            OutputError: the output folder cannot be written; found out before anything is computed.
            SourceError: no slice has sides of at least 96 pixels.
        """
        folder = Path(output_dir)
        _make(folder)
        table = EvaluationTable(self.settings, self.seed)
        examples: list[dict[str, Tensor]] = []
        failures: list[tuple[float, dict[str, Tensor]]] = []
        chosen = self._cases_shown()
        for case in self._cases():
            images = self._measure(case, table)
            if (case.volume.name, case.number) in chosen:
                examples.append(images)
            if self.networks:
                failures.append((self._gain(table.records[-len(images) :]), images))
                failures = sorted(failures, key=lambda found: found[0])[: self.max_failures]
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
        if failures:
            draw_examples([images for _, images in failures], folder / "failures.png")
            pictures["Where the last network gains least on bicubic"] = data_uri(folder / "failures.png")
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
                result = project_onto_source(result, case.low, self.operator, self.consistency)
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

    def _gain(self, records: Sequence[Mapping[str, Any]]) -> float:
        """PSNR of the last network minus that of bicubic, from the records of one slice."""
        psnr = {str(record["row"]): float(record["psnr"]) for record in records}
        return psnr[list(self.networks)[-1]] - psnr["bicubic"]

    def _usable(self, volume: TrainingVolume) -> list[int]:
        usable = [n for n, image in enumerate(volume.slices) if min(image.shape) >= _MIN_SIDE]
        return [usable[n] for n in spread_slices(len(usable), self.slices_per_volume)]

    def _cases(self) -> Iterator[_Case]:
        generator = torch.Generator().manual_seed(self.seed)
        for volume in self.volumes:
            for n in self._usable(volume):
                high = _cropped(volume.slices[n], self.factor)
                low = self.operator(high)
                if self.noise_grey:
                    noise = self.noise_grey / 127.5 * torch.randn(low.shape, generator=generator)
                    low = volume.intensity.inverse(volume.intensity.forward(low) + noise)
                yield _Case(volume, n, high, low)

    def _cases_shown(self) -> set[tuple[str, int]]:
        """A middle slice of volumes spread over the split, so that each modality is seen."""
        volumes = [volume for volume in self.volumes if self._usable(volume)]
        shown = [volumes[n] for n in spread_slices(len(volumes), self.max_examples)]
        middle = ((volume, self._usable(volume)) for volume in shown)
        return {(volume.name, numbers[len(numbers) // 2]) for volume, numbers in middle}


def _numbers(network: nn.Module) -> list[tuple[str, float]]:
    """The settings that a network was built with and that change its result."""
    keys = ("num_inference_steps", "start_noise", "operator", "seed")
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
