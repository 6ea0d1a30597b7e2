"""How far an evaluation is: what it works on, and which share of the pixels that networks must make is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from monai_ldmsr.evaluation.labels import label

__all__ = ["EvaluationProgress", "EvaluationSteps"]

#: Called as each row of each slice begins, and at the end: what is worked on, and the share that is done, 0 to 1.
EvaluationProgress = Callable[[str, float], None]


class Shown(Protocol):
    """A volume, as far as progress says what it is."""

    @property
    def modality(self) -> str:
        """DICOM's term."""


class EvaluationSteps:
    """Counts what networks have made, and says it.

    Args:
        volumes: all of them; they are known by their number, since names may be those of patients.
        n_pixels: what all networks together make of all slices.
        progress: hears it; None says nothing.
    """

    def __init__(self, volumes: Sequence[Shown], n_pixels: int, progress: EvaluationProgress | None) -> None:
        self._numbers = {id(volume): f"volume {n} of {len(volumes)}" for n, volume in enumerate(volumes, start=1)}
        self._n_pixels, self._done, self._progress = n_pixels, 0, progress

    @contextmanager
    def step(self, volume: Shown, slices: str, row: str, n_pixels: int) -> Iterator[None]:
        """While a network makes a slice of some pixels."""
        self._say(f"{self._numbers.get(id(volume), '')} ({volume.modality}), {slices}, {label(row)}")
        yield
        self._done += n_pixels

    def end(self) -> None:
        """All slices are measured."""
        self._done = self._n_pixels
        self._say("all volumes measured")

    def _say(self, what: str) -> None:
        if self._progress is not None:
            self._progress(what, self._done / max(1, self._n_pixels))
