"""What would be done, before it is: each case with its size, and what it will take, by the first slice of its kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_ldmsr.choices import BATCH_SIZE
from monai_ldmsr.errors import LdmsrError
from monai_ldmsr.io import AnySource, SkippedItem
from monai_ldmsr.io.case_names import NamedSource
from monai_ldmsr.io.limits import DEFAULT_LIMITS
from monai_ldmsr.io.source_choice import source_words
from monai_ldmsr.io.source_size import SourceSize, source_size
from monai_ldmsr.needs import MemoryBudget, disk_bytes, linear_growth, map_bytes, taken_bytes, usual_batch
from monai_ldmsr.outcome import Outcome
from monai_ldmsr.settings import WorkSettings
from monai_ldmsr.slice_plan import SliceTarget

if TYPE_CHECKING:
    from monai_ldmsr.evaluator import SeriesEvaluator

__all__ = ["PlannedCase", "WorkPlan", "planned_work"]

#: Seconds that measuring, pictures, writing and reading back take for each voxel of a result.
_WRITTEN_VOXEL_S = 0.5e-6


@dataclass(frozen=True, kw_only=True)
class PlannedCase(Outcome):
    """A series or file: ``found`` where it will be worked on, ``done`` where its result is there already.

    Args:
        case: name of the result's folder.
        modality: DICOM's term; empty where it is not known before it is read.
        number: Series Number.
        size: size of the source; None where there is none.
        disk_bytes: disk space that its result takes, less that of an earlier one.
        memory_bytes: main memory of a process that works on it alone.
        seconds: estimated time.
        source: what is read.
    """

    case: str
    modality: str = ""
    number: str = field(default="", repr=False)
    size: SourceSize | None = None
    disk_bytes: int = 0
    memory_bytes: int = 0
    seconds: float = 0.0
    source: AnySource | None = field(default=None, repr=False)


@dataclass(frozen=True)
class WorkPlan:
    """All cases that were found and chosen, how many were not chosen, and how much finer results will be."""

    cases: tuple[PlannedCase, ...]
    n_not_chosen: int
    factor: int
    slices: SliceTarget

    def timed(self, open_evaluator: Callable[[], SeriesEvaluator]) -> WorkPlan:
        """The same with estimates of time: of each modality one slice of the smallest case is computed.

        Args:
            open_evaluator: called where there is anything to do.
        """
        todo = sorted((case for case in self.cases if case.status == "found"), key=_voxels)
        speeds: dict[str, tuple[float, float]] = {}
        failed: dict[str, PlannedCase] = {}
        evaluator = open_evaluator() if todo else None
        for case in todo:
            if evaluator is not None and case.source is not None and case.modality not in speeds:
                try:
                    speeds[case.modality] = evaluator.speed(case.source)
                except Exception as error:
                    failed[case.case] = PlannedCase.of_error(error, case=case.case, modality=case.modality)
        return replace(self, cases=tuple(failed.get(case.case, self._timed(case, speeds)) for case in self.cases))

    def _timed(self, case: PlannedCase, speeds: Mapping[str, tuple[float, float]]) -> PlannedCase:
        if case.status != "found" or case.modality not in speeds:
            return case
        read_s, computed_s = speeds[case.modality]
        n_result = _voxels(case) * linear_growth(self.factor, self.slices) ** 2
        return replace(case, seconds=_voxels(case) * read_s + n_result * (computed_s + _WRITTEN_VOXEL_S))


def planned_work(
    found: Sequence[NamedSource[AnySource]],
    skipped: Sequence[SkippedItem],
    n_not_chosen: int,
    output_dir: Path,
    settings: WorkSettings,
    is_done: Callable[[NamedSource[AnySource]], Outcome | None] = lambda _: None,
) -> WorkPlan:
    """What would be done, by headers alone.

    Args:
        found: sources, as :func:`~monai_ldmsr.io.find_sources` finds them.
        skipped: what is left out.
        n_not_chosen: how many were not chosen.
        output_dir: parent of the result folders.
        settings: how they are worked on.
        is_done: what became of a source earlier, where it needs no more work.
    """
    cases = [PlannedCase.of(item.outcome, case=item.case) for item in skipped]
    cases += [_planned(one, output_dir, settings, is_done(one)) for one in found]
    return WorkPlan(tuple(cases), n_not_chosen, settings.factor, settings.slices)


def _planned(
    one: NamedSource[AnySource], output_dir: Path, settings: WorkSettings, earlier: Outcome | None
) -> PlannedCase:
    limits, factor = settings.limits or DEFAULT_LIMITS, linear_growth(settings.factor, settings.slices)
    words = source_words(one, limits)
    said: dict[str, Any] = {
        "case": one.name,
        "modality": words.modality or settings.modality or "",
        "number": words.number,
    }
    try:
        size = source_size(one.source, limits)
        budget = MemoryBudget(settings.memory, settings.maps)
        n_slices = budget.slices_at_once(size, factor) or BATCH_SIZE
    except LdmsrError as error:
        return PlannedCase.of_error(error, **said)
    if earlier is not None:
        return PlannedCase.of(earlier, **said, size=size)
    return PlannedCase(
        "found",
        **said,
        size=size,
        source=one.source,
        disk_bytes=disk_bytes(size, factor, map_bytes(settings.maps, settings.tolerance, factor))
        - taken_bytes(output_dir / one.name),
        memory_bytes=budget.needed(size, factor, min(usual_batch(size, factor), n_slices)),
    )


def _voxels(case: PlannedCase) -> int:
    return case.size.voxels if case.size else 0
