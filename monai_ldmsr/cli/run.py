"""``ldmsr run``: super-resolve everything below a path."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from monai_ldmsr.cli.arguments import (
    SOURCE_HELP,
    Commands,
    add_choice_options,
    add_command,
    add_model_options,
    add_naming_options,
    add_quiet_option,
    choice_of,
    model_settings,
)
from monai_ldmsr.report import RESEARCH_NOTICE

if TYPE_CHECKING:
    from monai_ldmsr.run_summary import RunSummary

__all__ = ["add"]


def add(commands: Commands) -> None:
    """Add ``run`` to the command's parser."""
    run = add_command(
        commands,
        "run",
        "super-resolve everything below SRC",
        "Super-resolve every series and volume file below SRC. Writes OUT/<case>/ with the result, "
        "report.html and report.json, and OUT/summary.json.",
    )
    run.add_argument("source", metavar="SRC", type=Path, help=SOURCE_HELP)
    run.add_argument("output", metavar="OUT", type=Path, help="folder for results; made when missing")
    add_quiet_option(run)
    add_choice_options(run)
    add_naming_options(run)
    add_model_options(run)
    run.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    # Imported late: `ldmsr --help` need not wait for torch.
    from monai_ldmsr.cli.views import SliceView, print_failures
    from monai_ldmsr.workflow import super_resolve

    with SliceView() as view:
        summary = super_resolve(
            arguments.source,
            arguments.output,
            **model_settings(arguments),
            names=arguments.names,
            sources_csv=arguments.sources_csv,
            **choice_of(arguments),
            progress=None if arguments.quiet else view.update,
        )
    if arguments.quiet:
        print_failures(summary)
    else:
        _print_summary(summary, arguments.output)
    return summary.exit_code


def _print_summary(summary: RunSummary, output: Path) -> None:
    from monai_ldmsr.cli.views import print_counts

    for case in summary.cases:
        if case.status == "done":
            dicom = output / case.case / "dicom"
            print(f"done     {case.case}: {dicom if dicom.is_dir() else output / case.case}")
            print(f"         report: {output / case.case / 'report.html'}")
            for warning in case.warnings:
                print(f"         warning: {warning}")
        else:
            print(f"{case.status:8} {case.case}: {case.reason}: {case.message}")
    print_counts(summary)
    print(RESEARCH_NOTICE)
