"""Which exit code follows from what became of the sources."""

from __future__ import annotations

import pytest

from monai_ldmsr.errors import (
    CorruptSourceError,
    OutputError,
    PeerError,
    ReasonCode,
    SettingsError,
    SkippedSourceError,
    SourceError,
    TrainingError,
    WeightsError,
    WorkerDiedError,
)
from monai_ldmsr.outcome import Outcome, exit_code
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


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SettingsError("factor is 9"), 1),
        (WeightsError("altered"), 1),
        (SourceError("absent", ReasonCode.NO_SUCH_SOURCE), 2),
        (CorruptSourceError("cut", ReasonCode.UNREADABLE_FILE), 4),
        (OutputError("full"), 7),
        (PeerError("full", ReasonCode.PACS_DISK_FULL), 7),
        (PeerError("silent", ReasonCode.PACS_UNREACHABLE), 8),
        (TrainingError("blurred"), 8),
    ],
)
def test_the_exit_code_of_an_error_that_ends_a_command(error: Exception, code: int) -> None:
    assert exit_code([Outcome.of_error(error)]) == code


def test_what_waits_for_a_destination_is_no_success() -> None:
    assert exit_code([DONE], is_complete=False) == 8
    assert exit_code([SKIPPED], is_complete=False) == 2
    assert exit_code([]) == 2
    assert exit_code([Outcome("found")]) == 0
