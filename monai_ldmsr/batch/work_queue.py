"""Which unit is worked on next, and what is to be done when a worker dies."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass

from monai_ldmsr.batch.processing import UnitTask, process_unit
from monai_ldmsr.errors import LdmsrError, WorkerDiedError
from monai_ldmsr.run_summary import CaseResult

__all__ = ["QueuedUnit", "WorkQueue"]


@dataclass(frozen=True)
class QueuedUnit:
    """A unit to be worked on, and the fingerprint of its source as it was found."""

    task: UnitTask
    fingerprint: str

    @property
    def unit(self) -> str:
        """Name of the result folder."""
        return self.task.unit


class WorkQueue:
    """Hands units to an executor, a few at a time and never one twice at once.

    When a worker dies, any of the units that it had may be to blame. They are redone one at a time: one that again
    takes its worker with it has failed, and the others are saved.

    Args:
        executor: see :class:`~monai_ldmsr.batch.local_worker.Workers`.
        capacity: how many units it has at a time.
    """

    def __init__(self, executor: Executor, capacity: int) -> None:
        self._executor = executor
        self._capacity = capacity
        self._waiting: dict[str, QueuedUnit] = {}
        self._suspects: dict[str, QueuedUnit] = {}
        self._running: dict[Future[CaseResult], QueuedUnit] = {}
        self._is_one_alone = False

    def put(self, queued: QueuedUnit) -> None:
        """Add a unit; one of its name that still waits is replaced, for its source has changed."""
        self._suspects.pop(queued.unit, None)
        self._waiting[queued.unit] = queued

    def holds(self, unit: str, fingerprint: str) -> bool:
        """Whether just this is waiting or being worked on."""
        entries = [*self._running.values(), self._waiting.get(unit), self._suspects.get(unit)]
        return any(entry and (entry.unit, entry.fingerprint) == (unit, fingerprint) for entry in entries)

    def waits(self, unit: str) -> bool:
        """Whether a unit of that name is to be worked on later."""
        return unit in self._waiting or unit in self._suspects

    @property
    def n_waiting(self) -> int:
        """How many wait."""
        return len(self._waiting) + len(self._suspects)

    @property
    def running(self) -> Collection[Future[CaseResult]]:
        """What to wait for."""
        return self._running.keys()

    def next(self) -> QueuedUnit | None:
        """The unit to be started now; None when all are running, or as many as may."""
        if self._is_one_alone or len(self._running) >= (1 if self._suspects else self._capacity):
            return None
        busy = {queued.unit for queued in self._running.values()}
        return next((entry for entry in (self._suspects or self._waiting).values() if entry.unit not in busy), None)

    def start(self, queued: QueuedUnit) -> None:
        """Hand over what :meth:`next` gave."""
        self._is_one_alone = queued.unit in self._suspects
        (self._suspects if self._is_one_alone else self._waiting).pop(queued.unit)
        self._running[self._executor.submit(process_unit, queued.task)] = queued

    def finished(self) -> Iterator[tuple[QueuedUnit, CaseResult]]:
        """Take out what has ended.

        Raises:
            LdmsrError: no unit is to blame: settings or weights are wrong, or the workers are lost.
        """
        for future in [future for future in self._running if future.done()]:
            queued = self._running.pop(future)
            was_alone, self._is_one_alone = self._is_one_alone, False
            try:
                result = future.result()
            except WorkerDiedError as error:
                if not was_alone:
                    if not self.waits(queued.unit):
                        self._suspects[queued.unit] = queued
                    continue
                result = CaseResult.of_error(error, case=queued.unit)
            except LdmsrError:
                raise
            except Exception as error:
                result = CaseResult.of_error(error, case=queued.unit)
            yield queued, result
