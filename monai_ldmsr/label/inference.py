"""One super-resolution at a time, in a folder of its own; whoever asks meanwhile waits."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai_ldmsr.batch.processing import process_unit
from monai_ldmsr.batch.unit import UnitTask
from monai_ldmsr.errors import LdmsrError, ReasonCode
from monai_ldmsr.io import AnySource
from monai_ldmsr.settings import WorkSettings

__all__ = ["InferenceTurn", "Inferred", "infer"]


@dataclass(frozen=True)
class Inferred:
    """A result in a working folder.

    Args:
        folder: holds the volume file or the derived series, and the report.
        report: content of ``report.json``.
        series_uid: of a derived series; empty for a volume file.
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
        LdmsrError: with the reason for which there is no result.
    """
    result = process_unit(UnitTask(case, source, folder, settings))
    if result.status != "done":
        raise LdmsrError(result.message, ReasonCode[result.reason])
    report = json.loads((folder / case / "report.json").read_text(encoding="utf-8"))
    return Inferred(folder / case, report, result.series_uid)
