"""What commands show of their work: how far it is, the table of all series, and how it ended."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as ProgressBar
from rich.table import Table

from monai_ldmsr.batch import BatchProgress, Ledger
from monai_ldmsr.batch.delivery_queue import deliveries_of
from monai_ldmsr.batch.overview import overview_rows
from monai_ldmsr.report import RESEARCH_NOTICE
from monai_ldmsr.run_summary import CaseResult, RunSummary

if TYPE_CHECKING:
    from typing_extensions import Self

    from monai_ldmsr.evaluator import RunProgress
    from monai_ldmsr.work_plan import PlannedCase

__all__ = [
    "BatchView",
    "ShareView",
    "SliceView",
    "print_counts",
    "print_failures",
    "print_status",
    "print_summary",
    "print_table",
    "spoken_duration",
    "spoken_reason",
    "spoken_result",
]

#: Of these, the last ones say how fast it goes now: series differ, and the first waits for the network to be built.
_N_RECENT = 20


class _View:
    """A bar on a terminal, and lines in a pipe."""

    def __init__(self, *columns: ProgressColumn) -> None:
        self._console = Console(stderr=True)
        self._bar = ProgressBar(*columns, console=self._console, disable=not self._console.is_terminal)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


class _TimeLeft:
    """How long all of it will take yet, by how fast the last steps were."""

    def __init__(self) -> None:
        self._moments: list[tuple[float, float]] = []

    def after(self, share: float) -> float | None:
        """Seconds that are left when ``share`` of all is done; None as long as nothing is known."""
        self._moments = [*self._moments[-_N_RECENT:], (time.monotonic(), share)]
        (begin, before), (now, _) = self._moments[0], self._moments[-1]
        return (1 - share) * (now - begin) / (share - before) if share > before else None


class SliceView(_View):
    """How far a run is; in a pipe a line for each tenth of a case."""

    def __init__(self) -> None:
        about = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("slices"))
        super().__init__(*about, TimeElapsedColumn(), TextColumn("{task.fields[left]}"))
        self._tasks: dict[str, TaskID] = {}
        self._tenth = -1
        self._left = _TimeLeft()

    def update(self, progress: RunProgress) -> None:
        """Show how far it is."""
        case, done, total = progress.case, progress.done, progress.n_slices
        label = f"{progress.number}/{progress.n_cases} {case}"
        seconds = self._left.after(progress.share)
        left = f"about {spoken_duration(seconds)} left in all" if seconds and progress.share < 1 else ""
        if self._console.is_terminal:
            if case not in self._tasks:
                self._tasks[case] = self._bar.add_task(label, total=total, left="")
            self._bar.update(self._tasks[case], completed=done, left=left if done < total else "")
            return
        tenth = 10 * done // total
        if done == total or tenth != self._tenth:
            self._tenth = tenth if done < total else -1
            print(f"{label}: {done} of {total} slices{left and f'; {left}'}", file=sys.stderr, flush=True)


class ShareView(_View):
    """What is worked on, and the share that is done; in a pipe a line every few seconds."""

    def __init__(self, seconds: float = 5.0) -> None:
        super().__init__(BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        self._task = self._bar.add_task("", total=1.0)
        self._seconds, self._start, self._said = seconds, 0.0, float("-inf")

    def update(self, what: str, share: float) -> None:
        """Show what is worked on, and that a share of all, 0 to 1, is done."""
        now = time.monotonic()
        self._start = self._start if share else now
        if self._console.is_terminal:
            self._bar.update(self._task, completed=share, description=what)
        elif share >= 1 or now - self._said >= self._seconds:
            self._said = now
            left = f", {spoken_duration((now - self._start) * (1 - share) / share)} left" if 0 < share < 1 else ""
            print(f"{100 * share:.0f} %, {what}{left}", file=sys.stderr, flush=True)


class BatchView(_View):
    """How far a batch is, with rate and time left; in a pipe a line for each unit that has ended."""

    def __init__(self) -> None:
        super().__init__(BarColumn(), MofNCompleteColumn(), TextColumn("series {task.description}"))
        self._task = self._bar.add_task("", total=None)
        self._moments = [time.monotonic()]
        self._left = _TimeLeft()

    def update(self, progress: BatchProgress) -> None:
        """Show how far it is, and what has just ended."""
        result = progress.result
        if result is not None:
            self._moments = [*self._moments[-_N_RECENT:], time.monotonic()]
        speed = self._speed(progress)
        if self._console.is_terminal:
            self._bar.update(self._task, total=progress.n_units, completed=progress.n_ended, description=speed)
        if result is None:
            return
        line = f"{progress.n_ended}/{progress.n_units} {spoken_result(result)}"
        if not self._console.is_terminal:
            print(f"{line}; {speed}", file=sys.stderr, flush=True)
        elif result.status == "failed":
            self._console.print(f"{line}: {result.message}", markup=False, highlight=False)

    def _speed(self, progress: BatchProgress) -> str:
        seconds = self._left.after(progress.share)
        n_ended = len(self._moments) - 1
        if not n_ended:
            return ""
        per_second = n_ended / max(self._moments[-1] - self._moments[0], 1e-9)
        left = f", about {spoken_duration(seconds)} left in all" if seconds and progress.share < 1 else ""
        return f"{3600 * per_second:.0f} an hour{left}"


def spoken_result(result: CaseResult) -> str:
    """What became of a unit, on one line."""
    what = f"{result.n_slices} slices in {result.duration_s:.1f} s" if result.status == "done" else result.reason
    return f"{result.case}: {result.status}, {what}"


def spoken_duration(seconds: float) -> str:
    """A duration as a person says it.

    Example:
        >>> spoken_duration(7500)
        '2 h 05 min'
    """
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def print_status(ledger: Ledger) -> None:
    """Print the table of all units and the numbers of each state."""
    sent: dict[str, list[str]] = {}
    for delivery in deliveries_of(ledger):
        said = f"{delivery.status} {delivery.destination}" + (f" ({delivery.reason})" if delivery.reason else "")
        sent.setdefault(delivery.unit, []).append(said)
    rows = [
        (
            *(row.unit, row.status, row.reason, str(row.attempts or ""), str(row.n_slices or "")),
            *(f"{row.duration_s:.1f}" if row.duration_s else "", "; ".join(sent.get(row.unit, []))),
        )
        for row in overview_rows(ledger)
    ]
    titles = ("unit", "state", "reason", "attempts", "slices", "seconds", "delivery")
    print_table(titles, rows)
    counts = Counter(row[1] for row in rows)
    print(", ".join(f"{counts[state]} {state}" for state in ("queued", "running", "done", "skipped", "failed")))


def print_table(titles: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table: with lines on a terminal, by columns in a pipe."""
    console = Console()
    if not console.is_terminal:
        widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
        for row in (titles, *rows):
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    table = Table(*titles)
    for row in rows:
        table.add_row(*row)
    console.print(table, markup=False)


def print_summary(summary: RunSummary, output: Path, n_undelivered: int = 0, n_elsewhere: int = 0) -> None:
    """Print what did not become a result, the numbers, and where to look.

    Args:
        summary: what became of each series.
        output: folder of the results.
        n_undelivered: results that a destination of this call has not taken.
        n_elsewhere: results that a destination of an earlier call, which is none now, had not taken.
    """
    for case in summary.cases:
        if case.status != "done":
            print(spoken_reason(case))
    print_counts(summary)
    if n_undelivered:
        print(f"{n_undelivered} results not delivered; see ldmsr batch {output} --status")
    if n_elsewhere:
        said = "results not delivered to destinations of earlier calls, which are not among --send now"
        print(f"{n_elsewhere} {said}; see ldmsr batch {output} --status")
    print(f"results: {output}")
    print(RESEARCH_NOTICE)


def print_counts(summary: RunSummary) -> None:
    """Print how many ended in which way."""
    counts = Counter(case.status for case in summary.cases)
    said = [f"{counts[status]} {status}" for status in ("done", "skipped", "failed")]
    print(", ".join([*said, *([f"{summary.n_not_chosen} not chosen"] if summary.n_not_chosen else [])]))


def print_failures(summary: RunSummary) -> None:
    """Print what failed, to standard error."""
    for case in summary.cases:
        if case.status == "failed":
            print(spoken_reason(case), file=sys.stderr)


def spoken_reason(case: CaseResult | PlannedCase) -> str:
    """Why something did not become a result, on one line."""
    return f"{case.status:8} {case.case}: {case.reason}: {case.message}"
