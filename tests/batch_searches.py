"""Search a source as a batch does, with the memory that its ledger keeps."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from monai_ldmsr.batch.sources import UnitSources
from monai_ldmsr.batch.unit import FoundUnit
from monai_ldmsr.io import SkippedItem

#: Rows, columns, slices of a series that costs next to nothing.
SHAPE = (6, 8, 3)


class Searches:
    """Searches one source again and again, with the memory that a ledger would keep."""

    def __init__(self, source: Path, work_dir: Path) -> None:
        self.source, self.work_dir = source, work_dir
        self.memory: dict[str, str] = {}
        self.n_learned = 0

    def find(self, **how) -> tuple[dict[str, FoundUnit], list[SkippedItem]]:
        sources = UnitSources(self.source, self.work_dir, known=self.memory, **how)
        units, skipped = sources.find()
        self.memory = {k: v for k, v in self.memory.items() if k not in sources.forgotten} | sources.learned
        self.n_learned = len(sources.learned)
        assert not self.work_dir.exists() or not list(self.work_dir.iterdir())
        assert len({unit.unit.lower() for unit in units}) == len(units)
        return {unit.unit: unit for unit in units}, skipped

    def fresh(self) -> tuple[dict[str, FoundUnit], list[SkippedItem]]:
        units, skipped = UnitSources(self.source, self.work_dir).find()
        return {unit.unit: unit for unit in units}, skipped


def prints(units: dict[str, FoundUnit]) -> dict[str, str]:
    return {name: unit.fingerprint for name, unit in units.items()}


def write_nifti(path: Path, n_volumes: int = 1, value: int = 0) -> Path:
    shape = (5, 4, 3, n_volumes) if n_volumes > 1 else (5, 4, 3)
    voxels = np.arange(np.prod(shape), dtype=np.int16).reshape(shape) + value
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([0.7, 0.9, 2.5, 1])), path)
    return path


def count_parses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that grows with each file that pydicom is asked to parse."""
    calls: list[str] = []
    parse = pydicom.dcmread

    def counted(*args, **kwargs):
        calls.append("")
        return parse(*args, **kwargs)

    monkeypatch.setattr(pydicom, "dcmread", counted)
    return calls
