"""Which exit code follows from what became of the sources."""

from __future__ import annotations

import pytest

from monai_ldmsr.errors import CorruptSourceError, OutputError, ReasonCode, SkippedSourceError, WorkerDiedError
from monai_ldmsr.run_summary import CaseResult, RunSummary

DONE, SKIPPED = CaseResult("done", case="a"), CaseResult("skipped", "LOCALIZER", case="b")


def out_of_memory() -> RuntimeError:
    return type("OutOfMemoryError", (RuntimeError,), {})("tried to allocate MARKER")


def caused(error: Exception) -> Exception:
    outer = RuntimeError("applying transform MARKER")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    ("error", "status", "reason", "alone", "among_done"),
    [
        (CorruptSourceError("cut", ReasonCode.TRUNCATED_PIXELS), "failed", "TRUNCATED_PIXELS", 4, 8),
        (SkippedSourceError("scout", ReasonCode.LOCALIZER), "skipped", "LOCALIZER", 2, 0),
        (OutputError("full"), "failed", "CANNOT_WRITE", 7, 7),
        (WorkerDiedError(), "failed", "WORKER_DIED", 8, 8),
        (MemoryError("MARKER"), "failed", "OUT_OF_MEMORY", 8, 8),
        (out_of_memory(), "failed", "OUT_OF_MEMORY", 8, 8),
        (ValueError("MARKER"), "failed", "INTERNAL_ERROR", 8, 8),
    ],
)
@pytest.mark.parametrize("wrap", [lambda error: error, caused])
def test_reason_and_exit_code(
    error: Exception, status: str, reason: str, alone: int, among_done: int, wrap: object
) -> None:
    case = CaseResult.of_error(wrap(error), case="c")
    assert (case.status, case.reason) == (status, reason)
    assert "MARKER" not in case.message
    assert RunSummary((case, SKIPPED)).exit_code == alone
    assert RunSummary((case, DONE, SKIPPED)).exit_code == among_done
