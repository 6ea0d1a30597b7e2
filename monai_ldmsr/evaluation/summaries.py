"""Figures of slices, sites or patches put together: means, and intervals over patients."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "CI_DEFINITION",
    "Cell",
    "Record",
    "Rows",
    "counts",
    "lines_of",
    "nameless",
    "summarised_groups",
    "write_csv",
]

#: Bootstrap resamples of the patients; and how many patients an interval takes.
_RESAMPLES, _MIN_PATIENTS = 2000, 3

#: What an interval is.
CI_DEFINITION = (
    f"Percentile bootstrap of the mean, patients drawn with replacement, {_RESAMPLES} times; none "
    f"below {_MIN_PATIENTS} patients."
)

Record = dict[str, Any]
Cell = dict[str, float | int | list[float] | None]
Rows = dict[str, dict[str, Cell]]


def summarised_groups(records: Sequence[Record], columns: Sequence[str], seed: int) -> dict[str, Any]:
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


def lines_of(groups: Mapping[str, Rows]) -> Iterator[Record]:
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


def counts(records: Sequence[Record]) -> dict[str, int]:
    """How many slices, and of how many patients."""
    return {
        "n_slices": len({(record["volume"], record["slice"]) for record in records}),
        "n_patients": len({record["subject"] for record in records}),
    }


def nameless(records: Sequence[Record]) -> list[Record]:
    """Without the patient."""
    return [{key: value for key, value in record.items() if key != "subject"} for record in records]


def write_csv(path: Path, lines: Sequence[Record]) -> None:
    """Write a line for each record, one at least."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
