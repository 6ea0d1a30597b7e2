"""How far a run is, on a terminal or in a pipe."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

__all__ = ["ProgressView"]


class ProgressView:
    """A bar on a terminal; plain lines, one a tenth of a case, in a pipe."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = ProgressBar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("slices"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, object] = {}
        self._tenth = -1

    def __enter__(self) -> ProgressView:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, case: str, number: int, cases: int, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` slices of a case are computed."""
        label = f"{number}/{cases} {case}"
        if self._console.is_terminal:
            if case not in self._tasks:
                self._tasks[case] = self._bar.add_task(label, total=total)
            self._bar.update(self._tasks[case], completed=done)  # type: ignore[arg-type]
            return
        tenth = 10 * done // total
        if done == total or tenth != self._tenth:
            self._tenth = tenth if done < total else -1
            print(f"{label}: {done} of {total} slices", file=sys.stderr, flush=True)
