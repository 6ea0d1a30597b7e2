"""All of a run but the network, within a limit of time."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from series_by_hand import DERIVATION, repeated
from sound_sources import Files

from monai_ldmsr.evaluator import SeriesEvaluator, SourceDataset
from monai_ldmsr.geometry import Factors
from monai_ldmsr.io import DicomSeries, write_derived_series, write_volume_file
from monai_ldmsr.run_summary import RunSummary
from monai_ldmsr.transforms import ReadSourced


class HalfEvaluator(SeriesEvaluator):
    """All of a run but the network: sources are found, read, made finer by repeating pixels, and written."""

    def __init__(self, source: Path, output_dir: Path) -> None:
        self.dataset = SourceDataset(source, ReadSourced("image"))
        self.output_dir = output_dir
        self.summary = RunSummary(())

    def process(self, source: Any, case: str, output_dir: Path, progress: Any = None) -> Any:
        source = self.dataset.read(source)["source"]
        assert np.isfinite(source.voxels).all()
        assert abs(np.linalg.det(source.geometry.affine)) > 0
        folder = output_dir / case
        if isinstance(source, DicomSeries):
            written = write_derived_series(source, repeated(source.voxels), folder, DERIVATION)
            assert len(written.paths) == len(source.headers)
        else:
            folder.mkdir()
            path = folder / f"v{source.extension}"
            write_volume_file(source, repeated(source.voxels), Factors(2, 2), path, "research only")
        grid = SimpleNamespace(shape=source.voxels.shape)
        duration = SimpleNamespace(total=0.0)
        report = SimpleNamespace(warnings=source.warnings, settings={}, result=grid, duration_s=duration)
        return SimpleNamespace(report=report, series_uid="", files={})


class TooSlow(BaseException):
    """An input takes too long; no ``Exception``, which a reader would take for damage."""


def run_half(files: Files, place: Path, limit_s: int = 5) -> list[tuple[str, str]]:
    """Status and reason code of each source that ``files`` make, below ``place``.

    Raises:
        TooSlow: it takes too long.
        Exception: anything that a user would see as a traceback.
    """
    source, output = place / "source", place / "output"
    for folder in (source, output):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    for name, data in files.items():
        (source / name).write_bytes(data)
    before = signal.signal(signal.SIGALRM, _too_slow)
    signal.alarm(limit_s)
    try:
        summary = HalfEvaluator(source, output).run()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return [(case.status, case.reason) for case in summary.cases]


def _too_slow(*_: object) -> None:
    raise TooSlow
