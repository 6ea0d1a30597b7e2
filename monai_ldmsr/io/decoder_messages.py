"""What decoders written in C print instead of saying it: damage that they have painted over."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from tempfile import TemporaryFile

__all__ = ["refuse_damage_in_print"]

#: Of libjpeg, which makes up what is missing. A byte or two before the end fill a frame up to an even length.
_DAMAGE = re.compile(
    rb"Corrupt JPEG data(?!: [12] extraneous bytes before marker 0xd9)|Premature end of JPEG|Invalid SOS parameters"
    rb"|Inconsistent progression|too many scanlines"
)

#: Any line of libjpeg: 12 bits are tried by its variants of 8 and 16 bits first, which complain.
_OF_LIBJPEG = re.compile(rb"JPEG|JFIF|Adobe|scanlines|Inconsistent progression")

_lock = threading.Lock()


@contextmanager
def refuse_damage_in_print() -> Iterator[None]:
    """Keep what a decoder prints within this block from the screen, and raise where it reports damage.

    Standard error belongs to the whole process, so what others print there meanwhile is printed afterwards.

    Raises:
        ValueError: the decoder went on though data were missing or wrong.
    """
    with _lock:
        printed: list[bytes] = []
        with _standard_error_into(printed):
            yield
    lines = b"".join(printed).splitlines(keepends=True)
    others = b"".join(line for line in lines if not _OF_LIBJPEG.search(line))
    if others:
        with suppress(OSError):
            os.write(2, others)
    if any(_DAMAGE.search(line) for line in lines):
        raise ValueError("the decoder reports damage")


@contextmanager
def _standard_error_into(printed: list[bytes]) -> Iterator[None]:
    with TemporaryFile() as file:
        with suppress(OSError, ValueError, AttributeError):  # none, or closed
            sys.stderr.flush()
        try:
            before = os.dup(2)
        except OSError:  # a service without one
            before = None
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            if before is not None:
                os.dup2(before, 2)
                os.close(before)
            elif file.fileno() != 2:
                os.close(2)
            file.seek(0)
            printed.append(file.read())
