"""What must hold on a GPU, and how fast it is: `benchmarks/gpu_check.sh`, or `python -m benchmarks.gpu_check`.

Needs Python, torch, monai and this repository; no reader of images and no data. Prints one JSON object: whether the GPU
gives what the CPU gives (CT, within one stored unit of 1 HU), slices a second by size and number format, the share of
the machine's own rate of products that is reached, whether a batch that memory cannot hold is halved, and a profile.
With ``--device cpu`` the same code runs on a CPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from monai_ldmsr.bundle_config import open_workflow
from monai_ldmsr.choices import PRECISIONS
from monai_ldmsr.inferers import VolumeInferer
from monai_ldmsr.transforms.intensity import CT_KNOTS_HU, IntensityMap

BUNDLE = Path(__file__).parents[1] / "bundles" / "ldm_sr"
NOISE, FACTOR = 3.0, 4


def network_of(detail: float) -> Any:
    """The bundle's network with its weights; at a dial."""
    workflow = open_workflow(
        BUNDLE, "inference", workflow_type="infer", factor=FACTOR, detail=detail, output_dir=".", dataset_dir="."
    )
    workflow.parser.get_parsed_content("loaded_sha256")
    return workflow.network_def.eval()


def made_volume(side: int, n_slices: int) -> Tensor:
    """(1, 1, side, side, n) in model range: smooth structure, edges and noise."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(n_slices, 1, max(2, side // 16), max(2, side // 16), generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")
    edges = (smooth > 0.5).float() * 0.8 - 0.4
    noise = 0.02 * torch.randn(smooth.shape, generator=generator)
    return (smooth + edges + noise - 0.5).movedim(0, -1)[None]


def timed(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median seconds of a call, after one that is not counted."""
    found = []
    for _ in range(repeats + 1):
        wait(device)
        start = time.perf_counter()
        call()
        wait(device)
        found.append(time.perf_counter() - start)
    return statistics.median(found[1:])


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def product_rate(device: torch.device, precision: str, side: int) -> float:
    """Product of two matrices in GFLOP/s."""
    kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
    left, right = torch.rand(2, side, side, device=device, dtype=kind)
    return 2 * side**3 / timed(lambda: left @ right, device, 5) / 1e9


def parity(device: torch.device, side: int) -> dict[str, Any]:
    """Difference of the device's result from the CPU's in HU, by dial and number format."""
    values, levels = zip(*CT_KNOTS_HU, strict=True)
    intensity, volume, found = IntensityMap(values, levels), made_volume(side, 2), {}
    for detail in (0.0, 0.5):
        network = network_of(detail)
        exact = intensity.inverse(VolumeInferer()(volume, network.to("cpu"), "CT", NOISE))
        for precision in PRECISIONS:
            inferer = VolumeInferer(device=device, precision=precision)
            with torch.no_grad():
                other = intensity.inverse(inferer(volume, network.to(device), "CT", NOISE))
            apart = (other - exact).abs()
            found[f"detail {detail:g}, {precision}"] = {
                "max_hu": round(float(apart.max()), 3),
                "mean_hu": round(float(apart.mean()), 4),
                "share_above_one": round(float((apart > 1).float().mean()), 6),
            }
    return found


def speed(device: torch.device, sides: list[int], n_slices: int, repeats: int) -> list[dict[str, Any]]:
    """Slices a second of mean and sample, with all transfers."""
    rows = []
    for side in sides:
        volume = made_volume(side, n_slices)
        for detail in (0.0, 0.5):
            network = network_of(detail).to(device)
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                network.estimates(volume[..., 0].to(device), "CT", NOISE)
            for precision in PRECISIONS:
                inferer = VolumeInferer(device=device, precision=precision)
                seconds = timed(partial(inferer.estimate, volume, network, "CT", NOISE), device, repeats)
                rate = counter.get_total_flops() * n_slices / seconds / 1e9
                rows.append(
                    {
                        "result_pixels": side * FACTOR,
                        "detail": detail,
                        "precision": precision,
                        "slices_a_second": round(n_slices / seconds, 3),
                        "gflop_s": round(rate, 1),
                        "share_of_products": round(rate / product_rate(device, precision, 1024), 3),
                    }
                )
    return rows


def halving(device: torch.device, side: int) -> str:
    """What becomes of a batch that memory cannot hold."""
    if device.type != "cuda":
        return "not tried: a CPU's system ends a process that takes too much"
    free = torch.cuda.mem_get_info(device)[0]
    torch.cuda.set_per_process_memory_fraction(min(1.0, 4e9 / free), device)
    try:
        inferer = VolumeInferer(batch_size=512, max_batch_pixels=2**62, device=device)
        result = inferer(made_volume(side, 64), network_of(0.0).to(device), "CT", NOISE)
        return f"went on: {result.shape[-1]} slices done"
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def profiled(device: torch.device, side: int) -> list[str]:
    """The ten operators that take longest."""
    network, slices = network_of(0.0).to(device), made_volume(side, 1)[..., 0].to(device)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with torch.no_grad(), profile(activities=activities) as found:
        network.estimates(slices, "CT", NOISE)
        wait(device)
    by = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    rows = sorted(found.key_averages(), key=lambda row: -getattr(row, by))[:10]
    return [f"{row.key}: {getattr(row, by) / 1000:.2f} ms in {row.count} calls" for row in rows]


def main() -> None:
    """Print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 128, 256, 512], help="of slices, in pixels")
    parser.add_argument("--slices", type=int, default=32, help="slices of each volume")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    device = torch.device(given.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    print(
        json.dumps(
            {
                "device": name,
                "torch": torch.__version__,
                "parity": parity(device, given.sides[0]),
                "speed": speed(device, given.sides, given.slices, given.repeats),
                "out_of_memory": halving(device, given.sides[-1]),
                "profile": profiled(device, given.sides[-1]),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
