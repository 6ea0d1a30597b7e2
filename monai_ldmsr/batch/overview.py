"""A batch at a glance: ``summary.json`` and ``summary.csv`` for programs, ``index.html`` for people."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from monai_ldmsr._version import __version__
from monai_ldmsr.batch.delivery_queue import deliveries_of
from monai_ldmsr.batch.ledger import Ledger, LedgerUnit
from monai_ldmsr.errors import ReasonCode
from monai_ldmsr.report import RESEARCH_NOTICE
from monai_ldmsr.report.html import page_environment
from monai_ldmsr.report.numbers import duration
from monai_ldmsr.run_summary import summary_text, write_summary

__all__ = ["STATES", "OverviewRow", "overview_rows", "write_overview"]

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


@dataclass(frozen=True, kw_only=True)
class OverviewRow(LedgerUnit):
    """One unit of a batch, or files that were left out.

    Args:
        delivery: state by name of the destination: ``pending``, ``sent`` or ``failed``.
    """

    delivery: Mapping[str, str] = field(default_factory=dict)

    @property
    def report(self) -> str:
        """Link to the report, relative to the output folder; empty where there is none."""
        return f"{self.unit}/report.html" if self.status == "done" else ""

    @property
    def dicom(self) -> str:
        """Link to the folder of DICOM images; empty where there is none."""
        return f"{self.unit}/dicom/" if self.status == "done" and self.series_uid else ""


def overview_rows(ledger: Ledger) -> list[OverviewRow]:
    """All units of a ledger, and what was left out when sources were last searched."""
    sent: dict[str, dict[str, str]] = {}
    for delivery in deliveries_of(ledger):
        sent.setdefault(delivery.unit, {})[delivery.destination] = delivery.status
    rows = [OverviewRow(**vars(row), delivery=sent.get(row.unit, {})) for row in ledger.units()]
    return rows + [OverviewRow.of(item.outcome, unit=item.case) for item in ledger.skipped()]


def write_overview(output_dir: str | Path, rows: Iterable[OverviewRow], written: datetime | None = None) -> None:
    """Write ``summary.json``, ``summary.csv`` and ``index.html``, each replaced as a whole.

    Args:
        output_dir: folder of the batch, made when missing.
        rows: every unit once; the pages show failures first.
        written: the time to show; now when None.

    Raises:
        OutputError: one of them cannot be written.
    """
    order = {state: n for n, state in enumerate(STATES)}
    ordered = sorted(rows, key=lambda row: (order[row.status], row.reason, row.unit))
    moment = (written or datetime.now(timezone.utc)).astimezone(timezone.utc).isoformat(timespec="seconds")
    folder = Path(output_dir)
    write_summary(folder / "summary.json", _json(ordered, moment))
    write_summary(folder / "summary.csv", _csv(ordered))
    write_summary(folder / "index.html", _html(ordered, moment))


def _json(rows: Sequence[OverviewRow], written: str) -> str:
    """The fields of ``ldmsr run``'s summary, and more."""
    return summary_text(map(_record, rows), written=written, states=_states(rows), reasons=dict(_reasons(rows)))


def _csv(rows: Sequence[OverviewRow]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        record = _record(row)
        delivery = "; ".join(f"{name}: {state}" for name, state in row.delivery.items())
        seconds = f"{row.duration_s:.3f}" if row.duration_s else ""
        writer.writerow({**record, "delivery": delivery, "duration_s": seconds})
    return text.getvalue()


def _html(rows: Sequence[OverviewRow], written: str) -> str:
    environment = page_environment("monai_ldmsr.batch")
    environment.filters["duration"] = _hours
    sections = [(state, title, [row for row in rows if row.status == state]) for state, title in STATES.items()]
    deliveries = Counter(pair for row in rows for pair in row.delivery.items())
    return environment.get_template("overview.html").render(
        notice=RESEARCH_NOTICE,
        version=__version__,
        written=written.replace("T", " ").replace("+00:00", " UTC"),
        states=_states(rows),
        reasons=[(reason, n, _remedy(reason)) for reason, n in _reasons(rows)],
        deliveries=sorted(deliveries.items()),
        sections=[section for section in sections if section[2]],
        n_units=len(rows),
        seconds=sum(row.duration_s for row in rows if row.status == "done"),
        n_slices=sum(row.n_slices for row in rows if row.status == "done"),
    )


def _hours(seconds: float) -> str:
    """Hours and minutes of what took long."""
    hours, rest = divmod(round(seconds / 60), 60)
    return f"{hours}\u00a0h {rest}\u00a0min" if hours else duration(seconds)


def _record(row: OverviewRow) -> dict[str, Any]:
    links = {"report": row.report, "dicom": row.dicom, "delivery": dict(row.delivery)}
    record = {"case": row.unit, **vars(row), "duration_s": row.duration_s or None, **links}
    return {name: record[name] for name in _COLUMNS}


def _states(rows: Sequence[OverviewRow]) -> dict[str, int]:
    counts = Counter(row.status for row in rows)
    return {state: counts[state] for state in STATES}


def _reasons(rows: Sequence[OverviewRow]) -> list[tuple[str, int]]:
    """Most frequent first."""
    return Counter(sorted(row.reason for row in rows if row.reason)).most_common()


def _remedy(reason: str) -> str:
    return ReasonCode[reason].remedy if reason in ReasonCode.__members__ else ""
