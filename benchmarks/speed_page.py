"""Make docs/speed.md out of what was measured: `python -m benchmarks.speed_page`.

Reads what the benchmarks of speed wrote to docs/speed, what exists of it. Each figure
of the page comes from them, from the studies of `benchmarks.department`, or from `monai_ldmsr.needs`.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.department import NIGHT_S, ONCE, SERIES, STUDIES, Need, Rates, Study, totals
from benchmarks.machine import ROOT
from benchmarks.pipeline import network_time
from benchmarks.speed_tried import along_stack, beside_earlier, figure, launched, other_ways, whole_numbers

__all__ = ["main", "page"]

_MADE = "<!-- Made by `python -m benchmarks.speed_page`; do not edit. -->"

#: Columns of the table of whole runs, each with its phases.
_GROUPS = {
    "start-up": ONCE,
    "read": ("search", "read", "map to model range", "plan slices", "measure noise", "check range"),
    "network": ("network",),
    "project, maps": ("map to source's unit", "project", "restore padding", "make maps"),
    "images": ("write images",),
    "maps": ("write maps",),
    "report": ("write report",),
    "read back": ("read back",),
}


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / "docs" / "speed", help="folder of the JSON files")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "speed.md")
    given = parser.parse_args()
    given.output.write_text(page(given.folder), encoding="utf-8")
    print(f"written: {given.output}")


def page(folder: Path) -> str:
    """The page of the JSON files in a folder."""
    networks = [json.loads(path.read_text()) for path in sorted(folder.glob("networks*.json"))]
    networks.sort(key=lambda one: one["machine"]["device"] != "CPU")
    pipeline, batch = (_read(folder / f"{name}.json") for name in ("pipeline", "batch"))
    parts = [f"# Speed\n\n{_MADE}\n"]
    parts += [_networks(one) for one in networks]
    tried = {"side_by_side": beside_earlier, "engines": other_ways, "quantized": whole_numbers, "launches": launched}
    for name, part in tried.items():
        if (found := _read(folder / f"{name}.json")) is not None:
            parts.append(part(found))
    parts += [_pipeline(pipeline)] if pipeline else []
    new_slices = _read(folder / "new_slices.json")
    parts += [along_stack(new_slices)] if new_slices else []
    parts += [_batch(batch)] if batch else []
    on_cpu = next((one for one in networks if one["machine"]["device"] == "CPU"), None)
    if on_cpu and pipeline and (needs := _needs(on_cpu, pipeline)):
        parts += [_studies(needs, on_cpu, pipeline), _department(needs, networks, pipeline, batch)]
    return "\n".join(parts)


def _needs(networks: Mapping[str, Any], pipeline: Mapping[str, Any]) -> dict[Study, Need]:
    """What each study needs; nothing where not all networks were measured that they take."""
    rates = Rates(networks, pipeline)
    return {study: rates.need(study) for study in STUDIES} if all(map(rates.is_known, STUDIES)) else {}


def _read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else None


def _machine(one: Mapping[str, Any], with_threads: bool = True) -> str:
    threads = f", {_several(one['threads'], 'thread')}" if with_threads else ""
    on = "" if one["device"] == "CPU" else f"{one['device']}, beside "
    load = f"; load before {one['load_before']:g}" if "load_before" in one else ""
    return (
        f"Measured on {one['date']}: {on}{one['processor']}, {_several(one['cores'], 'core')}{threads}, "
        f"{one['instructions']}, {one['memory_gb']:g} GB of memory, torch {one['torch']}{load}.\n"
    )


def _networks(found: Mapping[str, Any]) -> str:
    device = found["machine"]["device"]
    text = (
        f"## Networks, a slice at a time, on {'a CPU' if device == 'CPU' else device}\n\n{_machine(found['machine'])}\n"
    )
    text += (
        f"Sizes are those of the result; the factor is {found['factor']}. Medians, with the least and greatest of the "
        "repeats in brackets. Operations are counted by torch; *of a convolution* is the rate reached, as share of "
        "that of one 3 x 3 convolution with 64 channels on the same machine; wider ones reach more, so that shares can "
        "be over 100%. Memory is the peak of the process, or what torch held on a GPU, in MB of 1,048,576 bytes. *Load "
        "before* is how many processes were at work on the machine in the minute before.\n"
    )
    for one in found["sizes"]:
        rate = one["convolution_gflop_per_s"]
        text += f"\n### {one['size']} x {one['size']}\n\nA convolution reaches {figure(rate)} GFLOP/s.\n\n"
        head = ("way", "seconds", "of SRGAN's", "of bicubic's", "GFLOP", "of a convolution", "weights", "memory, MB")
        text += _table(head, [_network_row(row) for row in one["rows"]])
        notes = {row["name"]: row["note"] for row in one["rows"] if row.get("note")}
        text += "".join(f"\n{name}: {note}.\n" for name, note in notes.items())
    return text + _network_words(found)


def _network_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    if "not_measured" in row:
        return (row["name"], f"not measured: {row['not_measured']}", *[""] * 6)
    seconds = row["seconds"]
    spread = f" ({figure(seconds['least'])} to {figure(seconds['greatest'])})" if "least" in seconds else ""
    weights = f"{row['parameters'] / 1e6:.2f} million" if row["parameters"] else "none"
    counted = (figure(row["gflop"]), f"{row['share_of_convolution']:.0%}") if row["gflop"] else ("not counted", "")
    mark = " (extrapolated)" if row.get("is_extrapolated") else ""
    ratios = (_times(row.get("times_srgan")), _times(row.get("times_bicubic")))
    return (
        row["name"],
        f"{figure(seconds['median'])}{spread}{mark}",
        *ratios,
        *counted,
        weights,
        f"{row['peak_mb']:.0f}",
    )


def _network_words(found: Mapping[str, Any]) -> str:
    """Sentences of the largest size where all are known that they speak of."""
    for one in reversed(found["sizes"]):
        known = {row["key"]: row for row in one["rows"] if "seconds" in row}
        if {"mean", "dial", "srgan"} <= known.keys():
            text = (
                f"\nAt {one['size']} x {one['size']} the mean takes {figure(known['mean']['times_srgan'])} times as "
                f"long as SRGAN, and mean and sample {figure(known['dial']['times_srgan'])} times."
            )
            others = [known[key] for key in ("ddpm1000", "monai1000") if key in known]
            mean = known["mean"]["seconds"]["median"]
            for other in others:
                text += f" {other['name'][0].upper()}{other['name'][1:]}: "
                text += f"{figure(other['seconds']['median'] / mean)} times the mean's time, extrapolated."
            return f"{text}\n"
    return ""


def _pipeline(found: Mapping[str, Any]) -> str:
    text = f"## Whole runs\n\n{_machine(found['machine'])}\n"
    side = found["size"]
    text += (
        f"CT series with slices of {side} x {side}, DICOM in and DICOM out, a process for each run, all settings at "
        "their defaults. Seconds by phase: *rest* is what no other column has, such as waiting for the disk and the "
        "end of the process. Memory is the peak of the process, of which *anonymous* is what no file backs; *reckoned* "
        "is what the package says before it begins, without freed memory that is kept where three times as much is "
        "free (as much again at most), as it was here. MB are of 1,048,576 bytes. From day to day the network's "
        "seconds differ by a quarter on the same machine, which it shares with others.\n\n"
    )
    head = (
        "slices",
        "factor",
        *_GROUPS,
        "rest",
        "total, s",
        "memory, MB",
        "anonymous",
        "reckoned",
        "disk, MB",
        "reckoned",
    )
    text += _table(head, [_run_row(run) for run in found["runs"]])
    expected = [run for run in found["runs"] if "total_s_expected" in run]
    if expected:
        counts = " and ".join(sorted({f"{run['network_s_from_a_run_of_slices']}" for run in expected}))
        text += (
            "\n`*`: after its first and its largest batch, the network's place was taken by bicubic interpolation, so "
            "that memory and all other phases are measured. The network's seconds are those of a slice in the run of "
            f"{counts} slices with the same factor after its first two batches, times the number of slices, and what "
            "these two took longer; the total has them. The maps of such a run compress differently.\n"
        )
    missing = sorted({name for run in found["runs"] for name in run["not_found"]})
    return text + (f"\nNot timed apart: {', '.join(missing)}.\n" if missing else "")


def _run_row(run: Mapping[str, Any]) -> tuple[str, ...]:
    seconds = dict(run["seconds"])
    rest = sum(s for name, s in seconds.items() if not any(name in names for names in _GROUPS.values()))
    cells = [figure(sum(seconds.get(name, 0.0) for name in names)) for names in _GROUPS.values()]
    total = figure(run["total_s"])
    if "total_s_expected" in run:
        cells[list(_GROUPS).index("network")] = f"{figure(run['network_s_expected'])} *"
        total = f"{figure(run['total_s_expected'])} *"
    memory = (run["peak_mb"], run["peak_anonymous_mb"], run["needs"]["memory_mb"])
    disk = (sum(run["disk_mb"].values()), run["needs"]["disk_mb"])
    return (
        str(run["slices"]), str(run["factor"]), *cells, figure(rest), total, *(f"{one:.0f}" for one in memory),
        *(figure(one) for one in disk),
    )  # fmt: skip


def _batch(found: Mapping[str, Any]) -> str:
    text = f"## Batches\n\n{_machine(found['machine'], with_threads=False)}\n"
    text += (
        f"{found['series']} CT series of {found['slices']} slices of {found['size']} x {found['size']}, factor "
        f"{found['factor']}, `ldmsr batch` on this machine. Start-up is what passes before the first series begins; "
        "the rate is that after it. While a worker computes one series it reads the next and writes the last, so that "
        "a series takes longer than its share of the time.\n\n"
    )
    head = ("way", "workers", "threads of each", "series an hour", "a series, s", "start-up, s", "cores used")
    text += _table(head, [_batch_row(run) for run in found["runs"]])
    return text + "".join(
        f"\n{run['workers']} workers are more than the {run['cores']} cores, which they share.\n"
        for run in found["runs"]
        if run["is_oversubscribed"]
    )


def _batch_row(run: Mapping[str, Any]) -> tuple[str, ...]:
    figures = (run[name] for name in ("series_an_hour", "series_s_median", "start_up_s", "cores_used"))
    return (run["way"], str(run["workers"]), str(run["threads_a_worker"]), *map(figure, figures))


def _studies(needs: Mapping[Study, Need], networks: Mapping[str, Any], pipeline: Mapping[str, Any]) -> str:
    once = [sum(run["seconds"].get(name, 0.0) for name in ONCE) for run in pipeline["runs"]]
    warming = [network_time(run)[0] for run in pipeline["runs"] if run["network"] == "real"]
    longer = " and ".join(f"{figure(times)} (factor {of})" for of, times in Rates(networks, pipeline).whole.items())
    text = (
        "## Typical studies\n\n"
        "Computed, not measured: the network's time is that of a megapixel of the result in the whole runs with the "
        "nearest factor, and for other sizes and MR's default dial, so many times that as the table of networks has "
        f"it. (Slices of the whole runs, measured on {pipeline['machine']['date']}, took {longer} times as long as in "
        f"that table, measured on {networks['machine']['date']}.) All other phases are a line over the size of the "
        "result through the same runs. What a process pays once "
        f"is in no row: {figure(statistics.median(once))} s for imports and weights, and {figure(max(warming))} s at "
        "most that the first batches take longer.\n\n"
        "Memory and disk are what the package itself reckons with, in GB of 1,024 MB. Where three times as much memory "
        "is free, freed memory is kept to be faster, and a process takes up to twice as much. Where a study needs more "
        "than 70% of what is free, or more than `--memory`, its volumes lie in files beside the results while it is "
        "worked on: then it takes the memory and the disk space of the last two columns.\n\n"
    )
    head = ("study", "source", "factor", "network", "other phases", "time", "memory, GB", "disk, GB")
    rows = [_study_row(study, need) for study, need in needs.items()]
    return text + _table((*head, "memory with files, GB", "files, GB"), rows)


def _study_row(study: Study, need: Need) -> tuple[str, ...]:
    i, j, k = study.shape
    times = (need.network_s, need.other_s, need.network_s + need.other_s)
    sizes = (need.memory, need.disk, need.memory_with_files, need.scratch)
    in_gb = (figure(one / 2**30) for one in sizes)
    return (study.name, f"{i} x {j} x {k}", str(study.factor), *map(_spoken, times), *in_gb)


def _department(
    needs: Mapping[Study, Need],
    networks: Sequence[Mapping[str, Any]],
    pipeline: Mapping[str, Any],
    batch: Mapping[str, Any] | None,
) -> str:
    whole, hours = totals(needs), NIGHT_S / 3600
    cores = pipeline["machine"]["cores"]
    shares = ", ".join(f"{study.share:.0%} {study.name} at factor {study.factor}" for study in needs if study.share)
    text = (
        f"## On paper: {SERIES:,} series a night\n\n"
        f"A department with {SERIES:,} series to be done in {hours:g} hours, of which we assume {shares}. Computed "
        "from the studies above, one after the other on each machine; that a batch reads one series and writes another "
        "while the network works on a third, is not reckoned with.\n\n"
    )
    work_s = whole.network_s + whole.other_s
    rows = [
        ("work of one machine such as that of the whole runs", _spoken(work_s)),
        (f"machines such as this, of {cores} cores each, one process on each", _count(work_s / NIGHT_S)),
        ("cores of such machines", str(cores * math.ceil(work_s / NIGHT_S))),
    ]
    if batch and (gain := _gain(batch)) is not None:
        best, times = gain
        rows.append(
            (
                f"machines with {best} on each ({figure(times)} times the rate, as of the small series above)",
                _count(work_s / times / NIGHT_S),
            )
        )
    rows += _gpu_rows(networks, pipeline, cores)
    rows += [
        ("memory of the process that needs most, GB (each worker may)", figure(whole.memory / 2**30)),
        ("disk of the results, GB", figure(whole.disk / 2**30)),
        ("read over the network, GB", figure(whole.source / 2**30)),
        ("sent over the network, GB", figure(whole.disk / 2**30)),
        ("mean rate of both, Mbit/s", figure((whole.source + whole.disk) * 8 / 1e6 / NIGHT_S)),
    ]
    return text + _table(("what", "how much"), rows)


def _gain(batch: Mapping[str, Any]) -> tuple[str, float] | None:
    """The best way with Dask, and how many times the rate of one process it has."""
    alone = next((run for run in batch["runs"] if run["way"] != "Dask"), None)
    ways = [run for run in batch["runs"] if run["way"] == "Dask"]
    if alone is None or not ways:
        return None
    most = max(run["series_an_hour"] for run in ways)
    # Of ways that are as fast, that with the fewest workers, each of which takes memory.
    best = min((run for run in ways if run["series_an_hour"] >= 0.98 * most), key=lambda run: run["workers"])
    workers, threads = _several(best["workers"], "Dask worker"), _several(best["threads_a_worker"], "thread")
    words = f"{workers} of {threads}"
    return words, best["series_an_hour"] / alone["series_an_hour"]


def _gpu_rows(networks: Sequence[Mapping[str, Any]], pipeline: Mapping[str, Any], cores: int) -> list[tuple[str, str]]:
    rows = []
    for one in networks:
        name = one["machine"]["device"]
        needs = {} if name == "CPU" else _needs(one, pipeline)
        if not needs:
            continue
        whole = totals(needs)
        rows.append((f"or GPUs ({name}) for the networks alone", _count(whole.network_s / NIGHT_S)))
        rows.append(("beside them, cores for all other phases", str(math.ceil(cores * whole.other_s / NIGHT_S))))
    return rows or [("GPUs", "not measured")]


def _table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(head)]
    lines += [["---"] * len(lines[0]), *map(list, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _several(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _times(value: float | None) -> str:
    return "" if value is None else f"{figure(value)} x"


def _spoken(seconds: float) -> str:
    if seconds < 120:
        return f"{figure(seconds)} s"
    return f"{figure(seconds / 60)} min" if seconds < 7200 else f"{figure(seconds / 3600)} h"


def _count(share: float) -> str:
    return f"{math.ceil(share)} ({figure(share)})"


if __name__ == "__main__":
    main()
