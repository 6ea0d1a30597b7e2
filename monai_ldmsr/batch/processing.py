"""Work on one unit, in whatever process it was sent to."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from monai_ldmsr.batch.unit import UnitResult, UnitTask
from monai_ldmsr.io import AnySource, NiftiVolume
from monai_ldmsr.io.dicom_header import quiet_pydicom
from monai_ldmsr.io.formats import InspectedFile
from monai_ldmsr.run_summary import failed_case
from monai_ldmsr.settings import WorkSettings

if TYPE_CHECKING:
    from monai_ldmsr.evaluator import SeriesEvaluator

__all__ = ["failed_unit", "process_unit"]

_log = logging.getLogger(__name__)

#: What this process keeps for the next unit: the network, and the 4D file whose next volume may be asked for.
_evaluators: dict[WorkSettings, SeriesEvaluator] = {}
_files: dict[object, InspectedFile] = {}
_keeping = threading.Lock()


def process_unit(task: UnitTask) -> UnitResult:
    """Read, super-resolve, write, verify and move into place.

    Never raises for what a source can do. The network is built once a process; several threads may call this, of which
    one computes while others read the next unit and write the last.

    Raises:
        SettingsError: the network cannot be built with these settings, for no unit.
        WeightsError: its weights are missing or altered.
    """
    start = time.perf_counter()
    _log.info("%s: started", task.unit)
    # Silent as a whole: warnings are the process's, and another thread may be at a file that pydicom would quote.
    with quiet_pydicom():
        result = _attempt(task, _evaluator(task))
    _log.info("%s: %s %s", task.unit, result.status, result.message)
    return result if result.duration_s else replace(result, duration_s=time.perf_counter() - start)


def failed_unit(unit: str, error: Exception) -> UnitResult:
    """What became of a unit from which there is no result."""
    case = failed_case(unit, error)
    return UnitResult(unit, case.status, case.reason, case.message, case.corrupt)


def _attempt(task: UnitTask, evaluator: SeriesEvaluator) -> UnitResult:
    try:
        written = evaluator.process(_kept(task.source), task.unit, task.output_dir)
    except Exception as error:
        return failed_unit(task.unit, error)
    report = written.report
    return UnitResult(
        task.unit,
        "done",
        series_uid=written.series_uid,
        n_slices=report.result.shape[2],
        duration_s=report.duration_s.total or 0.0,
        files=written.files,
    )


def _evaluator(task: UnitTask) -> SeriesEvaluator:
    """What super-resolves by the task's settings; only the last one is kept, for a GPU may not hold two."""
    # Imported when there is work: a batch with nothing left to do need not wait for torch.
    from monai_ldmsr.workflow import open_evaluator

    with _keeping:
        if task.settings not in _evaluators:
            _evaluators.clear()
            _evaluators[task.settings] = open_evaluator(None, task.output_dir, task.settings)
        return _evaluators[task.settings]


def _kept(source: AnySource) -> AnySource:
    """The same source; volumes of one file share it, as its compressed stream is read forwards only."""
    if not isinstance(source, NiftiVolume):
        return source
    with _keeping:
        name = (source.file.path, source.file.stamp)
        if name not in _files:
            _files.clear()
            _files[name] = source.file
        return replace(source, file=_files[name])
