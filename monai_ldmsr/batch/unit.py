"""One unit of work: a series or volume in, a result folder or a reason out. It can be sent to other processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from monai_ldmsr.io import AnySource
from monai_ldmsr.settings import WorkSettings

__all__ = ["UnitTask"]


@dataclass(frozen=True)
class UnitTask:
    """What a worker is asked to do.

    Args:
        unit: name of the result folder.
        source: what to read; kept out of ``repr``: file names may be patients' names.
        output_dir: parent of the result folder.
        settings: how.
    """

    unit: str
    source: AnySource = field(repr=False)
    output_dir: Path = field(repr=False)
    settings: WorkSettings
