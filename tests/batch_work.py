"""A unit of work that costs nothing: writes a result as the real one does, or does what its source file says."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from monai_ldmsr.batch import Batch, DeliveryOutcome, UnitTask, WorkSettings
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.io.case_names import NamedSource
from monai_ldmsr.io.written_files import FileMark, verified_files
from monai_ldmsr.run_summary import CaseResult
from monai_ldmsr.storage import partial_folder

SETTINGS = WorkSettings(device="cpu")


def cheap_unit(task: UnitTask) -> CaseResult:
    """In the place of ``process_unit``; the source is a file that holds what is to happen."""
    assert isinstance(task.source, Path)
    order = task.source.read_text()
    if order.startswith("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    if order.startswith("wait"):
        (task.source.parent / "seen").touch()
        deadline = time.monotonic() + 10
        while not (task.source.parent / "go").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
    if order.startswith("refuse"):
        return CaseResult("failed", "NO_GEOMETRY", "no position", case=task.unit)
    if order.startswith("settings"):
        raise SettingsError("factor is 9, but this model super-resolves by 2, 3 or 4.")
    if order.startswith("break"):
        raise ValueError("MARKER")
    files: dict[str, FileMark] = {}
    final = task.output_dir / task.unit
    with partial_folder(final, lambda folder: files.update(verified_files(folder))) as folder:
        (folder / "dicom").mkdir()
        (folder / "dicom" / "IM0001.txt").write_text(f"{order} {task.settings.seed}")
        (folder / "report.json").write_text(json.dumps({"pid": os.getpid(), "time": time.time()}))
    return CaseResult("done", case=task.unit, series_uid="2.25.1", n_slices=1, files=files, duration_s=0.1)


def found(folder: Path, orders: dict[str, str]) -> list[NamedSource[Path]]:
    """Write sources that order something, and list them as a search does."""
    folder.mkdir(exist_ok=True)
    for unit, order in orders.items():
        (folder / unit).write_text(order)
    return [
        NamedSource(unit, partial(str, f"fingerprint of {order}"), (folder / unit,), folder / unit)
        for unit, order in orders.items()
    ]


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every batch work by :func:`cheap_unit`."""
    monkeypatch.setattr("monai_ldmsr.batch.work_queue.process_unit", cheap_unit)


@contextmanager
def opened(output: Path, executor: Executor, settings: WorkSettings = SETTINGS, **options: object) -> Iterator[Batch]:
    """A batch that is closed in the end."""
    batch = Batch(output, settings, executor, 3, **options)  # type: ignore[arg-type]
    try:
        yield batch
    finally:
        batch.close()


class Inbox:
    """A destination in memory; ``answers`` are taken one by one, and then everything is accepted."""

    def __init__(self, name: str = "pacs", answers: tuple[DeliveryOutcome, ...] = ()) -> None:
        self.name = name
        self.answers = list(answers)
        self.got: list[str] = []
        self.before: Callable[[], None] = lambda: None

    def deliver(self, folder: Path) -> DeliveryOutcome:
        self.before()
        self.got.append(folder.name)
        return self.answers.pop(0) if self.answers else DeliveryOutcome("done", n_sent=1, n_instances=1)
