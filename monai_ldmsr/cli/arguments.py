"""What the arguments of several commands share."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from monai_ldmsr.io.limits import ReadLimits, parse_limits, spoken_limits
from monai_ldmsr.report import RESEARCH_NOTICE

if TYPE_CHECKING:
    from argparse import _SubParsersAction

__all__ = [
    "EPILOG",
    "MODALITIES",
    "SOURCE_HELP",
    "Commands",
    "Parser",
    "add_bundle_options",
    "add_command",
    "add_limit_option",
    "add_model_options",
    "add_naming_options",
    "limits_of",
    "model_settings",
    "source_table_of",
]

EPILOG = f"""\
exit codes: 0 all done; 1 wrong usage or settings; 2 nothing usable found; 4 input corrupt;
            7 cannot write; 8 some series failed, or a training stage did

{RESEARCH_NOTICE}
"""


SOURCE_HELP = (
    "folder, DICOM file, DICOMDIR, zip archive, volume file (NIfTI, Analyze, NRRD, MetaImage, MGH), "
    "or a .txt that lists such"
)

MODALITIES = ("CT", "MR", "PT")


class Parser(argparse.ArgumentParser):
    """Wrong usage ends with 1: argparse's own 2 means here that nothing usable was found."""

    def error(self, message: str) -> NoReturn:
        """Print how to use it and the message, and end with 1."""
        self.print_usage(sys.stderr)
        self.exit(1, f"{self.prog}: {message}\n")


if TYPE_CHECKING:
    Commands = _SubParsersAction[Parser]
else:
    Commands = Any


def add_command(commands: Commands, name: str, summary: str, description: str) -> Parser:
    """Add a command whose help ends with the exit codes."""
    return commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_model_options(parser: Parser) -> None:
    """What changes a result: of ``run`` and every command that works as it does."""
    parser.add_argument("--factor", type=int, default=2, help="2, 3 or 4 times finer in-plane (default: 2)")
    parser.add_argument("--steps", type=int, help="network evaluations a slice (default: the bundle's)")
    parser.add_argument("--detail", type=float, help="0 truest and smoothest, to 1 sharpest (default: the bundle's)")
    parser.add_argument(
        "--consistency", type=float, help="0 to 1: how strictly the result must agree with SRC when degraded"
    )
    parser.add_argument(
        "--operator", choices=["area", "gaussian", "kspace"], help="how SRC is assumed to be blurred (default: area)"
    )
    parser.add_argument(
        "--noise",
        type=float,
        help="standard deviation of SRC's noise, in grey levels of 255 of the model range; 5 HU are 1.3 in CT's soft "
        "tissue (default: estimated for each volume)",
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed, same result (default: 0)")
    parser.add_argument(
        "--modality", choices=MODALITIES, help="of volume files (CT in HU), if neither header nor .json file tells"
    )
    parser.add_argument(
        "--series-number",
        type=int,
        metavar="N",
        help="Series Number of DICOM results; several volumes of one series count up N, N+1, ... (default: 100 times "
        "the source's plus the factor)",
    )
    parser.add_argument(
        "--series-description",
        metavar="TEXT",
        help="Series Description of DICOM results, followed by what tells volumes of one series apart (default: 'SR x2 "
        "(research)' and the source's); ASCII without backslash, $, @ and %%",
    )
    add_limit_option(parser)
    add_bundle_options(parser)


def add_naming_options(parser: Parser) -> None:
    """How results are named, and who is who: of ``run`` and ``batch``."""
    parser.add_argument(
        "--names",
        choices=["hash", "stem", "path"],
        help="of results: digits alone; name of the file, or of the folder of a series; or its path below SRC; each "
        "with digits that follow from the source alone (default: hash for DICOM, stem for volume files)",
    )
    parser.add_argument(
        "--sources-csv",
        nargs="?",
        const=True,
        default=False,
        metavar="FILE.csv",
        help="write who is who: path, series number and description of each source, result, skip and failure. It may "
        "identify patients and is for you alone (default FILE: OUT/private/sources.csv)",
    )


def source_table_of(arguments: argparse.Namespace) -> Path | bool:
    """What ``--sources-csv`` says, as :func:`~monai_ldmsr.super_resolve` takes it."""
    return arguments.sources_csv if isinstance(arguments.sources_csv, bool) else Path(arguments.sources_csv)


def add_limit_option(parser: Parser) -> None:
    """How large a source may be: of every command that reads sources."""
    parser.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="raise or lower what a source may claim, hold and grow to; repeatable. K, M, G and T are 1024 and its "
        f"powers (defaults: {spoken_limits()})",
    )


def limits_of(arguments: argparse.Namespace) -> ReadLimits:
    """What :func:`add_limit_option` was given.

    Raises:
        SettingsError: there is no such limit, or it is no number.
    """
    return parse_limits(arguments.limit)


def add_bundle_options(parser: Parser) -> None:
    """Which networks run, and where."""
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: CUDA when there is one)")
    parser.add_argument("--bundle", default="ldm_sr", help="bundle name or folder (default: ldm_sr)")


def model_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the options of :func:`add_model_options` say, as :func:`~monai_ldmsr.super_resolve` takes it."""
    return {
        "factor": arguments.factor,
        "num_inference_steps": arguments.steps,
        "detail": arguments.detail,
        "consistency": arguments.consistency,
        "operator": arguments.operator,
        "noise": arguments.noise,
        "seed": arguments.seed,
        "modality": arguments.modality,
        "series_number": arguments.series_number,
        "series_description": arguments.series_description,
        "limits": limits_of(arguments),
        "device": arguments.device,
        "bundle": arguments.bundle,
    }
