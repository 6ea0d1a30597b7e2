"""What new slices between the acquired ones take: `python -m benchmarks.new_slices`.

The sample series are super-resolved along the stack, at several factors, each run in a process of its own with all else
at its default; seconds by the clock and of what the report counts, and voxels of the result, are written as JSON.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, facts, write_json
from benchmarks.side_by_side import run

#: Sample series, factor within slices and along the stack.
WAYS = (
    ("mr_t1_sagittal", 1, 2),
    ("mr_t1_sagittal", 1, 4),
    ("mr_t1_sagittal", 2, 2),
    ("pet_fdg", 1, 4),
    ("pet_fdg", 2, 2),
    ("ct_abdomen", 1, 4),
)


def measured(source: str, factor: int, factor_slices: int) -> dict[str, Any]:
    """One way: seconds, and sizes of source and result."""
    folder = ROOT / "sample_data" / "dicom" / source
    seconds, report = run(ROOT, folder, "--factor", str(factor), "--factor-slices", str(factor_slices))
    shapes = {f"{name}_shape": report[name]["shape"] for name in ("source", "result")}
    return {"source": source, "factor": factor, "factor_slices": factor_slices, "seconds": seconds, **shapes}


def main() -> None:
    """Measure all ways and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "docs/speed/new_slices.json")
    given = parser.parse_args()
    found: dict[str, Any] = {"machine": facts(), "rows": []}
    for way in WAYS:
        found["rows"].append(measured(*way))
        print(found["rows"][-1], flush=True)
        write_json(found, given.output)


if __name__ == "__main__":
    main()
