"""The frontier between truth and sharpness: PSNR against Laplacian variance over the dial, all rows.

    python benchmarks/frontier.py DATA OUT --factor 4 --split calibration

Writes OUT/frontier.png beside the evaluation's own files. What the plot cannot show is whether
sharpness is made of grain: the tables of structure and of slices as scanned can.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from monai_ldmsr.evaluation.split_evaluation import SplitEvaluation
from monai_ldmsr.evaluation.volumes import load_evaluation_volumes
from monai_ldmsr.workflow import load_network

DETAILS = (0.0, 0.25, 0.5, 0.75, 1.0)


def main() -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--factor", type=int, default=4)
    parser.add_argument("--split", default="calibration")
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--bundle", default="ldm_sr")
    arguments = parser.parse_args()
    factor, bundle = arguments.factor, arguments.bundle
    networks = {f"dial {detail:g}": load_network(bundle, factor=factor, detail=detail) for detail in DETAILS}
    networks["srresnet"] = load_network("srgan_sr", "srresnet", factor=factor)
    networks["srgan"] = load_network("srgan_sr", factor=factor)
    volumes = load_evaluation_volumes(arguments.data, arguments.split)
    evaluation = SplitEvaluation(volumes, networks, factor, arguments.slices, native_slices_per_volume=0)
    table = evaluation.run(arguments.output).as_dict()
    draw({"all": table["rows"], **table["by_modality"]}, arguments.output / "frontier.png")


def draw(groups: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """One plot a group: the dial as a line, every other row as a point."""
    figure = Figure(figsize=(4.6 * len(groups), 4.4), layout="constrained")
    for axes, (group, rows) in zip(figure.subplots(1, len(groups)), groups.items(), strict=True):
        sharp = rows["hr"]["laplacian_variance"]["mean"]
        points = {
            row: (cells["laplacian_variance"]["mean"] / sharp, cells["psnr"]["mean"])
            for row, cells in rows.items()
            if row != "hr"
        }
        dial = [points.pop(f"dial {detail:g}") for detail in DETAILS]
        axes.plot(*zip(*dial, strict=True), "o-", color="black", label="ldm, dial 0 to 1")
        for n, (row, point) in enumerate(points.items()):
            axes.plot(*point, "s^vDP"[n % 5], color=f"C{n % 10}", label=row)
        axes.axvline(1.0, color="black", linestyle=":")
        axes.axhline(points["bicubic"][1], color="grey", linestyle=":")
        axes.set(title=group, xlabel="Laplacian variance / original's", ylabel="PSNR (dB)", xscale="log")
        axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
