"""What every benchmark of speed says of the machine it ran on, and how it measures time and memory."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import re
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

__all__ = ["ROOT", "convolution_gflop_per_s", "facts", "peak_mb", "reset_peak", "seconds_of", "spread_of", "write_json"]

#: The repository, from which children are started.
ROOT = Path(__file__).resolve().parents[1]

#: Channels and side of the convolution whose rate is taken as the machine's; 3 x 3, float32, channels last.
_CHANNELS, _SIDE = 64, 256


def facts(device: str = "cpu") -> dict[str, Any]:
    """Cores, threads, instructions, versions and date; no name of the machine."""
    said: dict[str, Any] = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "device": torch.cuda.get_device_name(device) if device != "cpu" else "CPU",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if device != "cpu":
        said["tf32"] = bool(torch.backends.cudnn.allow_tf32)
    with suppress(OSError):
        said["load_before"] = round(os.getloadavg()[0], 2)
    return said


def _processor() -> str:
    with suppress(OSError):
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
        return found[1] if found else platform.machine()
    return platform.machine()


def seconds_of(work: Callable[[], Any], device: str = "cpu") -> float:
    """Seconds by the clock; a GPU's work is waited for."""
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def spread_of(values: Sequence[float]) -> dict[str, Any]:
    """Median, least and greatest."""
    return {
        "median": statistics.median(values),
        "least": min(values),
        "greatest": max(values),
        "repeats": len(values),
    }


def convolution_gflop_per_s(device: str = "cpu", repeats: int = 9) -> float:
    """Rate of one convolution, median: what a network of convolutions can reach on this machine at most."""
    image = torch.randn(1, _CHANNELS, _SIDE, _SIDE, device=device).to(memory_format=torch.channels_last)
    layer = torch.nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1, device=device).to(memory_format=torch.channels_last)
    with torch.no_grad():
        for _ in range(3):
            layer(image)
        times = [seconds_of(lambda: layer(image), device) for _ in range(repeats)]
    return 2 * _CHANNELS**2 * 9 * _SIDE**2 / 1e9 / statistics.median(times)


def reset_peak(device: str = "cpu") -> None:
    """Give back what is not used, and let :func:`peak_mb` begin again, where the system can do that."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    if device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb(device: str = "cpu") -> float:
    """Peak memory in MiB since :func:`reset_peak`: of this process, or on the GPU what torch had allocated."""
    if device != "cpu":
        return float(torch.cuda.max_memory_allocated()) / 2**20
    with suppress(OSError):
        found = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.M)
        if found:
            return int(found[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def write_json(found: Any, path: Path) -> None:
    """Write what was measured so far; numbers with four figures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.tmp")
    partial.write_text(json.dumps(_rounded(found), indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value
