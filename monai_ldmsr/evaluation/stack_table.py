"""The tables of stacks, case by case and volume by volume; as JSON, CSV and one HTML page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Undefined

from monai_ldmsr.evaluation.labels import goal_phrase, label, mark
from monai_ldmsr.evaluation.stack_figures import STACK_FIGURES, STACK_GOALS
from monai_ldmsr.evaluation.stack_rows import STACK_ROWS
from monai_ldmsr.evaluation.summaries import (
    CI_DEFINITION,
    Record,
    lines_of,
    nameless,
    summarised_groups,
    write_csv,
)
from monai_ldmsr.evaluation.table import cell_text
from monai_ldmsr.report import RESEARCH_NOTICE
from monai_ldmsr.report.html import page_environment
from monai_ldmsr.storage import output_errors, replace_text

__all__ = ["STACK_COLUMNS", "StackTable"]

#: Columns of each table, in its order.
STACK_COLUMNS = tuple(STACK_FIGURES)

_DEFINITIONS: dict[str, Any] = {
    "grey_levels": "All figures but sFRC and what is missing of thick slices are taken in grey levels: model range -1 "
    "to 1 mapped to 0 to 255, rounded, clipped. Model range is -1024 HU to 1500 HU in CT (piecewise linear, half of it "
    "for -200 to 300 HU), the 0.5 to 99.5 percentiles of the volume else.",
    **STACK_FIGURES,
    "mean": "Mean over stacks; sd is the population standard deviation, n the number of stacks where it is defined.",
    "ci95": CI_DEFINITION,
    "rows": STACK_ROWS,
}


@dataclass
class StackTable:
    """Figures of every stack and row, and what follows from them.

    Args:
        settings: every number that changes the result.
        left_out: volumes that were not measured, by name, and why.
        seed: seed of the bootstrap.
        records: one for each stack and row: ``volume``, ``subject``, ``modality``, ``axis``, ``case``, ``factor``,
            ``row`` and figures of :data:`STACK_COLUMNS`.
    """

    settings: Mapping[str, Any]
    left_out: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    records: list[Record] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """What ``through_plane.json`` holds."""
        cases = {
            case: {
                **summarised_groups(chosen, STACK_COLUMNS, self.seed),
                "n_stacks": len({(record["volume"], record["axis"]) for record in chosen}),
                "n_patients": len({record["subject"] for record in chosen}),
            }
            for case, chosen in _grouped(self.records, "case").items()
        }
        volumes = {
            name: summarised_groups(chosen, STACK_COLUMNS, self.seed)["rows"]
            for name, chosen in _grouped(self.records, "volume").items()
        }
        return {
            "cases": cases,
            "volumes": volumes,
            "definitions": _DEFINITIONS,
            "goals": STACK_GOALS,
            "settings": dict(self.settings),
            "left_out": dict(self.left_out),
            "n_patients": len({record["subject"] for record in self.records}),
            "notice": RESEARCH_NOTICE,
        }

    def write(self, folder: Path, pictures: Mapping[str, str]) -> dict[str, Any]:
        """Write ``through_plane.json``, the same as CSV and HTML, and ``per_stack.csv``.

        Args:
            folder: exists.
            pictures: titles and data URIs of what the page shows below the tables.

        Returns:
            What ``through_plane.json`` holds.

        Raises:
            OutputError: a file cannot be written.
        """
        result = self.as_dict()
        # Rows of other networks than ours have no definition: their titles stay empty.
        environment = page_environment("monai_ldmsr.evaluation", Undefined)
        environment.filters.update(cell=cell_text, label=label, goal=goal_phrase)
        page = environment.get_template("through_plane.html").render(
            table=result,
            columns=STACK_COLUMNS,
            pictures=pictures,
            mark=mark,
            definitions=result["definitions"],
            goals=result["goals"],
        )
        with output_errors("The table", "Choose another output folder."):
            replace_text(folder / "through_plane.json", json.dumps(result, indent=2, allow_nan=False) + "\n")
            replace_text(folder / "through_plane.html", page)
            groups = {case: found["rows"] for case, found in result["cases"].items()} | result["volumes"]
            write_csv(folder / "through_plane.csv", list(lines_of(groups)))
            write_csv(folder / "per_stack.csv", nameless(self.records))
        return result


def _grouped(records: Sequence[Record], key: str) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(str(record[key]), []).append(record)
    return found
