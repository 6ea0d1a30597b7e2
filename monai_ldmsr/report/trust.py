"""How far a result is to be trusted, as plain data of the report."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Contradiction", "ExpectedError", "TrustSummary"]

#: Slices that a warning names at most.
_NAMED_SLICES = 12


@dataclass(frozen=True)
class ExpectedError:
    """How far voxels may be wrong, over the foreground: where there is a body.

    Args:
        median: median of the expected absolute error, in the source's unit.
        p95: its 95th percentile.
        half_width_median: median of half the width of the interval, likewise.
        half_width_p95: its 95th percentile.
        coverage: share of voxels that the interval is meant to hold, such as 0.9.
        is_calibrated: whether that was calibrated on patients, for such weights and settings; else it is nominal.
        statement: what is claimed and of whom, in whole sentences.
        tolerance: error that is tolerated, in the source's unit; None where no mask was asked for.
        share_trusted: share of voxels that are trusted at that tolerance.
    """

    median: float
    p95: float
    half_width_median: float
    half_width_p95: float
    coverage: float
    is_calibrated: bool
    statement: str
    tolerance: float | None = None
    share_trusted: float | None = None


@dataclass(frozen=True)
class Contradiction:
    """How far the network alone strayed from the source, slice by slice: degraded again, less what was measured.

    Args:
        rms: root mean square by slice, in the source's unit.
        noise: standard deviation of the source's noise in the same unit, as the network was given it.
        alarm_level: above which a slice is an alarm, in the same unit: a multiple of that noise; None without
            calibration.
        alarms: slices above it, counted from 0.
    """

    rms: tuple[float, ...]
    noise: float
    alarm_level: float | None = None
    alarms: tuple[int, ...] = ()


@dataclass(frozen=True)
class TrustSummary:
    """All of it.

    Args:
        expected_error: None where the network gives none, or none was asked for.
        contradiction: what the projection onto the source took away.
        dial: detail of the result, 0 to 1; None where the network has no dial.
        calibration: what the interval and the alarm were calibrated on: hash of the file's content, group of patients
            and their number, or why there is none.
        warnings: what the reader must know, in whole sentences.
    """

    expected_error: ExpectedError | None
    contradiction: Contradiction
    dial: float | None = None
    calibration: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def alarm(self) -> str:
        """The slices that the network contradicted the source in, as a sentence; empty where there are none."""
        found = self.contradiction
        if not found.alarms or found.alarm_level is None:
            return ""
        named = ", ".join(str(n + 1) for n in found.alarms[:_NAMED_SLICES])
        more = ", ..." if len(found.alarms) > _NAMED_SLICES else ""
        greatest, usual = max(found.rms) / found.noise, found.alarm_level / found.noise
        return (
            f"In {len(found.alarms)} of {len(found.rms)} slices (counted from 1: {named}{more}) the network "
            f"contradicted the source by up to {greatest:.1f} times its noise; at most {usual:.1f} times "
            "was seen in any slice of the patients of its calibration. The result was made to agree, but look at them."
        )
