"""Options of commands whose work can be done on other machines."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from monai_ldmsr.cli.arguments import Parser

if TYPE_CHECKING:
    from monai_ldmsr.batch import Workers

__all__ = ["add_cluster_options", "cluster_workers"]


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


def cluster_workers(arguments: argparse.Namespace, output_dir: Path) -> Workers | None:
    """Open the workers that the options ask for; None where the work is to be done here.

    Raises:
        SettingsError: an option will not do, the extra is missing, or nobody answers.
        OutputError: the output folder cannot be written.
    """
    if arguments.scheduler is None and arguments.slurm is None:
        return None
    # Imported late: most runs need no cluster.
    from monai_ldmsr.batch.cluster import SlurmOptions, open_dask, open_slurm

    if arguments.scheduler is not None:
        return open_dask(arguments.scheduler, output_dir)
    return open_slurm(SlurmOptions.parse(arguments.slurm), output_dir)
