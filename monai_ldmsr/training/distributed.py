"""Training by several processes (torchrun): one GPU each, or several CPU processes that talk over gloo."""

from __future__ import annotations

import os

import torch
from monai.utils import set_determinism
from torch import distributed, nn

__all__ = [
    "agreed_seconds",
    "end_process",
    "is_first_process",
    "local_device",
    "process_seed",
    "spread_over_processes",
    "start_process",
]

#: Far more than the stages' own seeds differ by.
_SEED_STEP = 1000


def local_device() -> torch.device:
    """The GPU that belongs to this process (torchrun's ``LOCAL_RANK``), or the CPU where there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]))


def start_process(seed: int) -> None:
    """Join the other processes and seed this one; the first entry of a config's ``initialize``."""
    device = local_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    set_determinism(process_seed(seed), use_deterministic_algorithms=False)


def end_process() -> None:
    """Wait for the others and leave; the last entry of a config's ``finalize``."""
    if _joined():
        distributed.barrier()
        distributed.destroy_process_group()


def process_seed(seed: int) -> int:
    """A seed of this process alone, so that each draws other patches."""
    return seed + _SEED_STEP * (distributed.get_rank() if _joined() else int(os.environ.get("RANK", "0")))


def is_first_process() -> bool:
    """Whether this process is the one that writes; true without others."""
    return not _joined() or distributed.get_rank() == 0


def spread_over_processes(network: nn.Module, device: torch.device, find_unused_parameters: bool = False) -> nn.Module:
    """Move a network to this process's device and average its gradients over all processes.

    Args:
        network: the same architecture in each process; the first one's values are given to all.
        device: see :func:`local_device`.
        find_unused_parameters: needed where some parameter takes no part in a step.
    """
    moved: nn.Module = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    ids = [device.index] if device.type == "cuda" else None
    # No buffers change in training; broadcasting them would write into what a second forward pass still needs.
    return nn.parallel.DistributedDataParallel(
        moved, device_ids=ids, broadcast_buffers=False, find_unused_parameters=find_unused_parameters
    )


def agreed_seconds(seconds: float) -> float:
    """The first process's clock: all must end after the same step, or the rest would wait for ever."""
    if not _joined() or distributed.get_world_size() == 1:
        return seconds
    device = local_device() if distributed.get_backend() == "nccl" else torch.device("cpu")
    shared = torch.tensor([seconds], dtype=torch.float64, device=device)
    distributed.broadcast(shared, src=0)
    return float(shared.item())


def _joined() -> bool:
    return distributed.is_available() and distributed.is_initialized()
