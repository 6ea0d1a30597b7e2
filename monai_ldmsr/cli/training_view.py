"""How far a training is: a bar on a terminal, lines in a pipe, and wherever there is no rich."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

    from monai_ldmsr.training.budget import StageProgress

__all__ = ["TrainingView"]


class TrainingView:
    """A bar with a stage's losses, rate and time left; without a bar, the training's own log has them."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}
        if not sys.stderr.isatty():
            return
        try:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        except ImportError:
            return
        about = (TextColumn("{task.description}"), BarColumn(20), TimeRemainingColumn())
        columns = (*about, TextColumn("{task.fields[said]}"))
        self._bar = Progress(*columns, console=Console(stderr=True))

    @property
    def is_bar(self) -> bool:
        """Whether there is a bar."""
        return self._bar is not None

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, line: str) -> None:
        """Print a line for a person."""
        print(line, flush=True)

    def update(self, progress: StageProgress) -> None:
        """Show how far a stage is."""
        if self._bar is None:
            return
        if progress.stage not in self._tasks:
            self._tasks[progress.stage] = self._bar.add_task(progress.stage, said="")
        losses = " ".join(f"{key.removesuffix('_loss')} {value:.3g}" for key, value in progress.losses.items())
        said = f"{progress.rate:.2f} steps/s  {losses}"
        total = progress.used_s + progress.left_s
        self._bar.update(self._tasks[progress.stage], completed=progress.used_s, total=total, said=said)
