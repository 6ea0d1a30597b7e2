"""One super-resolution at a time, in a folder of its own; other requests wait meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai_ldmsr.batch.processing import shared_evaluator, shared_source
from monai_ldmsr.errors import LdmsrError, ReasonCode
from monai_ldmsr.io import AnySource
from monai_ldmsr.io.dicom_header import quiet_pydicom
from monai_ldmsr.settings import WorkSettings

__all__ = ["InferenceTurn", "Inferred", "infer"]


@dataclass(frozen=True)
class Inferred:
    """A result in a working folder.

    Args:
        folder: holds the volume file or the derived series, and the report.
        report: content of ``report.json``.
        series_uid: Series Instance UID of a derived series; empty for a volume file.
    """

    folder: Path = field(repr=False)
    report: dict[str, Any] = field(repr=False)
    series_uid: str = field(default="", repr=False)


class InferenceTurn:
    """The network, which takes one volume at a time.

    Args:
        timeout_s: how long a request waits for the ones before it.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._is_free = threading.Lock()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Wait until no other request is being worked on, and keep it so within the block.

        Raises:
            LdmsrError: ``SERVER_BUSY``.
        """
        if not self._is_free.acquire(timeout=self._timeout_s):
            raise LdmsrError(
                f"The server works on another image, for longer than the {self._timeout_s:g} s that a request waits. "
                "Ask again later: what is finished then is not computed again.",
                ReasonCode.SERVER_BUSY,
            )
        try:
            yield
        finally:
            self._is_free.release()


def infer(source: AnySource, case: str, folder: Path, settings: WorkSettings) -> Inferred:
    """Super-resolve one source into ``folder/case``.

    Raises:
        Exception: whatever keeps it from a result, see :meth:`~monai_ldmsr.evaluator.SeriesEvaluator.process`.
    """
    with quiet_pydicom():
        written = shared_evaluator(settings, folder).process(shared_source(source), case, folder)
    return Inferred(folder / case, written.report.to_dict(), written.series_uid)
