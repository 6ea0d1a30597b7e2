"""One unit of work, and work on it in whatever process it was sent to: a source in, a result or a reason out."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from monai_ldmsr.io import AnySource, NiftiVolume
from monai_ldmsr.io.dicom_header import quiet_pydicom
from monai_ldmsr.io.formats import InspectedFile
from monai_ldmsr.run_summary import CaseResult
from monai_ldmsr.settings import WorkSettings

if TYPE_CHECKING:
    from monai_ldmsr.evaluator import SeriesEvaluator

__all__ = ["UnitTask", "process_unit", "shared_evaluator", "shared_source"]

_log = logging.getLogger(__name__)

#: What this process keeps for the next unit: the network, and the 4D file whose next volume may be asked for.
_evaluators: dict[WorkSettings, SeriesEvaluator] = {}
_files: dict[object, InspectedFile] = {}
_keeping = threading.Lock()


@dataclass(frozen=True)
class UnitTask:
    """What a worker is asked to do.

    Args:
        unit: name of the result folder.
        source: what to read; kept out of ``repr``: file names may be patients' names.
        output_dir: parent of the result folder.
        settings: how.
    """

    unit: str
    source: AnySource = field(repr=False)
    output_dir: Path = field(repr=False)
    settings: WorkSettings


def process_unit(task: UnitTask) -> CaseResult:
    """Read, super-resolve, write, verify and move into place.

    Never raises for what a source can do. The network is built once a process; several threads may call this, of which
    one computes while others read the next unit and write the last.

    Raises:
        SettingsError: the network cannot be built with these settings, for no unit.
        WeightsError: its weights are missing or altered.
    """
    _log.info("%s: started", task.unit)
    # Silent as a whole: warnings are the process's, and another thread may be at a file that pydicom would quote.
    with quiet_pydicom():
        evaluator = shared_evaluator(task.settings, task.output_dir)
        result = evaluator.attempt(shared_source(task.source), task.unit, task.output_dir)
    _log.info("%s: %s %s", task.unit, result.status, result.message)
    return result


def shared_evaluator(settings: WorkSettings, output_dir: Path) -> SeriesEvaluator:
    """What super-resolves by these settings; only the last one is kept, for a GPU may not hold two.

    Raises:
        LdmsrError: see :func:`process_unit`.
    """
    # Imported when there is work: a batch with nothing left to do need not wait for torch.
    from monai_ldmsr.workflow import open_evaluator

    with _keeping:
        if settings not in _evaluators:
            _evaluators.clear()
            _evaluators[settings] = open_evaluator(None, output_dir, settings)
        return _evaluators[settings]


def shared_source(source: AnySource) -> AnySource:
    """The same source; volumes of one file share it, as its compressed stream is read forwards only."""
    if not isinstance(source, NiftiVolume):
        return source
    with _keeping:
        name = (source.file.path, source.file.stamp)
        if name not in _files:
            _files.clear()
            _files[name] = source.file
        return replace(source, file=_files[name])
