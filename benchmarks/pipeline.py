"""Seconds by phase, peak memory and disk of whole runs: a CT series in, its DICOM result, maps and report out.

    python -m benchmarks.pipeline --slices 25 50 100 200 --factors 2 4 --output docs/speed/pipeline.json
    python -m benchmarks.pipeline --network fast  # the same with bicubic interpolation in the network's place

Each run is a process of its own with all settings at their defaults. The series are made of real slices. With
`--network fast` the network works on its first and its largest batch alone, so that memory and all phases but the
network are measured to the end; the network's time is then taken from a run with `--network-slices` slices of each
factor, its first two batches apart, and the JSON says which. Memory is the peak that the system counted, and apart from
it the most that was anonymous (not backed by files), sampled while the run works.
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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.machine import ROOT, facts, write_json
from benchmarks.made_series import make_ct_series
from monai_ldmsr.io.source_size import SourceSize
from monai_ldmsr.needs import disk_bytes, map_bytes, memory_bytes, usual_batch

__all__ = [
    "Sample",
    "disk_by_kind",
    "main",
    "network_time",
    "peaks_by_phase",
    "run_once",
    "with_network",
]

_SAMPLE_S = 0.02

#: Rows and columns of the real slices. Smaller ones have larger pixels than those of the training, so that they are
#: forced, which changes no time.
_OWN_SIZE = 512


class Sample(NamedTuple):
    """Memory of a process at one moment, in MiB."""

    at: float
    resident: float
    anonymous: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the series, run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, nargs="+", default=[25, 50, 100, 200])
    parser.add_argument("--factors", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--size", type=int, default=512, help="rows and columns: 512 or a whole part of it")
    parser.add_argument("--network", choices=("real", "fast"), default="real")
    parser.add_argument("--network-slices", type=int, default=9, help="slices of the run that times the network")
    parser.add_argument("--output", type=Path, default=Path("docs/speed/pipeline.json"))
    given = parser.parse_args(arguments)
    found: dict[str, Any] = {
        "what": "phases, memory and disk of whole runs on CT, all settings at their defaults",
        "machine": facts(),
        "size": given.size,
        "network": given.network,
        "runs": [],
    }
    with tempfile.TemporaryDirectory() as place:
        for factor in given.factors:
            network: dict[str, Any] | None = None
            if given.network == "fast":
                network = _reported(Path(place), given.network_slices, given.size, factor, "real", None)
                found["runs"].append(network)
                write_json(found, given.output)
            for n_slices in given.slices:
                one = _reported(Path(place), n_slices, given.size, factor, given.network, network)
                found["runs"].append(one)
                write_json(found, given.output)
    print(f"written: {given.output}")


def _reported(
    place: Path, n_slices: int, size: int, factor: int, network: str, timed: dict[str, Any] | None
) -> dict[str, Any]:
    source = place / f"source{n_slices}"
    if not source.exists():
        make_ct_series(source, n_slices, size)
    print(f"{n_slices} slices of {size} x {size}, factor {factor}, {network} network ...", flush=True)
    one = run_once(source, n_slices, size, factor, network)
    if timed is not None:
        one = with_network(one, timed)
    print(_line(one), flush=True)
    return one


def run_once(source: Path, n_slices: int, size: int, factor: int, network: str) -> dict[str, Any]:
    """One run in a process of its own: what its phases, memory and result are.

    Raises:
        RuntimeError: it left no result.
    """
    with tempfile.TemporaryDirectory() as folder:
        output, record, log = (Path(folder, name) for name in ("out", "record.json", "log.txt"))
        start = time.perf_counter()
        command = [sys.executable, "-m", "benchmarks.pipeline_child", str(source), str(output), str(factor), network]
        command.append(str(int(size < _OWN_SIZE)))
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        with log.open("w") as errors:
            child = subprocess.Popen(
                [*command, str(start), str(record)],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": path},
                stdout=errors,
                stderr=errors,
            )
            samples, peak_mb, code, cpu_s = _watched(child)
        total = time.perf_counter() - start
        if code or not record.is_file():
            raise RuntimeError(f"The run failed ({code}): {log.read_text()[-2000:]}")
        said = json.loads(record.read_text())
        size_of = SourceSize((size, size, n_slices), 2, header_bytes=8192 * n_slices)
        seconds = said["seconds"]
        return {
            **{"slices": n_slices, "factor": factor, "network": network, "threads": said["threads"]},
            **{"total_s": total, "cpu_s": cpu_s},
            "seconds": {**seconds, "rest": max(0.0, total - sum(seconds.values()))},
            "seconds_in_other_threads": said["beside"],
            "network_batches": said["batches"],
            "not_found": said["missing"],
            "peak_mb": peak_mb,
            "peak_anonymous_mb": max((one.anonymous for one in samples), default=0.0),
            "peak_by_phase": peaks_by_phase(samples, said["spans"]),
            "disk_mb": disk_by_kind(next(path for path in output.iterdir() if path.is_dir())),
            "needs": {
                "memory_mb": memory_bytes(size_of, factor, usual_batch(size_of, factor)) / 2**20,
                "disk_mb": disk_bytes(size_of, factor, map_bytes("error", None, factor)) / 2**20,
            },
        }


def _watched(child: subprocess.Popen[bytes]) -> tuple[list[Sample], float, int, float]:
    """Memory while a child works; its peak in MiB, exit code and seconds of processor time."""
    samples = []
    while True:
        pid, status, used = os.wait4(child.pid, os.WNOHANG)
        if pid:
            child.returncode = os.waitstatus_to_exitcode(status)
            return samples, used.ru_maxrss / 1024, child.returncode, used.ru_utime + used.ru_stime
        sample = _memory(child.pid)
        if sample is not None:
            samples.append(sample)
        time.sleep(_SAMPLE_S)


def _memory(pid: int) -> Sample | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    found = {line.partition(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS", "RssAnon"))}
    if len(found) < 2:
        return None
    return Sample(time.perf_counter(), int(found["VmRSS"]) / 1024, int(found["RssAnon"]) / 1024)


def peaks_by_phase(samples: Sequence[Sample], spans: Sequence[tuple[str, float, float]]) -> dict[str, dict[str, float]]:
    """Most memory in MiB that was sampled while each phase was at work, resident and anonymous; none if none was."""
    found: dict[str, dict[str, float]] = {}
    for name, begin, end in spans:
        inside = [one for one in samples if begin <= one.at <= end]
        if inside:
            most = found.setdefault(name, {"resident_mb": 0.0, "anonymous_mb": 0.0})
            most["resident_mb"] = max(most["resident_mb"], *(one.resident for one in inside))
            most["anonymous_mb"] = max(most["anonymous_mb"], *(one.anonymous for one in inside))
    return found


def disk_by_kind(folder: Path) -> dict[str, float]:
    """MiB of images, maps, report and others of a result."""
    found: dict[str, float] = {}
    for path in folder.rglob("*"):
        if path.is_file():
            first = path.relative_to(folder).parts[0]
            kind = {"dicom": "images", "maps": "maps"}.get(first, "report" if "report" in first else "others")
            found[kind] = found.get(kind, 0.0) + path.stat().st_size / 2**20
    return found


def network_time(run: Mapping[str, Any]) -> tuple[float, float]:
    """Seconds of a run's network once, and for each slice.

    The first batch and the first of the usual size take longer than those that follow, since memory is asked for and
    kernels are made; this is what is paid once. Where there are no others, nothing is. Of the others the median counts.
    """
    batches = run["network_batches"]
    later = batches[2:] or batches
    a_slice = statistics.median(seconds / slices for slices, seconds in later)
    once = sum(seconds - slices * a_slice for slices, seconds in batches[:2])
    return max(0.0, once) if later is not batches else 0.0, a_slice


def with_network(one: dict[str, Any], timed: dict[str, Any]) -> dict[str, Any]:
    """A run without its network's seconds, and what it takes with those of another one."""
    once, a_slice = network_time(timed)
    network_s = once + one["slices"] * a_slice
    total = one["total_s"] - one["seconds"]["network"] + network_s
    return one | {
        "network_s_from_a_run_of_slices": timed["slices"],
        "network_s_expected": network_s,
        "total_s_expected": total,
    }


def _line(one: dict[str, Any]) -> str:
    phases = ", ".join(f"{name} {seconds:.1f}" for name, seconds in one["seconds"].items())
    expected = f"; with the network {one['total_s_expected']:.0f} s" if "total_s_expected" in one else ""
    memory = f"{one['peak_mb']:.0f} MB, anonymous {one['peak_anonymous_mb']:.0f} MB"
    return f"    {one['total_s']:.1f} s ({phases}){expected}; peak {memory}; disk {sum(one['disk_mb'].values()):.1f} MB"


if __name__ == "__main__":
    main()
