"""What a batch does anew and what it leaves; and what it makes of workers that die."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

import pytest
from batch_work import SETTINGS, cheap, found, opened
from odd_run import nearest_bundle

from monai_ldmsr.batch import Batch, BatchProgress, Ledger, LocalWorker, WorkSettings
from monai_ldmsr.batch.engine import settings_fingerprint
from monai_ldmsr.errors import CorruptSourceError, LdmsrError, OutputError, ReasonCode, SettingsError, SourceError
from monai_ldmsr.io import SkippedItem

__all__ = ["cheap"]

pytestmark = pytest.mark.usefixtures("cheap")

THREE = dict.fromkeys("abc", "fine")


def attempts(output: Path) -> dict[str, int]:
    ledger = Ledger(output, for_reading=True)
    rows = {row.unit: row.attempts for row in ledger.units()}
    ledger.close()
    return rows


def worked(
    place: Path, threads: Executor, orders: dict[str, str], settings: WorkSettings = SETTINGS, **options: object
) -> list[str]:
    """Run a batch; the units that were worked on, and how they ended where that was no success."""
    told: list[BatchProgress] = []
    with opened(place / "out", threads, settings, progress=told.append, **options) as batch:
        batch.enqueue(found(place / "in", orders))
        batch.run()
    results = [progress.result for progress in told if progress.result]
    assert told[-1].n_ended == told[-1].n_units == len(orders)
    return sorted(f"{result.case} {result.reason}".strip() for result in results)


def test_what_is_done_is_not_done_again(tmp_path: Path, threads: Executor) -> None:
    assert worked(tmp_path, threads, THREE) == ["a", "b", "c"]
    assert worked(tmp_path, threads, THREE) == []
    assert attempts(tmp_path / "out") == dict.fromkeys("abc", 1)
    assert worked(tmp_path, threads, {**THREE, "d": "fine"}) == ["d"]


def test_a_changed_source_is_done_anew(tmp_path: Path, threads: Executor) -> None:
    worked(tmp_path, threads, THREE)
    assert worked(tmp_path, threads, {**THREE, "b": "fine too"}) == ["b"]
    assert (tmp_path / "out" / "b" / "dicom" / "IM0001.txt").read_text() == "fine too 0"


def test_another_setting_does_all_anew(tmp_path: Path, threads: Executor) -> None:
    worked(tmp_path, threads, THREE)
    assert worked(tmp_path, threads, THREE, replace(SETTINGS, seed=1)) == ["a", "b", "c"]
    assert worked(tmp_path, threads, THREE, replace(SETTINGS, seed=1)) == []


def test_what_changes_a_result_changes_the_fingerprint(tmp_path: Path) -> None:
    bundle = nearest_bundle(tmp_path)
    base = WorkSettings(bundle=bundle)
    same = [replace(base, created="2026-01-01"), replace(base, bundle=str(bundle))]
    assert {settings_fingerprint(settings) for settings in same} == {settings_fingerprint(base)}
    assert settings_fingerprint(replace(base, device="cuda:1")) == settings_fingerprint(replace(base, device="cuda:0"))
    changes = {
        "factor": 3, "num_inference_steps": 1, "detail": 0.5, "consistency": 0.5, "operator": "kspace", "noise": 1.0,
        "seed": 1, "modality": "CT", "flat_detail": 0.5, "device": "cuda",
    }  # fmt: skip
    others = [settings_fingerprint(replace(base, **{key: value})) for key, value in changes.items()]
    metadata, config = (bundle / "configs" / name for name in ("metadata.json", "inference.yaml"))
    for path, old, new in (
        (metadata, '"weights_sha256": "', '"weights_sha256": "0'),
        (config, "start_noise: 0.2", "start_noise: 0.3"),
    ):
        text = path.read_text()
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))
        others.append(settings_fingerprint(base))
        path.write_text(text)
    assert len({settings_fingerprint(base), *others}) == len(changes) + 3


DAMAGES: dict[str, Callable[[Path], object]] = {
    "folder gone": shutil.rmtree,
    "file gone": lambda folder: (folder / "dicom" / "IM0001.txt").unlink(),
    "report gone": lambda folder: (folder / "report.json").unlink(),
    "cut": lambda folder: os.truncate(folder / "dicom" / "IM0001.txt", 3),
    "altered": lambda folder: (folder / "dicom" / "IM0001.txt").write_text("FINE 0"),
    "one image more": lambda folder: (folder / "dicom" / "IM0002.txt").write_text("of another series"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_result_is_done_anew(tmp_path: Path, threads: Executor, damage: str) -> None:
    worked(tmp_path, threads, THREE)
    time.sleep(0.02)  # a file system may count time in hundredths of seconds
    DAMAGES[damage](tmp_path / "out" / "b")
    assert worked(tmp_path, threads, THREE) == ["b"]
    assert [path.name for path in (tmp_path / "out" / "b" / "dicom").iterdir()] == ["IM0001.txt"]
    assert (tmp_path / "out" / "b" / "dicom" / "IM0001.txt").read_text() == "fine 0"


def test_a_copied_result_is_known_by_its_content_and_that_is_remembered(tmp_path: Path, threads: Executor) -> None:
    worked(tmp_path, threads, THREE)
    image = tmp_path / "out" / "b" / "dicom" / "IM0001.txt"
    os.utime(image, ns=(1, 1))
    assert worked(tmp_path, threads, THREE) == []
    ledger = Ledger(tmp_path / "out", for_reading=True)
    assert ledger.outputs("b")["dicom/IM0001.txt"].mtime_ns == 1
    ledger.close()


def test_verify_sees_what_size_and_time_do_not_tell(tmp_path: Path, threads: Executor) -> None:
    worked(tmp_path, threads, THREE)
    image = tmp_path / "out" / "b" / "dicom" / "IM0001.txt"
    before = image.stat().st_mtime_ns
    image.write_text("FINE 0")
    os.utime(image, ns=(before, before))
    assert worked(tmp_path, threads, THREE) == []
    assert worked(tmp_path, threads, THREE, verify=True) == ["b"]


def test_failures_stay_until_they_are_retried_or_their_source_changes(tmp_path: Path, threads: Executor) -> None:
    orders = {"a": "fine", "b": "refuse", "c": "break"}
    failed = ["b NO_GEOMETRY", "c INTERNAL_ERROR"]
    assert worked(tmp_path, threads, orders) == ["a", *failed]
    assert worked(tmp_path, threads, orders) == []
    assert worked(tmp_path, threads, orders, retry=True) == failed
    assert attempts(tmp_path / "out") == {"a": 1, "b": 2, "c": 2}
    assert worked(tmp_path, threads, {**orders, "b": "fine"}) == ["b"]
    assert attempts(tmp_path / "out")["b"] == 1
    with opened(tmp_path / "out", threads) as batch:
        assert "MARKER" not in str(batch.ledger.units())


def test_summary_and_exit_code_are_of_what_was_found_now(tmp_path: Path, threads: Executor) -> None:
    item = SkippedItem("0" * 12, ReasonCode.LOCALIZER, "A localizer.", 2)
    with opened(tmp_path / "out", threads) as batch:
        batch.enqueue(found(tmp_path / "in", {"a": "fine", "b": "refuse"}), skipped=[item])
        summary = batch.run()
    assert [(case.case, case.status) for case in summary.cases] == [
        *(("0" * 12, "skipped"), ("a", "done"), ("b", "failed"))
    ]
    assert summary.exit_code == 8
    with opened(tmp_path / "out", threads) as batch:
        batch.enqueue(found(tmp_path / "in", {"a": "fine"}), skipped=[item])
        assert batch.run().exit_code == 0
        batch.enqueue(found(tmp_path / "in", {"c": "fine"}))
        assert [case.case for case in batch.run().cases] == ["0" * 12, "a", "c"]


def test_what_was_learned_is_remembered_with_the_units(tmp_path: Path, threads: Executor) -> None:
    with opened(tmp_path / "out", threads) as batch:
        batch.enqueue(found(tmp_path / "in", THREE), memory={"k": "v", "l": "w"})
        batch.enqueue([], memory={"k": "x"})
        batch.enqueue([])
    with opened(tmp_path / "out", threads) as batch:
        assert batch.ledger.memory() == {"k": "x"}
        assert {row.status for row in batch.ledger.units()} == {"queued"}


def test_a_unit_of_which_the_source_was_not_asked_for_still_counts(tmp_path: Path, threads: Executor) -> None:
    worked(tmp_path, threads, THREE)
    with opened(tmp_path / "out", threads) as batch:
        units = [replace(unit, source=None) for unit in found(tmp_path / "in", THREE)]
        assert not any(batch.needs_work(unit.name, unit.content()) for unit in units)
        batch.enqueue(units)
        assert [case.status for case in batch.run().cases] == ["done"] * 3


def test_one_unit_that_kills_its_worker_fails_and_the_others_are_done(tmp_path: Path) -> None:
    worker = LocalWorker()
    orders = {"a": "fine", "b": "die", **dict.fromkeys("cdefg", "fine")}
    assert worked(tmp_path, worker, orders) == ["a", "b WORKER_DIED", *"cdefg"]
    worker.kill()
    tried = attempts(tmp_path / "out")
    assert tried["b"] <= 3
    assert all(tried[unit] == 1 for unit in "fg"), "what was not with it is not redone"
    assert not list((tmp_path / "out").glob(".*.part"))


def test_settings_that_no_unit_can_have_end_the_batch(tmp_path: Path, threads: Executor) -> None:
    with opened(tmp_path / "out", threads) as batch:
        batch.enqueue(found(tmp_path / "in", {**THREE, "d": "settings"}))
        with pytest.raises(SettingsError, match="factor is 9"):
            batch.run()
    with opened(tmp_path / "out", threads) as batch:
        states = {row.unit: row.status for row in batch.ledger.units()}
        assert states.pop("d") == "queued"
        assert set(states.values()) <= {"queued", "done"}


def test_a_source_that_changes_while_it_is_worked_on_is_done_again(tmp_path: Path, threads: Executor) -> None:
    with opened(tmp_path / "out", threads) as batch:
        batch.enqueue(found(tmp_path / "in", {"a": "wait 1"}))
        while not (tmp_path / "in" / "seen").exists():
            batch.pump(0.01)
        assert not batch.needs_work("a", "fingerprint of wait 1"), "it is being worked on"
        batch.enqueue(found(tmp_path / "in", {"a": "wait 2"}))
        batch.pump(0.1)
        assert batch.ledger.unit("a").attempts == 0, "never twice at once"
        (tmp_path / "in" / "go").touch()
        batch.run()
        assert (tmp_path / "out" / "a" / "dicom" / "IM0001.txt").read_text() == "wait 2 0"
        assert (batch.ledger.unit("a").attempts, batch.ledger.unit("a").status) == (1, "done")
    assert worked(tmp_path, threads, {"a": "wait 2"}) == []


def test_two_batches_on_one_folder_are_refused_and_its_state_can_be_read(
    tmp_path: Path, threads: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path / "out", threads) as batch:
        batch.enqueue(found(tmp_path / "in", THREE))
        batch.run()
        monkeypatch.setattr("monai_ldmsr.storage.locks.WAIT_S", 0.0)
        with pytest.raises(OutputError, match="Another batch or service"):
            Batch(tmp_path / "out", SETTINGS, threads, 3)
        assert attempts(tmp_path / "out") == dict.fromkeys("abc", 1)
    assert worked(tmp_path, threads, THREE) == []


def test_what_a_killed_process_left_is_cleared_but_nothing_else(tmp_path: Path, threads: Executor) -> None:
    worked(tmp_path, threads, THREE)
    output = tmp_path / "out"
    shutil.copytree(output / "a", output / ".a.part")
    (output / "b").rename(output / ".b.old")
    for name in (".c.old", ".c.part", ".stranger.part", ".work", ".x.old"):
        (output / name).mkdir()
    assert worked(tmp_path, threads, THREE) == []
    hidden = {path.name for path in output.glob(".*")}
    assert hidden == {".lock", ".stranger.part", ".x.old"}
    assert (output / "b" / "report.json").is_file()


def test_a_damaged_or_foreign_ledger_is_told(tmp_path: Path, threads: Executor) -> None:
    with pytest.raises(SourceError, match="no ledger"):
        Ledger(tmp_path, for_reading=True)
    (tmp_path / "ledger.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(CorruptSourceError, match="The ledger cannot be read"):
        Ledger(tmp_path, for_reading=True)
    for call in (lambda: Ledger(tmp_path), lambda: Batch(tmp_path, SETTINGS, threads, 3)):
        with pytest.raises(LdmsrError, match="remove it: all series are then done again"):
            call()
    (tmp_path / "ledger.sqlite").unlink()
    assert worked(tmp_path, threads, THREE) == ["a", "b", "c"]


def test_three_units_are_in_work_at_once_and_no_more(tmp_path: Path, threads: Executor) -> None:
    with opened(tmp_path / "out", threads) as batch:
        batch.enqueue(found(tmp_path / "in", dict.fromkeys("abcde", "wait")))
        threading.Timer(0.3, (tmp_path / "in" / "go").touch).start()
        batch.pump(0)
        assert [row.status for row in batch.ledger.units()] == ["running"] * 3 + ["queued"] * 2
        batch.run()
        assert {row.status for row in batch.ledger.units()} == {"done"}


def test_a_disk_that_is_full_for_a_moment_does_not_end_the_batch(
    tmp_path: Path, threads: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, errors = Ledger.finish, iter([OutputError("full"), OutputError("full")])

    def finish_later(self: Ledger, *args: object) -> None:
        finish(self, *args)
        if error := next(errors, None):
            raise error  # which undoes what was written

    monkeypatch.setattr(Ledger, "finish", finish_later)
    monkeypatch.setattr("monai_ldmsr.batch.ledger.time.sleep", lambda _: None)
    assert worked(tmp_path, threads, THREE) == ["a", "b", "c"]
    assert attempts(tmp_path / "out") == dict.fromkeys("abc", 1)
