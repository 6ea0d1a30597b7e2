"""How far pixels of real images leave the range of the 3 x 3 area means around them: `consistency.OVERSHOOT_SHARES`.

    python benchmarks/overshoot_shares.py DATA

Takes up to 24 evenly spread slices of each volume of the split `train`, and prints by factor and modality the 99th and
99.9th percentile of the excess over the contrast: of all places, and of those whose contrast is above 0.8 times the
span of the volume, so that it is made by structure and not by noise.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from monai_ldmsr.consistency import neighbourhood_range
from monai_ldmsr.degradation import AreaOperator, repeat_blocks
from monai_ldmsr.evaluation.volumes import load_evaluation_volumes, measured_slices

STRONG, CT_SPAN_HU, N_SLICES, N_DRAWN = 0.8, 1500.0, 24, 50_000


def excess(image: torch.Tensor, factor: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Share of the contrast by which each pixel leaves the range, and the contrast, flat; flat places are left out."""
    means = AreaOperator(factor)(image)
    low, high = (repeat_blocks(end, factor) for end in neighbourhood_range(means, 0.0))
    contrast = high - low
    beyond = torch.maximum(image - high, low - image).clamp(min=0)
    return (beyond / contrast)[contrast > 0], contrast[contrast > 0]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="train")
    arguments = parser.parse_args()
    random = torch.Generator().manual_seed(0)
    shares: dict[tuple[str, int, str], list[torch.Tensor]] = defaultdict(list)
    for volume in load_evaluation_volumes(arguments.data, arguments.split):
        low, high = volume.intensity.values[0], volume.intensity.values[-1]
        span = CT_SPAN_HU if volume.modality == "CT" else high - low
        for factor in (2, 3, 4):
            for n in measured_slices(volume, N_SLICES):
                height, width = (side // factor * factor for side in volume.slices[n].shape)
                image = torch.from_numpy(np.ascontiguousarray(volume.slices[n][:height, :width])).float()[None, None]
                share, contrast = excess(image.clamp(min=-1024.0) if volume.modality == "CT" else image, factor)
                drawn = torch.randint(len(share), (min(N_DRAWN, len(share)),), generator=random)
                shares[volume.modality, factor, "all"].append(share[drawn])
                shares[volume.modality, factor, "strong"].append(share[contrast > STRONG * span])
    for factor in (2, 3, 4):
        for kind in ("all", "strong"):
            found = {key[0]: torch.cat(parts) for key, parts in shares.items() if key[1:] == (factor, kind)}
            for name, values in {**found, "together": torch.cat(list(found.values()))}.items():
                percentiles = np.quantile(values.numpy(), (0.99, 0.999))
                print(factor, kind, name, len(values), *(f"{percentile:.3f}" for percentile in percentiles))


if __name__ == "__main__":
    main()
