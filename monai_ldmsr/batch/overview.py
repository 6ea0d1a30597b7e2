"""A batch at a glance: ``summary.json`` and ``summary.csv`` for programs, ``index.html`` for people."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from monai_ldmsr._version import __version__
from monai_ldmsr.errors import ReasonCode
from monai_ldmsr.report import RESEARCH_NOTICE
from monai_ldmsr.report.html import duration, page_environment
from monai_ldmsr.run_summary import write_summary

__all__ = ["STATES", "OverviewRow", "write_overview"]

#: In the order in which a person wants to see them.
STATES = {
    "failed": "Failed",
    "running": "Running",
    "queued": "Waiting",
    "done": "Done",
    "skipped": "Skipped: nothing for super-resolution",
}

_COLUMNS = (
    *("case", "status", "reason", "message", "attempts", "series_uid", "n_slices", "duration_s", "delivery"),
    *("report", "dicom"),
)


@dataclass(frozen=True)
class OverviewRow:
    """One unit of a batch, or files that were left out.

    Args:
        unit: name of the result folder; of what was left out, what stands for it.
        state: one of :data:`STATES`.
        reason: code of :class:`~monai_ldmsr.errors.ReasonCode`, empty when there is none.
        message: one sentence for a person.
        attempts: how often the unit was begun.
        series_uid: Series Instance UID of the result, empty for a volume file.
        n_slices: of the result.
        duration_s: of the last attempt.
        delivery: state by name of the destination: ``pending``, ``sent`` or ``failed``.
    """

    unit: str
    state: str
    reason: str = ""
    message: str = ""
    attempts: int = 0
    series_uid: str = ""
    n_slices: int = 0
    duration_s: float | None = None
    delivery: Mapping[str, str] = field(default_factory=dict)

    @property
    def report(self) -> str:
        """Link to the report, relative to the output folder; empty where there is none."""
        return f"{self.unit}/report.html" if self.state == "done" else ""

    @property
    def dicom(self) -> str:
        """Link to the folder of DICOM images; empty where there is none."""
        return f"{self.unit}/dicom/" if self.state == "done" and self.series_uid else ""


def write_overview(
    output_dir: str | Path, rows: Iterable[OverviewRow], version: str = __version__, written: datetime | None = None
) -> None:
    """Write ``summary.json``, ``summary.csv`` and ``index.html``, each replaced as a whole.

    Args:
        output_dir: folder of the batch, made when missing.
        rows: every unit once; the pages show failures first.
        version: of the software.
        written: the time to show; now when None.

    Raises:
        OutputError: one of them cannot be written.
    """
    order = {state: n for n, state in enumerate(STATES)}
    ordered = sorted(rows, key=lambda row: (order[row.state], row.reason, row.unit))
    moment = (written or datetime.now(timezone.utc)).astimezone(timezone.utc).isoformat(timespec="seconds")
    folder = Path(output_dir)
    write_summary(folder / "summary.json", _json(ordered, version, moment))
    write_summary(folder / "summary.csv", _csv(ordered))
    write_summary(folder / "index.html", _html(ordered, version, moment))


def _json(rows: Sequence[OverviewRow], version: str, written: str) -> str:
    """The fields of ``ldmsr run``'s summary, and more."""
    about = {"version": version, "notice": RESEARCH_NOTICE, "written": written}
    counts = {"states": _states(rows), "reasons": dict(_reasons(rows))}
    return json.dumps({**about, **counts, "series": [_record(row) for row in rows]}, indent=1) + "\n"


def _csv(rows: Sequence[OverviewRow]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        record = _record(row)
        delivery = "; ".join(f"{name}: {state}" for name, state in row.delivery.items())
        seconds = "" if row.duration_s is None else f"{row.duration_s:.3f}"
        writer.writerow({**record, "delivery": delivery, "duration_s": seconds})
    return text.getvalue()


def _html(rows: Sequence[OverviewRow], version: str, written: str) -> str:
    environment = page_environment("monai_ldmsr.batch")
    environment.filters["duration"] = _hours
    sections = [(state, title, [row for row in rows if row.state == state]) for state, title in STATES.items()]
    deliveries = Counter(pair for row in rows for pair in row.delivery.items())
    return environment.get_template("overview.html").render(
        notice=RESEARCH_NOTICE,
        version=version,
        written=written.replace("T", " ").replace("+00:00", " UTC"),
        states=_states(rows),
        reasons=[(reason, n, _remedy(reason)) for reason, n in _reasons(rows)],
        deliveries=sorted(deliveries.items()),
        sections=[section for section in sections if section[2]],
        n_units=len(rows),
        seconds=sum(row.duration_s or 0.0 for row in rows if row.state == "done"),
        n_slices=sum(row.n_slices for row in rows if row.state == "done"),
    )


def _hours(seconds: float) -> str:
    """Hours and minutes of what took long."""
    hours, rest = divmod(round(seconds / 60), 60)
    return f"{hours}\u00a0h {rest}\u00a0min" if hours else duration(seconds)


def _record(row: OverviewRow) -> dict[str, Any]:
    record = {"case": row.unit, "status": row.state, **vars(row), "report": row.report, "dicom": row.dicom}
    return {**{name: record[name] for name in _COLUMNS}, "delivery": dict(row.delivery)}


def _states(rows: Sequence[OverviewRow]) -> dict[str, int]:
    counts = Counter(row.state for row in rows)
    return {state: counts[state] for state in STATES}


def _reasons(rows: Sequence[OverviewRow]) -> list[tuple[str, int]]:
    """Most frequent first."""
    counts = Counter(row.reason for row in rows if row.reason)
    return sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))


def _remedy(reason: str) -> str:
    return ReasonCode[reason].remedy if reason in ReasonCode.__members__ else ""
