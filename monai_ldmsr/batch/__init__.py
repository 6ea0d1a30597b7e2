"""Many series: a ledger of what was done, units of work, and where they run.

Only :func:`~monai_ldmsr.batch.processing.process_unit` needs torch, and it loads it when it is called: finding out that
nothing is left to do takes no network.
"""

from monai_ldmsr.batch.delivery_queue import Delivery, DeliveryOutcome
from monai_ldmsr.batch.engine import Batch, BatchProgress
from monai_ldmsr.batch.ledger import Ledger, LedgerUnit
from monai_ldmsr.batch.local_worker import LocalWorker, Workers, open_local
from monai_ldmsr.batch.processing import UnitTask, process_unit
from monai_ldmsr.settings import WorkSettings
from monai_ldmsr.storage import OutputLock

__all__ = [
    "Batch",
    "BatchProgress",
    "Delivery",
    "DeliveryOutcome",
    "Ledger",
    "LedgerUnit",
    "LocalWorker",
    "OutputLock",
    "UnitTask",
    "WorkSettings",
    "Workers",
    "open_local",
    "process_unit",
]
