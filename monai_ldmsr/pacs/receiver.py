"""Series that others send: received by C-STORE, gathered until whole, and handed on once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from monai_ldmsr.errors import ReasonCode, SourceError
from monai_ldmsr.pacs.instances import read_instance
from monai_ldmsr.pacs.spool import DEFAULT_TIMES, SeriesSpool, SpoolTimes
from monai_ldmsr.pacs.store_server import (
    DEFAULT_RECEIVER_LIMITS,
    NOT_MATCHING,
    NOT_UNDERSTOOD,
    Endpoint,
    IncomingImage,
    ReceiverLimits,
    Refusal,
    StoreServer,
)

__all__ = ["SeriesReceiver"]

_log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.25


class SeriesReceiver:
    """A C-STORE SCP that hands on whole series.

    Args:
        spool: folder; see :mod:`~monai_ldmsr.pacs.spool`. What is in it survives a restart.
        on_series: called with the folder of each whole series, in a thread of its own, one at a time; also for those
            that were whole before the start. The folder stays until :meth:`remove`.
        endpoint: where to listen, and who may send.
        limits: see :class:`~monai_ldmsr.pacs.store_server.ReceiverLimits`.
        times: when a series is whole.

    Example:
        >>> receiver = SeriesReceiver(Path("spool"), print, Endpoint("LDMSR", 11112, ["MODALITY1"]))  # doctest: +SKIP
        >>> with receiver:  # doctest: +SKIP
        ...     time.sleep(60)
    """

    def __init__(
        self,
        spool: Path,
        on_series: Callable[[Path], None],
        endpoint: Endpoint,
        *,
        limits: ReceiverLimits = DEFAULT_RECEIVER_LIMITS,
        times: SpoolTimes = DEFAULT_TIMES,
    ) -> None:
        self.spool = SeriesSpool(spool, times)
        self._on_series, self._read_limits = on_series, limits.read
        self._look_every_s = min(_LOOK_EVERY_S, times.quiet_s / 2)
        self._server = StoreServer(self, spool, endpoint, limits)
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="whole series", daemon=True)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._server.port

    def start(self) -> None:
        """Listen, and hand on what was whole before.

        Raises:
            SettingsError: the port cannot be opened.
        """
        self._server.start()
        self._watcher.start()

    def stop(self, grace_s: float = 10.0) -> None:
        """End: open associations get ``grace_s``; what has come stays in the spool for the next start."""
        self._server.stop(grace_s)
        self._stopping.set()
        if self._watcher.is_alive():
            self._watcher.join()

    def remove(self, series: Path) -> None:
        """Remove the folder of a series that is done with."""
        self.spool.remove(series)

    def __enter__(self) -> SeriesReceiver:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def store(self, image: IncomingImage) -> Refusal | None:
        """Keep one image; see :class:`~monai_ldmsr.pacs.store_server.Storage`."""
        path = self.spool.new_file(image.association, image.uid)
        try:
            image.write(path)
            return self._taken(image, path)
        except SourceError as error:
            return Refusal(NOT_UNDERSTOOD, error.reason, str(error))
        finally:
            path.unlink(missing_ok=True)

    def _taken(self, image: IncomingImage, path: Path) -> Refusal | None:
        header = read_instance(path, self._read_limits)
        if (header.uid, header.sop_class) != (image.uid, image.sop_class):
            return Refusal(
                NOT_MATCHING,
                ReasonCode.UNREADABLE_FILE,
                "SOP class or instance UID of the message and of the data set differ.",
            )
        if header.is_own_result:
            _log.info("A result of this software came back: taken, not worked on [%s]", ReasonCode.OWN_RESULT.value)
            return None
        conflict = self.spool.add(image.association, header, path)
        if conflict is None:
            return None
        self.spool.refused(image.association, image.uid, header)
        return Refusal(NOT_UNDERSTOOD, conflict, "Another image is known under its SOP Instance UID.")

    def refused(self, image: IncomingImage, refusal: Refusal) -> None:
        """Record a refusal; one of a known series is recorded with it already."""
        if refusal.reason is not ReasonCode.DUPLICATE_UID_CONFLICT:
            self.spool.refused(image.association, image.uid)

    def released(self, association: int) -> None:
        """Take note of an association that ended well."""
        try:
            self.spool.released(association)
        except OSError as error:
            _log.error(
                "What an association brought is incomplete until it comes again: %s [%s]",
                error.strerror,
                ReasonCode.CANNOT_WRITE.value,
            )

    def _watch(self) -> None:
        handed_on = self.spool.ready_series()
        while True:
            for path in handed_on:
                self._hand_on(path)
            if self._stopping.wait(self._look_every_s):
                return
            handed_on = self.spool.hand_on(self._server.open_associations)

    def _hand_on(self, path: Path) -> None:
        try:
            self._on_series(path)
        except Exception as error:
            # The worker on series failed; the folder stays for the next start.
            _log.error("Series %s could not be handed on: unexpected %s", path.name, type(error).__name__)
