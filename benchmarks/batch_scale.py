"""What a batch costs beside the network: a first run over more and more series, and a resume over all of them.

    python benchmarks/batch_scale.py --series 125 250 500 1000

Real DICOM files, the real search, ledger and overview; in the network's place a result folder is written at once. The
time of that stand-in is not counted. Prints a table and the exponent of a fit (1 is linear).

Recorded on two cores that were busy with other work (3 slices of 32 x 32 each): first run over 125, 250, 500 and 1000
series 3.1, 4.7, 12.6 and 24.1 s (exponent 1.03; of processor time 0.7, 1.7, 3.8 and 8.0 s), resume 0.20, 0.28, 0.93
and 1.35 s (exponent 1.01) without parsing a header; the whole command 3.6 s on 1000 done series, of which 2.5 s are
Python's imports. Memory grows by about 3 kB for each file while searching.

Recorded for the search alone, of 1,224 CT, MR and PET slices of 36 to 530 kB each, in processor time: first 6.3 ms a
file (5.1 ms for the header, the rest for the content), again without a change 0.06 ms, again with one changed file
5.1 ms. So 100,000 unchanged files take about 10 s, and 9 minutes where one of them has changed.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from dicom_fixtures import make_series

from monai_ldmsr.batch import Batch, UnitTask, WorkSettings
from monai_ldmsr.io.written_files import verified_files
from monai_ldmsr.run_summary import CaseResult
from monai_ldmsr.storage import partial_folder


class StandIn(Executor):
    """Writes a small result in the caller's thread, and counts the time that this takes."""

    def __init__(self) -> None:
        self.spent_s = self.spent_cpu_s = 0.0
        self.n_units = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Work on ``args[0]``, a :class:`UnitTask`."""
        start, start_cpu = time.perf_counter(), time.process_time()
        future: Future[Any] = Future()
        future.set_result(_result(args[0]))
        self.n_units += 1
        self.spent_s += time.perf_counter() - start
        self.spent_cpu_s += time.process_time() - start_cpu
        return future


def _result(task: UnitTask) -> CaseResult:
    with partial_folder(task.output_dir / task.unit) as folder:
        (folder / "dicom").mkdir()
        for n, path in enumerate(task.source.paths):
            shutil.copyfile(path, folder / "dicom" / f"{n:04d}.dcm")
        (folder / "report.json").write_text("{}")
        (folder / "report.html").write_text("<!DOCTYPE html>")
        marks = verified_files(folder)
    return CaseResult("done", case=task.unit, series_uid="2.25.1", n_slices=len(marks) - 2, files=marks)


def run(source: Path, output: Path) -> tuple[float, float, int]:
    """Seconds beside the stand-in's, by the clock and of the processor, and how many units were worked on."""
    stand_in = StandIn()
    os.sync()  # what others have still to write would be waited for at the first commit
    start, start_cpu = time.perf_counter(), time.process_time()
    batch = Batch(output, WorkSettings(), stand_in, 3)
    try:
        batch.search(source)
        summary = batch.run()
    finally:
        batch.close()
    assert all(case.status == "done" for case in summary.cases)
    cpu_s = time.process_time() - start_cpu - stand_in.spent_cpu_s
    return time.perf_counter() - start - stand_in.spent_s, cpu_s, stand_in.n_units


def main() -> None:
    """Make the series, run, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, nargs="+", default=[125, 250, 500, 1000])
    parser.add_argument("--slices", type=int, default=3)
    parser.add_argument("--size", type=int, default=32, help="rows and columns")
    parser.add_argument("--profile", action="store_true", help="of the last resume")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        _measure(Path(place), 5, arguments)  # what is paid once: imports, caches
        rows = [_measure(Path(place), n, arguments) for n in arguments.series]
    for row in rows:
        print(json.dumps(row))
    for name in ("first_s", "first_cpu_s", "resume_s", "resume_cpu_s") if len(rows) > 1 else ():
        slope = np.polyfit(np.log(arguments.series), np.log([row[name] for row in rows]), 1)[0]
        print(f"exponent of {name}: {slope:.2f}")


def _measure(place: Path, n_series: int, arguments: argparse.Namespace) -> dict[str, Any]:
    source, output = place / f"source{n_series}", place / f"output{n_series}"
    output.mkdir()
    for n in range(n_series):
        make_series(source / f"{n % 10}" / f"{n:05d}", "MR", (arguments.size, arguments.size, arguments.slices))
    first_s, first_cpu_s, n_worked = run(source, output)
    assert n_worked == n_series
    profile = cProfile.Profile(builtins=False)
    if arguments.profile:
        profile.enable()
    (resume_s, resume_cpu_s, n_again), n_parsed = _counting_parses(lambda: run(source, output))
    profile.disable()
    assert (n_again, n_parsed) == (0, 0)
    make_series(source / "one more", "MR", (arguments.size, arguments.size, arguments.slices))
    (one_more_s, _, n_again), _ = _counting_parses(lambda: run(source, output))
    assert n_again == 1
    if arguments.profile:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(25)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    ledger_mb = (output / "ledger.sqlite").stat().st_size / 1e6
    shutil.rmtree(source)
    seconds = {"first_s": first_s, "first_cpu_s": first_cpu_s, "resume_s": resume_s, "resume_cpu_s": resume_cpu_s}
    seconds["one_more_s"] = one_more_s
    return {
        **{"series": n_series, "images": n_series * arguments.slices},
        **{name: round(value, 3) for name, value in seconds.items()},
        **{"ledger_mb": round(ledger_mb, 2), "peak_mb": round(peak_mb)},
    }


def _counting_parses(work: Callable[[], Any]) -> tuple[Any, int]:
    """What ``work`` gives, and how many files pydicom was asked to parse meanwhile."""
    parse, n_parsed = pydicom.dcmread, 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal n_parsed
        n_parsed += 1
        return parse(*args, **kwargs)

    pydicom.dcmread = counted
    try:
        result = work()
        return result, n_parsed
    finally:
        pydicom.dcmread = parse


if __name__ == "__main__":
    main()
