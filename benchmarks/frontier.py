"""The frontier between truth and sharpness: PSNR against Laplacian variance over detail and start noise, all rows.

    python benchmarks/frontier.py DATA OUT --factor 4 --split calibration

Defaults of a bundle are chosen on this plot, on the calibration split. Writes OUT/frontier.png and OUT/table.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from monai_ldmsr.evaluation import SplitEvaluation, load_evaluation_volumes
from monai_ldmsr.workflow import load_network

DETAILS = (0.0, 0.3, 0.6, 0.8, 1.0, 1.2)
START_NOISES = (0.0, 0.35)


def main() -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--factor", type=int, default=4)
    parser.add_argument("--split", default="calibration")
    parser.add_argument("--slices", type=int, default=1)
    arguments = parser.parse_args()
    factor = arguments.factor
    networks = {f"detail {detail:g}": load_network("ldm_sr", factor=factor, detail=detail) for detail in DETAILS}
    for noise in START_NOISES:
        network = load_network("ldm_sr", factor=factor, detail=1.0)
        network.start_noise = noise
        networks[f"start noise {noise:g}"] = network
    networks["srresnet"] = load_network("srgan_sr", "srresnet", factor=factor)
    networks["srgan"] = load_network("srgan_sr", factor=factor)
    volumes = load_evaluation_volumes(arguments.data, arguments.split)
    table = SplitEvaluation(volumes, networks, factor, arguments.slices).run(arguments.output).as_dict()
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    groups = {"all": table["rows"], **table["by_modality"]}
    for axes, (group, rows) in zip(figure.subplots(1, len(groups)), groups.items(), strict=True):
        sharp = rows["hr"]["laplacian_variance"]["mean"]
        points = {
            row: (cells["laplacian_variance"]["mean"] / sharp, cells["psnr"]["mean"]) for row, cells in rows.items()
        }
        dial = [points[f"detail {detail:g}"] for detail in DETAILS]
        axes.plot(*zip(*dial, strict=True), "o-", color="tab:blue", label="ldm, detail 0 to 1.2")
        for row, point in points.items():
            if row == "hr":
                continue
            if not row.startswith("detail"):
                axes.plot(*point, "s", label=row)
        axes.axvline(1.0, color="black", linestyle=":")
        axes.axhline(points["bicubic"][1], color="grey", linestyle=":")
        axes.set(title=group, xlabel="Laplacian variance / original's", ylabel="PSNR (dB)", xscale="log")
        axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.savefig(arguments.output / "frontier.png", dpi=100)


if __name__ == "__main__":
    main()
