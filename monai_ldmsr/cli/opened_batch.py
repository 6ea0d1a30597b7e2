"""The batch of ``ldmsr batch`` and ``ldmsr serve``, with its workers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from monai_ldmsr.cli.arguments import model_settings
from monai_ldmsr.cli.cluster_arguments import cluster_workers

if TYPE_CHECKING:
    from monai_ldmsr.batch import Batch, Delivery, OutputLock

__all__ = ["opened_batch"]


@contextmanager
def opened_batch(
    arguments: argparse.Namespace, lock: OutputLock, deliveries: Sequence[Delivery], **options: Any
) -> Iterator[Batch]:
    """Open the batch of an output folder and the workers that the arguments ask for; both are closed at the end.

    Args:
        arguments: the command's, with those of ``add_model_options`` and ``add_cluster_options``, and ``output``.
        lock: a lock on the output folder.
        deliveries: where results are sent.
        options: more of :class:`~monai_ldmsr.batch.Batch`.

    Raises:
        LdmsrError: workers or batch cannot be opened.
    """
    from monai_ldmsr.batch import Batch, WorkSettings, open_local

    workers = cluster_workers(arguments, arguments.output) or open_local(lock)
    with ExitStack() as ending:
        ending.callback(workers.close)  # also where the batch cannot be opened
        settings = WorkSettings(**model_settings(arguments))
        batch = Batch(arguments.output, settings, workers.executor, workers.capacity, deliveries, lock=lock, **options)
        ending.callback(batch.close)
        ending.callback(workers.close)  # before the batch records what is left to be done
        yield batch
