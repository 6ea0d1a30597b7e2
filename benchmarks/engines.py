"""Ways to run the same network on a CPU: `python -m benchmarks.engines`; what was tried for speed, and what it gave.

The mean of one slice (detail 0, factor 4) in a process for each way: torch as it comes; with pages of 2 MB; with freed
memory kept, as runs have it; ONNX Runtime and OpenVINO (where installed) on what `ldmsr export` writes; torch.compile
(minutes; where a C++ compiler is). Beside these, one 3 x 3 convolution in other number formats. Each way's greatest
difference from torch's result is taken in model range.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import ROOT, facts, write_json

WAYS = ("torch", "huge pages", "kept memory", "ONNX Runtime", "OpenVINO", "torch.compile")
NOISE, SIDE, FACTOR, REPEATS = 3.0, 256, 4, 5


def main() -> None:
    """Measure all ways and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--way", choices=(*WAYS, "formats"), help="one way in this process, for the program itself")
    parser.add_argument("--files", type=Path, help="folder of the network's file and of results")
    parser.add_argument("--skip", nargs="+", choices=WAYS, default=[], help="ways that are left out")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/speed/engines.json")
    given = parser.parse_args()
    if given.way == "formats":
        print(json.dumps(formats()))
    elif given.way:
        print(json.dumps(measured(given.way, given.files)))
    else:
        everything(given.skip, given.output)


def everything(skip: list[str], output: Path) -> None:
    """Each way in a process of its own."""
    from monai_ldmsr import export_networks

    found: dict[str, Any] = {"machine": facts(), "pixels": SIDE * FACTOR, "ways": []}
    with tempfile.TemporaryDirectory() as folder:
        networks = Path(folder, "networks")
        export_networks(networks, factor=FACTOR, detail=0.0, parts=["network"], formats=["onnx"])
        for way in (*(one for one in WAYS if one not in skip), "formats"):
            command = [
                sys.executable,
                "-W",
                "ignore",
                "-m",
                "benchmarks.engines",
                "--way",
                way,
                "--files",
                str(networks),
            ]
            environment = {**os.environ, "THP_MEM_ALLOC_ENABLE": "0" if way == "torch" else "1"}
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
            said = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else "could not be run"
            print(way, said, flush=True)
            if way == "formats":
                found["formats"] = said
            else:
                found["ways"].append({"way": way, **(said if isinstance(said, dict) else {"not_measured": said})})
            write_json(found, output)


def measured(way: str, files: Path) -> dict[str, Any]:
    """Seconds of a call, and how far its result is from torch's."""
    from monai_ldmsr.allocator import reused_memory

    if way == "OpenVINO" and find_spec("openvino") is None:
        return {"not_measured": "it is not installed"}
    slices = np.random.default_rng(0).normal(0, 0.3, (1, 1, SIDE, SIDE)).astype(np.float32)
    begin = time.perf_counter()
    call = {"ONNX Runtime": onnx_runtime, "OpenVINO": openvino}.get(way, in_torch)(files, slices, way)
    with reused_memory(way in ("kept memory", "torch.compile")):
        result = call()
        ready = time.perf_counter() - begin
        seconds = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
    known = files / "torch.npy"
    if way == "torch":
        np.save(known, result)
    apart = float(np.abs(np.load(known) - result).max()) if known.exists() else None
    return {"seconds": statistics.median(seconds), "ready_s": ready, "difference": apart}


def in_torch(files: Path, slices: np.ndarray, way: str) -> Callable[[], np.ndarray]:
    """The network itself, compiled or not."""
    import torch

    from monai_ldmsr import load_super_resolver

    network, _ = load_super_resolver(factor=FACTOR, detail=0.0)
    given, call = torch.from_numpy(slices), network.estimates
    if way == "torch.compile":
        call = torch.compile(network.estimates)

    def run() -> np.ndarray:
        with torch.no_grad():
            return call(given, "CT", NOISE)[0][0].numpy()

    return run


def onnx_runtime(files: Path, slices: np.ndarray, way: str) -> Callable[[], np.ndarray]:
    """The exported network in ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(next(files.glob("network*.onnx")), providers=["CPUExecutionProvider"])
    given = {"slices": slices, "noise": np.full(1, NOISE, np.float32)}
    return lambda: session.run(["result"], given)[0]


def openvino(files: Path, slices: np.ndarray, way: str) -> Callable[[], np.ndarray]:
    """The exported network in OpenVINO."""
    import openvino as ov

    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = ov.Core().compile_model(next(files.glob("network*.onnx")), "CPU", hints)
    given = {"slices": slices, "noise": np.full(1, NOISE, np.float32)}
    return lambda: compiled(given)["result"]


def formats() -> dict[str, Any]:
    """Milliseconds of one convolution of the decoder by number format; of int8 without and with conversion."""
    import torch
    from torch.ao.nn.quantized import Conv2d

    image = torch.randn(1, 48, 528, 528).to(memory_format=torch.channels_last)
    layer = torch.nn.Conv2d(48, 48, 3, padding=1).to(memory_format=torch.channels_last)
    torch.backends.quantized.engine = "onednn"
    whole = Conv2d(48, 48, 3, padding=1)
    whole.scale, whole.zero_point = 0.05, 64
    scales, zeros = torch.full((48,), 1e-3), torch.zeros(48, dtype=torch.int64)
    whole.set_weight_bias(torch.quantize_per_channel(layer.weight.detach(), scales, zeros, 0, torch.qint8), layer.bias)
    given = torch.quantize_per_tensor(image, 0.05, 64, torch.quint8)

    def in_bfloat16() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            layer(image)

    calls: dict[str, Callable[[], object]] = {
        "float32": lambda: layer(image),
        "bfloat16": in_bfloat16,
        "int8": lambda: whole(given),
        "to int8 and back": lambda: torch.quantize_per_tensor(image, 0.05, 64, torch.quint8).dequantize(),
    }
    found = {}
    with torch.no_grad():
        for name, call in calls.items():
            call()
            seconds = []
            for _ in range(REPEATS):
                start = time.perf_counter()
                call()
                seconds.append(time.perf_counter() - start)
            found[name] = 1000 * statistics.median(seconds)
    return found


if __name__ == "__main__":
    main()
