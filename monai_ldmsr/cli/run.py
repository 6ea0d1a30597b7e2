"""``ldmsr run``: super-resolve everything below a path."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from monai_ldmsr.cli.arguments import (
    SOURCE_HELP,
    Commands,
    add_command,
    add_model_options,
    add_naming_options,
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
    add_naming_options(run)
    add_model_options(run)
    run.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    # Imported late: `ldmsr --help` need not wait for torch.
    from monai_ldmsr.cli.views import SliceView
    from monai_ldmsr.workflow import super_resolve

    with SliceView() as view:
        summary = super_resolve(
            arguments.source,
            arguments.output,
            **model_settings(arguments),
            names=arguments.names,
            sources_csv=arguments.sources_csv,
            progress=view.update,
        )
    _print_summary(summary, arguments.output)
    return summary.exit_code


def _print_summary(summary: RunSummary, output: Path) -> None:
    for case in summary.cases:
        if case.status == "done":
            dicom = output / case.case / "dicom"
            print(f"done     {case.case}: {dicom if dicom.is_dir() else output / case.case}")
            print(f"         report: {output / case.case / 'report.html'}")
            for warning in case.warnings:
                print(f"         warning: {warning}")
        else:
            print(f"{case.status:8} {case.case}: {case.reason}: {case.message}")
    counts = {status: sum(case.status == status for case in summary.cases) for status in ("done", "skipped", "failed")}
    print(", ".join(f"{number} {status}" for status, number in counts.items()))
    print(RESEARCH_NOTICE)
