"""Series in, results out, for as long as it runs: what was received is worked on and sent on, and then removed."""

from __future__ import annotations

import logging
import queue
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from monai_ldmsr.batch import Batch
from monai_ldmsr.errors import ReasonCode, SourceError
from monai_ldmsr.io import ReadLimits, find_sources
from monai_ldmsr.io.limits import DEFAULT_LIMITS
from monai_ldmsr.io.packed_source import WORK_DIR
from monai_ldmsr.pacs.receiver import SeriesReceiver
from monai_ldmsr.storage import output_errors

__all__ = ["HEARTBEAT", "Inbox", "SeriesService", "is_alive"]

_log = logging.getLogger(__name__)

#: Folders of whole series, from the receiver's thread to the service's.
Inbox = queue.SimpleQueue[Path]

#: A file in the output folder whose time of change shows that the service goes on.
HEARTBEAT = ".alive"

_BEAT_EVERY_S, _DEAD_AFTER_S = 5.0, 120.0

#: A result that could not be written, perhaps because the disk is full, is tried again after the first of these, then
#: after twice as long, up to the last.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 60.0, 3600.0

#: Thousands of series may wait for a destination that is down, so they are not looked through all the time.
_LOOK_EVERY_S, _FINISH_EVERY_S, _FORGET_EVERY_S = 0.25, 1.0, 60.0


@dataclass
class _Received:
    """A whole series in the spool: its units, and when to try again those that could not be written."""

    units: tuple[str, ...]
    is_refused: bool
    pause_s: float
    again_at: float | None = None


class SeriesService:
    """Works on each series that a receiver hands on; nothing of what was acknowledged is lost by a restart.

    The images of a series leave the spool when its results are done and every destination has taken them. Those of a
    series that failed stay there and are tried again at the next start.

    Args:
        receiver: hands series to ``inbox``.
        inbox: see :data:`Inbox`.
        batch: batch of the output folder, with its destinations; made with ``retry``, or failures stay failures.
        output_dir: folder of the batch.
        keep: images stay in the spool when their results are sent.
        retain_s: how long results that every destination has taken are kept, and received images with ``keep``; for
            good when None.
        read_limits: the largest series that is read.
        first_pause_s: after which a result that could not be written is tried again; each pause is twice the last.
    """

    def __init__(
        self,
        receiver: SeriesReceiver,
        inbox: Inbox,
        batch: Batch,
        output_dir: Path,
        *,
        keep: bool = False,
        retain_s: float | None = None,
        read_limits: ReadLimits = DEFAULT_LIMITS,
        first_pause_s: float = _FIRST_PAUSE_S,
    ) -> None:
        self._receiver, self._inbox, self._batch = receiver, inbox, batch
        self._output_dir, self._keep, self._read_limits = output_dir, keep, read_limits
        self._first_pause_s, self._retain_s = first_pause_s, retain_s
        self._received: dict[Path, _Received] = {}
        self._skipped = dict.fromkeys(batch.ledger.skipped())
        self._last_beat = self._last_finish = self._last_forget = 0.0

    def run(self, stopping: threading.Event) -> None:
        """Receive, work and send until ``stopping`` is set; what is not done then is done after the next start.

        Raises:
            SettingsError: the port cannot be opened.
            LdmsrError: the batch cannot go on.
        """
        with self._receiver:
            _log.info("Listening on port %d", self._receiver.port)
            is_busy = False
            while not stopping.is_set():
                self._take_in(wait=not is_busy)
                is_busy = self._batch.pump(_LOOK_EVERY_S)
                self._finish()
                self._forget_old()
                self._beat()
        (self._output_dir / HEARTBEAT).unlink(missing_ok=True)
        _log.info("Ended; what is not done yet is done after the next start")

    def _take_in(self, wait: bool) -> None:
        try:
            while True:
                self._take(self._inbox.get(block=wait, timeout=_LOOK_EVERY_S if wait else None))
                wait = False
        except queue.Empty:
            return

    def _take(self, series: Path) -> None:
        if _later_generations(series):
            # A restart between the two: the later holds all of this one too.
            self._received[series] = _Received((), False, self._first_pause_s)
            return
        try:
            found, skipped = find_sources(series, self._read_limits, work_dir=self._output_dir / WORK_DIR)
        except (SourceError, OSError) as error:
            _log.error("Series %s cannot be read from the spool: %s", series.name, type(error).__name__)
            return
        self._skipped.update(dict.fromkeys(skipped))
        self._batch.enqueue(found, list(self._skipped))
        is_refused = any(item.failed for item in skipped)
        earlier = self._received.get(series)
        pause_s = self._first_pause_s if earlier is None else earlier.pause_s
        self._received[series] = _Received(tuple(one.name for one in found), is_refused, pause_s)
        if found:
            # The spool names a series as soon as it comes, results are named by what it holds.
            _log.info("Series %s: what is made of it is named %s", series.name, ", ".join(one.name for one in found))
        for item in skipped:
            _log.warning("Series %s: %s [%s]", series.name, item.message, item.reason.value)

    def _finish(self) -> None:
        """Let go of the series that need no more work."""
        if time.monotonic() - self._last_finish < _FINISH_EVERY_S:
            return
        self._last_finish = time.monotonic()
        for series, received in list(self._received.items()):
            if received.again_at is not None:
                if time.monotonic() >= received.again_at:
                    received.again_at = None
                    self._take(series)
            elif not received.is_refused and all(self._batch.is_settled(unit) for unit in received.units):
                del self._received[series]
                self._settled(series, self._keep)
            else:
                self._unsettled(series, received)

    def _settled(self, series: Path, keep: bool) -> None:
        if keep:
            return
        try:
            self._receiver.remove(series)
        except OSError as error:
            _log.error("Series %s cannot be removed from the spool: %s", series.name, error.strerror)

    def _unsettled(self, series: Path, received: _Received) -> None:
        """Try again what could not be written; leave what else has failed for the next start."""
        rows = [row for unit in received.units if (row := self._batch.ledger.unit(unit)) is not None]
        states = {row.status for row in rows}
        if states & {"queued", "running"} or not (received.is_refused or "failed" in states):
            return
        if any(row.reason == ReasonCode.CANNOT_WRITE.value for row in rows):
            received.again_at = time.monotonic() + received.pause_s
            received.pause_s = min(2 * received.pause_s, _LONGEST_PAUSE_S)
            return
        _log.warning("Series %s failed; its images stay in the spool for the next start", series.name)
        del self._received[series]

    def _forget_old(self) -> None:
        """Remove what was kept for as long as it should be."""
        if self._retain_s is None or time.monotonic() - self._last_forget < min(_FORGET_EVERY_S, self._retain_s):
            return
        self._last_forget = time.monotonic()
        before = time.time() - self._retain_s
        for series in self._receiver.spool.ready_series():
            if series not in self._received and series.stat().st_mtime < before:
                self._settled(series, keep=False)
        n_removed = self._batch.forget_sent(before)
        if n_removed:
            _log.info("Removed %d results older than %.3g days", n_removed, self._retain_s / 86400)

    def _beat(self) -> None:
        if time.monotonic() - self._last_beat < _BEAT_EVERY_S:
            return
        self._last_beat = time.monotonic()
        with output_errors("The output folder"):
            (self._output_dir / HEARTBEAT).touch()


def is_alive(output_dir: Path) -> bool:
    """Whether a service works in an output folder: its heartbeat is not old."""
    try:
        return time.time() - (output_dir / HEARTBEAT).stat().st_mtime < _DEAD_AFTER_S
    except OSError:
        return False


def _later_generations(series: Path) -> bool:
    """Whether the same series came again with more images (see :mod:`~monai_ldmsr.pacs.spool`)."""
    name, _, number = series.name.partition("-")
    later = (path.name.partition("-")[2] for path in series.parent.glob(f"{name}-*"))
    return any(int(other) > int(number or 1) for other in later if other.isdigit())
