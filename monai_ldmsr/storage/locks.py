"""Locks that the system gives up with the last process that holds them, however it ends."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from monai_ldmsr.errors import OutputError

if TYPE_CHECKING:
    from typing_extensions import Self

if sys.platform != "win32":  # where nothing is locked
    import fcntl

__all__ = ["WAIT_S", "Lock", "OutputLock"]

#: A process that was killed lets go of its locks at once; a worker that only loses its parent needs a moment.
WAIT_S = 10.0


class Lock:
    """Lock on a file or a folder that one open file at a time holds.

    Args:
        path: a folder; or a file, made when missing.
        wait_s: how long to wait for another holder.

    Raises:
        BlockingIOError: another one holds it.
        OSError: it cannot be opened, or the file system has no locks.
    """

    def __init__(self, path: Path, wait_s: float = 0.0) -> None:
        self._descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o644)
        deadline = time.monotonic() + wait_s
        while sys.platform != "win32":
            try:
                return fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    self.close()
                    raise
                time.sleep(0.05)
            except BaseException:
                self.close()
                raise

    def fileno(self) -> int:
        """Descriptor for a process that shall hold the lock too."""
        return self._descriptor

    def close(self) -> None:
        """Give the lock up, as far as this process is concerned."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class OutputLock(Lock):
    """Lock on an output folder: one batch or service at a time.

    A worker process that inherits :meth:`fileno` holds it too, so a worker that outlives its parent for a moment
    never writes beside the next batch.

    Args:
        output_dir: made when missing.
        wait_s: how long to wait for another holder; :data:`WAIT_S` when None.

    Raises:
        OutputError: another batch is at work there, or the folder cannot be written.
    """

    def __init__(self, output_dir: Path, wait_s: float | None = None) -> None:
        try:
            output_dir.mkdir(parents=True, exist_ok=True)
            super().__init__(output_dir / ".lock", WAIT_S if wait_s is None else wait_s)
        except BlockingIOError:
            raise OutputError(
                "Another batch or service is at work in this output folder. Wait until it has ended, or choose another "
                "folder."
            ) from None
        except OSError as error:
            raise OutputError(
                f"The output folder cannot be written or locked: {error.strerror or type(error).__name__}. Check its "
                "permissions and free space, or choose another, on a file system with locks."
            ) from None
