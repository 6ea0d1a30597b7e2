"""How good a super-resolver is on the high-resolution volumes of one split."""

from __future__ import annotations

import csv
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from monai.metrics import PSNRMetric
from PIL import Image
from torch import Tensor
from torch.nn import functional

from monai_ldmsr.consistency import project_onto_source
from monai_ldmsr.degradation import AreaOperator
from monai_ldmsr.geometry import spread_slices
from monai_ldmsr.metrics.sharpness import DEFINITIONS, fft_sharpness, laplacian_variance, to_grey8
from monai_ldmsr.networks.super_resolver import SuperResolver, upsample_bicubic
from monai_ldmsr.training.slices import FloatImage, TrainingVolume

__all__ = ["SplitEvaluation"]

#: Slices with a side below this are too small for the FFT metric to mean anything.
_MIN_SIDE = 96

#: Side in pixels of the details in the examples.
_DETAIL = 128


@dataclass(frozen=True)
class _Case:
    """One slice: high resolution and degraded, in the source's unit, as (1, 1, H, W)."""

    volume: TrainingVolume
    high: Tensor
    low: Tensor


class SplitEvaluation:
    """Degrade each slice by the area operator, bring it back in several ways, and compare with the original.

    All figures are taken on grey levels 0..255 of the model range (-1 to 1), over whole slices.

    Args:
        volumes: volumes of the split.
        network: the model; its ``factor`` is evaluated.
        slices_per_volume: evenly spread slices of each volume.
        consistency: weight of the projection onto the input, see ``project_onto_source``.
        max_examples: slices of which a detail is drawn, row beside row, into ``examples.png``.
    """

    def __init__(
        self,
        volumes: Sequence[TrainingVolume],
        network: SuperResolver,
        slices_per_volume: int = 4,
        consistency: float = 1.0,
        max_examples: int = 6,
    ) -> None:
        self.volumes = volumes
        self.network = network.eval()
        self.slices_per_volume = slices_per_volume
        self.consistency = consistency
        self.max_examples = max_examples

    @property
    def rows(self) -> dict[str, Callable[[_Case], Tensor]]:
        """What is compared: each maps a case to (1, 1, H, W) in model range."""
        return {"lr": self._bilinear, "bicubic": self._bicubic, "ldm": self._ldm, "hr": self._reference}

    @torch.inference_mode()
    def run(self, output_dir: str | Path) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
        """Measure all rows; write ``table.json``, ``per_slice.csv`` and ``examples.png``.

        Returns:
            ``{group: {row: {metric: {"mean", "sd", "n"}}}}`` with groups ``all`` and each modality.
        """
        records: list[dict[str, object]] = []
        examples: list[list[Tensor]] = []
        for case in self._cases():
            images = {row: _timed(method, case) for row, method in self.rows.items()}
            reference = to_grey8(images["hr"][0], -1.0, 1.0)
            for row, (image, duration_s) in images.items():
                figures = _measure(row, image, reference)
                about = {"volume": case.volume.name, "modality": case.volume.modality, "row": row}
                records.append({**about, **figures, "duration_s": duration_s})
            if len(examples) < self.max_examples:
                examples.append([_detail(image) for image, _ in images.values()])
        table = {"all": _summarise(records)}
        for modality in sorted({str(r["modality"]) for r in records}):
            table[modality] = _summarise([r for r in records if r["modality"] == modality])
        self._write(Path(output_dir), table, records)
        _draw(examples, Path(output_dir) / "examples.png")
        for row, metrics in table["all"].items():
            values = ", ".join(f"{name} {value['mean']:.3f}" for name, value in metrics.items())
            logging.getLogger(__name__).info("%s: %s", row, values)
        return table

    def _cases(self) -> Iterator[_Case]:
        factor = self.network.factor
        operator = AreaOperator(factor)
        for volume in self.volumes:
            usable = [s for s in volume.slices if min(s.shape) >= _MIN_SIDE]
            for n in spread_slices(len(usable), self.slices_per_volume):
                high = _cropped(usable[n], factor)
                yield _Case(volume, high, operator(high))

    def _bilinear(self, case: _Case) -> Tensor:
        low = case.volume.intensity.forward(case.low)
        return functional.interpolate(low, scale_factor=self.network.factor, mode="bilinear", align_corners=False)

    def _bicubic(self, case: _Case) -> Tensor:
        return upsample_bicubic(case.volume.intensity.forward(case.low), self.network.factor)

    def _ldm(self, case: _Case) -> Tensor:
        intensity = case.volume.intensity
        result = intensity.inverse(self.network(intensity.forward(case.low)))
        result = project_onto_source(result, case.low, AreaOperator(self.network.factor), self.consistency)
        return intensity.forward(result)

    def _reference(self, case: _Case) -> Tensor:
        return case.volume.intensity.forward(case.high)

    def _write(
        self, folder: Path, table: dict[str, dict[str, dict[str, dict[str, float]]]], records: list[dict[str, object]]
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "factor": self.network.factor,
            "operator": "area",
            "num_inference_steps": self.network.num_inference_steps,
            "start_noise": self.network.start_noise,
            "detail": self.network.detail,
            "seed": self.network.seed,
            "consistency": self.consistency,
            "slices_per_volume": self.slices_per_volume,
        }
        definitions = {**DEFINITIONS, "psnr": "Peak signal-to-noise ratio in dB on grey levels, peak 255."}
        result = {
            "rows": table["all"],
            "by_modality": {name: rows for name, rows in table.items() if name != "all"},
            "definitions": definitions,
            "settings": settings,
        }
        (folder / "table.json").write_text(json.dumps(result, indent=2) + "\n")
        with (folder / "per_slice.csv").open("w", newline="") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(records[0]))
            writer.writeheader()
            writer.writerows(records)


def _measure(row: str, image: Tensor, reference: Tensor) -> dict[str, float]:
    grey = to_grey8(image, -1.0, 1.0)
    psnr = float("nan") if row == "hr" else float(PSNRMetric(max_val=255.0)(grey, reference))
    return {
        "psnr": psnr,
        "laplacian_variance": float(laplacian_variance(grey)),
        "fft": float(fft_sharpness(grey)),
    }


def _timed(method: Callable[[_Case], Tensor], case: _Case) -> tuple[Tensor, float]:
    start = time.perf_counter()
    return method(case), time.perf_counter() - start


def _detail(image: Tensor) -> Tensor:
    """The central square of a slice (1, 1, H, W), as (rows, columns)."""
    height, width = image.shape[-2:]
    top, left = max(0, (height - _DETAIL) // 2), max(0, (width - _DETAIL) // 2)
    square = functional.pad(image[0, 0], (0, max(0, _DETAIL - width), 0, max(0, _DETAIL - height)), value=-1.0)
    return square[top : top + _DETAIL, left : left + _DETAIL].T


def _draw(examples: list[list[Tensor]], path: Path) -> None:
    """One line a slice, one column a row of the table; pixels enlarged twice."""
    sheet = torch.cat([torch.cat(line, dim=1) for line in examples])
    picture = Image.fromarray(to_grey8(sheet, -1.0, 1.0).numpy().astype(np.uint8))
    picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.NEAREST).save(path)


def _cropped(image: FloatImage, factor: int) -> Tensor:
    height, width = (n // factor * factor for n in image.shape)
    return torch.from_numpy(np.ascontiguousarray(image[:height, :width]))[None, None]


def _summarise(records: list[dict[str, object]]) -> dict[str, dict[str, dict[str, float]]]:
    table: dict[str, dict[str, dict[str, float]]] = {}
    for row in dict.fromkeys(str(r["row"]) for r in records):
        chosen = [r for r in records if r["row"] == row]
        table[row] = {}
        for metric in ("psnr", "laplacian_variance", "fft", "duration_s"):
            values = np.array([r[metric] for r in chosen], dtype=float)
            values = values[np.isfinite(values)]
            if len(values):
                table[row][metric] = {"mean": float(values.mean()), "sd": float(values.std()), "n": len(values)}
    return table
