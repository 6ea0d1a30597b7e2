"""``python -m monai_ldmsr.batch.worker_process PIPE LOG_LEVEL``: the process of a :class:`LocalWorker`."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from monai_ldmsr.batch.local_worker import N_THREADS

__all__ = ["serve_pipe"]


def serve_pipe(pipe: Connection) -> None:
    """Call what comes through the pipe, a few at a time, and send back what becomes of it; ends the process.

    The pipe closes when the parent ends, however it ends. Then this process must not write any longer.
    """
    sending = threading.Lock()

    def work(message: bytes) -> None:
        number, is_result = -1, True
        try:
            number, function, args, kwargs = pickle.loads(message)
            value = function(*args, **kwargs)
        except BaseException as error:
            is_result, value = False, error
        with sending, suppress(OSError):
            pipe.send_bytes(_pickled(number, is_result, value))

    with ThreadPoolExecutor(N_THREADS) as threads:
        try:
            while message := pipe.recv_bytes():
                threads.submit(work, message)
        except (EOFError, OSError):
            os._exit(1)


def _pickled(number: int, is_result: bool, value: object) -> bytes:
    try:
        return pickle.dumps((number, is_result, value))
    except Exception:
        # What an error holds need not travel, and its text may say too much.
        return pickle.dumps((number, False, RuntimeError(f"{type(value).__name__} cannot be sent")))


def _main() -> None:
    pipe, level = Connection(int(sys.argv[1])), int(sys.argv[2])
    # An interrupt at the terminal goes to all processes; the parent decides what is to be done about it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    # When memory runs out, the system shall end this process and not the one that keeps the ledger.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("800")
    serve_pipe(pipe)


if __name__ == "__main__":
    _main()
