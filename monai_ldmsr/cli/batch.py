"""``ldmsr batch``: everything below a path, again and again until all of it is done."""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

from monai_ldmsr.cli.arguments import (
    SOURCE_HELP,
    Commands,
    add_choice_options,
    add_command,
    add_model_options,
    add_naming_options,
    add_telling_options,
    choice_of,
    limits_of,
    model_settings,
)
from monai_ldmsr.cli.opened_batch import add_cluster_options, opened_batch
from monai_ldmsr.cli.pacs_arguments import add_caller_options, add_send_option, deliveries_of
from monai_ldmsr.errors import SettingsError
from monai_ldmsr.outcome import exit_code

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add ``batch`` to the command's parser."""
    batch = add_command(
        commands,
        "batch",
        "super-resolve everything below SRC, resumably",
        "Super-resolve every series and volume file below SRC as 'run' does, and keep a ledger in OUT of what was "
        "done. The same command goes on where it was interrupted, and does again what has changed. "
        "'ldmsr batch OUT --status' shows how far it is, also meanwhile.",
    )
    batch.add_argument("source", metavar="SRC", type=Path, help=f"{SOURCE_HELP}; with --status: OUT")
    batch.add_argument("output", metavar="OUT", type=Path, nargs="?", help="folder for results; made when missing")
    batch.add_argument("--status", action="store_true", help="print what became of each series, and end")
    batch.add_argument("--retry", action="store_true", help="work again on what failed")
    batch.add_argument(
        "--verify", action="store_true", help="check earlier results by their content, not by size and time alone"
    )
    add_telling_options(batch)
    add_choice_options(batch)
    add_send_option(batch)
    add_caller_options(batch)
    add_naming_options(batch)
    add_model_options(batch)
    add_cluster_options(batch)
    batch.set_defaults(command=_batch)


def _batch(arguments: argparse.Namespace) -> int:
    if arguments.status:
        return _status(arguments.output or arguments.source)
    if arguments.output is None:
        raise SettingsError("OUT is missing: ldmsr batch SRC OUT, or ldmsr batch OUT --status.")
    if arguments.dry_run:
        return _dry_run(arguments)
    # Imported late: `ldmsr --help` need not wait for pydicom.
    from monai_ldmsr.batch import OutputLock, WorkSettings
    from monai_ldmsr.cli.views import BatchView, print_failures, print_summary
    from monai_ldmsr.io.source_choice import SourceChoice
    from monai_ldmsr.io.tree import check_apart
    from monai_ldmsr.source_table import SourceTable, source_rows

    source, output, settings = arguments.source, arguments.output, WorkSettings(**model_settings(arguments))
    check_apart(source, output)
    place = arguments.sources_csv
    table = None if place is False else SourceTable(None if place is True else place, output)
    with (
        OutputLock(output) as lock,
        BatchView() as view,
        opened_batch(
            arguments,
            settings,
            lock,
            deliveries_of(arguments),
            retry=arguments.retry,
            verify=arguments.verify,
            progress=None if arguments.quiet else view.update,
        ) as batch,
    ):
        choice = SourceChoice(**choice_of(arguments), modality=arguments.modality)
        searched = batch.search(source, arguments.names, choice)
        rows = [] if table is None else source_rows(*searched, limits_of(arguments))
        if table is not None:
            table.write(rows, batch.summary())
        summary = batch.run()
        if table is not None:
            table.write(rows, summary)
        n_undelivered, n_elsewhere = batch.undelivered()
    if arguments.quiet:
        print_failures(summary)
    else:
        print_summary(summary, output, n_undelivered, n_elsewhere)
    return exit_code(summary.cases, is_complete=not n_undelivered)


def _dry_run(arguments: argparse.Namespace) -> int:
    from monai_ldmsr.batch.dry_run import planned_batch
    from monai_ldmsr.cli.plan_view import print_plan
    from monai_ldmsr.io.source_choice import SourceChoice
    from monai_ldmsr.io.tree import check_apart
    from monai_ldmsr.settings import WorkSettings
    from monai_ldmsr.workflow import open_evaluator

    source, output, settings = arguments.source, arguments.output, WorkSettings(**model_settings(arguments))
    check_apart(source, output)
    choice = SourceChoice(**choice_of(arguments), modality=settings.modality)
    plan = planned_batch(source, output, settings, arguments.names, choice, arguments.retry, arguments.verify)
    return print_plan(plan.timed(lambda: open_evaluator(None, output, settings)), output)


def _status(output: Path) -> int:
    from monai_ldmsr.batch import Ledger
    from monai_ldmsr.cli.views import print_status

    with closing(Ledger(output, for_reading=True)) as ledger:
        print_status(ledger)
    return 0
