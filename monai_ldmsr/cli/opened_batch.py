"""The batch of ``ldmsr batch`` and ``ldmsr serve``: on which machines its work is done, and how it is opened."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from monai_ldmsr.cli.arguments import Parser

if TYPE_CHECKING:
    from monai_ldmsr.batch import Batch, Delivery, OutputLock, Workers, WorkSettings

__all__ = ["add_cluster_options", "opened_batch"]


def add_cluster_options(parser: Parser) -> None:
    """Where the work is done: here, by a dask scheduler's workers, or by jobs of Slurm."""
    group = parser.add_argument_group("other machines (pip install monai_ldmsr[cluster]; see docs/deployment.md)")
    where = group.add_mutually_exclusive_group()
    where.add_argument(
        "--scheduler", metavar="URL", help="dask://HOST:PORT or dask+tls://HOST:PORT of a scheduler that runs already"
    )
    where.add_argument(
        "--slurm",
        metavar="OPTIONS",
        help="start workers as Slurm jobs, such as jobs=4,gres=gpu:1,partition=gpu (also: cpus, memory, time, account, "
        "interface)",
    )


@contextmanager
def opened_batch(
    arguments: argparse.Namespace,
    settings: WorkSettings,
    lock: OutputLock,
    deliveries: Sequence[Delivery],
    **options: Any,
) -> Iterator[Batch]:
    """Open the batch of an output folder and the workers that the arguments ask for; both are closed at the end.

    Args:
        arguments: the command's, with those of ``add_model_options`` and ``add_cluster_options``, and ``output``.
        settings: how series are super-resolved; made before the output folder is touched.
        lock: a lock on the output folder.
        deliveries: where results are sent.
        options: more of :class:`~monai_ldmsr.batch.Batch`.

    Raises:
        LdmsrError: workers or batch cannot be opened.
    """
    from monai_ldmsr.batch import Batch

    workers = _workers(arguments, lock)
    with ExitStack() as ending:
        ending.callback(workers.close)  # also where the batch cannot be opened
        batch = Batch(arguments.output, settings, workers.executor, workers.capacity, deliveries, lock=lock, **options)
        ending.callback(batch.close)
        ending.callback(workers.close)  # before the batch records what is left to be done
        yield batch


def _workers(arguments: argparse.Namespace, lock: OutputLock) -> Workers:
    if arguments.scheduler is None and arguments.slurm is None:
        from monai_ldmsr.batch import open_local

        return open_local(lock)
    # Imported late: most runs need no cluster.
    from monai_ldmsr.batch.cluster import SlurmOptions, open_dask, open_slurm

    if arguments.scheduler is not None:
        return open_dask(arguments.scheduler, arguments.output)
    return open_slurm(SlurmOptions.parse(arguments.slurm), arguments.output)
