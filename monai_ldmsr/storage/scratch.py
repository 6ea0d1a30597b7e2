"""Arrays of whole volumes while a source is worked on: in memory, or in files without a name where memory is short."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from monai_ldmsr.storage.whole import output_errors

__all__ = ["new_array", "scratch_files"]

#: Smaller arrays stay in memory.
_LEAST_BYTES = 2**20

_FOLDER: ContextVar[Path | None] = ContextVar("folder of scratch files", default=None)


@contextmanager
def scratch_files(folder: Path | None) -> Iterator[None]:
    """Within it, :func:`new_array` makes arrays in files in that folder; None: in memory.

    It holds for the thread that entered it alone. The system keeps of such files in memory what it has room for, and
    frees their space when nothing refers to the arrays any more, also after a crash.

    Args:
        folder: made when missing.
    """
    token = _FOLDER.set(folder)
    try:
        yield
    finally:
        _FOLDER.reset(token)


def new_array(shape: tuple[int, ...], dtype: npt.DTypeLike, order: Literal["C", "F"] = "C") -> npt.NDArray[Any]:
    """An array whose values are not set, 0 in files.

    Args:
        shape: any.
        dtype: any of numbers.
        order: C or Fortran order.

    Raises:
        OutputError: the disk has no space for it.
    """
    folder, kind = _FOLDER.get(), np.dtype(dtype)
    n_bytes = math.prod(shape) * kind.itemsize
    if folder is None or n_bytes < _LEAST_BYTES:
        return np.empty(shape, kind, order)
    with output_errors("A working file beside the results, for volumes that memory cannot hold,"):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            # Space that is promised only would end the process when it is used.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, n_bytes)
            else:
                file.truncate(n_bytes)
            return np.ndarray(shape, kind, mmap.mmap(file.fileno(), n_bytes), order=order)
