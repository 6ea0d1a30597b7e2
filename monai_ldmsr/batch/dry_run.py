"""What a batch would do, without a trace: nothing is written, not even the ledger."""

from __future__ import annotations

import tempfile
from contextlib import closing, nullcontext
from pathlib import Path

from monai_ldmsr.batch.engine import is_needed, settings_fingerprint
from monai_ldmsr.batch.ledger import LEDGER_NAME, Ledger
from monai_ldmsr.batch.search_memory import SearchMemory
from monai_ldmsr.io import AnySource
from monai_ldmsr.io.case_names import NamedSource
from monai_ldmsr.io.limits import DEFAULT_LIMITS
from monai_ldmsr.io.source_choice import ALL, SourceChoice
from monai_ldmsr.outcome import Outcome
from monai_ldmsr.settings import WorkSettings
from monai_ldmsr.work_plan import WorkPlan, planned_work

__all__ = ["planned_batch"]


def planned_batch(
    source: Path,
    output_dir: Path,
    settings: WorkSettings,
    names: str | None = None,
    choice: SourceChoice = ALL,
    retry: bool = False,
    verify: bool = False,
) -> WorkPlan:
    """What :class:`~monai_ldmsr.batch.Batch` would do of a source with these arguments.

    Raises:
        LdmsrError: see :meth:`~monai_ldmsr.batch.Batch.search`.
    """
    limits, fingerprint = settings.limits or DEFAULT_LIMITS, settings_fingerprint(settings)
    has_ledger = (output_dir / LEDGER_NAME).is_file()
    with closing(Ledger(output_dir, for_reading=True)) if has_ledger else nullcontext() as ledger:
        memory = SearchMemory(None if ledger is None else ledger.memory())
        work_dir = Path(tempfile.gettempdir())
        found, skipped = memory.find(source, limits, names=names, work_dir=work_dir, again=retry)
        found, skipped, n_not_chosen = choice.of(found, skipped, limits)

        def earlier(one: NamedSource[AnySource]) -> Outcome | None:
            known = None if ledger is None else ledger.unit(one.name)
            if ledger is None or known is None or (known.status == "failed" and retry):
                return None
            marks, folder = ledger.outputs(one.name), output_dir / one.name
            return None if is_needed(known, marks, folder, one.content(), fingerprint, verify)[0] else known

        return planned_work(found, skipped, n_not_chosen, output_dir, settings, earlier)
