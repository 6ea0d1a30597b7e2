"""Peak memory of a run against the number of slices, and time a slice: `python benchmarks/volume_memory.py`.

Each run is a process of its own. The increase from few to many slices, over the increase of source and result as
float32, shows how many volumes the pipeline holds; it must not depend on the number of slices.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel
import numpy as np

SIDE, FACTOR = 128, 4


def run_once(n_slices: int) -> tuple[float, float]:
    """Peak resident memory in MB and seconds a slice for a made volume."""
    with tempfile.TemporaryDirectory() as folder:
        random = np.random.default_rng(0)
        volume = random.integers(0, 1000, (SIDE, SIDE, n_slices), dtype=np.int16)
        nibabel.save(nibabel.Nifti1Image(volume, np.diag([1, 1, 3.0, 1])), f"{folder}/v.nii")
        subprocess.run([sys.executable, __file__, f"{folder}/v.nii", f"{folder}/out"], check=True)
        report = json.loads(Path(folder, "out", "v", "report.json").read_text())
        return float(Path(folder, "out", "peak").read_text()), report["duration_s"]["per_slice"]


def work(source: str, output: str) -> None:
    """Super-resolve in this process and leave its peak memory behind."""
    from monai_ldmsr import super_resolve

    super_resolve(source, output, factor=FACTOR, num_inference_steps=1)
    Path(output, "peak").write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def main() -> None:
    """Print the table."""
    counts = (8, 32, 64)
    peaks = [run_once(n) for n in counts]
    slice_mb = SIDE**2 * (1 + FACTOR**2) * 4 / 2**20
    print(f"factor {FACTOR}, source {SIDE} x {SIDE}: source and result hold {slice_mb:.2f} MB a slice as float32")
    for n, (peak, seconds) in zip(counts, peaks, strict=True):
        print(f"{n:4} slices: peak {peak:7.0f} MB, {seconds:.2f} s a slice")
    for here, there in ((0, 1), (1, 2)):
        growth = (peaks[there][0] - peaks[here][0]) / (counts[there] - counts[here])
        print(f"{counts[here]} to {counts[there]} slices: {growth:.2f} MB a slice, {growth / slice_mb:.2f} volumes")


if __name__ == "__main__":
    work(*sys.argv[1:]) if len(sys.argv) == 3 else main()
