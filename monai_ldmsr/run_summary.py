"""What became of the sources of a run: a result, or a reason, for each; and the file that says so."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai_ldmsr._version import __version__
from monai_ldmsr.errors import OutputError
from monai_ldmsr.io.written_files import FileMark
from monai_ldmsr.outcome import Outcome, exit_code
from monai_ldmsr.report import RESEARCH_NOTICE
from monai_ldmsr.storage import replace_text

__all__ = ["CaseResult", "RunSummary", "summary_text", "write_summary"]


@dataclass(frozen=True, kw_only=True)
class CaseResult(Outcome):
    """What became of one series or file.

    Args:
        case: name of the result's folder; no patient data.
        warnings: warnings of the report, when done.
        series_uid: Series Instance UID of a derived DICOM series, else empty.
        n_slices: number of slices of the result.
        duration_s: seconds of its reading, computing and writing, without the wait for a network that is in use.
        files: files of the result, by name relative to its folder, with ``/``.
    """

    case: str
    warnings: tuple[str, ...] = ()
    series_uid: str = ""
    n_slices: int = 0
    duration_s: float = 0.0
    files: Mapping[str, FileMark] = field(default_factory=dict)


@dataclass(frozen=True)
class RunSummary:
    """All cases of a run, and the exit code that follows from them.

    Args:
        cases: what became of each.
        n_not_chosen: how many more were found, and not chosen.
    """

    cases: tuple[CaseResult, ...]
    n_not_chosen: int = 0

    @property
    def exit_code(self) -> int:
        """See :func:`~monai_ldmsr.outcome.exit_code`."""
        return exit_code(self.cases)

    def write_json(self, path: Path) -> None:
        """Write ``summary.json``, replaced as a whole.

        Raises:
            OutputError: when it cannot be written.
        """
        names = ("case", "status", "reason", "message")  # warnings stand in each report
        rows = ({name: getattr(case, name) for name in names} for case in self.cases)
        write_summary(path, summary_text(rows, not_chosen=self.n_not_chosen))


def summary_text(series: Iterable[Mapping[str, Any]], **more: Any) -> str:
    """Content of ``summary.json``.

    Args:
        series: for each series or file its ``case``, ``status``, ``reason``, ``message``, and what else is known.
        more: entries about all of them.
    """
    about = {"version": __version__, "notice": RESEARCH_NOTICE, **more}
    return json.dumps({**about, "series": list(series)}, indent=2) + "\n"


def write_summary(path: Path, text: str) -> None:
    """Write a file about all cases, replaced as a whole; its folder is made when missing.

    Raises:
        OutputError: when it cannot be written.
    """
    try:
        replace_text(path, text)
    except OutputError as error:
        raise error.on_console(f"{error} It was to be written in '{path.parent}'.") from None
