"""Memory that is freed and asked for again at once: kept while networks run, not given back to the system each time.

Layers on slices of 512 x 512 and more take and free blocks of tens of megabytes, each of which the system clears page
by page: a quarter to a half of a network's time on a CPU (see ``docs/speed.md``).
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["reused_memory", "use_huge_pages"]

#: Parameters of glibc's mallopt (malloc.h), and what they are where nobody sets them.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_USUAL_TRIM, _USUAL_MMAPS = 128 * 1024, 65536

#: Free memory at the end of the heap up to which it is kept.
_KEPT_BYTES = 2**31 - 1

_lock = threading.Lock()
_users = 0


def use_huge_pages() -> None:
    """Have torch ask for pages of 2 MB for large tensors, where the user has not decided otherwise.

    To be called before torch is imported, which reads ``THP_MEM_ALLOC_ENABLE`` once.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


@contextmanager
def reused_memory(wanted: bool = True) -> Iterator[None]:
    """Keep what is freed within it for what is asked for next; give it back to the system at the end.

    It holds for the process, until the last thread has left it. Where the C library is not glibc, nothing happens.
    """
    library = _glibc() if wanted else None
    if library is None:
        yield
        return
    _count(1, library)
    try:
        yield
    finally:
        _count(-1, library)


def _count(change: int, library: ctypes.CDLL) -> None:
    global _users
    with _lock:
        _users += change
        if _users == 1 and change == 1:
            library.mallopt(_MMAP_MAX, 0)
            library.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        elif _users == 0:
            library.mallopt(_MMAP_MAX, _USUAL_MMAPS)
            library.mallopt(_TRIM_THRESHOLD, _USUAL_TRIM)
            library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    """The C library of the process, if it is one that has these calls."""
    if not sys.platform.startswith("linux") or "MALLOC_MMAP_MAX_" in os.environ:
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt") else None
