"""The poster's way beside ours: plain DDIM and DDPM from pure noise, and the anchored flow, on one denoiser.

    python benchmarks/plain_diffusion.py DATA training_output --split calibration

Takes codec.pt and denoiser.pt of `train_diffusion.yaml` (the shipped denoiser is its two-step student and no flow any
more). Prints, for crops of a few slices: PSNR, Laplacian variance over the original's, FFT score minus the original's,
evaluations and seconds a crop.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from gaussian_diffusion import sample_gaussian_diffusion
from torch import Tensor

from monai_ldmsr.consistency import project_onto_source
from monai_ldmsr.degradation import AreaOperator
from monai_ldmsr.evaluation.figures import measure
from monai_ldmsr.evaluation.volumes import load_evaluation_volumes
from monai_ldmsr.networks import describe_degradation, load_weights, upsample_bicubic
from monai_ldmsr.samplers import AnchoredFlow, Velocity, posterior_mean
from monai_ldmsr.workflow import load_network

FACTOR, SIDE = 4, 192

#: Of the flow's start in training.
START_NOISE = 0.7

Sampler = Callable[[Callable[[Tensor, Tensor], Tensor], Tensor], Tensor]


def anchored_flow(velocity: Velocity, noise: Tensor, steps: int) -> Tensor:
    """The flow from the low-resolution image."""
    return AnchoredFlow(steps, START_NOISE)(velocity, posterior_mean(velocity, noise), noise)


SAMPLERS: dict[str, tuple[int, Sampler]] = {
    **{f"anchored flow, {n}": (n, lambda velocity, noise, n=n: anchored_flow(velocity, noise, n)) for n in (1, 2, 4)},
    **{
        f"{method.upper()}, {n}": (
            n,
            lambda velocity, noise, n=n, method=method: sample_gaussian_diffusion(
                velocity, noise, n, method, START_NOISE, torch.Generator().manual_seed(1)
            ),
        )
        for method, n in (("ddim", 4), ("ddim", 50), ("ddpm", 1000))
    },
}


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("training", type=Path, help="folder with codec.pt and denoiser.pt")
    parser.add_argument("--split", default="calibration")
    parser.add_argument("--volumes", type=int, default=3, help="of each modality (default: 3)")
    arguments = parser.parse_args()
    network = load_network("ldm_sr", factor=FACTOR).generator
    load_weights(network.codec, arguments.training / "codec.pt")
    load_weights(network.denoiser, arguments.training / "denoiser.pt")
    volumes = load_evaluation_volumes(arguments.data, arguments.split)
    print(f"{'modality':9}{'sampler':22}{'PSNR':>7}{'LapVar':>8}{'FFT':>8}{'steps':>7}{'s':>8}")
    for modality in ("MR", "CT"):
        large = [v for v in volumes if v.modality == modality and min(v.slices[0].shape) >= SIDE]
        rows: dict[str, list[tuple[float, ...]]] = {}
        for volume in large[:: max(1, len(large) // arguments.volumes)][: arguments.volumes]:
            image = volume.slices[len(volume.slices) // 2]
            top, left = ((n - SIDE) // 2 for n in image.shape)
            high = torch.from_numpy(image[top : top + SIDE, left : left + SIDE].copy())[None, None]
            low, reference = AreaOperator(FACTOR)(high), volume.intensity.forward(high)
            upsampled = upsample_bicubic(volume.intensity.forward(low), FACTOR)
            condition = network.codec.encode(upsampled)
            noise = torch.randn(condition.shape, generator=torch.Generator().manual_seed(0))

            def velocity(state: Tensor, timesteps: Tensor, condition: Tensor = condition) -> Tensor:
                degradation = describe_degradation(torch.full((1, 2), float(FACTOR)), torch.zeros(1), torch.zeros(1))
                return network.denoiser(state, condition, timesteps, degradation)

            results = {"bicubic": (0, lambda *_, image=upsampled: image)}
            for name, (steps, sampler) in {**results, **SAMPLERS}.items():
                start = time.perf_counter()
                found = sampler(velocity, noise)
                if steps:
                    found = network.codec.decode(condition + found * network.codec.residual_std[:, None, None])
                    found = project_onto_source(volume.intensity.inverse(found), low, AreaOperator(FACTOR))
                    found = volume.intensity.forward(found)
                seconds = time.perf_counter() - start
                figures, truth = measure(found, reference), measure(reference, reference)
                ratio = figures["laplacian_variance"] / truth["laplacian_variance"]
                rows.setdefault(name, []).append((figures["psnr"], ratio, figures["fft_minus_hr"], steps, seconds))
        for name, values in rows.items():
            psnr, ratio, score, steps, seconds = np.mean(values, axis=0)
            print(f"{modality:9}{name:22}{psnr:7.2f}{ratio:8.2f}{score:+8.2f}{steps:7.0f}{seconds:8.2f}", flush=True)


if __name__ == "__main__":
    main()
