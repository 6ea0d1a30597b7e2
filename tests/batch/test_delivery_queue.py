"""What is sent where, how often, and again when; it goes on after a restart."""

from __future__ import annotations

import itertools
import shutil
import time
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

import pytest
from batch_work import SETTINGS, Inbox, cheap, found, opened

from monai_ldmsr.batch import DeliveryOutcome, WorkSettings
from monai_ldmsr.batch.delivery_queue import LedgerDelivery, deliveries_of

__all__ = ["cheap"]

pytestmark = pytest.mark.usefixtures("cheap")

CLOSED = DeliveryOutcome("failed", "CANNOT_WRITE", "The destination does not answer.", n_instances=1)
REFUSED = DeliveryOutcome(
    "failed", "CANNOT_WRITE", "The destination refuses images of this kind.", n_instances=1, permanent=True
)
HALF = DeliveryOutcome("failed", "CANNOT_WRITE", "1 of 2 images were not taken.", n_sent=1, n_instances=2)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monai_ldmsr.batch.delivery_queue.FIRST_PAUSE_S", 0.05)


def sent(
    place: Path,
    threads: Executor,
    *inboxes: Inbox,
    orders: dict[str, str] | None = None,
    settings: WorkSettings = SETTINGS,
    **options: object,
) -> list[LedgerDelivery]:
    """Run a batch that delivers, and return what the ledger says of it."""
    with opened(place / "out", threads, settings, deliveries=inboxes, **options) as batch:
        batch.enqueue(found(place / "in", orders or {"a": "fine", "b": "fine"}))
        batch.run()
        rows, names = deliveries_of(batch.ledger), {inbox.name for inbox in inboxes}
        waiting = [row.destination in names for row in rows if row.status != "sent"]
        assert batch.undelivered() == (sum(waiting), len(waiting) - sum(waiting))
        return rows


def test_each_result_is_sent_once_to_each_destination(tmp_path: Path, threads: Executor) -> None:
    one, other = Inbox("one"), Inbox("other")
    rows = sent(tmp_path, threads, one, other, orders={"a": "fine", "b": "fine", "c": "refuse"})
    assert [(row.unit, row.destination, row.status, row.attempts) for row in rows] == [
        (unit, destination, "sent", 1) for unit in "ab" for destination in ("one", "other")
    ]
    assert sorted(one.got) == sorted(other.got) == ["a", "b"]
    sent(tmp_path, threads, one, other)
    assert sorted(one.got) == ["a", "b"]


def test_a_destination_that_comes_later_gets_what_is_done_already(tmp_path: Path, threads: Executor) -> None:
    sent(tmp_path, threads)
    late = Inbox("late")
    sent(tmp_path, threads, late)
    assert late.got == ["a", "b"]


def test_what_was_not_taken_is_sent_again_after_growing_pauses(tmp_path: Path, threads: Executor) -> None:
    inbox, moments = Inbox(answers=(CLOSED, HALF, CLOSED)), []
    inbox.before = lambda: moments.append(time.monotonic())
    (row,) = sent(tmp_path, threads, inbox, orders={"a": "fine"})
    assert (row.status, row.attempts, row.message) == ("sent", 4, "")
    pauses = [after - before for before, after in itertools.pairwise(moments)]
    assert [pause > least for pause, least in zip(pauses, (0.05, 0.1, 0.2), strict=True)] == [True] * 3


def test_results_of_which_one_is_refused_do_not_wait_for_it(tmp_path: Path, threads: Executor) -> None:
    inbox = Inbox(answers=(REFUSED,))
    rows = {row.unit: row for row in sent(tmp_path, threads, inbox)}
    first, second = inbox.got
    assert (rows[first].status, rows[first].attempts, rows[first].message) == ("failed", 1, REFUSED.message)
    assert rows[second].status == "sent"
    sent(tmp_path, threads, inbox)
    assert len(inbox.got) == 2, "not tried again by itself"
    assert {row.status for row in sent(tmp_path, threads, inbox, retry=True)} == {"sent"}
    assert inbox.got[2:] == [first]


def test_a_destination_that_is_given_up_holds_no_later_batch_back(tmp_path: Path, threads: Executor) -> None:
    """It took nothing, and is no destination any longer; that is still known, and counts apart."""
    gone, other = Inbox("gone", answers=(REFUSED, REFUSED)), Inbox("other")
    sent(tmp_path, threads, gone)
    with opened(tmp_path / "out", threads, deliveries=[other]) as batch:
        batch.enqueue(found(tmp_path / "in", {"a": "fine", "b": "fine"}))
        batch.run()
        assert batch.undelivered() == (0, 2)
    with opened(tmp_path / "out", threads, deliveries=[gone, other]) as batch:
        assert batch.undelivered() == (2, 0)


def test_attempts_are_counted_and_end(tmp_path: Path, threads: Executor) -> None:
    inbox = Inbox(answers=(CLOSED,) * 9)
    (row,) = sent(tmp_path, threads, inbox, orders={"a": "fine"}, delivery_attempts=2)
    assert (row.status, row.attempts) == ("failed", 2)


def test_pauses_go_on_after_a_restart(tmp_path: Path, threads: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monai_ldmsr.batch.delivery_queue.FIRST_PAUSE_S", 1.0)
    inbox = Inbox(answers=(CLOSED,))
    begin = time.time()
    with opened(tmp_path / "out", threads, deliveries=(inbox,)) as batch:
        batch.enqueue(found(tmp_path / "in", {"a": "fine"}))
        while not inbox.got or batch._sending.running:
            assert batch.pump(0.05)
        assert batch.pump(0), "it is due later"
    with opened(tmp_path / "out", threads, deliveries=(inbox,)) as batch:
        assert batch.pump(0)
        assert len(inbox.got) == 1
        batch.run()
    assert inbox.got == ["a", "a"]
    assert time.time() - begin > 1.0


def test_a_new_result_is_sent_and_the_same_one_again_is_not(tmp_path: Path, threads: Executor) -> None:
    inbox = Inbox()
    sent(tmp_path, threads, inbox)
    shutil.rmtree(tmp_path / "out" / "a")
    sent(tmp_path, threads, inbox)  # done anew, and the images are the same
    assert sorted(inbox.got) == ["a", "b"]
    sent(tmp_path, threads, inbox, settings=replace(SETTINGS, seed=1))
    assert sorted(inbox.got[2:]) == ["a", "b"]


def test_a_result_that_was_changed_behind_our_back_is_not_sent(tmp_path: Path, threads: Executor) -> None:
    sent(tmp_path, threads)
    (tmp_path / "out" / "a" / "dicom" / "IM0001.txt").write_text("of another patient")
    inbox = Inbox()
    with opened(tmp_path / "out", threads, deliveries=(inbox,)) as batch:
        batch.run()
        rows = {row.unit: row for row in deliveries_of(batch.ledger)}
    assert inbox.got == ["b"]
    assert rows["a"].status == "failed"
    assert "changed or removed" in rows["a"].message


def test_an_error_of_a_destination_is_no_end_of_the_batch(tmp_path: Path, threads: Executor) -> None:
    inbox = Inbox()

    def fail() -> None:
        inbox.before = lambda: None
        raise ValueError("MARKER")

    inbox.before = fail
    rows = sent(tmp_path, threads, inbox)
    assert {row.status for row in rows} == {"sent"}
    assert sorted(row.attempts for row in rows) == [1, 2]
    assert "MARKER" not in str(rows)
