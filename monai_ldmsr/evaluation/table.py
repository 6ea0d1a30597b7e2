"""The tables of all rows: fidelity and sharpness, structure, native slices; as JSON, CSV and one HTML page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Undefined

from monai_ldmsr.evaluation.figures import FIGURE_DEFINITIONS, FIGURE_GOALS
from monai_ldmsr.evaluation.labels import goal_phrase, label, mark
from monai_ldmsr.evaluation.rows import ROW_DEFINITIONS
from monai_ldmsr.evaluation.summaries import (
    CI_DEFINITION,
    Record,
    counts,
    lines_of,
    nameless,
    summarised_groups,
    write_csv,
)
from monai_ldmsr.evaluation.trust import trust_figures
from monai_ldmsr.evaluation.trust_part import TrustPart
from monai_ldmsr.metrics.native import NATIVE_DEFINITIONS, NATIVE_GOALS
from monai_ldmsr.metrics.structure import STRUCTURE_DEFINITIONS, STRUCTURE_GOALS
from monai_ldmsr.report import RESEARCH_NOTICE
from monai_ldmsr.report.html import page_environment
from monai_ldmsr.storage import output_errors, replace_text

__all__ = ["COLUMNS", "NATIVE_COLUMNS", "STRUCTURE_COLUMNS", "EvaluationTable", "cell_text"]

#: Columns of each table, in its order.
COLUMNS = (
    *(key for key in FIGURE_DEFINITIONS if key != "grey_levels"),
    "duration_s",
)
STRUCTURE_COLUMNS = tuple(STRUCTURE_DEFINITIONS)
NATIVE_COLUMNS = tuple(NATIVE_DEFINITIONS)

_DEFINITIONS: dict[str, Any] = {
    **FIGURE_DEFINITIONS,
    "duration_s": "Seconds a slice on this machine, one after another, projection included.",
    **STRUCTURE_DEFINITIONS,
    **NATIVE_DEFINITIONS,
    "mean": "Mean over slices; sd is the population standard deviation, n the number of slices where it is defined.",
    "ci95": CI_DEFINITION,
    "rows": ROW_DEFINITIONS,
}


@dataclass
class EvaluationTable:
    """Figures of every slice and row, and what follows from them.

    Args:
        settings: every number that changes the result.
        seed: seed of the bootstrap.
        records: one for each degraded slice and row: ``volume``, ``subject``, ``modality``, ``slice``, ``row`` and
            figures of :data:`COLUMNS` and :data:`STRUCTURE_COLUMNS`.
        spectra: radial power of each degraded slice and row, for :attr:`spectrum_ratio`.
        native_records: likewise for slices as scanned, with :data:`NATIVE_COLUMNS`.
        trust: what was measured of trust.
    """

    settings: Mapping[str, Any]
    seed: int = 0
    records: list[Record] = field(default_factory=list)
    spectra: dict[str, list[np.ndarray[Any, Any]]] = field(default_factory=dict)
    native_records: list[Record] = field(default_factory=list)
    trust: Sequence[TrustPart] = ()

    def add(self, about: Mapping[str, Any], figures: Mapping[str, float], spectrum: np.ndarray[Any, Any]) -> None:
        """Add one degraded slice of one row."""
        self.records.append({**about, **figures})
        self.spectra.setdefault(str(about["row"]), []).append(spectrum)

    def add_native(self, about: Mapping[str, Any], figures: Mapping[str, float]) -> None:
        """Add one slice as scanned of one row."""
        self.native_records.append({**about, **figures})

    @property
    def spectrum_ratio(self) -> dict[str, list[float]]:
        """Power of each row over the original's, ring by ring: geometric mean over slices; 1 is as sharp."""
        logs = {row: np.log(np.maximum(np.stack(found), 1e-9)) for row, found in self.spectra.items()}
        return {row: np.exp((log - logs["hr"]).mean(axis=0)).tolist() for row, log in logs.items()}

    def as_dict(self) -> dict[str, Any]:
        """What ``table.json`` holds."""
        return {
            **summarised_groups(self.records, COLUMNS, self.seed),
            "structure": summarised_groups(self.records, STRUCTURE_COLUMNS, self.seed),
            "native": {
                **summarised_groups(self.native_records, NATIVE_COLUMNS, self.seed),
                **counts(self.native_records),
            },
            "definitions": _DEFINITIONS,
            "goals": {**FIGURE_GOALS, **STRUCTURE_GOALS, **NATIVE_GOALS},
            "spectrum_ratio": self.spectrum_ratio,
            "settings": dict(self.settings),
            **counts(self.records),
            "notice": RESEARCH_NOTICE,
        }

    def trust_dict(self) -> dict[str, Any]:
        """What ``trust.json`` holds; empty where trust was not measured."""
        return trust_figures(self.trust, self.as_dict()) if self.trust else {}

    def write(self, folder: Path, pictures: Mapping[str, str]) -> dict[str, Any]:
        """Write ``table.json``, the same as CSV and HTML, ``trust.json``, ``per_slice.csv``, ``native_per_slice.csv``.

        What was not measured is left out, and an earlier file of it removed.

        Args:
            folder: exists.
            pictures: titles and data URIs of what the page shows below the tables.

        Returns:
            What ``table.json`` holds.

        Raises:
            OutputError: a file cannot be written.
        """
        result, trust = self.as_dict(), self.trust_dict()
        # Rows of other networks than ours have no definition: their titles stay empty.
        environment = page_environment("monai_ldmsr.evaluation", Undefined)
        environment.filters.update(cell=cell_text, label=label, goal=goal_phrase)
        columns = {"quality": COLUMNS, "structure": STRUCTURE_COLUMNS, "native": NATIVE_COLUMNS}
        page = environment.get_template("table.html").render(
            table=result,
            columns=columns,
            pictures=pictures,
            mark=mark,
            trust=trust,
            definitions={**result["definitions"], **trust.get("definitions", {})},
            goals={**result["goals"], **trust.get("goals", {})},
        )
        with output_errors("The table", "Choose another output folder."):
            replace_text(folder / "table.json", json.dumps(result, indent=2, allow_nan=False) + "\n")
            replace_text(folder / "table.html", page)
            write_csv(folder / "table.csv", _all_lines(result))
            write_csv(folder / "per_slice.csv", nameless(self.records))
            for name in ("native_per_slice.csv", "trust.json"):
                (folder / name).unlink(missing_ok=True)
            if trust:
                replace_text(folder / "trust.json", json.dumps(trust, indent=2, allow_nan=False) + "\n")
            if self.native_records:
                write_csv(folder / "native_per_slice.csv", nameless(self.native_records))
        return result


def _all_lines(result: Mapping[str, Any]) -> list[Record]:
    """One line for each group, row and column of all tables; no two tables share a column."""
    tables = (result, result["structure"], result["native"])
    return [line for table in tables for line in lines_of({"all": table["rows"], **table["by_modality"]})]


def cell_text(value: float | None) -> str:
    """Four figures, as a person reads them."""
    if value is None:
        return "-"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) >= 2 else f"{value:.3f}"
