"""Work through many units: each at most once at a time, each step recorded before the next."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from monai_ldmsr._version import __version__
from monai_ldmsr.batch.delivery_queue import Delivery, DeliveryQueue
from monai_ldmsr.batch.ledger import Ledger, LedgerUnit
from monai_ldmsr.batch.overview import overview_rows, write_overview
from monai_ldmsr.batch.processing import UnitTask
from monai_ldmsr.batch.search_memory import SearchMemory
from monai_ldmsr.batch.work_queue import QueuedUnit, WorkQueue
from monai_ldmsr.bundle_folder import CALIBRATION_FILE, RANGE_FILE, bundle_info
from monai_ldmsr.io import AnySource, SkippedItem
from monai_ldmsr.io.case_names import NamedSource
from monai_ldmsr.io.limits import DEFAULT_LIMITS
from monai_ldmsr.io.packed_source import WORK_DIR, remove_unpacked
from monai_ldmsr.io.source_choice import ALL, SourceChoice
from monai_ldmsr.io.source_size import SourceSize, known_size
from monai_ldmsr.io.written_files import FileMark, intact_files
from monai_ldmsr.needs import check_disk_for
from monai_ldmsr.run_summary import CaseResult, RunSummary
from monai_ldmsr.settings import WorkSettings
from monai_ldmsr.storage import OutputLock, clear_left_over, left_over, output_errors

__all__ = ["Batch", "BatchProgress", "Searched", "is_needed", "settings_fingerprint"]

#: Between two writings of the overview, while the batch is at work.
OVERVIEW_EVERY_S = 30.0


@dataclass(frozen=True)
class BatchProgress:
    """How far a batch is.

    Args:
        n_units: found so far.
        n_ended: how many of these need no more work, now or from an earlier time.
        share: share of what was to be done that is done, by voxels.
        result: what has just ended; None when only the number of units has changed.
    """

    n_units: int
    n_ended: int
    share: float
    result: CaseResult | None = None


class Searched(NamedTuple):
    """What a batch has found below a source.

    Args:
        found: the batch's units, whether they are done already or not.
        skipped: what was left out.
        root: folder that places of sources are relative to.
    """

    found: list[NamedSource[AnySource]]
    skipped: list[SkippedItem]
    root: Path


class Batch:
    """All units of an output folder, and the ledger of what became of them.

    Args:
        output_dir: made when missing.
        settings: how every unit is super-resolved.
        executor: see :class:`~monai_ldmsr.batch.local_worker.Workers`; it is not closed.
        capacity: how many units it has at a time.
        deliveries: where results are sent.
        retry: do again what failed with the same source and settings, also what could not be delivered.
        verify: read all outputs instead of comparing their size and time.
        progress: called after each change.
        lock: a lock on the output folder; one of its own when None.
        delivery_attempts: see :class:`~monai_ldmsr.batch.delivery_queue.DeliveryQueue`.

    Raises:
        OutputError: another batch is at work in the folder, or it cannot be written.
        SettingsError: there is no such bundle.
        WeightsError: its metadata does not name the weights.
    """

    def __init__(
        self,
        output_dir: Path,
        settings: WorkSettings,
        executor: Executor,
        capacity: int,
        deliveries: Sequence[Delivery] = (),
        retry: bool = False,
        verify: bool = False,
        progress: Callable[[BatchProgress], None] | None = None,
        lock: OutputLock | None = None,
        delivery_attempts: int | None = 10,
    ) -> None:
        self._output_dir = output_dir
        self._settings = settings
        self._fingerprint = settings_fingerprint(settings)
        self._work = WorkQueue(executor, capacity)
        self._retry, self._verify, self._progress = retry, verify, progress
        self._own_lock = None if lock else OutputLock(output_dir)
        self._next_overview = 0.0
        self._present: dict[str, None] = {}
        self._n_not_chosen = 0
        self._sizes: dict[str, SourceSize | None] = {}
        self._ended: dict[str, int] = {}
        try:
            self._ledger = Ledger(output_dir)
            self._ledger.queue_running()
            self._clear_left_over()
            self._sending = DeliveryQueue(self._ledger, output_dir, deliveries, retry, delivery_attempts)
        except BaseException:
            if self._own_lock:
                self._own_lock.close()
            raise

    @property
    def ledger(self) -> Ledger:
        """To be read."""
        return self._ledger

    def search(self, source: Path, names: str | None = None, choice: SourceChoice = ALL) -> Searched:
        """Find the units below a source and take in those that are chosen and not done.

        Args:
            source: see :func:`~monai_ldmsr.io.find_sources`.
            names: how results are named, see :data:`~monai_ldmsr.io.case_names.NAMINGS`.
            choice: which of them are to be worked on.

        Raises:
            LdmsrError: see :func:`~monai_ldmsr.io.find_sources`; or the disk cannot hold the results.
        """
        memory = SearchMemory(self._ledger.memory())
        limits, work_dir = self._settings.limits or DEFAULT_LIMITS, self._output_dir / WORK_DIR
        found, skipped = memory.find(source, limits, names=names, work_dir=work_dir, again=self._retry)
        found, skipped, self._n_not_chosen = choice.of(found, skipped, limits)
        self.enqueue(found, skipped, memory.rows)
        check_disk_for(self._sizes, self._output_dir, self._settings)
        return Searched(found, skipped, memory.root)

    def needs_work(self, unit: str, fingerprint: str) -> bool:
        """Whether a unit has to be worked on: never done, or source, settings or result have changed since.

        Args:
            unit: name of the unit.
            fingerprint: digest of the unit's source, as found now.
        """
        if self._work.holds(unit, fingerprint):
            return False
        known = self._ledger.unit(unit)
        marks = {} if known is None else self._ledger.outputs(unit)
        needed, found = is_needed(known, marks, self._output_dir / unit, fingerprint, self._fingerprint, self._verify)
        if found is not None and found != marks:
            self._ledger.mark_outputs(unit, found)
        return needed or (known is not None and known.status == "failed" and self._retry)

    def enqueue(
        self,
        found: Iterable[NamedSource[AnySource]],
        skipped: Sequence[SkippedItem] | None = None,
        memory: Mapping[str, str] | None = None,
    ) -> None:
        """Take units in; those that are done already only count.

        Args:
            found: units.
            skipped: what was left out; None leaves that of the last time.
            memory: what the search knows, to be kept together with the units; None leaves that of the last time.
        """
        with self._ledger.writing():
            if memory is not None:
                self._ledger.remember(memory)
            if skipped is not None:
                self._ledger.skip(skipped)
            for item in found:
                self._present[item.name] = None
                fingerprint = item.content()
                if self.needs_work(item.name, fingerprint):
                    task = UnitTask(item.name, item.source, self._output_dir, self._settings)
                    self._ledger.queue(item.name, fingerprint, self._fingerprint)
                    self._work.put(QueuedUnit(task, fingerprint))
                    self._sizes[item.name] = known_size(item.source, self._settings.limits or DEFAULT_LIMITS)
                    self._ended.pop(item.name, None)
        self._write_overview(at_once=True)
        self._tell()

    def pump(self, timeout_s: float = 1.0) -> bool:
        """Start what can be started, wait until something ends, and note what has.

        Args:
            timeout_s: wait no longer.

        Returns:
            Whether anything is queued, running, or to be delivered now or later.

        Raises:
            LdmsrError: the batch cannot go on, and no unit is to blame. What is not done stays queued.
        """
        self._start()
        self._sending.start_due()
        self._wait(timeout_s)
        for queued, result in self._work.finished():
            self._note(queued, result)
        self._sending.take_in()
        self._start()
        self._write_overview()
        due = self._sending.next_at()
        return bool(self._work.n_waiting or self._work.running or self._sending.running or due is not None)

    def _start(self) -> None:
        while queued := self._work.next():
            self._ledger.patiently(partial(self._ledger.start, queued.unit))
            self._work.start(queued)

    def _wait(self, timeout_s: float) -> None:
        due = self._sending.next_at()
        pause_s = timeout_s if due is None else min(timeout_s, max(0.0, due - time.time()))
        futures: list[Future[Any]] = [*self._work.running, *self._sending.running]
        if futures:
            # A destination sends one at a time, so what is due may have to wait for it.
            wait(futures, timeout_s if self._sending.running else pause_s, FIRST_COMPLETED)
        elif due is not None:
            time.sleep(pause_s)

    def _note(self, queued: QueuedUnit, result: CaseResult) -> None:
        self._ledger.patiently(partial(self._note_result, queued, result))
        self._tell(result)

    def _note_result(self, queued: QueuedUnit, result: CaseResult) -> None:
        with self._ledger.writing():
            self._ledger.finish(result, queued.fingerprint, _images_digest(result.files))
            if self._work.waits(queued.unit):  # its source has changed while it was worked on
                self._ledger.queue(queued.unit, queued.fingerprint, self._fingerprint)
            elif result.status == "done":
                self._sending.expect(queued.unit)

    def _tell(self, result: CaseResult | None = None) -> None:
        if result is not None and not self._work.waits(result.case):
            # What fails takes no time, or not that of its size.
            self._ended[result.case] = self._voxels(result.case) if result.status == "done" else 0
        if self._progress is not None:
            n_ended = len(self._present) - len(self._work.running) - self._work.n_waiting
            done = sum(self._ended.values())
            left = sum(self._voxels(unit) for unit in self._sizes.keys() - self._ended.keys())
            self._progress(BatchProgress(len(self._present), n_ended, done / max(1, done + left), result))

    def _voxels(self, unit: str) -> int:
        size = self._sizes.get(unit)
        return 1 if size is None else size.voxels

    def run(self) -> RunSummary:
        """Work until nothing is left to be done or delivered."""
        while self.pump():
            pass
        return self.summary()

    def summary(self) -> RunSummary:
        """What became of the units that were found this time, and what was left out."""
        rows = {row.unit: row for row in self._ledger.units()}
        skipped = [CaseResult.of(item.outcome, case=item.case) for item in self._ledger.skipped()]
        return RunSummary(
            (*skipped, *(CaseResult.of(rows[unit], case=unit) for unit in self._present)), self._n_not_chosen
        )

    def is_settled(self, unit: str) -> bool:
        """Whether its source is no longer needed: it was skipped, or is done and all destinations have the result."""
        row = self._ledger.unit(unit)
        if row is None or self._work.waits(unit):
            return False
        return row.status == "skipped" or (row.status == "done" and self._sending.has_sent(unit))

    def forget_sent(self, before: float) -> int:
        """Remove results that every destination has taken, and what the ledger knows of them.

        Args:
            before: only those that ended before, in seconds since 1970.

        Returns:
            How many.

        Raises:
            OutputError: one cannot be removed.
        """
        old = [unit for unit in self._ledger.ended(before) if self.is_settled(unit)]
        for unit in old:
            with output_errors("An old result"), suppress(FileNotFoundError):
                shutil.rmtree(self._output_dir / unit)
            self._ledger.forget(unit)
            for known in (self._present, self._sizes, self._ended):
                known.pop(unit, None)
        if old:
            self._write_overview(at_once=True)
        return len(old)

    def undelivered(self) -> tuple[int, int]:
        """How many results were not taken: by this batch's destinations, and by those of earlier times alone."""
        return self._sending.undelivered()

    def close(self) -> None:
        """Leave what is not done for the next time. The executor must have ended what it was at, or been ended."""
        try:
            self._sending.close()
            self._ledger.queue_running()
            self._clear_left_over()
            self._write_overview(at_once=True)
        finally:
            self._ledger.close()
            if self._own_lock:
                self._own_lock.close()

    def _write_overview(self, at_once: bool = False) -> None:
        """Write the pages now and then: it takes the longer, the more units there are."""
        begin = time.monotonic()
        if at_once or begin >= self._next_overview:
            self._ledger.patiently(partial(write_overview, self._output_dir, overview_rows(self._ledger)))
            self._next_overview = time.monotonic() + max(OVERVIEW_EVERY_S, 20 * (time.monotonic() - begin))

    def _clear_left_over(self) -> None:
        """Remove the partial folders of processes that were killed; only those of units that the ledger knows."""
        remove_unpacked(self._output_dir / WORK_DIR)
        for name in left_over(self._output_dir):
            if self._ledger.unit(name):
                clear_left_over(self._output_dir / name)


def is_needed(
    known: LedgerUnit | None,
    marks: Mapping[str, FileMark],
    folder: Path,
    fingerprint: str,
    settings: str,
    verify: bool = False,
) -> tuple[bool, dict[str, FileMark] | None]:
    """Whether a unit has to be worked on, and what its files are marked by now where they are intact.

    Args:
        known: what the ledger has of it.
        marks: what the ledger has of its files.
        folder: folder of its result.
        fingerprint: digest of its source, as found now.
        settings: see :func:`settings_fingerprint`.
        verify: read all outputs instead of comparing their size and time.
    """
    if known is None or (known.source_fingerprint, known.settings_fingerprint) != (fingerprint, settings):
        return True, None
    if known.status == "done":
        found = intact_files(folder, marks, by_content=verify)
        return found is None, found
    return known.status in ("queued", "running"), None


def settings_fingerprint(settings: WorkSettings) -> str:
    """Digest of weights, network, settings and version of this software.

    Raises:
        SettingsError: there is no such bundle.
        WeightsError: its metadata does not name the weights.
    """
    info = bundle_info(settings.bundle)
    said = settings.changing("voxels", "headers")
    said["device"] = (settings.device or "").split(":")[0]  # which GPU it was makes no difference
    said["config"] = hashlib.sha256((info.folder / "configs" / "inference.yaml").read_bytes()).hexdigest()
    for name in (CALIBRATION_FILE, RANGE_FILE):
        said[name] = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (info.folder / "models").glob(name)]
    said |= {"weights": info.weights_sha256, "bundle": info.version, "version": __version__}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def _images_digest(files: Mapping[str, FileMark]) -> str:
    """Digest of the voxels' files of a result: the report, which holds durations, may differ without harm."""
    images = sorted((name, mark.sha256) for name, mark in files.items() if not name.startswith("report."))
    return hashlib.sha256(json.dumps(images).encode()).hexdigest()[:16]
