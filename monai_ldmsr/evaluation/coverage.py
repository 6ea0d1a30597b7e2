"""How often expected errors are kept: degraded originals, super-resolved at several dials, against the originals.

The truth is the original, with the noise that was added to the degraded slice, smoothly interpolated: the networks are
trained to keep it as it was measured, and the projection puts it back.

Counts are kept by patient, since voxels of one patient err together; what they allow to promise is chosen of them in
``calibrating``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from monai_ldmsr.degradation import DegradationOperator
from monai_ldmsr.evaluation.progress import EvaluationSteps
from monai_ldmsr.evaluation.rows import projected
from monai_ldmsr.geometry import spread_slices
from monai_ldmsr.metrics.sharpness import foreground, to_grey8
from monai_ldmsr.networks.interface import EstimatingNetwork
from monai_ldmsr.noise_level import GREY_LEVELS, volume_noise
from monai_ldmsr.training.volumes import TrainingVolume
from monai_ldmsr.transforms.trust import error_in_unit, noise_in_unit

__all__ = [
    "DIALS",
    "MULTIPLIERS",
    "REGIONS",
    "THRESHOLDS",
    "TOLERANCES",
    "CoverageCounts",
    "CoverageMeasurement",
]

#: Dials that are measured: mean, and sample, and between them.
DIALS = (0.0, 0.5, 1.0)

#: Noise that is added to degraded slices, in grey levels of 255: none, and as is usual in thin slices.
NOISE_GREY = (0.0, 3.0)

#: Regions of a slice: of the foreground, edges are the tenth with the steepest gradient of the original.
REGIONS = ("foreground", "edges", "all")
_EDGE_SHARE = 0.1

#: Half widths over expected errors that are distinguished, ascending; steps of one percent.
MULTIPLIERS = np.geomspace(0.05, 150.0, 800)

#: Tolerances over the span of a volume's intensities, and thresholds of the expected error over the tolerance.
TOLERANCES = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128)
THRESHOLDS = np.geomspace(0.02, 2.0, 116)

#: Greatest side of the middle part of a slice that is measured, and the least side.
_SIDE, _LEAST_SIDE = 240, 24


@dataclass
class CoverageCounts:
    """Voxels of one patient at one factor and dial.

    Args:
        ratios: (regions, multipliers + 1) voxels by the error over the expected error: how many lie up to each of
            ``MULTIPLIERS``, and beyond all.
        trusted: (tolerances, thresholds) voxels of the foreground whose expected error lies up to each of
            ``THRESHOLDS`` times the tolerance.
        wrong: how many of these err by more than the tolerance.
        contradictions: contradiction of each slice, over the source's noise.
        ranks: Spearman's correlation of error and expected error in the foreground of each slice.
    """

    ratios: npt.NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((len(REGIONS), len(MULTIPLIERS) + 1), np.int64)
    )
    trusted: npt.NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((len(TOLERANCES), len(THRESHOLDS)), np.int64)
    )
    wrong: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((len(TOLERANCES), len(THRESHOLDS)), np.int64))
    contradictions: list[float] = field(default_factory=list)
    ranks: list[float] = field(default_factory=list)

    def outside(self, region: str) -> npt.NDArray[np.float64]:
        """Share of a region's voxels outside of the interval, by multiplier; 0 where there are none."""
        counts = self.ratios[REGIONS.index(region)]
        inside = counts.cumsum()[:-1]
        return 1.0 - inside / counts.sum() if counts.sum() else np.zeros(len(MULTIPLIERS))

    def share_wrong(self, tolerance: int) -> npt.NDArray[np.float64]:
        """Share of trusted voxels that err by more than a tolerance (its place), by threshold.

        Where fewer than a hundredth of the foreground are trusted, they count as a hundredth.
        """
        least = 0.01 * self.ratios[REGIONS.index("foreground")].sum()
        return np.asarray(self.wrong[tolerance] / np.maximum(self.trusted[tolerance], max(1.0, least)))

    def add(self, error: Tensor, expected: Tensor, span: float, masks: Sequence[Tensor]) -> None:
        """Count voxels of a slice.

        Args:
            error: absolute error in the source's unit.
            expected: expected error, likewise.
            span: span of the volume's intensities, likewise.
            masks: where each of ``REGIONS`` is.
        """
        places = np.searchsorted(MULTIPLIERS, (error / expected.clamp(min=1e-12)).double().numpy())
        for counts, mask in zip(self.ratios, masks, strict=True):
            counts += np.bincount(places[mask.numpy()], minlength=len(MULTIPLIERS) + 1)
        body = masks[0].numpy()
        e, s = error.numpy()[body] / span, expected.numpy()[body] / span
        for n, tolerance in enumerate(TOLERANCES):
            place = np.searchsorted(THRESHOLDS, s / tolerance)
            for counts, chosen in ((self.trusted[n], place), (self.wrong[n], place[e > tolerance])):
                counts += np.bincount(chosen, minlength=len(THRESHOLDS) + 1).cumsum()[:-1]
        if body.sum() > 1:
            self.ranks.append(float(np.corrcoef(np.argsort(np.argsort(e)), np.argsort(np.argsort(s)))[0, 1]))


@dataclass(frozen=True, repr=False)
class CoverageMeasurement:
    """Counts of all patients of some volumes, at one factor.

    Args:
        volumes: volumes that are sharp already.
        network: expects errors; on ``device``.
        factor: its factor.
        slices_per_patient: slices of each patient, spread over their volumes.
        noise_grey: noise that is added to degraded slices, in grey levels of 255; each slice is measured with each.
        device: where the network runs.
        seed: seed of that noise.
    """

    volumes: Sequence[TrainingVolume]
    network: EstimatingNetwork
    factor: int
    slices_per_patient: int = 2
    noise_grey: Sequence[float] = NOISE_GREY
    device: str | torch.device = "cpu"
    seed: int = 0

    @torch.inference_mode()
    def run(self, steps: EvaluationSteps) -> dict[tuple[str, str, float], CoverageCounts]:
        """Counts by modality, patient and dial."""
        found: dict[tuple[str, str, float], CoverageCounts] = {}
        operator = DegradationOperator("area", self.factor)
        random = torch.Generator().manual_seed(self.seed)
        for volume, number in self.slices():
            high = _part(volume.slices[number], self.factor)
            low = operator(high)
            masks = _masks(volume.intensity.forward(high))
            for grey in self.noise_grey:
                noise = grey / GREY_LEVELS * torch.randn(low.shape, generator=random)
                noisy = volume.intensity.inverse(volume.intensity.forward(low) + noise) if grey else low
                with steps.step(volume, f"factor {self.factor}", "ldm", high.numel()):
                    made = self._estimates(volume, noisy)
                # What was measured is kept: noise of the source belongs to the truth, smoothly interpolated.
                truth = high + operator.smooth_inverse(noisy - low)
                for dial, (image, scale) in zip(DIALS, made, strict=True):
                    counts = found.setdefault((volume.modality, volume.subject, dial), CoverageCounts())
                    self._count(counts, volume, (truth, noisy), (image, scale), operator, masks)
        return found

    def n_pixels(self) -> int:
        """Pixels that the network makes in :meth:`run`."""
        parts = (_part(volume.slices[n], self.factor).numel() for volume, n in self.slices())
        return sum(parts) * len(self.noise_grey)

    def slices(self) -> Iterator[tuple[TrainingVolume, int]]:
        """Volume and number of each slice that is measured, spread over each patient's volumes and within them."""
        patients: dict[tuple[str, str], list[TrainingVolume]] = {}
        for volume in self.volumes:
            if any(_is_usable(image, self.factor) for image in volume.slices):
                patients.setdefault((volume.modality, volume.subject), []).append(volume)
        for volumes in patients.values():
            chosen = [volumes[n] for n in spread_slices(len(volumes), min(len(volumes), self.slices_per_patient))]
            for n, volume in enumerate(chosen):
                usable = [k for k, image in enumerate(volume.slices) if _is_usable(image, self.factor)]
                count = len(range(n, self.slices_per_patient, len(chosen)))
                yield from ((volume, usable[k]) for k in spread_slices(len(usable), count))

    def _estimates(self, volume: TrainingVolume, low: Tensor) -> list[tuple[Tensor, Tensor]]:
        scaled = volume.intensity.forward(low).to(self.device)
        noise = volume_noise(scaled[..., None])
        made = self.network.estimates(scaled, volume.modality, noise, DIALS)
        return [(image.cpu(), scale.cpu()) for image, scale in made]

    def _count(
        self,
        counts: CoverageCounts,
        volume: TrainingVolume,
        slices: tuple[Tensor, Tensor],
        made: tuple[Tensor, Tensor],
        operator: DegradationOperator,
        masks: Sequence[Tensor],
    ) -> None:
        (truth, low), (image, scale), intensity = slices, made, volume.intensity
        strayed: list[float] = []
        result = projected(image, low, volume, operator, by_slice=strayed)
        expected = error_in_unit(result, scale, intensity)
        counts.add((result - truth).abs(), expected, intensity.values[-1] - intensity.values[0], masks)
        noise = noise_in_unit(volume_noise(intensity.forward(low)[..., None]), intensity)
        counts.contradictions.extend(one / noise for one in strayed)


def _is_usable(image: npt.NDArray[np.float32], factor: int) -> bool:
    return bool(min(image.shape) >= max(_LEAST_SIDE, 8 * factor))


def _part(image: npt.NDArray[np.float32], factor: int) -> Tensor:
    """The middle of a slice, (1, 1, H, W), of whole blocks of pixels."""
    sides = [min(n, _SIDE) // factor * factor for n in image.shape]
    rows, columns = (slice((n - side) // 2, (n - side) // 2 + side) for n, side in zip(image.shape, sides, strict=True))
    return torch.from_numpy(np.ascontiguousarray(image[rows, columns]))[None, None]


def _masks(level: Tensor) -> list[Tensor]:
    """Where each of :data:`REGIONS` is, of an original (1, 1, H, W) in model range."""
    body = foreground(to_grey8(level, -1.0, 1.0))
    kernel = level.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    steps = functional.conv2d(
        functional.pad(level, (1, 1, 1, 1), mode="replicate"), torch.stack([kernel, kernel.T])[:, None]
    )
    steep = steps.square().sum(dim=1, keepdim=True)
    edges = body & (steep >= steep[body].quantile(1 - _EDGE_SHARE)) if bool(body.any()) else body
    return [body, edges, torch.ones_like(body)]
