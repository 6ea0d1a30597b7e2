"""This version beside an earlier one: `python -m benchmarks.side_by_side CHECKOUT`.

``CHECKOUT`` is a folder of the earlier version, such as `git worktree add ../earlier COMMIT` makes. Both super-resolve
the same sources with everything at its default, by turns, each run in a process of its own with this environment's
packages; the median of each, with and without starting Python, and their ratio are written as JSON.
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
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def run(checkout: Path, source: Path, *options: str) -> tuple[dict[str, float], dict[str, Any]]:
    """Seconds of one run: by the clock, of the report's phases, and of the processors; and its report."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "ignore", "-m", "monai_ldmsr", "run", str(source), folder]
        used, start = os.times(), time.perf_counter()
        subprocess.run(
            [*command, *options],
            check=True, cwd=checkout, env={**os.environ, "PYTHONPATH": str(checkout)}, capture_output=True,
        )  # fmt: skip
        seconds, now = time.perf_counter() - start, os.times()
        (report,) = (json.loads(path.read_text()) for path in Path(folder).glob("*/report.json"))
        phases = {name: report["duration_s"][name] for name in ("super_resolve", "write", "total")}
        cpu = now.children_user + now.children_system - used.children_user - used.children_system
        return {"clock": seconds, "processors": cpu, **phases}, report


def compared(earlier: Path, source: Path, factor: int, repeats: int) -> dict[str, Any]:
    """Medians of both and their ratio, run by turns."""
    found: dict[str, list[dict[str, float]]] = {"earlier": [], "this": []}
    for _ in range(repeats):
        for name, checkout in (("earlier", earlier), ("this", ROOT)):
            found[name].append(run(checkout, source, "--factor", str(factor))[0])
    medians = {
        name: {key: round(statistics.median(one[key] for one in runs), 2) for key in runs[0]}
        for name, runs in found.items()
    }
    ratios = {key: round(medians["earlier"][key] / medians["this"][key], 2) for key in medians["this"]}
    return {"source": source.name, "factor": factor, "seconds": medians, "times_faster": ratios}


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path, help="folder of the earlier version")
    parser.add_argument("--sources", type=Path, nargs="+", default=[ROOT / "sample_data/dicom/ct_abdomen"])
    parser.add_argument("--factors", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=ROOT / "docs/speed/side_by_side.json")
    given = parser.parse_args()
    rows = []
    for source in given.sources:
        for factor in given.factors:
            rows.append(compared(given.checkout.absolute(), source.absolute(), factor, given.repeats))
            print(json.dumps(rows[-1]), flush=True)
    version = (given.checkout / "monai_ldmsr" / "_version.py").read_text().split('"')[-2]
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps({"earlier": version, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
