"""Work on one unit, in whatever process it was sent to."""

from __future__ import annotations

from monai_ldmsr.batch.unit import UnitResult, UnitTask

__all__ = ["process_unit"]


def process_unit(task: UnitTask) -> UnitResult:
    """Read, super-resolve, write, verify and move into place.

    Never raises for what a source can do. The network is built once a process; several threads may call this, of which
    one computes while others read the next unit and write the last.
    """
    raise NotImplementedError(task.unit)
