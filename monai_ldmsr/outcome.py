"""What became of a unit of work, by one record; and the exit code that follows, decided here and nowhere else."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_ldmsr.errors import CorruptSourceError, LdmsrError, ReasonCode, SkippedSourceError, causes

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Outcome", "exit_code"]

#: Exit codes of reasons; any other is the source's: 4 where its bytes are damaged, else 2.
_EXIT_CODES: dict[str, int] = {
    # These say nothing about the source: another attempt may end otherwise.
    **dict.fromkeys((code for code in ReasonCode if code.startswith("PACS_")), 8),
    **dict.fromkeys((ReasonCode.INTERNAL_ERROR, ReasonCode.OUT_OF_MEMORY, ReasonCode.WORKER_DIED), 8),
    ReasonCode.MEMORY_LIMIT: 8,
    **dict.fromkeys((ReasonCode.GATE_FAILED, ReasonCode.CLUSTER_LOST, ReasonCode.SERVER_BUSY), 8),
    **dict.fromkeys((ReasonCode.CANNOT_WRITE, ReasonCode.PACS_DISK_FULL), 7),
    **dict.fromkeys((ReasonCode.BAD_SETTINGS, ReasonCode.BAD_WEIGHTS), 1),
}


@dataclass(frozen=True)
class Outcome:
    """What became of a unit.

    Args:
        status: ``done``, ``skipped`` (nothing for this software) or ``failed`` (refused, damaged, or an error); of
            what has not ended ``queued``, ``running`` or ``pending``.
        reason: code of :class:`~monai_ldmsr.errors.ReasonCode`, empty when done.
        message: one sentence for a person; no patient attribute, no path. When done, what was forced.
        corrupt: whether the source's bytes are damaged.
    """

    status: str
    reason: str = ""
    message: str = ""
    corrupt: bool = False

    @classmethod
    def of_error(cls, error: BaseException, **more: Any) -> Self:
        """Distinguish a refusal from damage and from our own mistakes; ``more`` are other fields of a subclass."""
        cause = next((one for one in causes(error) if isinstance(one, LdmsrError)), None)
        if cause is not None:
            status = "skipped" if isinstance(cause, SkippedSourceError) else "failed"
            return cls(status, cause.reason.value, str(cause), isinstance(cause, CorruptSourceError), **more)
        logging.getLogger(__name__).debug("unexpected error: %s", _places(error))
        # By name: torch's own is known only where torch is loaded.
        if {type(one).__name__ for one in causes(error)} & {"MemoryError", "_ArrayMemoryError", "OutOfMemoryError"}:
            message = "The computer or its GPU is out of memory. Use a larger one, or a smaller factor."
            return cls("failed", ReasonCode.OUT_OF_MEMORY.value, message, **more)
        message = f"Unexpected {type(error).__name__}. Run again with logging level DEBUG and report it."
        return cls("failed", ReasonCode.INTERNAL_ERROR.value, message, **more)

    @classmethod
    def of(cls, other: Outcome, **more: Any) -> Self:
        """The same outcome, with other fields of a subclass."""
        return cls(other.status, other.reason, other.message, other.corrupt, **more)


def exit_code(outcomes: Iterable[Outcome], is_complete: bool = True) -> int:
    """Exit code of a command.

    Args:
        outcomes: outcomes of all units; of an error that ended the command, only that one.
        is_complete: False where results wait for something else, such as a destination.

    Returns:
        0 all done, 1 wrong settings, 2 nothing usable, 4 input corrupt, 7 cannot write, 8 some failed.
    """
    outcomes = list(outcomes)
    failed = [one for one in outcomes if one.status == "failed"]
    codes = {_EXIT_CODES.get(one.reason, 4 if one.corrupt else 2) for one in failed}
    if 7 in codes:
        return 7
    if any(one.status in ("done", "found") for one in outcomes):
        return 0 if is_complete and not codes else 8
    return next((code for code in (8, 1, 4) if code in codes), 2)


def _places(error: BaseException | None) -> str:
    """Types and code lines of an error and its causes: their texts may hold a path or a patient's attribute."""
    said = []
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        lines = " > ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)
        said.append(f"{type(error).__name__} at {lines}")
        error = error.__cause__ or error.__context__
    return "; because of ".join(said)
