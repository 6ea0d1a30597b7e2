"""How long one iteration of the adversarial stage takes, and how much memory, as a table of variants.

    python benchmarks/gpu_training/time_steps.py PACKED --seconds 12 --variant plain:96x128 --variant recorded:96x128

A variant is ``plain`` or ``recorded``, then sides of patches and patches in a batch. Weights are random.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from monai.bundle import ConfigParser

from monai_ldmsr.bundle_folder import find_bundle


class _Engine:
    """What an iteration needs of an engine."""

    class state:  # noqa: N801  # as ignite names it
        iteration = 1000


def measure(data: Path, variant: str, seconds: float, first: int, device: str) -> str:
    """Train for some seconds; return a line of the table."""
    name, shape = variant.split(":")
    sizes = [[int(n) for n in part.split("x")] for part in shape.split(",")]
    parser = ConfigParser()
    configs = find_bundle("ldm_sr") / "configs"
    parser.read_config([str(configs / f"{name}.yaml") for name in ("inference", "train_adversarial")])
    parser.update(
        {
            "dataset_dir": data,
            "device": device,
            "sizes": sizes,
            "recorded": name == "recorded",
            "picture_split": "",
            "recipe": {"other_factors": 2},
        }
    )
    patches, step = parser.get_parsed_content("patches"), parser.get_parsed_content("step")
    on_cuda = torch.device(device).type == "cuda"
    begin = time.perf_counter()
    for _ in range(first):
        step(_Engine, patches.draw())
    _wait(on_cuda)
    first_s = time.perf_counter() - begin
    begin, count, pixels, drawing_s = time.perf_counter(), 0, 0, 0.0
    while time.perf_counter() - begin < seconds:
        drawn = time.perf_counter()
        batch = patches.draw()
        _wait(on_cuda)
        drawing_s += time.perf_counter() - drawn
        step(_Engine, batch)
        _wait(on_cuda)
        count, pixels = count + 1, pixels + batch["label"].numel()
    used_s = time.perf_counter() - begin
    memory = f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB" if on_cuda else "-"
    return (
        f"{variant:28} first {first_s:6.1f} s, then {1000 * used_s / count:7.1f} ms a step (drawing "
        f"{1000 * drawing_s / count:5.1f}), {pixels / used_s / 96**2:7.0f} patches of 96 px a second, {memory}"
    )


def _wait(on_cuda: bool) -> None:
    if on_cuda:
        torch.cuda.synchronize()


def main() -> None:
    """Print a line a variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that ldmsr pack wrote")
    parser.add_argument("--variant", action="append", required=True)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each variant, compiling aside")
    parser.add_argument("--first", type=int, default=40, help="iterations before the time is taken (default: 40)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    for variant in arguments.variant:
        print(measure(arguments.data, variant, arguments.seconds, arguments.first, arguments.device), flush=True)


if __name__ == "__main__":
    main()
