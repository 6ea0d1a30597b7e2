"""Parts of the page of speed: beside an earlier version, and other ways to run a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["beside_earlier", "other_ways"]


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
