"""One batch a time on an output folder."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import TracebackType

from monai_ldmsr.errors import OutputError

if sys.platform != "win32":
    import fcntl

__all__ = ["OutputLock"]

#: A worker whose parent was killed ends by itself, but not at once.
WAIT_S = 10.0


class OutputLock:
    """Lock on an output folder; the system gives it up when the last process that holds it ends, however it ends.

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
            self._descriptor = os.open(output_dir / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise OutputError(
                f"The output folder cannot be written: {error.strerror or type(error).__name__}. Check its permissions "
                "and free space, or choose another."
            ) from None
        try:
            self._take(time.monotonic() + (WAIT_S if wait_s is None else wait_s))
        except BaseException:
            self.close()
            raise

    def _take(self, deadline: float) -> None:
        while sys.platform != "win32":
            try:
                return fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise OutputError(
                        "Another batch or service is at work in this output folder. Wait until it has ended, or choose "
                        "another folder."
                    ) from None
                time.sleep(0.05)
            except OSError as error:
                raise OutputError(
                    f"The output folder cannot be locked: {error.strerror}. Choose one on a file system with locks."
                ) from None

    def fileno(self) -> int:
        """Descriptor for a process that shall hold the lock too."""
        return self._descriptor

    def close(self) -> None:
        """Give the lock up, as far as this process is concerned."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> OutputLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
