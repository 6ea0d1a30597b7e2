"""Degrade sharp volumes, bring them back in several ways, and compare; and measure what is added to native slices."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from monai_ldmsr.degradation import DegradationOperator
from monai_ldmsr.errors import ReasonCode, SettingsError, SourceError
from monai_ldmsr.evaluation.figures import measure, radial_power
from monai_ldmsr.evaluation.pictures import Detail, data_uri, draw_details, draw_spectrum, find_details
from monai_ldmsr.evaluation.progress import EvaluationProgress, EvaluationSteps
from monai_ldmsr.evaluation.rows import interpolate_bilinear, interpolate_bspline, super_resolved
from monai_ldmsr.evaluation.table import EvaluationTable
from monai_ldmsr.evaluation.trust import trust_parts
from monai_ldmsr.evaluation.trust_part import TrustPart
from monai_ldmsr.evaluation.volumes import MIN_SIDE, measured_slices, shown_slices
from monai_ldmsr.metrics.native import native_figures
from monai_ldmsr.metrics.structure import structure_figures
from monai_ldmsr.networks import SliceNetwork, upsample_bicubic
from monai_ldmsr.networks.interface import on_device
from monai_ldmsr.storage import make_writable
from monai_ldmsr.training.volumes import FloatImage, TrainingVolume
from monai_ldmsr.uncertainty import Calibration

__all__ = ["NativeEvaluation", "SplitEvaluation"]

#: Sheets of details: file name without extension, and title on the page.
_SHEETS = {
    "examples": "Details of degraded slices at full zoom",
    "failures": "Where the last network gains least on bicubic",
    "native": "Details of slices as scanned at full zoom",
    "sfrc": "Patches of degraded slices that are flagged by sFRC in the last network",
    "lesions": "Lesions put into the original, which is then degraded",
}


@dataclass(frozen=True)
class _Case:
    """One slice: high resolution and degraded, in the source's unit, as (1, 1, H, W)."""

    volume: TrainingVolume
    number: int
    high: Tensor
    low: Tensor


@dataclass(repr=False)
class SplitEvaluation:
    """Measure all rows of the tables on the slices of some volumes.

    Degraded slices have the rows ``lr``, ``bicubic`` and ``bspline``, then one for each network in the order given,
    then ``hr``. Slices as scanned have those of :class:`NativeEvaluation`.

    Args:
        volumes: volumes that are sharp already.
        networks: row name to network.
        factor: factor of all networks.
        slices_per_volume: evenly spread slices of each volume that are degraded.
        operator: degradation, one of ``operators.OPERATORS``; what the networks are given of it stands there.
        noise_grey: standard deviation of white noise in the degraded slices, in grey levels of 255.
        consistency: weight of the networks' projection onto the input, see ``project_onto_source``.
        device: where the networks run.
        seed: seed of noise and bootstrap.
        max_examples: slices of which details are drawn, degraded and as scanned.
        max_failures: slices of which details are drawn because the last network gains least on bicubic in PSNR.
        native_slices_per_volume: slices of each volume that are super-resolved as scanned; 0 leaves them out. Each has
            factor x factor times the pixels of a degraded one, and takes as much longer.
        native_side: greatest side, in source pixels, of the middle part of those slices that is measured.
        trust: measure how far results can be trusted, too, see :mod:`monai_ldmsr.evaluation.trust`.
        calibration: calibration of the intervals whose share of voxels outside is measured with it.

    Raises:
        SettingsError: there is no such operator, or the noise or a number of slices is outside its range.
    """

    volumes: Sequence[TrainingVolume]
    networks: Mapping[str, SliceNetwork]
    factor: int
    slices_per_volume: int = 4
    operator: str = "area"
    noise_grey: float = 0.0
    consistency: float = 1.0
    device: str | torch.device = "cpu"
    seed: int = 0
    max_examples: int = 6
    max_failures: int = 4
    native_slices_per_volume: int = 1
    native_side: int = 256
    trust: bool = False
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        self._degrade = DegradationOperator(self.operator, self.factor)
        if not 0.0 <= self.noise_grey <= 255.0:
            raise SettingsError(f"noise_grey is {self.noise_grey}; give grey levels, 0 to 255.")
        if self.slices_per_volume < 1 or self.native_slices_per_volume < 0:
            raise SettingsError(
                f"slices_per_volume is {self.slices_per_volume} and native_slices_per_volume is "
                f"{self.native_slices_per_volume}; give 1 or more, and 0 or more."
            )
        self.networks = {name: on_device(network, self.device) for name, network in self.networks.items()}
        self._steps = EvaluationSteps(self.volumes, 0, None)
        self._parts = self._new_parts()

    def _new_parts(self) -> list[TrustPart]:
        """None measured yet."""
        if not self.trust:
            return []
        given = (self.networks, self._degrade, self.slices_per_volume, self.consistency, self.device, self.seed)
        return trust_parts(self.volumes, *given, self.calibration)

    @property
    def settings(self) -> dict[str, Any]:
        """Every number that changes the result, for the table."""
        names = ("factor", "operator", "noise_grey", "slices_per_volume", "native_slices_per_volume", "native_side")
        own = {name: getattr(self, name) for name in (*names, "consistency", "seed", "trust")}
        networks = self.networks.items()
        return own | {f"{name}_{key}": value for name, net in networks for key, value in net.describe().items()}

    @torch.inference_mode()
    def run(self, output_dir: str | Path, progress: EvaluationProgress | None = None) -> EvaluationTable:
        """Measure all rows; write the tables, the figures of each slice, and pictures.

        The pictures are ``examples.png``, ``failures.png`` (where there is a network), ``native.png`` (where slices are
        measured as scanned), ``sfrc.png`` and ``lesions.png`` (with figures of trust) and ``spectrum.png``.

        Args:
            output_dir: made when missing.
            progress: called as each row of each slice begins.

        Raises:
            OutputError: the output folder cannot be written; found out before anything is computed.
            SourceError: no slice has sides of at least 96 pixels.
        """
        folder = Path(output_dir)
        make_writable(folder)
        table, self._parts = EvaluationTable(self.settings, self.seed), self._new_parts()
        self._steps = EvaluationSteps(self.volumes, self._n_pixels(), progress)
        sheets = self._degraded_details(table)
        if not table.records:
            raise SourceError(
                f"No slice has sides of at least {MIN_SIDE} pixels, so nothing can be measured.",
                ReasonCode.EMPTY_SOURCE,
            )
        native = NativeEvaluation(
            self.volumes,
            self.networks,
            self._degrade,
            self.native_slices_per_volume,
            self.consistency,
            self.device,
            self.max_examples,
            self.native_side,
            self._steps,
        )
        sheets["native"] = native.run(table)
        for part in self._parts:
            part.run(self._steps)
            sheets[part.name] = list(part.sheet())
        self._steps.end()
        table.trust = self._parts
        pictures = self._draw(table, sheets, folder)
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
            with self._steps.step(case.volume, "degraded", name, case.high.numel()):
                start = time.perf_counter()
                result = super_resolved(network, case.low, case.volume, self._degrade, self.consistency, self.device)
                took = time.perf_counter() - start
            yield name, case.volume.intensity.forward(result), took
        yield "hr", case.volume.intensity.forward(case.high), 0.0

    def _n_pixels(self) -> int:
        """Pixels that all networks together make of all slices."""
        total = 0
        for volume in self.volumes:
            sizes = [volume.slices[n].shape for n in measured_slices(volume, self.slices_per_volume)]
            total += sum(height * width for height, width in sizes)
            sizes = [volume.slices[n].shape for n in measured_slices(volume, self.native_slices_per_volume)]
            total += sum(self.factor**2 * min(self.native_side, h) * min(self.native_side, w) for h, w in sizes)
        return (total + sum(part.n_pixels() for part in self._parts)) * len(self.networks)

    def _degraded_details(self, table: EvaluationTable) -> dict[str, list[Detail]]:
        """Add the degraded slices to the table; what is to be drawn of them, by sheet."""
        examples: list[Detail] = []
        failures: list[tuple[float, list[Detail]]] = []
        shown = shown_slices(self.volumes, self.slices_per_volume, self.max_examples)
        for case in self._cases():
            details = find_details(self._measure(case, table), "hr", case.volume.modality)
            if (case.volume.name, case.number) in shown:
                examples.extend(details)
            if self.networks:
                # One record a row: three interpolations, the networks, the original.
                failures.append((self._gain(table.records[-len(self.networks) - 4 :]), details))
                failures = sorted(failures, key=lambda found: found[0])[: self.max_failures]
        return {"examples": examples, "failures": [detail for _, details in failures for detail in details]}

    def _measure(self, case: _Case, table: EvaluationTable) -> dict[str, Tensor]:
        images = {name: (image, duration_s) for name, image, duration_s in self.results(case)}
        reference = images["hr"][0]
        volume = case.volume
        about = {"volume": volume.name, "subject": volume.subject, "modality": volume.modality, "slice": case.number}
        for row, (image, duration_s) in images.items():
            figures = {
                **measure(image, reference),
                "duration_s": duration_s,
                **structure_figures(image, reference, self.factor),
            }
            table.add({**about, "row": row}, figures, radial_power(image).numpy())
        for part in self._parts:
            part.see(volume, case.number, {row: image for row, (image, _) in images.items()})
        # What was super-resolved is shown as it is, and not interpolated.
        source = functional.interpolate(volume.intensity.forward(case.low), scale_factor=self.factor, mode="nearest")
        return {"source": source, **{row: image for row, (image, _) in images.items() if row not in ("lr", "bspline")}}

    def _gain(self, records: Sequence[Mapping[str, Any]]) -> float:
        """PSNR of the last network minus that of bicubic, from the records of one slice."""
        psnr = {str(record["row"]): float(record["psnr"]) for record in records}
        return psnr[list(self.networks)[-1]] - psnr["bicubic"]

    def _draw(self, table: EvaluationTable, sheets: Mapping[str, Sequence[Detail]], folder: Path) -> dict[str, str]:
        """Write the pictures; titles and data URIs of those that are not empty."""
        draw_spectrum(table.spectrum_ratio, self.factor, folder / "spectrum.png")
        pictures = {"Power over the original's power": data_uri(folder / "spectrum.png")}
        for name, title in _SHEETS.items():
            if sheets.get(name):
                draw_details(sheets[name], folder / f"{name}.png")
                pictures[title] = data_uri(folder / f"{name}.png")
        return pictures

    def _cases(self) -> Iterator[_Case]:
        generator = torch.Generator().manual_seed(self.seed)
        for volume in self.volumes:
            for n in measured_slices(volume, self.slices_per_volume):
                high = _cropped(volume.slices[n], self.factor)
                low = self._degrade(high)
                if self.noise_grey:
                    noise = self.noise_grey / 127.5 * torch.randn(low.shape, generator=generator)
                    low = volume.intensity.inverse(volume.intensity.forward(low) + noise)
                yield _Case(volume, n, high, low)


@dataclass(frozen=True, repr=False)
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
        steps: hears how far it is.
    """

    volumes: Sequence[TrainingVolume]
    networks: Mapping[str, SliceNetwork]
    operator: DegradationOperator
    slices_per_volume: int = 1
    consistency: float = 1.0
    device: str | torch.device = "cpu"
    max_examples: int = 6
    side: int = 256
    steps: EvaluationSteps = field(default_factory=lambda: EvaluationSteps((), 0, None))

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
        plain = upsample_bicubic(volume.intensity.forward(source), self.operator.factor)
        yield "bicubic", plain
        for name, network in self.networks.items():
            with self.steps.step(volume, "as scanned", name, plain.numel()):
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


def _cropped(image: FloatImage, factor: int) -> Tensor:
    height, width = (n // factor * factor for n in image.shape)
    return torch.from_numpy(np.ascontiguousarray(image[:height, :width]))[None, None]
