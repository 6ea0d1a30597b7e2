"""Parts of the page of speed: beside an earlier version, other ways to run a network, whole numbers, and a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["beside_earlier", "launched", "other_ways", "whole_numbers"]

#: Seconds that a GPU's host takes to launch an operation: assumed, as usual of CUDA under PyTorch.
_LAUNCH_S = 1e-5


def beside_earlier(found: Mapping[str, Any]) -> str:
    """What `benchmarks.side_by_side` wrote."""
    text = (
        f"## Beside version {found['earlier']}\n\nBoth by turns on the same source with everything at its default: "
        "seconds by the clock with starting Python, of the processors, and of what the report counts.\n\n"
        "| source | factor | | clock | processors | super-resolve | write |\n" + "| --- " * 7 + "|\n"
    )
    for row in found["rows"]:
        names = {"earlier": found["earlier"], "this": "this version"}
        for key, name in names.items():
            of = row["seconds"][key]
            text += f"| {row['source']} | {row['factor']} | {name} | {_cells(of)} |\n"
        text += f"| | | **times faster** | {_cells(row['times_faster'])} |\n"
    return text


def _cells(of: Mapping[str, float]) -> str:
    return " | ".join(f"{of[name]:.3g}" for name in ("clock", "processors", "super_resolve", "write"))


def other_ways(found: Mapping[str, Any]) -> str:
    """What `benchmarks.engines` wrote."""
    pixels = found["pixels"]
    text = (
        f"## What was tried on a CPU\n\nThe mean of one slice, result {pixels} x {pixels}, in a process for each way. "
        "*Kept memory* is what `ldmsr run` does: pages of 2 MB, and freed memory kept while networks run, where three "
        "times as much is free as the series needs. *Ready* is the time to the first result. Differences are from "
        "torch's, in model range (2 from end to end), on white noise.\n\n"
        "| way | seconds | ready, s | difference |\n| --- | --- | --- | --- |\n"
    )
    for way in found["ways"]:
        if "not_measured" in way:
            text += f"| {way['way']} | not measured: {way['not_measured']} | | |\n"
        else:
            apart = "" if way["difference"] is None else f"{way['difference']:.1e}"
            text += f"| {way['way']} | {way['seconds']:.3g} | {way['ready_s']:.3g} | {apart} |\n"
    formats = found.get("formats")
    if isinstance(formats, dict):
        text += (
            "\nOne 3 x 3 convolution with 48 channels on 528 x 528: float32 "
            f"{formats['float32']:.3g} ms, bfloat16 {formats['bfloat16']:.3g} ms (a processor without it converts), "
            f"int8 {formats['int8']:.3g} ms, and {formats['to int8 and back']:.3g} ms to convert an image to int8 and "
            "back.\n"
        )
    ways = {way["way"]: way["seconds"] for way in found["ways"] if "seconds" in way}
    faster = [way for way in ("ONNX Runtime", "OpenVINO") if way in ways and ways[way] < 0.95 * ways["kept memory"]]
    if {"kept memory", "ONNX Runtime"} <= ways.keys() and not faster:
        text += "\nNo other engine is faster than torch with kept memory, so runs have no option for one.\n"
    return text


def _figures(value: float) -> str:
    """Three figures, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def whole_numbers(found: Mapping[str, Any]) -> str:
    """What `benchmarks.quantized` wrote."""
    text = (
        "## Convolutions in 8 bits\n\nSlices of the test split, degraded by "
        f"{found['factor']} and super-resolved before and after convolutions were rounded to whole numbers: PSNR in dB "
        "(peak: the model range), and how far both results are apart in grey levels of 255. Processors without VNNI "
        "need 7 bits, so that sums do not overflow.\n\n"
        "| what is rounded | dial | modality | slices | PSNR before | after | apart, mean | 99th percentile |\n"
        + "| --- " * 8
        + "|\n"
    )
    for row in found["rows"]:
        text += (
            f"| {row['way']} | {row['dial']:g} | {row['modality']} | {row['slices']} | {row['psnr_before_db']:.2f} | "
            f"{row['psnr_after_db']:.2f} | {row['apart_mean']:.2f} | {row['apart_p99']:.2f} |\n"
        )
    whole = found["whole"]
    if "seconds" in whole:
        seconds = whole["seconds"]
        text += (
            f"\nThe whole network in OpenVINO, quantized by NNCF, takes {seconds['int8']:.3g} s for a slice of "
            f"{whole['pixels']} x {whole['pixels']}, in float32 {seconds['float32']:.3g} s "
            f"({seconds['float32'] / seconds['int8']:.2f} times as long).\n"
        )
    else:
        text += f"\nThe whole network was not quantized: {whole['not_measured']}.\n"
    return text + (
        "\nSo convolutions stay in float32: the whole network loses more than it wins, and the decoders alone, a third "
        "of the work, would save a fifth of the time at most for results that differ by more than a stored unit.\n"
    )


def launched(found: Mapping[str, Any]) -> str:
    """What `benchmarks.launches` wrote."""
    text = (
        "## What a GPU is given to do\n\nNo GPU was at hand: nothing here was measured on one. Counted on torch's meta "
        "device are the operations that a batch launches, whatever its size, and what they compute. Launching is "
        "hidden while the GPU computes for longer than it takes; the last column is the rate from which on it is not, "
        f"with {1e6 * _LAUNCH_S:.0f} microseconds for each operation (assumed).\n\n"
        "| dial | result | slices in a batch | operations | GFLOP | launches show from, TFLOP/s |\n"
        + "| --- " * 6
        + "|\n"
    )
    for row in found["rows"]:
        rate = row["gflop"] / (row["operations"] * _LAUNCH_S) / 1000
        text += (
            f"| {row['dial']:g} | {row['side']} x {row['side']} | {row['batch']} | {row['operations']:,} | "
            f"{_figures(row['gflop'])} | {_figures(rate)} |\n"
        )
    return text + (
        "\nA batch on a GPU has as many slices as its memory holds, so that compiled or captured graphs, which spare "
        "launches, would win nothing but for single small slices; there are none. `benchmarks/gpu_check.sh` measures "
        "what a GPU makes of it.\n"
    )
