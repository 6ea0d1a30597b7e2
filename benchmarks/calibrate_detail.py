"""Find the gains that give a result the original's sharpness at the least cost in truth, on all but the test split.

    python benchmarks/calibrate_detail.py DATA --bundle ldm_sr

For each modality and factor: the four gains of `detail_gains` in inference.yaml with the highest mean PSNR among those
whose Laplacian variance is the original's, whose FFT score lies within its tolerance, and whose power exceeds the
original's in no ring of the spectrum; where these cannot all be had at a PSNR above bicubic's, what comes nearest. They
are a start: look at the pictures, and smooth them by hand where that costs little. Prints one YAML line a modality.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from monai_ldmsr.consistency import project_onto_source
from monai_ldmsr.degradation import AreaOperator
from monai_ldmsr.evaluation import load_evaluation_volumes
from monai_ldmsr.geometry import spread_slices
from monai_ldmsr.metrics import fft_sharpness, laplacian_variance, to_grey8
from monai_ldmsr.networks import FACTORS, SuperResolver, upsample_bicubic
from monai_ldmsr.networks.detail import KNOTS, place_detail, weigh_detail
from monai_ldmsr.training.slices import TrainingVolume
from monai_ldmsr.workflow import load_network

MIN_SIDE, MAX_SIDE = 96, 320

#: Tolerances: share of the Laplacian variance, FFT score, and dB that the mean PSNR must lie above bicubic's.
LAPLACIAN, FFT, PSNR_DB = 0.02, 1.0, 0.25

#: Rings of the spectrum up to Nyquist, and how many times the original's power a ring may have.
RINGS, EXCESS = 16, 1.15


@dataclass(frozen=True)
class Case:
    """One slice in model range, (1, 1, H, W) each: what the network gives, and what it should."""

    mean: Tensor
    sample: Tensor
    low: Tensor
    volume: TrainingVolume
    reference: Tensor
    sharpness: np.ndarray
    psnr_bicubic: float
    activity: tuple[float, float]

    def result(self, gains: np.ndarray, factor: int) -> Tensor:
        """As the pipeline makes it, projection included, in grey levels."""
        weighed = weigh_detail(self.sample - self.mean, gains.tolist())
        image = self.mean + place_detail(weighed, self.mean, *self.activity)
        linear = project_onto_source(self.volume.intensity.inverse(image), self.low, AreaOperator(factor))
        return to_grey8(self.volume.intensity.forward(linear), -1.0, 1.0)


def psnr(image: Tensor, reference: Tensor) -> float:
    """Decibels of grey levels."""
    return float(10 * torch.log10(255**2 / (image - reference).square().mean()))


def cases(
    volumes: list[TrainingVolume], network: SuperResolver, activity: tuple[float, float], count: int
) -> Iterator[Case]:
    """The middle of some slices of each volume; ``network`` gives its sample as it is."""
    factor = network.factor
    for volume in volumes:
        usable = [image for image in volume.slices if min(image.shape) >= MIN_SIDE]
        for n in spread_slices(len(usable), count):
            sizes = [min(side, MAX_SIDE) // factor * factor for side in usable[n].shape]
            top, left = ((side - size) // 2 for side, size in zip(usable[n].shape, sizes, strict=True))
            high = torch.from_numpy(usable[n][top : top + sizes[0], left : left + sizes[1]].copy())[None, None]
            low = AreaOperator(factor)(high)
            scaled, reference = volume.intensity.forward(low), to_grey8(volume.intensity.forward(high), -1.0, 1.0)
            bicubic = psnr(to_grey8(upsample_bicubic(scaled, factor), -1.0, 1.0), reference)
            steps, network.num_inference_steps = network.num_inference_steps, 1
            mean = network(scaled)
            network.num_inference_steps = steps
            yield Case(mean, network(scaled), low, volume, reference, sharpness(reference), bicubic, activity)


def sharpness(image: Tensor) -> np.ndarray:
    """Laplacian variance, FFT score, and power in each ring up to Nyquist, of grey levels (1, 1, H, W)."""
    height, width = image.shape[-2:]
    radius = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None, :]) * 2 * RINGS
    power = torch.fft.rfft2(image[0, 0]).abs().square().flatten().double() / (height * width) ** 2
    rings = torch.bincount(radius.long().flatten(), weights=power, minlength=RINGS)[:RINGS]
    return np.array([laplacian_variance(image).item(), fft_sharpness(image).item(), *rings.tolist()])


def figures(chosen: list[Case], gains: np.ndarray, factor: int) -> tuple[float, float, float, float]:
    """Figures of all slices together.

    Laplacian variance over the original's, FFT score minus the original's, mean PSNR minus bicubic's, and the sum of
    squares of what rings exceed :data:`EXCESS` by.
    """
    images = [case.result(gains, factor) for case in chosen]
    found = np.mean([sharpness(image) for image in images], axis=0)
    truth = np.mean([case.sharpness for case in chosen], axis=0)
    gained = [psnr(image, case.reference) - case.psnr_bicubic for image, case in zip(images, chosen, strict=True)]
    excess = np.square(np.maximum(0.0, found[2:] / truth[2:] - EXCESS)).sum()
    return found[0] / truth[0], found[1] - truth[1], float(np.mean(gained)), float(excess)


def calibrate(chosen: list[Case], factor: int) -> np.ndarray:
    """Best gains of one modality and factor."""

    def cost(gains: np.ndarray) -> float:
        ratio, score, gained, excess = figures(chosen, np.clip(gains, 0.0, 4.0), factor)
        beyond = [max(0.0, abs(np.log(ratio)) - LAPLACIAN), max(0.0, abs(score) - FFT) / 10, max(0.0, PSNR_DB - gained)]
        rough = 0.05 * float(np.square(np.diff(gains)).sum())
        return -0.1 * gained + 10 * beyond[0] + 10 * beyond[1] + 30 * beyond[2] + 5 * excess + rough

    start = min((np.full(len(KNOTS), level) for level in (0.4, 0.7, 1.0, 1.4)), key=cost)
    found = minimize(cost, start, method="Nelder-Mead", options={"maxfev": 80, "xatol": 0.01})
    return np.clip(found.x, 0.0, 4.0).round(2)


@torch.inference_mode()
def main() -> None:
    """Calibrate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--bundle", default="ldm_sr")
    parser.add_argument("--splits", nargs="+", default=["train", "calibration"])
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--modalities", nargs="+", default=["CT", "MR"])
    arguments = parser.parse_args()
    volumes = [v for split in arguments.splits for v in load_evaluation_volumes(arguments.data, split)]
    shipped = load_network(arguments.bundle)
    activity = (shipped.activity_floor, shipped.activity_exponent)
    for modality in arguments.modalities:
        rows = []
        for factor in reversed(FACTORS):
            plain = {"detail_gains": {}, "activity_floor": 0.0, "activity_exponent": 0.0}
            network = load_network(arguments.bundle, factor=factor, **plain)
            of_modality = [v for v in volumes if v.modality == modality]
            chosen = list(cases(of_modality, network, activity, arguments.slices))
            gains = calibrate(chosen, factor)
            ratio, score, gained, excess = figures(chosen, gains, factor)
            rows.insert(0, gains.tolist())
            truest = figures(chosen, np.zeros(len(KNOTS)), factor)[2]
            print(f"# {modality} x{factor}, {len(chosen)} slices: {gains.tolist()}, Laplacian variance {ratio:.3f},")
            print(
                f"#   FFT {score:+.2f}, PSNR {gained:+.2f} dB over bicubic (mean alone {truest:+.2f} dB), {excess:.2f}"
            )
        print(f"  {modality}: {rows}", flush=True)


if __name__ == "__main__":
    main()
