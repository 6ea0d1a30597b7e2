"""Many series: a ledger of what was done, units of work, and where they run.

Only :func:`~monai_ldmsr.batch.processing.process_unit` needs torch, and it loads it when it is called: finding out that
nothing is left to do takes no network.
"""

from monai_ldmsr.batch.delivery import Delivery, DeliveryOutcome
from monai_ldmsr.batch.processing import process_unit
from monai_ldmsr.batch.unit import FileMark, UnitResult, UnitSource, UnitTask, WorkSettings

__all__ = [
    "Delivery",
    "DeliveryOutcome",
    "FileMark",
    "UnitResult",
    "UnitSource",
    "UnitTask",
    "WorkSettings",
    "process_unit",
]
