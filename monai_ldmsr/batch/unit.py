"""One unit of work: a series or volume in, a result folder or a reason out. It can be sent to other processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from monai_ldmsr.io import AnySource
from monai_ldmsr.io.written_files import FileMark
from monai_ldmsr.settings import WorkSettings

__all__ = ["FileMark", "UnitResult", "UnitTask"]


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


@dataclass(frozen=True)
class UnitResult:
    """What became of a unit.

    Args:
        unit: name of the result folder.
        status: ``done``, ``skipped`` (nothing for this software) or ``failed`` (refused, damaged, or an error).
        reason: code of :class:`~monai_ldmsr.errors.ReasonCode`, empty when done.
        message: one sentence for a person.
        corrupt: whether the source's bytes are damaged.
        series_uid: Series Instance UID of a derived DICOM series, else empty.
        n_slices: of the result.
        duration_s: of its reading, computing and writing; not of waiting for the network, which another unit had.
        files: by name relative to the result folder, with ``/``.
    """

    unit: str
    status: str
    reason: str = ""
    message: str = ""
    corrupt: bool = False
    series_uid: str = ""
    n_slices: int = 0
    duration_s: float = 0.0
    files: Mapping[str, FileMark] = field(default_factory=dict)
