"""From figures of single slices to means, spreads, and intervals by patient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["RESAMPLES", "Cell", "Record", "Rows", "cell_lines", "summarise", "summarise_groups"]

#: Bootstrap resamples of the patients.
RESAMPLES = 2000

Record = dict[str, Any]
Cell = dict[str, float | int | list[float] | None]
Rows = dict[str, dict[str, Cell]]


def summarise_groups(records: Sequence[Record], columns: Sequence[str], seed: int) -> dict[str, Any]:
    """``rows`` over all slices, and ``by_modality``."""
    modalities = sorted({record["modality"] for record in records})
    groups = {name: [record for record in records if record["modality"] == name] for name in modalities}
    return {
        "rows": summarise(records, columns, seed),
        "by_modality": {name: summarise(chosen, columns, seed) for name, chosen in groups.items()},
    }


def summarise(records: Sequence[Record], columns: Sequence[str], seed: int) -> Rows:
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


def cell_lines(groups: Mapping[str, Rows]) -> list[Record]:
    """One line for each group, row and column."""
    lines = []
    for group, rows in groups.items():
        for row, cells in rows.items():
            for column, cell in cells.items():
                low, high = cell["ci95"] if isinstance(cell["ci95"], list) else (None, None)
                about = {"group": group, "row": row, "metric": column}
                lines.append(
                    {**about, "mean": cell["mean"], "sd": cell["sd"], "n": cell["n"], "low": low, "high": high}
                )
    return lines


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


def _interval(found: Sequence[tuple[str, float]], seed: int) -> list[float]:
    """95 % of means of resampled patients; a patient's slices stay together."""
    patients: dict[str, list[float]] = {}
    for subject, value in found:
        patients.setdefault(subject, []).append(value)
    sums = np.array([sum(values) for values in patients.values()])
    counts = np.array([len(values) for values in patients.values()])
    drawn = np.random.default_rng(seed).integers(len(sums), size=(RESAMPLES, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return [float(low), float(high)]
