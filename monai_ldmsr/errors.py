"""Every exception of the package; each carries a reason code of :mod:`monai_ldmsr.reason_codes`.

The tree::

    LdmsrError
    ├── SourceError (ValueError)        the source cannot be read rightly
    │   ├── SkippedSourceError          it is no image series that this software works on
    │   └── CorruptSourceError          its bytes are damaged
    ├── SettingsError (ValueError)      an argument is outside what is possible
    ├── WeightsError (ValueError)       model weights are missing, altered or of another shape
    ├── TrainingError (RuntimeError)    a training stage did not reach what the next one needs
    ├── ClusterError (RuntimeError)     workers on other machines can no longer be reached
    ├── WorkerDiedError (RuntimeError)  the process that worked on a unit ended
    ├── OutputError (OSError)           the result cannot be written
    └── PeerError (RuntimeError)        a PACS does not answer, or does not do what it was asked

A message says what was found, where, and what to do. It never holds a patient's attribute or a full path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_ldmsr.reason_codes import ReasonCode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Self

__all__ = [
    "ClusterError",
    "CorruptSourceError",
    "LdmsrError",
    "OutputError",
    "PeerError",
    "ReasonCode",
    "SettingsError",
    "SkippedSourceError",
    "SourceError",
    "TrainingError",
    "WeightsError",
    "WorkerDiedError",
    "causes",
]


class LdmsrError(Exception):
    """Base of every error that this package raises on purpose.

    Args:
        message: what was found, where, and the remedy; no patient attribute, no full path.
        reason: the machine-readable code that reaches ``summary.json``.
    """

    #: The message with the path that the user typed; only for that user, in no log and no report.
    console_message: str = ""

    def __init__(self, message: str, reason: ReasonCode) -> None:
        super().__init__(message)
        self.reason = reason

    def on_console(self, message: str) -> Self:
        """The same error, with what the command line says instead of its message."""
        self.console_message = message
        return self


class SourceError(LdmsrError, ValueError):
    """The source cannot be read rightly, so it is refused."""


class SkippedSourceError(SourceError):
    """The source is intact but is nothing that super-resolution applies to."""


class CorruptSourceError(SourceError):
    """The bytes of the source are damaged: truncated, undecodable, not finite."""


class SettingsError(LdmsrError, ValueError):
    """An argument lies outside what is possible."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ReasonCode.BAD_SETTINGS)


class WeightsError(LdmsrError, ValueError):
    """Model weights are missing, altered, or belong to another network."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ReasonCode.BAD_WEIGHTS)


class TrainingError(LdmsrError, RuntimeError):
    """A training stage did not reach what the next one needs."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ReasonCode.GATE_FAILED)


class WorkerDiedError(LdmsrError, RuntimeError):
    """The process that worked on a unit ended before it had a result."""

    def __init__(self) -> None:
        super().__init__(
            "The worker process ended while it worked on this series, out of memory or by a crash. Check the "
            "system's log and memory, then run again with --retry.",
            ReasonCode.WORKER_DIED,
        )

    def __reduce__(self) -> tuple[type[WorkerDiedError], tuple[()]]:
        return type(self), ()


class OutputError(LdmsrError, OSError):
    """The result cannot be written."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ReasonCode.CANNOT_WRITE)


class ClusterError(LdmsrError, RuntimeError):
    """Workers on other machines can no longer be reached; what they finished is kept."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ReasonCode.CLUSTER_LOST)


class PeerError(LdmsrError, RuntimeError):
    """A PACS does not answer, or does not do what it was asked."""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and each that it was raised from; MONAI wraps what its configs and transforms meet."""
    while error is not None:
        yield error
        error = error.__cause__
