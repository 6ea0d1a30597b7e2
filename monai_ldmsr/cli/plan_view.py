"""What ``--dry-run`` prints: each series with what it will take, and all together."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from monai_ldmsr.cli.views import print_table, spoken_duration, spoken_reason
from monai_ldmsr.needs import free_bytes, spoken_bytes
from monai_ldmsr.outcome import exit_code

if TYPE_CHECKING:
    from monai_ldmsr.work_plan import PlannedCase, WorkPlan

__all__ = ["print_plan"]

_STATES = {"found": "to do", "done": "done already"}


def print_plan(plan: WorkPlan, folder: Path) -> int:
    """Print it, and give the exit code that the run would have if all that is to be done succeeds."""
    titles = ("case", "modality", "series", "voxels", "result", "state", "time", "memory", "disk")
    print_table(titles, [_row(case, plan) for case in plan.cases if case.size])
    for case in plan.cases:
        if case.status in ("failed", "skipped"):
            print(spoken_reason(case))
    todo = [case for case in plan.cases if case.status == "found"]
    counts = Counter(case.status for case in plan.cases)
    said = [f"{len(todo)} to do", f"{counts['done']} done already"]
    said += [f"{counts[status]} {status}" for status in ("skipped", "failed")]
    print(", ".join([*said, *([f"{plan.n_not_chosen} not chosen"] if plan.n_not_chosen else [])]))
    if todo:
        memory = max(case.memory_bytes for case in todo)
        disk, free = sum(case.disk_bytes for case in todo), free_bytes(folder)
        fits = "" if disk <= free else ", which is not enough"
        seconds = spoken_duration(sum(case.seconds for case in todo))
        space = f"{spoken_bytes(disk)} of disk space ({spoken_bytes(free)} free{fits})"
        print(f"estimated: {seconds} in all, {spoken_bytes(memory)} of memory for the largest, {space}")
        if disk > free:
            return 7
    print(
        "Nothing was written. Damage, label maps, positions that do not fit and what lies outside of the training are "
        "found when a source is read."
    )
    return exit_code(plan.cases)


def _row(case: PlannedCase, plan: WorkPlan) -> tuple[str, ...]:
    assert case.size is not None
    i, j, k = case.size.shape
    is_new = case.status == "found"
    finer = plan.slices.factor_slices
    slices = (round(finer * k) if finer else "new slices") if plan.slices.is_wanted else k
    return (
        *(
            case.case,
            case.modality,
            case.number,
            f"{i} x {j} x {k}",
            f"{plan.factor * i} x {plan.factor * j} x {slices}",
        ),
        _STATES.get(case.status, case.status),
        spoken_duration(case.seconds) if is_new else "",
        *((spoken_bytes(case.memory_bytes), spoken_bytes(case.disk_bytes)) if is_new else ("", "")),
    )
