"""``ldmsr run``: super-resolve everything below a path."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_ldmsr.cli.arguments import (
    SOURCE_HELP,
    Commands,
    add_choice_options,
    add_command,
    add_model_options,
    add_naming_options,
    add_telling_options,
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
        "report.html and report.json, and OUT/summary.json. Where OUT is named as a volume file (b.nii.gz), it is one: "
        "the result of the one series or volume below SRC, in the format of that name, with b_report.html and "
        "b_report.json beside it. What is there already is replaced only where that report says that it is an "
        "earlier result of the same source, or with --overwrite.",
    )
    run.add_argument("source", metavar="SRC", type=Path, help=SOURCE_HELP)
    run.add_argument(
        "output", metavar="OUT", type=Path, help="folder for results, made when missing; or name of a volume file"
    )
    run.add_argument("--overwrite", action="store_true", help="replace OUT, where it is the name of a volume file")
    add_telling_options(run)
    add_choice_options(run)
    add_naming_options(run)
    add_model_options(run)
    run.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    # Imported late: `ldmsr --help` need not wait for torch.
    from monai_ldmsr.cli.views import SliceView, print_failures
    from monai_ldmsr.workflow import plan_work, super_resolve

    given: dict[str, Any] = {
        **{"source": arguments.source, "output_dir": arguments.output},
        **{"names": arguments.names, "overwrite": arguments.overwrite},
        **choice_of(arguments),
        **model_settings(arguments),
    }
    if arguments.dry_run:
        from monai_ldmsr.cli.plan_view import print_plan

        return print_plan(plan_work(**given), arguments.output)
    with SliceView() as view:
        summary = super_resolve(
            **given,
            sources_csv=arguments.sources_csv,
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
            folder = output.parent if output.is_file() else output / case.case
            dicom = folder / "dicom"
            place = output if output.is_file() else dicom if dicom.is_dir() else folder
            print(f"done     {case.case}: {place}")
            print(f"         report: {next(folder / name for name in case.files if name.endswith('report.html'))}")
            for warning in case.warnings:
                print(f"         warning: {warning}")
        else:
            print(f"{case.status:8} {case.case}: {case.reason}: {case.message}")
    print_counts(summary)
    print(RESEARCH_NOTICE)
