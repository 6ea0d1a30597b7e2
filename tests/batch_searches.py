"""Search a source as a batch does, with the memory that its ledger keeps."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from monai_ldmsr.batch.search_memory import SearchMemory
from monai_ldmsr.io import AnySource, ReadLimits, SkippedItem, find_sources
from monai_ldmsr.io.case_names import NamedSource
from monai_ldmsr.io.limits import DEFAULT_LIMITS

Units = dict[str, NamedSource[AnySource]]

#: Rows, columns, slices of a series that costs next to nothing.
SHAPE = (6, 8, 3)


class Searches:
    """Searches one source again and again, with the memory that a ledger would keep."""

    def __init__(self, source: Path, work_dir: Path) -> None:
        self.source, self.work_dir = source, work_dir
        self.memory: dict[str, str] = {}

    def find(
        self, limits: ReadLimits = DEFAULT_LIMITS, names: str | None = None, again: bool = False
    ) -> tuple[Units, list[SkippedItem]]:
        memory = SearchMemory(self.memory)
        units, skipped = memory.find(self.source, limits, names=names, work_dir=self.work_dir, again=again)
        self.memory = memory.rows
        assert not self.work_dir.exists() or not list(self.work_dir.iterdir())
        assert len({unit.name.lower() for unit in units}) == len(units)
        return {unit.name: unit for unit in units}, skipped

    def fresh(self) -> tuple[Units, list[SkippedItem]]:
        units, skipped = find_sources(self.source, work_dir=self.work_dir)
        return {unit.name: unit for unit in units}, skipped


def prints(units: Units) -> dict[str, str]:
    return {name: unit.content() for name, unit in units.items()}


def write_nifti(path: Path, n_volumes: int = 1, value: int = 0) -> Path:
    shape = (5, 4, 3, n_volumes) if n_volumes > 1 else (5, 4, 3)
    voxels = np.arange(np.prod(shape), dtype=np.int16).reshape(shape) + value
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([0.7, 0.9, 2.5, 1])), path)
    return path


def count_calls(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> list[None]:
    """A list that grows with each call of a function."""
    calls: list[None] = []
    original = getattr(owner, name)

    def counted(*args, **kwargs):
        calls.append(None)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)
    return calls
