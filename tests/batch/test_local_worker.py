"""The worker process: what becomes of its work when it, or its parent, is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from monai_ldmsr.batch import LocalWorker, OutputLock
from monai_ldmsr.errors import OutputError, SettingsError, WorkerDiedError


def pid_after(seconds: float = 0.0) -> int:
    time.sleep(seconds)
    return os.getpid()


def refuse() -> None:
    raise SettingsError("no")


def unsendable() -> object:
    return lambda: None


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def worker() -> Iterator[LocalWorker]:
    made = LocalWorker()
    yield made
    made.kill()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone_within(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_alive(pid)


def test_one_other_process_does_three_things_at_once(worker: LocalWorker) -> None:
    worker.submit(pid_after).result(20)
    begin = time.monotonic()
    pids = {future.result(20) for future in [worker.submit(pid_after, 0.5) for _ in range(3)]}
    assert pids == {worker.pid}
    assert pids != {os.getpid()}
    assert time.monotonic() - begin < 1.3


def test_errors_come_back_as_they_are(worker: LocalWorker) -> None:
    with pytest.raises(SettingsError, match="no"):
        worker.submit(refuse).result(20)
    with pytest.raises(RuntimeError, match="cannot be sent"):
        worker.submit(unsendable).result(20)
    assert worker.submit(pid_after).result(20)


def test_a_killed_worker_is_told_to_all_who_wait_and_is_replaced(worker: LocalWorker) -> None:
    first = worker.submit(pid_after).result(20)
    waiting = [worker.submit(pid_after, 30), worker.submit(die)]
    for future in waiting:
        with pytest.raises(WorkerDiedError, match="memory"):
            future.result(20)
    assert worker.submit(pid_after).result(20) != first


def test_an_interrupt_at_the_terminal_is_left_to_the_parent(worker: LocalWorker) -> None:
    pid = worker.submit(pid_after).result(20)
    waiting = worker.submit(pid_after, 0.3)
    os.kill(pid, signal.SIGINT)
    assert waiting.result(20) == pid


def test_shutdown_waits_for_what_was_given(worker: LocalWorker) -> None:
    given = worker.submit(pid_after, 0.3)
    worker.shutdown()
    assert given.result(0)
    assert worker.pid is None or gone_within(worker.pid, 5)


def test_a_worker_does_not_outlive_its_parent_and_keeps_the_lock_until_then(tmp_path: Path) -> None:
    """Or it would write beside the next batch."""
    code = (
        "import sys, pathlib, test_local_worker as t\n"
        "from monai_ldmsr.batch import LocalWorker, OutputLock\n"
        f"worker = LocalWorker(OutputLock(pathlib.Path({str(tmp_path)!r})))\n"
        "print(worker.submit(t.pid_after).result(), flush=True)\n"
        "worker.submit(t.pid_after, 60).result()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)
    assert parent.stdout
    pid = int(parent.stdout.readline())
    with pytest.raises(OutputError, match="at work in this output folder"):
        OutputLock(tmp_path, wait_s=0)
    os.kill(pid, signal.SIGSTOP)
    parent.kill()
    parent.communicate()
    try:
        with pytest.raises(OutputError, match="at work in this output folder"):
            OutputLock(tmp_path, wait_s=0.2)
    finally:
        os.kill(pid, signal.SIGCONT)
    OutputLock(tmp_path).close()
    assert gone_within(pid, 5)
