"""Convolutions in whole numbers of 8 bits, before and after: `python -m benchmarks.quantized DATASET`.

Slices of the test split are degraded by 4 and super-resolved by the bundle's weights: in float32; with the convolutions
of the decoders (their residual blocks and the layer behind) rounded to 8 and to 7 bits, as processors without VNNI need
it so that sums do not overflow; and, where NNCF and OpenVINO are installed, with the whole network of the mean
quantized by them, timed beside the same in float32. Ranges of values are taken from the calibration split. Rounding is
simulated in float32 for the decoders: it shows what is lost, not what time is won (for that see `benchmarks.engines`).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.metrics import PSNRMetric
from torch import Tensor, nn

from benchmarks.machine import ROOT, facts, seconds_of, write_json
from monai_ldmsr import load_super_resolver
from monai_ldmsr.degradation import DegradationOperator
from monai_ldmsr.evaluation.volumes import load_evaluation_volumes, measured_slices
from monai_ldmsr.noise_level import GREY_LEVELS, estimate_noise

FACTOR, MOST, SLICES, REPEATS = 4, 256, 2, 5

#: Share of values at either end that may lie outside of the range that is quantized.
LEFT_OUT = 1e-4


class Sample(NamedTuple):
    """A slice of which the truth is known, both (1, 1, H, W) in model range."""

    modality: str
    truth: Tensor
    low: Tensor


def samples(dataset: Path, split: str, most: int) -> list[Sample]:
    """The middles of some slices of each volume of a split."""
    found, degrade = [], DegradationOperator("area", FACTOR)
    for volume in load_evaluation_volumes(dataset, split):
        for number in measured_slices(volume, SLICES):
            image = torch.from_numpy(np.ascontiguousarray(volume.slices[number]))
            sides = [min(side, most) // (4 * FACTOR) * (4 * FACTOR) for side in image.shape]
            rows, columns = (
                slice((whole - side) // 2, (whole + side) // 2) for whole, side in zip(image.shape, sides, strict=True)
            )
            truth = image[rows, columns][None, None]
            forward = volume.intensity.forward
            found.append(Sample(volume.modality, forward(truth), forward(degrade(truth))))
    return found


def decoders_of(generator: nn.Module) -> dict[str, nn.Conv2d]:
    """The convolutions that are rounded: most of what decoders do."""
    return {
        name: layer
        for name, layer in generator.named_modules()
        if isinstance(layer, nn.Conv2d) and "_decoder." in name and (".body." in name or name.endswith(".up"))
    }


@contextmanager
def hooked(layers: dict[str, nn.Conv2d], made: Callable[[str], Callable[..., Any]]) -> Iterator[None]:
    """Layers whose input is seen, or changed, on the way in."""
    with ExitStack() as stack:
        for name, layer in layers.items():
            stack.callback(layer.register_forward_pre_hook(made(name)).remove)
        yield


@contextmanager
def rounded(layers: dict[str, nn.Conv2d], ranges: dict[str, list[float]], bits: int) -> Iterator[None]:
    """Inputs of so many bits for a layer, and weights of 8 for each of its channels."""
    kept = {name: layer.weight.detach().clone() for name, layer in layers.items()}

    def quantizer(name: str) -> Callable[..., Any]:
        low, high = ranges[name]
        step = (high - low) / (2**bits - 1)
        return lambda _, given: (((given[0].clamp(low, high) - low) / step).round() * step + low,)

    for layer in layers.values():
        step = layer.weight.detach().abs().amax((1, 2, 3), keepdim=True) / 127
        layer.weight.data = (layer.weight.detach() / step).round() * step
    try:
        with hooked(layers, quantizer):
            yield
    finally:
        for name, layer in layers.items():
            layer.weight.data = kept[name]


def ranges_of(layers: dict[str, nn.Conv2d], run: Callable[[], Any]) -> dict[str, list[float]]:
    """Least and greatest input of each layer, but for a few outliers."""
    found: dict[str, list[float]] = {}

    def observer(name: str) -> Callable[..., None]:
        def observe(_: nn.Module, given: Sequence[Tensor]) -> None:
            ends = np.quantile(given[0].numpy(), (LEFT_OUT, 1 - LEFT_OUT))
            known = found.setdefault(name, [float(ends[0]), float(ends[1])])
            found[name] = [min(known[0], float(ends[0])), max(known[1], float(ends[1]))]

        return observe

    with hooked(layers, observer):
        run()
    return found


def rows_of(way: str, dial: float, given: list[Sample], before: list[Tensor], after: list[Tensor]) -> list[Any]:
    """For each modality: PSNR of both in dB (peak 2, the model range), and how far they are apart in grey levels."""
    rows, psnr_db = [], PSNRMetric(max_val=2.0)
    for modality in sorted({one.modality for one in given}):
        of = [n for n, one in enumerate(given) if one.modality == modality]
        psnr = [statistics.mean(float(psnr_db(results[n], given[n].truth)) for n in of) for results in (before, after)]
        apart = [(before[n] - after[n]).abs().numpy() * GREY_LEVELS for n in of]
        rows.append(
            {
                "way": way, "dial": dial, "modality": modality, "slices": len(of),
                "psnr_before_db": psnr[0], "psnr_after_db": psnr[1],
                "apart_mean": statistics.mean(float(one.mean()) for one in apart),
                "apart_p99": statistics.mean(float(np.quantile(one, 0.99)) for one in apart),
            }
        )  # fmt: skip
    return rows


def in_decoders(calibration: list[Sample], test: list[Sample]) -> list[Any]:
    """Rows for decoders alone."""
    rows = []
    for dial in (0.0, 0.5, 1.0):
        network, _ = load_super_resolver(factor=FACTOR, detail=dial)
        layers = decoders_of(network.generator)

        def run(given: list[Sample], network: Any = network) -> list[Tensor]:
            with torch.no_grad():
                return [network.estimates(one.low, one.modality)[0][0] for one in given]

        ranges = ranges_of(layers, lambda run=run: run(calibration))
        # Decoders that a dial leaves out are not rounded.
        used, before = {name: layers[name] for name in ranges}, run(test)
        for bits in (8, 7):
            with rounded(used, ranges, bits):
                rows += rows_of(f"decoders, {bits} bits", dial, test, before, run(test))
    return rows


def whole_network(calibration: list[Sample], test: list[Sample]) -> dict[str, Any]:
    """Rows and seconds of the mean's whole network, quantized by NNCF and run by OpenVINO."""
    if find_spec("nncf") is None or find_spec("openvino") is None:
        return {"not_measured": "NNCF and OpenVINO are not installed"}
    import nncf
    import openvino as ov

    from monai_ldmsr import export_networks

    def inputs(one: Sample) -> dict[str, Any]:
        return {"slices": one.low.numpy(), "noise": estimate_noise(one.low).numpy()}

    with tempfile.TemporaryDirectory() as folder:
        export_networks(Path(folder), factor=FACTOR, detail=0.0, parts=["network"], formats=["onnx"])
        model = ov.Core().read_model(next(Path(folder).glob("network*.onnx")))
    smaller = nncf.quantize(model, nncf.Dataset(calibration, inputs), preset=nncf.QuantizationPreset.MIXED)
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = {"float32": ov.compile_model(model, "CPU", hints), "int8": ov.compile_model(smaller, "CPU", hints)}
    results, seconds = {}, {}
    speed = {
        "slices": np.random.default_rng(0).normal(0, 0.3, (1, 1, 256, 256)).astype("f4"),
        "noise": np.ones(1, "f4"),
    }
    for name, network in compiled.items():
        results[name] = [torch.from_numpy(network(inputs(one))["result"].copy()) for one in test]
        network(speed)
        times = [seconds_of(lambda network=network: network(speed)) for _ in range(REPEATS)]
        seconds[name] = statistics.median(times)
    rows = rows_of("whole network of the mean, 8 bits", 0.0, test, results["float32"], results["int8"])
    return {"rows": rows, "seconds": seconds, "pixels": 256 * FACTOR}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path, help="folder of volumes with the splits calibration and test")
    parser.add_argument("--most", type=int, default=MOST, help="longest side of a slice's middle in pixels")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/speed/quantized.json")
    given = parser.parse_args()
    calibration, test = (samples(given.dataset, split, given.most) for split in ("calibration", "test"))
    found = {"machine": facts(), "factor": FACTOR, "rows": in_decoders(calibration, test)}
    write_json(found, given.output)
    whole = whole_network(calibration, test)
    found["rows"] += whole.pop("rows", [])
    write_json({**found, "whole": whole}, given.output)


if __name__ == "__main__":
    main()
