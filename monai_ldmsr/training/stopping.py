"""Ending a training by a signal: a checkpoint is written, and the same command goes on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["TrainingStoppedError", "check_stop", "ended_by_signals", "set_training"]


class TrainingStoppedError(KeyboardInterrupt):
    """A signal ended the training; as Ctrl-C it passes what handles errors.

    Args:
        number: number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class _State:
    is_training = False
    number: int | None = None


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within, SIGTERM and SIGINT end a stage after its iteration with a checkpoint, and all else at once."""
    _State.is_training, _State.number = False, None
    before = {number: signal.signal(number, _handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _handle(number: int, _: FrameType | None) -> None:
    if not _State.is_training or _State.number is not None:
        raise TrainingStoppedError(number)
    _State.number = number


def set_training(is_training: bool) -> None:
    """Say whether iterations run, after which a checkpoint can be written."""
    _State.is_training = is_training


def check_stop() -> int | None:
    """The signal that has come, or None."""
    return _State.number
