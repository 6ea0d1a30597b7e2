"""Parts of the page of speed: an earlier version, new slices, other ways to run a network, whole numbers, and a GPU."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["along_stack", "beside_earlier", "figure", "launched", "other_ways", "whole_numbers"]

#: Seconds that a GPU's host takes to launch an operation: assumed, as usual of CUDA under PyTorch.
_LAUNCH_S = 1e-5


def figure(value: float) -> str:
    """Three figures, without an exponent."""
    if value == 0:
        return "0"
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(places, 6)}f}"


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
    if any(row["times_faster"]["write"] < 1 for row in found["rows"]):
        text += "\nWriting takes longer where it is less than 1: a result has a map of its errors now.\n"
    return text


def along_stack(found: Mapping[str, Any]) -> str:
    """What `benchmarks.new_slices` wrote."""
    text = (
        "## New slices\n\nThe sample series with new slices between the acquired ones, everything else at its default: "
        "seconds by the clock with starting Python, and of what the report counts as super-resolving; the last column "
        "is the latter for each million voxels of the result.\n\n"
        "| source | voxels | factor | along the stack | result | clock | super-resolve | a megavoxel, s |\n"
        + "| --- " * 8
        + "|\n"
    )
    for row in found["rows"]:
        work_s = row["seconds"]["super_resolve"]
        shapes = (" x ".join(map(str, row[name])) for name in ("source_shape", "result_shape"))
        cells = (row["source"], next(shapes), row["factor"], row["factor_slices"], next(shapes))
        times = (row["seconds"]["clock"], work_s, work_s / (math.prod(row["result_shape"]) / 1e6))
        text += f"| {' | '.join(map(str, cells))} | {' | '.join(map(figure, times))} |\n"
    return text + (
        "\nPlanes along rows and along columns are computed, each with 16 pixels at least beyond its edges and sides "
        "that are multiples of 32: one of up to 32 slices is 64 wide, one of 160 is 192. So any number up to 32 slices "
        "takes the same time, and a megavoxel of few slices several times as long as one of many. None of the "
        "typical studies has new slices.\n"
    )


def _cells(of: Mapping[str, float]) -> str:
    return " | ".join(figure(of[name]) for name in ("clock", "processors", "super_resolve", "write"))


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
            text += f"| {way['way']} | {figure(way['seconds'])} | {figure(way['ready_s'])} | {apart} |\n"
    formats = found.get("formats")
    if isinstance(formats, dict):
        text += (
            f"\nOne 3 x 3 convolution with 48 channels on 528 x 528: float32 {figure(formats['float32'])} ms, bfloat16 "
            f"{figure(formats['bfloat16'])} ms, int8 {figure(formats['int8'])} ms, and "
            f"{figure(formats['to int8 and back'])} ms to convert an image to int8 and back.\n"
        )
        if formats["bfloat16"] > formats["float32"]:
            text += (
                "\nThis processor has no bfloat16 of its own and converts it, so that `--precision bfloat16` would "
                f"take {figure(formats['bfloat16'] / formats['float32'])} times as long in convolutions. It is for "
                "processors in whose list of features (`lscpu`) there is `avx512_bf16` or `amx_bf16`; on such it was "
                "not measured.\n"
            )
    return text + _which_is_fastest({way["way"]: way for way in found["ways"] if "seconds" in way})


def _which_is_fastest(ways: Mapping[str, Mapping[str, Any]]) -> str:
    """What follows of the table for how runs are done."""
    if not {"kept memory", "ONNX Runtime"} <= ways.keys():
        return ""
    kept, text = ways["kept memory"]["seconds"], ""
    if "huge pages" in ways and (pages := ways["huge pages"]["seconds"]) < kept:
        text += (
            f"\nFor one slice at a time huge pages alone are as fast as kept memory ({figure(pages)} beside "
            f"{figure(kept)} s). Runs do both: not every system gives huge pages, and small tensors get none.\n"
        )
    sooner = ways["kept memory"]["ready_s"] - ways["ONNX Runtime"]["ready_s"]
    if sooner > 0:
        text += (
            f"\nONNX Runtime is ready {figure(sooner)} s sooner, since it does without torch and MONAI. A run needs "
            "both all the same, to read, to project and to write.\n"
        )
    faster = [name for name in ("ONNX Runtime", "OpenVINO") if name in ways and ways[name]["seconds"] < 0.95 * kept]
    if not faster:
        text += "\nNo other engine is faster than torch with kept memory, so runs have no option for one.\n"
    return text


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
            f"\nThe whole network in OpenVINO, quantized by NNCF, takes {figure(seconds['int8'])} s for a slice of "
            f"{whole['pixels']} x {whole['pixels']}, in float32 {figure(seconds['float32'])} s "
            f"({seconds['float32'] / seconds['int8']:.2f} times as long).\n"
        )
    else:
        text += f"\nThe whole network was not quantized: {whole['not_measured']}.\n"
    return text + (
        "\nSo convolutions stay in float32: the whole network loses more than it wins, and the decoders alone, a third "
        "of the work, would save about a fifth of the time for results that differ by more than a stored unit.\n"
    )


def launched(found: Mapping[str, Any]) -> str:
    """What `benchmarks.launches` wrote."""
    text = (
        "## What a GPU is given to do\n\nNo GPU was at hand: nothing here was measured on one. Counted on torch's meta "
        "device are the operations that a batch launches, whatever its size, and what they compute (within half a "
        "percent of what was counted while networks ran). Launching is "
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
            f"{figure(row['gflop'])} | {figure(rate)} |\n"
        )
    return text + (
        "\nA batch on a GPU has as many slices as its memory holds, so that compiled or captured graphs, which spare "
        "launches, would win nothing but for single small slices; there are none. `benchmarks/gpu_check.sh` measures "
        "what a GPU makes of it.\n"
    )
