"""What became of the sources of a run: a result, or a reason, for each; and the exit code that follows."""

from __future__ import annotations

import json
import logging
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

from monai_ldmsr._version import __version__
from monai_ldmsr.errors import CorruptSourceError, LdmsrError, OutputError, ReasonCode, SkippedSourceError
from monai_ldmsr.io import SkippedItem
from monai_ldmsr.report import RESEARCH_NOTICE
from monai_ldmsr.storage import replace_text

__all__ = ["CaseResult", "RunSummary", "failed_case", "skipped_case", "write_summary"]

#: Reasons that say nothing about the source: another attempt may end otherwise.
_NOT_THE_SOURCE = (ReasonCode.INTERNAL_ERROR, ReasonCode.OUT_OF_MEMORY, ReasonCode.WORKER_DIED)


@dataclass(frozen=True)
class CaseResult:
    """What became of one series or file.

    Args:
        case: name of the result's folder; no patient data.
        status: ``done``, ``skipped`` (nothing for this software) or ``failed`` (refused, damaged, or an error).
        reason: code of :class:`~monai_ldmsr.errors.ReasonCode`, empty when done.
        message: one sentence for a person.
        corrupt: whether the source's bytes are damaged.
        warnings: of the report, when done.
    """

    case: str
    status: str
    reason: str = ""
    message: str = ""
    corrupt: bool = False
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunSummary:
    """All cases of a run, and the exit code that follows from them."""

    cases: tuple[CaseResult, ...]

    @property
    def exit_code(self) -> int:
        """0 all done, 2 nothing usable found, 4 input corrupt, 7 cannot write, 8 some series failed."""
        failed = [case for case in self.cases if case.status == "failed"]
        if any(case.reason == ReasonCode.CANNOT_WRITE for case in failed):
            return 7
        if any(case.status == "done" for case in self.cases):
            return 8 if failed else 0
        if any(case.reason in _NOT_THE_SOURCE for case in failed):
            return 8
        return 4 if any(case.corrupt for case in failed) else 2

    def write_json(self, path: Path) -> None:
        """Write ``summary.json``, replaced as a whole.

        Raises:
            OutputError: when it cannot be written.
        """
        left_out = ("corrupt", "warnings")  # the latter stand in each report
        cases = [{key: value for key, value in asdict(case).items() if key not in left_out} for case in self.cases]
        text = json.dumps({"version": __version__, "notice": RESEARCH_NOTICE, "series": cases}, indent=2)
        write_summary(path, text + "\n")


def write_summary(path: Path, text: str) -> None:
    """Write a file that tells of all cases, replaced as a whole; its folder is made when missing.

    Raises:
        OutputError: when it cannot be written.
    """
    try:
        replace_text(path, text)
    except OutputError as error:
        raise error.repeating(f"{error} It was to be written in '{path.parent}'.") from None


def skipped_case(item: SkippedItem) -> CaseResult:
    """Discovery lists damaged files and contradicting ones beside those that are simply something else."""
    message = f"{item.message} ({item.n_files} {'file' if item.n_files == 1 else 'files'})"
    return CaseResult(item.case, "failed" if item.failed else "skipped", item.reason.value, message, item.corrupt)


def failed_case(case: str, error: BaseException) -> CaseResult:
    """Tell a refusal from damage and from our own mistakes; MONAI's transforms wrap what they meet."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, LdmsrError):
        cause = cause.__cause__
    if isinstance(cause, LdmsrError):
        status = "skipped" if isinstance(cause, SkippedSourceError) else "failed"
        return CaseResult(case, status, cause.reason.value, str(cause), isinstance(cause, CorruptSourceError))
    logging.getLogger(__name__).debug("unexpected error: %s", _places(error))
    if _is_want_of_memory(error):
        message = "The memory of the computer or of its GPU does not suffice. Use a larger one, or a smaller factor."
        return CaseResult(case, "failed", ReasonCode.OUT_OF_MEMORY.value, message)
    message = f"Unexpected {type(error).__name__}. Run again with logging level DEBUG and report it."
    return CaseResult(case, "failed", ReasonCode.INTERNAL_ERROR.value, message)


def _is_want_of_memory(error: BaseException | None) -> bool:
    while error is not None:
        # By name: torch's own is known only where torch is loaded.
        if type(error).__name__ in ("MemoryError", "_ArrayMemoryError", "OutOfMemoryError"):
            return True
        error = error.__cause__
    return False


def _places(error: BaseException | None) -> str:
    """Types and code lines of an error and its causes: their texts may hold a path or a patient's attribute."""
    said = []
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        lines = " > ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)
        said.append(f"{type(error).__name__} at {lines}")
        error = error.__cause__ or error.__context__
    return "; because of ".join(said)
