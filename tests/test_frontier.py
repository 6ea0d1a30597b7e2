"""The plot of truth against sharpness: which rows it takes from which table, and what it draws."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from frontier import DETAILS, add_row, draw, draw_panel, rows_by_modality
from matplotlib.figure import Figure
from PIL import Image


def table(*networks: str) -> dict[str, Any]:
    """Figures that grow from row to row; the original has four times the first row's Laplacian variance."""
    rows = {
        row: {"psnr": {"mean": 30.0 + n}, "laplacian_variance": {"mean": 100.0 + 10 * n}}
        for n, row in enumerate(("bicubic", *networks))
    }
    structure = {row: {"patch_distance_fine": {"mean": 0.3 - 0.01 * n}} for n, row in enumerate(rows)}
    rows["hr"] = {"psnr": None, "laplacian_variance": {"mean": 400.0}}
    return {
        "by_modality": {"CT": rows, "MR": copy.deepcopy(rows)},
        "structure": {"by_modality": dict.fromkeys(("CT", "MR"), structure)},
    }


DIAL = [f"dial {detail:g}" for detail in DETAILS]


def test_a_row_of_another_table_is_drawn_beside_the_dial(tmp_path: Path) -> None:
    groups = rows_by_modality(table(*DIAL))
    add_row(groups, "another", rows_by_modality(table("plain_ldm")))
    axes = Figure().subplots()
    draw_panel(axes, groups["MR"], "laplacian_variance")
    drawn = {str(line.get_label()): line.get_xydata().tolist() for line in axes.lines}
    assert drawn["ldm, detail 0 to 1"] == [[(110 + 10 * n) / 400, 31.0 + n] for n in range(5)]
    assert (drawn["bicubic"], drawn["another"]) == ([[0.25, 30.0]], [[0.275, 31.0]])
    draw(groups, tmp_path / "frontier.png")
    with Image.open(tmp_path / "frontier.png") as image:
        assert min(image.size) > 500


def test_a_table_of_other_slices_is_refused() -> None:
    other = table("plain_ldm")
    other["by_modality"]["MR"]["bicubic"]["psnr"]["mean"] = 31.0
    with pytest.raises(SystemExit, match="another: bicubic interpolation of MR differs"):
        add_row(rows_by_modality(table(*DIAL)), "another", rows_by_modality(other))
