"""Series an hour of `ldmsr batch` on one machine: one process alone, and Dask with several workers.

    python -m benchmarks.batch --series 12 --slices 8 --size 256 --workers 1 2 4 --output docs/speed/batch.json

Each run does all series again into a folder of its own, as a command of its own (`ldmsr batch SRC OUT --threads N`),
with a local Dask scheduler where there are workers. Each worker computes with the machine's cores divided by the number
of workers, at least one: more workers than cores share them. What is paid before the first series begins (interpreter,
search, imports, weights) is given apart, and the rate is that after it; so take several series for each worker. The
start of scheduler and workers, which run already where there is a cluster, is in neither. `--force`, since smaller
slices have larger pixels than those of the training; it changes no time.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, facts, write_json
from benchmarks.made_series import make_ct_series

__all__ = ["main", "rates", "threads_of"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the series, run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=12)
    parser.add_argument("--slices", type=int, default=8)
    parser.add_argument("--size", type=int, default=256, help="rows and columns: 512 or a whole part of it")
    parser.add_argument("--factor", type=int, default=2)
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4], help="numbers of Dask workers")
    parser.add_argument("--output", type=Path, default=Path("docs/speed/batch.json"))
    given = parser.parse_args(arguments)
    machine = facts()
    found: dict[str, Any] = {
        "what": "series an hour of ldmsr batch on CT, all settings at their defaults but threads and force",
        "machine": machine,
        **{name: getattr(given, name) for name in ("series", "slices", "size", "factor")},
        "runs": [],
    }
    with tempfile.TemporaryDirectory() as place:
        source = Path(place, "source")
        for n in range(given.series):
            make_ct_series(source / f"{n:04d}", given.slices, given.size, seed=n)
        for n_workers in (0, *given.workers):
            one = _run(source, Path(place, f"out{n_workers}"), given, n_workers, machine["cores"])
            found["runs"].append(one)
            print(_line(one), flush=True)
            write_json(found, given.output)
    print(f"written: {given.output}")


def threads_of(n_workers: int, cores: int) -> int:
    """Threads with which each worker computes, so that all of them together have a core each.

    Example:
        >>> [threads_of(n, 8) for n in (0, 1, 3, 16)]
        [8, 8, 2, 1]
    """
    return max(1, cores // max(1, n_workers))


def _run(source: Path, output: Path, given: argparse.Namespace, n_workers: int, cores: int) -> dict[str, Any]:
    threads = threads_of(n_workers, cores)
    command = [sys.executable, "-m", "monai_ldmsr", "batch", str(source), str(output), "--quiet"]
    command += ["--factor", str(given.factor), "--threads", str(threads), "--force"]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}
    with _scheduler(n_workers, threads, path, output.parent) as (address, cpu_of_workers):
        command += [] if address is None else ["--scheduler", address]
        before, start, clock = cpu_of_workers() + _cpu_of_children(), time.time(), time.perf_counter()
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        total = time.perf_counter() - clock
        cpu_s = cpu_of_workers() + _cpu_of_children() - before
    if done.returncode:
        raise RuntimeError(f"The batch failed ({done.returncode}): {(done.stdout + done.stderr)[-2000:]}")
    units = _units(output / "ledger.sqlite")
    return {
        "way": "one process" if address is None else "Dask",
        "workers": max(1, n_workers),
        "threads_a_worker": threads,
        "cores": cores,
        "is_oversubscribed": max(1, n_workers) * threads > cores,
        "total_s": total,
        "cores_used": cpu_s / total,
        **rates(units, start),
    }


def rates(units: Sequence[tuple[float, float]], start: float) -> dict[str, float]:
    """Start-up, median seconds of a series, and series an hour once the first has begun.

    Args:
        units: for each series, when it ended, in seconds since 1970, and how many seconds it took.
        start: when the command was started.
    """
    begun, ended = min(end - duration for end, duration in units), max(end for end, _ in units)
    return {
        "start_up_s": begun - start,
        "series_s_median": statistics.median(duration for _, duration in units),
        "series_s_least": min(duration for _, duration in units),
        "series_s_greatest": max(duration for _, duration in units),
        "series_an_hour": 3600 * len(units) / (ended - begun),
    }


def _units(ledger: Path) -> list[tuple[float, float]]:
    with closing(sqlite3.connect(ledger)) as database:
        return database.execute("SELECT ended_at, duration_s FROM units WHERE state = 'done'").fetchall()


@contextmanager
def _scheduler(n_workers: int, threads: int, path: str, folder: Path) -> Iterator[tuple[str | None, Any]]:
    """Address of a scheduler with so many workers, and what gives their processor time; none for no workers."""
    if not n_workers:
        yield None, lambda: 0.0
        return
    import dask
    import psutil
    from distributed import LocalCluster

    # Dask would hold each worker to one thread of torch.
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environment = {**dict.fromkeys(names, str(threads)), "PYTHONPATH": path}
    with (
        dask.config.set({f"distributed.nanny.pre-spawn-environ.{name}": value for name, value in environment.items()}),
        LocalCluster(
            n_workers=n_workers,
            threads_per_worker=3,  # one reads the next series, one computes, one writes the last
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            local_directory=str(folder / f"dask{n_workers}"),
        ) as running,
    ):
        address = re.sub("^tcp", "dask", str(running.scheduler_address))
        pids = [nanny.pid for nanny in running.workers.values()]

        def cpu_s() -> float:
            return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)

        yield address, cpu_s


def _cpu_of_children() -> float:
    """Processor time of the children that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _line(one: dict[str, Any]) -> str:
    return (
        f"{one['way']:12}{one['workers']:3} workers of {one['threads_a_worker']} threads: "
        f"{one['series_an_hour']:8.1f} series an hour, a series {one['series_s_median']:.2f} s (median), "
        f"start-up {one['start_up_s']:.1f} s, cores used {one['cores_used']:.2f}"
    )


if __name__ == "__main__":
    main()
