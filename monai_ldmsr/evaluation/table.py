"""The tables of all rows: fidelity and sharpness, structure, native slices; as JSON, CSV and one HTML page."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Undefined

from monai_ldmsr.evaluation.figures import FIGURE_DEFINITIONS, FIGURE_GOALS
from monai_ldmsr.evaluation.labels import goal_phrase, label, mark
from monai_ldmsr.evaluation.rows import ROW_DEFINITIONS
from monai_ldmsr.metrics.native import NATIVE_DEFINITIONS, NATIVE_GOALS
from monai_ldmsr.metrics.structure import STRUCTURE_DEFINITIONS, STRUCTURE_GOALS
from monai_ldmsr.report import RESEARCH_NOTICE
from monai_ldmsr.report.html import page_environment
from monai_ldmsr.storage import output_errors, replace_text

__all__ = ["COLUMNS", "NATIVE_COLUMNS", "STRUCTURE_COLUMNS", "EvaluationTable"]

#: Bootstrap resamples of the patients; and how many patients an interval takes.
_RESAMPLES, _MIN_PATIENTS = 2000, 3

Record = dict[str, Any]
Cell = dict[str, float | int | list[float] | None]
Rows = dict[str, dict[str, Cell]]

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
    "ci95": f"Percentile bootstrap of the mean, patients drawn with replacement, {_RESAMPLES} times; none "
    f"below {_MIN_PATIENTS} patients.",
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
    """

    settings: Mapping[str, Any]
    seed: int = 0
    records: list[Record] = field(default_factory=list)
    spectra: dict[str, list[np.ndarray[Any, Any]]] = field(default_factory=dict)
    native_records: list[Record] = field(default_factory=list)

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
            **_summarised_groups(self.records, COLUMNS, self.seed),
            "structure": _summarised_groups(self.records, STRUCTURE_COLUMNS, self.seed),
            "native": {
                **_summarised_groups(self.native_records, NATIVE_COLUMNS, self.seed),
                **_counts(self.native_records),
            },
            "definitions": _DEFINITIONS,
            "goals": {**FIGURE_GOALS, **STRUCTURE_GOALS, **NATIVE_GOALS},
            "spectrum_ratio": self.spectrum_ratio,
            "settings": dict(self.settings),
            **_counts(self.records),
            "notice": RESEARCH_NOTICE,
        }

    def write(self, folder: Path, pictures: Mapping[str, str]) -> dict[str, Any]:
        """Write ``table.json``, ``table.csv``, ``table.html``, ``per_slice.csv`` and ``native_per_slice.csv``.

        The last one is left out, and an earlier one removed, where no slice was measured as scanned.

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
        environment.filters.update(cell=_text, label=label, goal=goal_phrase)
        columns = {"quality": COLUMNS, "structure": STRUCTURE_COLUMNS, "native": NATIVE_COLUMNS}
        page = environment.get_template("table.html").render(
            table=result, columns=columns, pictures=pictures, mark=mark
        )
        with output_errors("The table", "Choose another output folder."):
            replace_text(folder / "table.json", json.dumps(result, indent=2, allow_nan=False) + "\n")
            replace_text(folder / "table.html", page)
            _write_csv(folder / "table.csv", _all_lines(result))
            _write_csv(folder / "per_slice.csv", _nameless(self.records))
            (folder / "native_per_slice.csv").unlink(missing_ok=True)
            if self.native_records:
                _write_csv(folder / "native_per_slice.csv", _nameless(self.native_records))
        return result


def _summarised_groups(records: Sequence[Record], columns: Sequence[str], seed: int) -> dict[str, Any]:
    """``rows`` over all slices, and ``by_modality``."""
    modalities = sorted({record["modality"] for record in records})
    groups = {name: [record for record in records if record["modality"] == name] for name in modalities}
    return {
        "rows": _summarised(records, columns, seed),
        "by_modality": {name: _summarised(chosen, columns, seed) for name, chosen in groups.items()},
    }


def _summarised(records: Sequence[Record], columns: Sequence[str], seed: int) -> Rows:
    """Row to column to mean, standard deviation, count and interval; what is not finite is left out.

    Args:
        records: one for each slice and row: ``subject``, ``row`` and figures.
        columns: the figures to give.
        seed: seed of the bootstrap.
    """
    table: Rows = {}
    for row in dict.fromkeys(str(record["row"]) for record in records):
        chosen = [record for record in records if record["row"] == row]
        table[row] = {column: _cell(chosen, column, seed) for column in columns}
    return table


def _cell_lines(groups: Mapping[str, Rows]) -> Iterator[Record]:
    """One line for each group, row and column."""
    for group, rows in groups.items():
        for row, cells in rows.items():
            for column, cell in cells.items():
                low, high = cell["ci95"] if isinstance(cell["ci95"], list) else (None, None)
                figures = {"mean": cell["mean"], "sd": cell["sd"], "n": cell["n"], "low": low, "high": high}
                yield {"group": group, "row": row, "metric": column, **figures}


def _cell(records: Sequence[Record], column: str, seed: int) -> Cell:
    found = [(r["subject"], r[column]) for r in records if math.isfinite(r[column])]
    if not found:
        return {"mean": None, "sd": None, "n": 0, "ci95": None}
    values = np.array([value for _, value in found])
    return {
        "mean": float(values.mean()),
        "sd": float(values.std()),
        "n": len(values),
        "ci95": _interval(found, seed),
    }


def _interval(found: Sequence[tuple[str, float]], seed: int) -> list[float] | None:
    """95 % of means of resampled patients; a patient's slices stay together. None of one or two patients."""
    patients: dict[str, list[float]] = {}
    for subject, value in found:
        patients.setdefault(subject, []).append(value)
    if len(patients) < _MIN_PATIENTS:
        return None
    sums = np.array([sum(values) for values in patients.values()])
    counts = np.array([len(values) for values in patients.values()])
    drawn = np.random.default_rng(seed).integers(len(sums), size=(_RESAMPLES, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return [float(low), float(high)]


def _counts(records: Sequence[Record]) -> dict[str, int]:
    return {
        "n_slices": len({(record["volume"], record["slice"]) for record in records}),
        "n_patients": len({record["subject"] for record in records}),
    }


def _nameless(records: Sequence[Record]) -> list[Record]:
    """Without the patient."""
    return [{key: value for key, value in record.items() if key != "subject"} for record in records]


def _all_lines(result: Mapping[str, Any]) -> list[Record]:
    """One line for each group, row and column of all tables; no two tables share a column."""
    tables = (result, result["structure"], result["native"])
    return [line for table in tables for line in _cell_lines({"all": table["rows"], **table["by_modality"]})]


def _write_csv(path: Path, lines: Sequence[Record]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)


def _text(value: float | None) -> str:
    """Four figures, as a person reads them."""
    if value is None:
        return "-"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) >= 2 else f"{value:.3f}"
