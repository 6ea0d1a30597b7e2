"""How many operations a batch of slices launches: `python -m benchmarks.launches`; needs no GPU, and computes nothing.

Counted on torch's meta device, where tensors have sizes and no values, on the code that runs on a GPU. Launching takes
a GPU's host some microseconds an operation, whatever the size of the batch; captured or compiled graphs would spare
that. It is hidden as long as the GPU computes for longer than the next launches take.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import ROOT, facts, write_json
from monai_ldmsr import load_super_resolver

FACTOR, SIDES, BATCHES = 4, (256, 512, 1024), (1, 16)


class Counted(TorchDispatchMode):
    """Counts operations that compute; views and sizes are launched nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not function.is_view
        return function(*args, **(kwargs or {}))


def rows() -> list[dict[str, Any]]:
    """By dial, side of the result and slices in a batch: operations that are launched, and GFLOP."""
    found = []
    for dial in (0.0, 0.5):
        network, _ = load_super_resolver(factor=FACTOR, detail=dial)
        network.to("meta")
        for side in SIDES:
            for batch in BATCHES:
                slices = torch.zeros(batch, 1, side // FACTOR, side // FACTOR, device="meta")
                with torch.no_grad(), FlopCounterMode(display=False) as flops, Counted() as counted:
                    network.estimates(slices, "MR", 3.0)
                gflop = flops.get_total_flops() / 1e9
                found.append({"dial": dial, "side": side, "batch": batch, "operations": counted.count, "gflop": gflop})
    return found


def main() -> None:
    """Count and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "docs/speed/launches.json")
    given = parser.parse_args()
    write_json({"machine": facts(), "factor": FACTOR, "rows": rows()}, given.output)


if __name__ == "__main__":
    main()
