"""A worker process on this machine: an executor that survives its worker's death.

``concurrent.futures.ProcessPoolExecutor`` is broken for good when a process dies, and MONAI's networks are best kept in
one process that several threads feed. So this is one process with a few threads, started again when it has died.
"""

from __future__ import annotations

import itertools
import logging
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from typing import Any, NamedTuple

from monai_ldmsr.errors import WorkerDiedError
from monai_ldmsr.storage import OutputLock

__all__ = ["LocalWorker", "Workers", "open_local"]

#: One reads the next unit, one computes, one writes the last.
N_THREADS = 3


class Workers(NamedTuple):
    """Where units are worked on.

    Args:
        executor: runs ``process_unit``; its futures raise ``WorkerDiedError`` when a worker has died.
        capacity: how many units to hand it at a time.
        close: ends the workers at once; what they were at is lost.
    """

    executor: Executor
    capacity: int
    close: Callable[[], None]


def open_local(lock: OutputLock | None = None) -> Workers:
    """One worker process on this machine.

    Args:
        lock: a lock on the output folder, to be held by the worker as well.
    """
    worker = LocalWorker(lock)
    return Workers(worker, N_THREADS, worker.kill)


class LocalWorker(Executor):
    """An executor over one process with a few threads, which is started when first needed and whenever it has died.

    The process ends with its parent, even when that is killed: the pipe between them closes. It asks to be the first
    to go when memory runs out, and inherits the lock.
    """

    def __init__(self, lock: OutputLock | None = None) -> None:
        self._lock = lock
        self._numbers = itertools.count()
        self._guard = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._futures: dict[int, Future[Any]] = {}

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        process = self._process
        return None if process is None else process.pid

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have ``fn`` called in the process; it must be importable there by its module and name."""
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        with self._guard:
            number = next(self._numbers)
            message = pickle.dumps((number, fn, args, kwargs))
            if self._pipe is None:
                self._start()
            assert self._pipe is not None
            self._futures[number] = future
            # A worker that is just dying: whoever reads its end of the pipe ends all futures.
            with suppress(OSError):
                self._pipe.send_bytes(message)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the process; with ``wait``, once all it was given is done."""
        with self._guard:
            futures, process, pipe = list(self._futures.values()), self._process, self._pipe
        if wait and not cancel_futures:
            for future in futures:
                future.exception()
        if process is not None and pipe is not None:
            if futures and not wait:
                process.kill()
            with suppress(OSError):
                pipe.send_bytes(b"")
            process.wait()

    def kill(self) -> None:
        """End the process at once."""
        self.shutdown(wait=False)

    def _start(self) -> None:
        ours, theirs = Pipe()
        inherited = [theirs.fileno()] + ([] if self._lock is None else [self._lock.fileno()])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}
        level = logging.getLogger().level
        command = [sys.executable, "-m", "monai_ldmsr.batch.worker_process", str(theirs.fileno()), str(level)]
        process = subprocess.Popen(
            command, pass_fds=inherited, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        theirs.close()
        self._process, self._pipe = process, ours
        threading.Thread(target=self._receive, args=(process, ours), name="ldmsr-worker", daemon=True).start()

    def _receive(self, process: subprocess.Popen[bytes], pipe: Connection) -> None:
        """Take results in until the process is gone, and end all other futures with an error."""
        with suppress(EOFError, OSError):
            while True:
                number, is_result, value = pickle.loads(pipe.recv_bytes())
                with self._guard:
                    future = self._futures.pop(number)
                if is_result:
                    future.set_result(value)
                else:
                    future.set_exception(value)
        process.kill()
        process.wait()
        with self._guard:
            lost, self._futures = self._futures, {}
            self._process = self._pipe = None
            pipe.close()
        for future in lost.values():
            future.set_exception(WorkerDiedError())
