"""Which result is sent where, and when again; kept in the ledger, so that it goes on after a restart."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from monai_ldmsr.batch.ledger import Ledger
from monai_ldmsr.errors import ReasonCode
from monai_ldmsr.io.written_files import intact_files
from monai_ldmsr.outcome import Outcome

__all__ = ["Delivery", "DeliveryOutcome", "DeliveryQueue", "LedgerDelivery", "deliveries_of"]

#: A destination that did not answer is tried again after the first of these, then after twice as long, up to the last.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 900.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DeliveryOutcome(Outcome):
    """What became of one attempt to deliver a result: ``done`` where the destination has answered for all of it.

    Args:
        n_sent: instances that the destination has taken for certain.
        n_instances: instances of the result.
        permanent: another attempt would end alike, so there is none.
    """

    n_sent: int = 0
    n_instances: int = 0
    permanent: bool = False

    @property
    def complete(self) -> bool:
        """Whether every instance was taken; a result without instances is never delivered."""
        return self.n_instances > 0 and self.n_sent == self.n_instances


class Delivery(Protocol):
    """A destination of results."""

    @property
    def name(self) -> str:
        """What the ledger and messages call it; no secret."""

    def deliver(self, folder: Path) -> DeliveryOutcome:
        """Send the derived images below a result folder; sending the same again must do no harm.

        Never raises. It may block: it is called in a thread of its own.
        """


@dataclass(frozen=True, kw_only=True)
class LedgerDelivery(Outcome):
    """What became of a result at one destination: ``pending``, ``sent`` or ``failed``."""

    unit: str
    destination: str
    attempts: int


def deliveries_of(ledger: Ledger) -> list[LedgerDelivery]:
    """All deliveries that the ledger knows."""
    rows = ledger.ask(
        "SELECT state, reason, message, unit, destination, attempts FROM deliveries ORDER BY unit, destination"
    )
    return [
        LedgerDelivery(*outcome, unit=unit, destination=destination, attempts=attempts)
        for *outcome, unit, destination, attempts in rows
    ]


class DeliveryQueue:
    """Sends each complete derived DICOM series to each destination, one at a time, until it was taken.

    What was taken is not sent again as long as the images stay the same.

    Args:
        ledger: written by the thread that calls the methods.
        output_dir: where the results lie.
        deliveries: the destinations.
        retry: try what had failed for good once more.
        max_attempts: after so many a delivery has failed for good; None: never.
    """

    def __init__(
        self,
        ledger: Ledger,
        output_dir: Path,
        deliveries: Sequence[Delivery],
        retry: bool = False,
        max_attempts: int | None = 10,
    ) -> None:
        self._ledger = ledger
        self._output_dir = output_dir
        self._deliveries = {delivery.name: delivery for delivery in deliveries}
        self._max_attempts = max_attempts
        self._running: dict[Future[DeliveryOutcome], tuple[str, str]] = {}
        self._threads = ThreadPoolExecutor(max(1, len(deliveries)), thread_name_prefix="ldmsr-delivery")
        self.expect()
        if retry:
            with ledger.writing() as database:
                database.executemany(
                    "UPDATE deliveries SET state = 'pending', attempts = 0, next_at = 0 "
                    "WHERE destination = ? AND state = 'failed'",
                    [(name,) for name in self._deliveries],
                )

    @property
    def running(self) -> list[Future[DeliveryOutcome]]:
        """What to wait for."""
        return list(self._running)

    def expect(self, unit: str | None = None) -> None:
        """Note that the result of a unit, or of each, which is done now, is to be sent to all destinations."""
        with self._ledger.writing() as database:
            database.executemany(
                "INSERT INTO deliveries (unit, destination, result_digest, state) "
                "SELECT unit, :destination, result_digest, 'pending' FROM units "
                "WHERE state = 'done' AND series_uid <> '' AND (:unit IS NULL OR unit = :unit) "
                "ON CONFLICT (unit, destination) DO UPDATE SET result_digest = excluded.result_digest, "
                "state = 'pending', attempts = 0, next_at = 0, n_sent = 0, n_instances = 0, reason = '', message = '' "
                "WHERE result_digest <> excluded.result_digest",
                [{"destination": name, "unit": unit} for name in self._deliveries],
            )

    def has_sent(self, unit: str) -> bool:
        """Whether every destination has taken the present result of a unit."""
        rows = self._ledger.ask(
            "SELECT destination FROM deliveries JOIN units USING (unit, result_digest) "
            "WHERE unit = ? AND deliveries.state = 'sent'",
            (unit,),
        )
        return self._deliveries.keys() <= {name for (name,) in rows}

    def undelivered(self) -> tuple[int, int]:
        """How many results were not taken: by the destinations, and by those of earlier times that are none now."""
        waiting = [row.destination for row in deliveries_of(self._ledger) if row.status != "sent"]
        n_here = sum(name in self._deliveries for name in waiting)
        return n_here, len(waiting) - n_here

    def start_due(self) -> None:
        """Start what is due, one result for each destination."""
        busy = {destination for _, destination in self._running.values()}
        for name in self._deliveries.keys() - busy:
            due = self._pending(name, before=time.time())
            if due:
                self._start(due[0][0], name)

    def _start(self, unit: str, destination: str) -> None:
        folder = self._output_dir / unit
        if intact_files(folder, self._ledger.outputs(unit)) is None:
            gone = "The result was changed or removed since it was made. Run the batch again."
            outcome = DeliveryOutcome("failed", ReasonCode.UNREADABLE_FILE.value, gone, permanent=True)
            self._note(unit, destination, outcome)
            return
        _log.info("%s: sending to %s", unit, destination)
        self._running[self._threads.submit(self._deliveries[destination].deliver, folder)] = unit, destination

    def _pending(self, destination: str, before: float = float("inf")) -> list[tuple[str, float]]:
        return self._ledger.ask(
            "SELECT unit, next_at FROM deliveries JOIN units USING (unit, result_digest) WHERE destination = ? "
            "AND deliveries.state = 'pending' AND units.state = 'done' AND next_at <= ? ORDER BY next_at, unit LIMIT 1",
            (destination, before),
        )

    def next_at(self) -> float | None:
        """When something is to be sent that is not being sent now, in seconds since 1970; None when nothing is."""
        times = [next_at for name in self._deliveries for _, next_at in self._pending(name)]
        return min(times, default=None)

    def take_in(self) -> None:
        """Note what became of what was sent."""
        for future in [future for future in self._running if future.done()]:
            unit, destination = self._running.pop(future)
            try:
                outcome = future.result()
            except Exception as error:
                outcome = DeliveryOutcome.of_error(error)
            self._note(unit, destination, outcome)

    def _note(self, unit: str, destination: str, outcome: DeliveryOutcome) -> None:
        now = time.time()
        ((attempts,),) = self._ledger.ask(
            "SELECT attempts + 1 FROM deliveries WHERE unit = ? AND destination = ?", (unit, destination)
        )
        is_last = outcome.permanent or (self._max_attempts is not None and attempts >= self._max_attempts)
        state = "sent" if outcome.complete else "failed" if is_last else "pending"
        pause_s = min(FIRST_PAUSE_S * 2 ** min(attempts - 1, 32), LONGEST_PAUSE_S)
        _log.info("%s: %s at %s%s", unit, state, destination, outcome.message and f": {outcome.message}")
        with self._ledger.writing() as database:
            database.execute(
                "UPDATE deliveries SET state = ?, attempts = ?, next_at = ?, n_sent = ?, n_instances = ?, reason = ?, "
                "message = ?, changed_at = ? WHERE unit = ? AND destination = ?",
                (
                    *(state, attempts, now + pause_s, outcome.n_sent, outcome.n_instances, outcome.reason),
                    *(outcome.message, now, unit, destination),
                ),
            )

    def close(self) -> None:
        """Wait for nothing: what was being sent is sent again next time."""
        self._threads.shutdown(wait=False, cancel_futures=True)
