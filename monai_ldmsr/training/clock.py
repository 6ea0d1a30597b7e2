"""The time of a whole training, over all its starts."""

from __future__ import annotations

import json
import time
from pathlib import Path

from monai_ldmsr.storage import replace_text

__all__ = ["TrainingClock"]

#: Seconds between two records.
_INTERVAL_S = 5.0


class TrainingClock:
    """What is left of a budget; a training that was cut off goes on with what it had left.

    Args:
        file: where the used time is recorded.
        budget_s: seconds of the whole training.
    """

    def __init__(self, file: Path, budget_s: float) -> None:
        self.file = file
        self.budget_s = budget_s
        self._start = self._recorded = time.monotonic()
        self._before = self._read()

    def _read(self) -> float:
        try:
            return float(json.loads(self.file.read_text(encoding="utf-8"))["used_s"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0.0

    @property
    def left_s(self) -> float:
        """Seconds left; below zero when it took longer."""
        return self.budget_s - self._before - (time.monotonic() - self._start)

    def record(self, at_once: bool = False) -> None:
        """Write the used time, now and then."""
        if at_once or time.monotonic() - self._recorded >= _INTERVAL_S:
            self._recorded = time.monotonic()
            self.file.parent.mkdir(parents=True, exist_ok=True)
            replace_text(self.file, json.dumps({"used_s": round(self.budget_s - self.left_s, 1)}) + "\n")
