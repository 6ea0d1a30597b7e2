"""The frontier between truth and sharpness: PSNR against Laplacian variance and patch distance over the dial, all rows.

    python -m benchmarks.frontier DATA OUT --factor 4 --split test --slices 2 \
        --beside "plain LDM, DDIM, 50 steps=OUT50/table.json"

Writes OUT/frontier.png beside the evaluation's own files. ``--beside`` adds row ``plain_ldm`` of what
``evaluate_ddpm.yaml`` wrote for the same slices. What the plot cannot show is whether sharpness is made of grain: the
tables of structure and of slices as scanned can.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from monai_ldmsr.evaluation.split_evaluation import SplitEvaluation
from monai_ldmsr.evaluation.volumes import load_evaluation_volumes
from monai_ldmsr.workflow import load_network

DETAILS = (0.0, 0.25, 0.5, 0.75, 1.0)
#: What is drawn against PSNR: a figure of the tables, and what its axis says.
SHARPNESS = {
    "laplacian_variance": "Laplacian variance over the original's",
    "patch_distance_fine": "patch distance to the original, fine level (0 is best)",
}


def main() -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--factor", type=int, default=4)
    parser.add_argument("--split", default="calibration")
    parser.add_argument("--slices", type=int, default=1)
    parser.add_argument("--bundle", default="ldm_sr")
    parser.add_argument("--beside", action="append", default=[], metavar="NAME=TABLE")
    arguments = parser.parse_args()
    factor, bundle = arguments.factor, arguments.bundle
    networks = {f"dial {detail:g}": load_network(bundle, factor=factor, detail=detail) for detail in DETAILS}
    networks["SRResNet"] = load_network("srgan_sr", "srresnet", factor=factor)
    networks["SRGAN"] = load_network("srgan_sr", factor=factor)
    volumes = load_evaluation_volumes(arguments.data, arguments.split)
    evaluation = SplitEvaluation(volumes, networks, factor, arguments.slices, native_slices_per_volume=0)
    groups = rows_by_modality(evaluation.run(arguments.output).as_dict())
    for name, path in (one.split("=", 1) for one in arguments.beside):
        add_row(groups, name, rows_by_modality(json.loads(Path(path).read_text())))
    draw(groups, arguments.output / "frontier.png")


def rows_by_modality(table: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Figures of quality and of structure of each row, by modality."""
    structure = table["structure"]["by_modality"]
    return {
        modality: {row: {**cells, **structure[modality].get(row, {})} for row, cells in rows.items()}
        for modality, rows in table["by_modality"].items()
    }


def add_row(groups: dict[str, dict[str, Any]], name: str, others: Mapping[str, Mapping[str, Any]]) -> None:
    """Add row ``plain_ldm`` of another table, under a name of its own.

    Raises:
        SystemExit: the other one was not measured on the same slices.
    """
    for modality, rows in groups.items():
        theirs = others.get(modality, {})
        if theirs.get("bicubic", {}).get("psnr") != rows["bicubic"]["psnr"]:
            raise SystemExit(f"{name}: bicubic interpolation of {modality} differs, so the slices are others.")
        rows[name] = theirs["plain_ldm"]


def draw(groups: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """One column a group, one row a measure of sharpness: the dial as a line, other rows as points."""
    figure = Figure(figsize=(4.6 * len(groups), 3.6 * len(SHARPNESS)), layout="constrained")
    panels = figure.subplots(len(SHARPNESS), len(groups), squeeze=False)
    for line, (measure, label) in zip(panels, SHARPNESS.items(), strict=True):
        for axes, (group, rows) in zip(line, groups.items(), strict=True):
            draw_panel(axes, rows, measure)
            axes.set(title=group, xlabel=label, ylabel="PSNR (dB)")
    panels[0][0].legend(fontsize=7)
    figure.savefig(path, dpi=100)


def draw_panel(axes: Axes, rows: Mapping[str, Any], measure: str) -> None:
    """PSNR of all rows against one measure of sharpness; Laplacian variance as a ratio, on a logarithmic scale."""
    ratio = measure == "laplacian_variance"
    best = rows["hr"][measure]["mean"] if ratio else 1.0
    points = {
        row: (cells[measure]["mean"] / best, cells["psnr"]["mean"])
        for row, cells in rows.items()
        if row not in ("lr", "hr", "bspline")
    }
    dial = [points.pop(f"dial {detail:g}") for detail in DETAILS]
    axes.plot(*zip(*dial, strict=True), "o-", color="black", label="ldm, detail 0 to 1")
    for n, (row, point) in enumerate(points.items()):
        axes.plot(*point, "s^vDPX"[n % 6], color=f"C{n % 10}", label=row)
    axes.axvline(1.0 if ratio else 0.0, color="black", linestyle=":")
    axes.axhline(points["bicubic"][1], color="grey", linestyle=":")
    axes.set_xscale("log" if ratio else "linear")
    axes.grid(alpha=0.3)


if __name__ == "__main__":
    main()
