"""The table of all rows: means, spreads, intervals by patient; as JSON, CSV and one HTML page."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Undefined

from monai_ldmsr.errors import OutputError
from monai_ldmsr.evaluation.figures import FIGURE_DEFINITIONS
from monai_ldmsr.evaluation.rows import ROW_DEFINITIONS
from monai_ldmsr.io.partial_folder import replace_text
from monai_ldmsr.report import RESEARCH_NOTICE
from monai_ldmsr.report.html import page_environment

__all__ = ["COLUMNS", "EvaluationTable"]

#: Columns in the order of the table.
COLUMNS = (
    *(key for key in FIGURE_DEFINITIONS if key != "grey_levels"),
    "duration_s",
)

_RESAMPLES = 2000

Record = dict[str, Any]
Cell = dict[str, float | int | list[float] | None]


@dataclass
class EvaluationTable:
    """Figures of every slice and row, and what follows from them.

    Args:
        settings: every number that changes the result.
        seed: of the bootstrap.
        records: one for each slice and row: ``volume``, ``subject``, ``modality``, ``slice``, ``row`` and figures.
        spectra: radial power of each slice and row, for :attr:`spectrum_ratio`.
    """

    settings: Mapping[str, Any]
    seed: int = 0
    records: list[Record] = field(default_factory=list)
    spectra: dict[str, list[np.ndarray[Any, Any]]] = field(default_factory=dict)

    def add(self, about: Mapping[str, Any], figures: Mapping[str, float], spectrum: np.ndarray[Any, Any]) -> None:
        """Add one slice of one row."""
        self.records.append({**about, **figures})
        self.spectra.setdefault(str(about["row"]), []).append(spectrum)

    @property
    def spectrum_ratio(self) -> dict[str, list[float]]:
        """Power of each row over the original's, ring by ring: geometric mean over slices; 1 is as sharp."""
        logs = {row: np.log(np.maximum(np.stack(found), 1e-9)) for row, found in self.spectra.items()}
        return {row: np.exp((log - logs["hr"]).mean(axis=0)).tolist() for row, log in logs.items()}

    def as_dict(self) -> dict[str, Any]:
        """What ``table.json`` holds."""
        modalities = sorted({record["modality"] for record in self.records})
        return {
            "rows": self._summarise(self.records),
            "by_modality": {m: self._summarise([r for r in self.records if r["modality"] == m]) for m in modalities},
            "definitions": {
                **FIGURE_DEFINITIONS,
                "duration_s": "Seconds a slice on this machine, one after another, projection included.",
                "mean": "Mean over slices; sd is the population standard deviation, n the number of slices.",
                "ci95": f"Percentile bootstrap of the mean, patients drawn with replacement, {_RESAMPLES} times.",
                "rows": ROW_DEFINITIONS,
            },
            "spectrum_ratio": self.spectrum_ratio,
            "settings": dict(self.settings),
            "n_slices": len({(r["volume"], r["slice"]) for r in self.records}),
            "n_patients": len({r["subject"] for r in self.records}),
            "notice": RESEARCH_NOTICE,
        }

    def write(self, folder: Path, pictures: Mapping[str, str]) -> dict[str, Any]:
        """Write ``table.json``, ``table.csv``, ``table.html`` and ``per_slice.csv``.

        Args:
            folder: exists.
            pictures: titles and data URIs of what the page shows below the tables.

        Returns:
            What ``table.json`` holds.

        Raises:
            OutputError: a file cannot be written.
        """
        result = self.as_dict()
        # Rows of other networks than ours have no definition: their titles stay empty.
        environment = page_environment("monai_ldmsr.evaluation", Undefined)
        environment.filters["cell"] = _text
        page = environment.get_template("table.html").render(table=result, columns=COLUMNS, pictures=pictures)
        try:
            replace_text(folder / "table.json", json.dumps(result, indent=2, allow_nan=False) + "\n")
            replace_text(folder / "table.html", page)
            self._write_csv(folder / "table.csv", _flat(result))
            about = [{key: value for key, value in record.items() if key != "subject"} for record in self.records]
            self._write_csv(folder / "per_slice.csv", about)
        except OSError as error:
            raise OutputError(
                f"The table cannot be written: {error.strerror}. Choose another output folder."
            ) from error
        return result

    def _write_csv(self, path: Path, lines: Sequence[Record]) -> None:
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)

    def _summarise(self, records: Sequence[Record]) -> dict[str, dict[str, Cell]]:
        table: dict[str, dict[str, Cell]] = {}
        for row in dict.fromkeys(str(r["row"]) for r in records):
            chosen = [r for r in records if r["row"] == row]
            table[row] = {column: self._cell(chosen, column) for column in COLUMNS}
        return table

    def _cell(self, records: Sequence[Record], column: str) -> Cell:
        found = [(r["subject"], r[column]) for r in records if math.isfinite(r[column])]
        if not found:
            return {"mean": None, "sd": None, "n": 0, "ci95": None}
        values = np.array([value for _, value in found])
        return {
            "mean": float(values.mean()),
            "sd": float(values.std()),
            "n": len(values),
            "ci95": _interval(found, self.seed),
        }


def _interval(found: Sequence[tuple[str, float]], seed: int) -> list[float]:
    """95 % of means of resampled patients; a patient's slices stay together."""
    patients: dict[str, list[float]] = {}
    for subject, value in found:
        patients.setdefault(subject, []).append(value)
    sums = np.array([sum(values) for values in patients.values()])
    counts = np.array([len(values) for values in patients.values()])
    drawn = np.random.default_rng(seed).integers(len(sums), size=(_RESAMPLES, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return [float(low), float(high)]


def _flat(result: Mapping[str, Any]) -> list[Record]:
    """One line for each group, row and column."""
    groups = {"all": result["rows"], **result["by_modality"]}
    lines = []
    for group, rows in groups.items():
        for row, cells in rows.items():
            for column, cell in cells.items():
                low, high = cell["ci95"] or (None, None)
                about = {"group": group, "row": row, "metric": column}
                lines.append(
                    {**about, "mean": cell["mean"], "sd": cell["sd"], "n": cell["n"], "low": low, "high": high}
                )
    return lines


def _text(value: float | None) -> str:
    """Four figures, as a person reads them."""
    if value is None:
        return "-"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) >= 2 else f"{value:.3f}"
