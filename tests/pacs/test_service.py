"""``ldmsr serve`` between two peers on loopback: whole series in, results out, whatever happens meanwhile."""

from __future__ import annotations

import logging
import os
import queue
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_fixtures import MARKER, MARKER_ID, make_series
from dicom_peers import ResultArchive, send
from pacs_fixtures import wait_until
from places import TESTS

from monai_ldmsr.batch import Batch, WorkSettings, delivery_queue
from monai_ldmsr.cli import command_parser, main
from monai_ldmsr.io import find_dicom_series
from monai_ldmsr.pacs.peers import DicomPeer
from monai_ldmsr.pacs.receiver import SeriesReceiver
from monai_ldmsr.pacs.sending import parse_destination
from monai_ldmsr.pacs.service import HEARTBEAT, Inbox, SeriesService, is_alive
from monai_ldmsr.pacs.spool import SpoolTimes
from monai_ldmsr.pacs.store_server import Endpoint

SHAPE = (12, 14, 3)
WITHIN_S = 30.0


@pytest.fixture
def archive() -> Iterator[ResultArchive]:
    with ResultArchive().listening() as listening:
        yield listening


@pytest.fixture
def serving(tmp_path: Path, bundle: Path) -> Callable:
    """Start a service on ``tmp_path / "out"``; the same again goes on with what an earlier one left."""
    output = tmp_path / "out"
    settings = WorkSettings(device="cpu", bundle=bundle)

    @contextmanager
    def running(*destinations: str, **options: object) -> Iterator[SeriesReceiver]:
        inbox: Inbox = queue.SimpleQueue()
        stopping = threading.Event()
        times = SpoolTimes(quiet_s=0.2)
        receiver = SeriesReceiver(
            tmp_path / "spool", inbox.put, Endpoint("LDMSR", 0, ["MODALITY"], "127.0.0.1"), times=times
        )
        with ThreadPoolExecutor(1) as pool, ThreadPoolExecutor(1) as loop:
            deliveries = [parse_destination(text) for text in destinations]

            def serve() -> None:
                # In the thread that works with it, as SQLite demands.
                batch = Batch(output, settings, pool, 1, deliveries, retry=True, delivery_attempts=None)
                try:
                    SeriesService(receiver, inbox, batch, output, **options).run(stopping)
                finally:
                    batch.close()

            ended = loop.submit(serve)
            try:
                wait_until(lambda: receiver._server._server is not None or ended.done())
                yield receiver
            finally:
                stopping.set()
                ended.result(WITHIN_S)

    return running


def store(paths: list[Path], port: int, **named: str) -> list[int]:
    """Statuses of files sent to the service in one association; empty when it was rejected."""
    answers = send(DicomPeer("LDMSR", "127.0.0.1", port), [pydicom.dcmread(path) for path in paths], **named)
    return [answer.Status for answer in answers or ()]


def rows(folder: Path, table: str = "units", columns: str = "unit, state, reason, attempts") -> list[tuple]:
    """What the ledger says; empty while there is none."""
    ledger = folder / "out" / "ledger.sqlite"
    if not ledger.is_file():
        return []
    with sqlite3.connect(ledger) as database:
        try:
            return database.execute(f"SELECT {columns} FROM {table} ORDER BY 1").fetchall()
        except sqlite3.OperationalError:  # just being made
            return []


def states(folder: Path) -> list[str]:
    return [state for _, state, _, _ in rows(folder)]


def in_spool(folder: Path) -> list[Path]:
    return [path for place in ("ready", "receiving") for path in (folder / "spool" / place).iterdir()]


def assert_is_result(results: list[pydicom.Dataset], sources: list[Path]) -> None:
    """One derived image for each source, with its pixels: those of a nearest neighbour."""
    by_uid = {image.SOPInstanceUID: image for image in map(pydicom.dcmread, sources)}
    assert len(results) == len(by_uid) == len({image.SOPInstanceUID for image in results})
    for image in results:
        (reference,) = image.SourceImageSequence
        source = by_uid.pop(reference.ReferencedSOPInstanceUID)
        assert image.StudyInstanceUID == source.StudyInstanceUID
        assert image.SeriesInstanceUID != source.SeriesInstanceUID
        assert image.ImageType[0] == "DERIVED"
        expected = source.pixel_array.repeat(2, axis=0).repeat(2, axis=1)
        assert np.array_equal(image.pixel_array, expected)


def test_a_series_comes_in_and_its_result_goes_out(
    serving: Callable, archive: ResultArchive, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    made = make_series(tmp_path / "in", "MR", SHAPE)
    with serving(archive.peer) as receiver:
        port = receiver.port
        assert store(made.paths, port) == [0x0000] * 3
        wait_until(lambda: len(archive.images) >= 3, WITHIN_S)
        wait_until(lambda: not in_spool(tmp_path), WITHIN_S)
        assert_is_result(archive.images, made.paths)
        assert store(made.paths, receiver.port, aet="STRANGER") == []
        # What comes back, and what comes again, is taken and not worked on.
        returned = sorted((tmp_path / "out").glob("*/dicom/*.dcm"))
        assert store([*returned, *made.paths], receiver.port) == [0x0000] * 6
        time.sleep(1.0)
        wait_until(lambda: not in_spool(tmp_path), WITHIN_S)
    assert rows(tmp_path, columns="state, attempts") == [("done", 1)]
    assert len(archive.images) == 3
    assert not is_alive(tmp_path / "out"), "it has ended"
    told = caplog.text + "".join(map(str, rows(tmp_path, "deliveries", "*") + rows(tmp_path, "memory", "*")))
    assert "Refused an association of AE title 'STRANGER' at 127.0.0.1: its AE title is not one of --allow" in told
    assert "begun by AE title 'MODALITY' at 127.0.0.1" in told
    assert "ended: 6 images taken, 0 refused" in told
    assert f"Listening on port {port}" in told
    assert caplog.messages[-1].startswith("Ended; what is not done")
    for secret in (MARKER, MARKER_ID, str(tmp_path), "Phantom"):
        assert secret not in told


def test_an_aborted_association_is_not_worked_on(serving: Callable, tmp_path: Path) -> None:
    made = make_series(tmp_path / "in", "CT", SHAPE)
    with serving() as receiver:
        assert store(made.paths[:2], receiver.port, end="abort") == [0x0000] * 2
        time.sleep(1.0)
        assert states(tmp_path) == []
        assert store(made.paths, receiver.port) == [0x0000] * 3
        wait_until(lambda: states(tmp_path) == ["done"], WITHIN_S)
    (folder,) = (tmp_path / "out").glob("*/dicom")
    assert len(list(folder.glob("*.dcm"))) == 3


def test_a_series_that_fails_is_listed_and_the_next_is_done(serving: Callable, tmp_path: Path) -> None:
    bad = make_series(tmp_path / "bad", "CT", SHAPE, RescaleSlope=0)
    good = make_series(tmp_path / "good", "CT", SHAPE)
    other = make_series(tmp_path / "scout", "CT", (12, 14, 1), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    with serving() as receiver:
        for made in (bad, other, good):
            store(made.paths, receiver.port)
        wait_until(lambda: sorted(states(tmp_path)) == ["done", "failed"], WITHIN_S)
        wait_until(lambda: len(in_spool(tmp_path)) == 1, WITHIN_S)
    assert [reason for _, state, reason, _ in rows(tmp_path) if state == "failed"] == ["BAD_RESCALE"]
    assert [reason for (reason,) in rows(tmp_path, "skipped", "reason")] == ["LOCALIZER"]
    # Only what failed is still there, and is tried once more by the next start.
    (left,) = in_spool(tmp_path)
    assert {path.read_bytes()[-600:] for path in left.iterdir()} == {path.read_bytes()[-600:] for path in bad.paths}
    with serving():
        wait_until(lambda: (2,) in rows(tmp_path, columns="attempts"), WITHIN_S)
        wait_until(lambda: sorted(states(tmp_path)) == ["done", "failed"], WITHIN_S)
    assert sorted(rows(tmp_path, columns="attempts")) == [(1,), (2,)]


@pytest.mark.slow
def test_a_destination_that_is_down_gets_the_result_after_a_restart(
    serving: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery_queue, "FIRST_PAUSE_S", 0.3)
    made = make_series(tmp_path / "in", "CT", SHAPE)
    archive = ResultArchive()
    with archive.listening():
        pass
    with serving(archive.peer) as receiver:
        store(made.paths, receiver.port)
        wait_until(lambda: [a for (a,) in rows(tmp_path, "deliveries", "attempts") if a > 1], WITHIN_S)
        assert rows(tmp_path, "deliveries", "state, reason") == [("pending", "PACS_UNREACHABLE")]
        assert len(in_spool(tmp_path)) == 1  # not removed before the result has arrived
    with archive.listening(archive.port), serving(archive.peer):
        wait_until(lambda: not in_spool(tmp_path), WITHIN_S)
    assert_is_result(archive.images, made.paths)
    assert rows(tmp_path, columns="state, attempts") == [("done", 1)]


@pytest.mark.slow
def test_what_could_not_be_written_is_tried_again(serving: Callable, tmp_path: Path) -> None:
    made = make_series(tmp_path / "in", "CT", SHAPE)
    (series,), _ = find_dicom_series(tmp_path / "in")
    blocker = tmp_path / "out" / series.case / "mine.txt"
    blocker.parent.mkdir(parents=True)
    blocker.touch()
    with serving(keep=True, first_pause_s=0.3) as receiver:
        store(made.paths, receiver.port)
        wait_until(lambda: [reason for _, _, reason, _ in rows(tmp_path)] == ["CANNOT_WRITE"], WITHIN_S)
        shutil.rmtree(blocker.parent)
        wait_until(lambda: states(tmp_path) == ["done"], WITHIN_S)
        time.sleep(1.5)
        assert len(in_spool(tmp_path)) == 1, "kept"


def test_results_are_removed_when_they_were_kept_for_as_long_as_asked(
    serving: Callable, archive: ResultArchive, tmp_path: Path
) -> None:
    """What was sent goes, with its row and, with --keep, its source; what could not be sent stays."""
    made = [make_series(tmp_path / name, "CT", SHAPE) for name in ("one", "two")]
    with serving(archive.peer, keep=True, retain_s=3600.0) as receiver:
        store(made[0].paths, receiver.port)
        wait_until(lambda: len(archive.images) == 3, WITHIN_S)
        wait_until(lambda: rows(tmp_path, "deliveries", "state") == [("sent",)], WITHIN_S)
        time.sleep(1.5)
        assert (states(tmp_path), len(in_spool(tmp_path))) == (["done"], 1)
    with sqlite3.connect(tmp_path / "out" / "ledger.sqlite") as database:
        database.execute("UPDATE units SET ended_at = ended_at - 7200")
    (received,) = in_spool(tmp_path)
    os.utime(received, (time.time() - 7200, time.time() - 7200))
    with ResultArchive().listening() as gone:
        pass
    with serving(archive.peer, gone.peer, keep=True, retain_s=3600.0):  # one destination has not got it
        time.sleep(2.5)
        assert states(tmp_path) == ["done"]
        assert list((tmp_path / "out").glob("*/dicom"))
    with serving(archive.peer, keep=True, retain_s=3600.0) as receiver:
        wait_until(lambda: not states(tmp_path), WITHIN_S)
        wait_until(lambda: not in_spool(tmp_path), WITHIN_S)
        assert rows(tmp_path, "outputs", "name") == rows(tmp_path, "deliveries", "unit") == []
        assert not list((tmp_path / "out").glob("*/dicom"))
        wait_until(lambda: "Done" not in (tmp_path / "out" / "index.html").read_text(), WITHIN_S)
        store(made[1].paths, receiver.port)
        wait_until(lambda: states(tmp_path) == ["done"], WITHIN_S)


@pytest.mark.slow
def test_a_killed_service_loses_nothing_and_doubles_nothing(
    archive: ResultArchive, bundle: Path, tmp_path: Path
) -> None:
    """The command itself: killed while it works, started again, and ended by SIGTERM."""
    made = [make_series(tmp_path / name, "CT", SHAPE) for name in ("one", "two")]
    hold = tmp_path / "hold"
    hold.touch()
    options = ["--allow", "MODALITY", "--address", "127.0.0.1", "--send", archive.peer, "--stable-age", "0.2"]
    options += ["--spool", str(tmp_path / "spool"), "--device", "cpu", "--bundle", str(bundle)]
    with ResultArchive().listening() as probe:
        port = probe.port
    script = TESTS / "cheap_service.py"
    command = [sys.executable, str(script), str(hold), "serve", str(tmp_path / "out"), "--port", str(port), *options]
    environment = {**os.environ, "PYTHONPATH": str(script.parents[1])}

    @contextmanager
    def started() -> Iterator[subprocess.Popen]:
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stderr is not None
                assert "Listening" in process.stderr.readline()
                yield process
            finally:
                process.kill()

    def sent(paths: list[Path]) -> bool:
        return bool(statuses := store(paths, port)) and set(statuses) == {0x0000}

    with started() as process:
        wait_until(lambda: sent(made[0].paths), WITHIN_S)
        wait_until(lambda: "running" in states(tmp_path), WITHIN_S)
        assert sent(made[1].paths)
        process.kill()  # one is being worked on, the other has just been acknowledged
    hold.unlink()
    with started() as process:
        # What had no time to settle came by an association that nobody knows the end of: it is sent again.
        wait_until(lambda: sent(made[1].paths), WITHIN_S)
        wait_until(lambda: len(archive.images) >= 6, WITHIN_S)
        wait_until(lambda: not in_spool(tmp_path), WITHIN_S)
        process.send_signal(signal.SIGTERM)
        assert process.wait(WITHIN_S) == 0
        assert process.stderr is not None
        assert "Ended" in process.stderr.read()
    assert_is_result(archive.images, [path for series in made for path in series.paths])
    assert states(tmp_path) == ["done"] * 2
    assert not list((tmp_path / "out").glob(".*.part"))


def test_whether_it_is_alive_is_an_exit_code(tmp_path: Path) -> None:
    assert main(["serve", str(tmp_path), "--alive"]) == 8
    (tmp_path / HEARTBEAT).touch()
    assert main(["serve", str(tmp_path), "--alive"]) == 0
    old = time.time() - 600
    os.utime(tmp_path / HEARTBEAT, (old, old))
    assert main(["serve", str(tmp_path), "--alive"]) == 8


def test_serving_nobody_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["serve", str(tmp_path / "out"), "--port", "0"]) == 1
    assert "AE titles that may send" in capsys.readouterr().err
    assert main(["serve", str(tmp_path / "out"), "--allow", "A", "--send", "nonsense"]) == 1


@pytest.mark.parametrize("port", ["0x", "-1", "65536", "used"])
def test_a_port_that_cannot_be_is_refused_before_it_listens(
    port: str, tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    with ResultArchive().listening() as other:
        text = str(other.port) if port == "used" else port
        command = ["serve", str(tmp_path / "out"), "--allow", "A", "--port", text, "--bundle", str(bundle)]
        command += ["--address", "127.0.0.1", "--device", "cpu"]
        if port == "0x":
            with pytest.raises(SystemExit) as ended:
                main(command)
            assert ended.value.code == 1
        else:
            assert main(command) == 1
    said = capsys.readouterr().err + caplog.text
    assert {"0x": "invalid int", "used": "in use"}.get(port, "1 to 65535") in said
    assert "Listening" not in said


def test_several_ae_titles_in_one_option() -> None:
    """As an environment file gives them to the unit and to compose."""
    parsed = command_parser().parse_args(["serve", "out", "--allow", "CT1, MR 2,", "--allow=CT3"])
    assert parsed.allow == ["CT1", "MR 2", "CT3"]


def test_the_log_has_times_where_asked(tmp_path: Path) -> None:
    code = "import sys; from monai_ldmsr.cli import main; sys.exit(main(sys.argv[1:]))"
    options = ["--log-time", "serve", "out", "--allow", "A", "--port", "0", "--device", "cpu", "--spool", "spool"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *options], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as it:
        assert it.stderr is not None
        said = it.stderr.readline()
        it.terminate()
        assert it.wait(WITHIN_S) == 0
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ INFO monai_ldmsr\.pacs\.service: Listening", said)


@pytest.mark.parametrize("option", ["fetch nonsense in --study 1.2", "batch in o --send nonsense"])
def test_an_address_is_checked_before_packages(option: str, tmp_path: Path) -> None:
    """Also where pynetdicom and requests are not installed."""
    (tmp_path / "in").mkdir()
    code = (
        "import sys; sys.modules['pynetdicom'] = sys.modules['requests'] = None; "
        "from monai_ldmsr.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *option.split()], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "AET@HOST:PORT" in done.stderr
    assert "Traceback" not in done.stderr
    assert "pip install" not in done.stderr


@pytest.mark.parametrize("address", ["A@a..b:104", f"A@{'x' * 80}:104", "A@[zz]:9", "A@h:\u0668", "http://a..b/x"])
def test_a_host_that_cannot_be_is_refused_before_any_work(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "in").mkdir()
    for command in (
        ["fetch", address, str(tmp_path / "o"), "--study", "1.2"],
        ["batch", str(tmp_path / "in"), str(tmp_path / "o"), "--send", address],
        ["serve", str(tmp_path / "o"), "--allow", "A", "--port", "0", "--send", address, "--device", "cpu"],
    ):
        assert main(command) == 1
        assert "AET@HOST:PORT" in capsys.readouterr().err


def test_a_service_that_cannot_begin_says_why(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command = ["serve", str(tmp_path / "o"), "--allow", "A", "--port", "0", "--device", "cpu"]
    for age in ("-5", "nan", "0"):
        assert main([*command, "--stable-age", age]) == 1
        assert "stable-age" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main([*command, "--spool", str(tmp_path / "file" / "spool")]) == 7
    assert "CANNOT_WRITE" in capsys.readouterr().err


def test_status_in_a_pipe_that_is_closed_or_full(tmp_path: Path, bundle: Path) -> None:
    make_series(tmp_path / "in", "CT", SHAPE)
    assert main(["batch", str(tmp_path / "in"), str(tmp_path / "o"), "--bundle", str(bundle), "--device", "cpu"]) == 0
    status = f"'{sys.executable}' -m monai_ldmsr batch '{tmp_path / 'o'}' --status"
    for command, code in ((f"{status} | true; exit ${{PIPESTATUS[0]}}", 141), (f"{status} > /dev/full", 7)):
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
