"""Every exception of the package, and the reason codes that reports and manifests use.

The tree::

    LdmsrError
    ├── SourceError (ValueError)        the source cannot be read rightly
    │   ├── SkippedSourceError          it is no image series that this software works on
    │   └── CorruptSourceError          its bytes are damaged
    ├── SettingsError (ValueError)      an argument is outside what is possible
    ├── WeightsError (ValueError)       model weights are missing, altered or of another shape
    ├── TrainingError (RuntimeError)    a training stage did not reach what the next one needs
    └── OutputError (OSError)           the result cannot be written

A message says what was found, where, and what to do. It never holds a patient's attribute or a full path.
"""

from __future__ import annotations

from enum import Enum

__all__ = [
    "CorruptSourceError",
    "LdmsrError",
    "OutputError",
    "ReasonCode",
    "SettingsError",
    "SkippedSourceError",
    "SourceError",
    "TrainingError",
    "WeightsError",
]


class ReasonCode(str, Enum):
    """Why a series was refused or skipped; the value is the same word as the name."""

    NOT_AN_IMAGE = "NOT_AN_IMAGE"
    UNSUPPORTED_SOP_CLASS = "UNSUPPORTED_SOP_CLASS"
    UNSUPPORTED_MODALITY = "UNSUPPORTED_MODALITY"
    UNSUPPORTED_PIXELS = "UNSUPPORTED_PIXELS"
    UNSUPPORTED_DIMENSIONS = "UNSUPPORTED_DIMENSIONS"
    LOCALIZER = "LOCALIZER"
    OWN_RESULT = "OWN_RESULT"
    NO_GEOMETRY = "NO_GEOMETRY"
    SINGULAR_GEOMETRY = "SINGULAR_GEOMETRY"
    IRREGULAR_SPACING = "IRREGULAR_SPACING"
    MISSING_SLICE = "MISSING_SLICE"
    DUPLICATE_POSITION = "DUPLICATE_POSITION"
    DUPLICATE_UID_CONFLICT = "DUPLICATE_UID_CONFLICT"
    GANTRY_TILT = "GANTRY_TILT"
    MIXED_MATRIX = "MIXED_MATRIX"
    MONOCHROME1 = "MONOCHROME1"
    BAD_RESCALE = "BAD_RESCALE"
    TRUNCATED_PIXELS = "TRUNCATED_PIXELS"
    UNDECODABLE_PIXELS = "UNDECODABLE_PIXELS"
    MISSING_CODEC = "MISSING_CODEC"
    TOO_LARGE = "TOO_LARGE"
    NOT_FINITE = "NOT_FINITE"
    CONSTANT_IMAGE = "CONSTANT_IMAGE"
    UNREADABLE_FILE = "UNREADABLE_FILE"
    NO_SUCH_SOURCE = "NO_SUCH_SOURCE"
    EMPTY_SOURCE = "EMPTY_SOURCE"
    BAD_SETTINGS = "BAD_SETTINGS"
    BAD_WEIGHTS = "BAD_WEIGHTS"
    GATE_FAILED = "GATE_FAILED"
    CANNOT_WRITE = "CANNOT_WRITE"
    INTERNAL_ERROR = "INTERNAL_ERROR"


class LdmsrError(Exception):
    """Base of every error that this package raises on purpose.

    Args:
        message: what was found, where, and the remedy; no patient attribute, no full path.
        reason: the machine-readable code that reaches ``summary.json``.
    """

    def __init__(self, message: str, reason: ReasonCode) -> None:
        super().__init__(message)
        self.reason = reason


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


class OutputError(LdmsrError, OSError):
    """The result cannot be written."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ReasonCode.CANNOT_WRITE)
