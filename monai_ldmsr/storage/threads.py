"""What a result consists of, made or read by several threads at once, in order."""

from __future__ import annotations

import os
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

__all__ = ["deflated", "in_threads"]

Made = TypeVar("Made")

#: Threads, each of which holds what it works on: a slice, or a file.
_THREADS = min(4, os.cpu_count() or 1)

#: An empty last block, which ends a stream of deflate.
_END = b"\x03\x00"


def in_threads(calls: Iterable[Callable[[], Made]]) -> Iterator[Made]:
    """What each call gives, in order; several are made at once, and no more than these are held.

    Args:
        calls: asked for one by one, by the thread that asks for the results.

    Example:
        >>> list(in_threads(partial(pow, 2, n) for n in range(5)))
        [1, 2, 4, 8, 16]
    """
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            for call in calls:
                if len(waiting) == _THREADS:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(call))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for one in waiting:
                one.cancel()


def deflated(parts: Iterable[Callable[[], bytes | memoryview]], level: int) -> Iterator[bytes]:
    """One stream of deflate (RFC 1951), piece by piece; its bytes follow from the parts alone.

    Args:
        parts: each is asked for its bytes by one of several threads, in order, and not before its turn.
        level: level of compression, 1 to 9.

    Example:
        >>> stream = b"".join(deflated([lambda: b"one ", lambda: b"two"], 1))
        >>> zlib.decompress(stream, wbits=-zlib.MAX_WBITS)
        b'one two'
    """
    yield from in_threads(partial(_compressed, part, level) for part in parts)
    yield _END


def _compressed(part: Callable[[], bytes | memoryview], level: int) -> bytes:
    deflater = zlib.compressobj(level, wbits=-zlib.MAX_WBITS)
    # To whole bytes, and without looking back at the part before, so that the next one can follow.
    return deflater.compress(part()) + deflater.flush(zlib.Z_SYNC_FLUSH)
