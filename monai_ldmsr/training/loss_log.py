"""The CSV file of a stage's losses: a line from the first iteration on, a column for each loss that has appeared."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from monai_ldmsr.storage import output_errors, replace_text

__all__ = ["LossLog", "read_losses"]


def read_losses(file: Path) -> list[dict[str, str]]:
    """Lines of a log; none where there is no file yet."""
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


class LossLog:
    """Add lines to a log; a training that goes on adds to the one that is there."""

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)
        self._columns: list[str] = []

    def add(self, row: Mapping[str, object]) -> None:
        """Add one line.

        Raises:
            OutputError: it cannot be written.
        """
        with output_errors("The log of losses", "Free disk space, or choose another folder."):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            if self._columns and set(row) <= set(self._columns):
                with self.file.open("a", newline="", encoding="utf-8") as stream:
                    csv.DictWriter(stream, self._columns, restval="").writerow(row)
                return
            rows = [*read_losses(self.file), row]
            self._columns = list(dict.fromkeys(key for one in rows for key in one if key))
            text = io.StringIO()
            writer = csv.DictWriter(text, self._columns, restval="", extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            replace_text(self.file, text.getvalue())
