"""The command ``ldmsr``: arguments in, exit code and messages out."""

from __future__ import annotations

import errno
import logging
import os
import sys
import time
import warnings
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence

from monai_ldmsr._version import __version__
from monai_ldmsr.allocator import use_huge_pages
from monai_ldmsr.cli import (
    batch,
    calibrate,
    completion,
    evaluate,
    export,
    fetch,
    import_generative,
    info,
    label,
    pack,
    run,
    serve,
    train,
)
from monai_ldmsr.cli.arguments import EPILOG, Parser
from monai_ldmsr.errors import LdmsrError
from monai_ldmsr.outcome import Outcome, exit_code

__all__ = ["command_parser", "main"]

_DESCRIPTION = """\
Super-resolve clinical volumes (DICOM series, NIfTI, NRRD, MetaImage) slice by slice with a conditional
latent diffusion model, and write derived DICOM series (or the same file format) together with a report.

  ldmsr run sample_data/dicom/mr_t1_sagittal out --factor 2
  ldmsr batch ARCHIVE out
  ldmsr fetch PACS@HOST:104 DEST --study UID
  ldmsr serve out --allow MODALITY1 --send PACS@HOST:104
  ldmsr label --studies DIR
  ldmsr evaluate DATA out --factor 4
  ldmsr train DATA out --budget 2h
  ldmsr calibrate DATA
  ldmsr pack DATA PACKED --megabytes 100
  ldmsr export NETWORKS --factor 2
  ldmsr import-generative OLD.pt NEW.pt --network CONFIG
  ldmsr info
  ldmsr completion bash
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code (see ``ldmsr --help``)."""
    use_huge_pages()
    arguments = command_parser().parse_args(argv)
    level = arguments.log_level
    if getattr(arguments, "quiet", False):
        warnings.simplefilter("ignore")
        level = "error"
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(
        level=(level or "warning").upper(),
        format=f"{'%(asctime)sZ ' if arguments.log_time else ''}%(levelname)s %(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )
    # A service says what it does; other packages do not.
    says_more = level is None and arguments.command is serve.serve
    logging.getLogger("monai_ldmsr").setLevel("INFO" if says_more else logging.NOTSET)
    try:
        code = int(arguments.command(arguments))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # as of "| head", which has read enough
        _drop_output()
        return 141
    except LdmsrError as error:
        print(f"ldmsr: {error.console_message or error} [{error.reason.value}]", file=sys.stderr)
        return exit_code([Outcome.of_error(error)])
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _drop_output()
        print(f"ldmsr: the output cannot be written: {error.strerror} [CANNOT_WRITE]", file=sys.stderr)
        return 7
    except KeyboardInterrupt:
        left = getattr(arguments, "interrupted", "finished results are complete, the unfinished one was removed.")
        print(f"ldmsr: interrupted; {left}", file=sys.stderr)
        return 130


def _drop_output() -> None:
    """Keep Python from writing at its end what cannot be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def command_parser() -> Parser:
    """The parser of the whole command."""
    parser = Parser(
        prog="ldmsr",
        description=_DESCRIPTION,
        epilog=EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ldmsr {__version__}")
    parser.add_argument(
        "--log-level",
        choices=["debug", "info", "warning", "error"],
        help="the least severe messages that are shown (default: warning; serve: info)",
    )
    parser.add_argument("--log-time", action="store_true", help="begin each line of the log with the time in UTC")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (
        run,
        batch,
        fetch,
        serve,
        label,
        evaluate,
        train,
        calibrate,
        pack,
        export,
        import_generative,
        info,
        completion,
    ):
        command.add(commands)
    return parser
