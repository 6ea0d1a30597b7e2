"""What the arguments of several commands share."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from monai_ldmsr.deprecation import DEPRECATED
from monai_ldmsr.io.limits import ReadLimits, parse_limits, spoken_limits
from monai_ldmsr.report import RESEARCH_NOTICE
from monai_ldmsr.settings import WorkSettings, described, phrase

if TYPE_CHECKING:
    from argparse import _SubParsersAction

__all__ = [
    "EPILOG",
    "SOURCE_HELP",
    "Commands",
    "Parser",
    "add_choice_options",
    "add_command",
    "add_limit_option",
    "add_model_options",
    "add_naming_options",
    "add_setting_options",
    "add_telling_options",
    "choice_of",
    "limits_of",
    "model_settings",
]

_EXIT_CODES = """\
exit codes: 0 all done; 1 wrong usage or settings; 2 nothing usable found; 4 input corrupt;
            7 cannot write; 8 some series failed, or a training stage did"""

EPILOG = f"{_EXIT_CODES}\n\n{RESEARCH_NOTICE}\n"

#: How alike a misspelt word must be to what it may have been meant to be, as difflib measures it.
_ALIKE = 0.6

SOURCE_HELP = (
    "folder, DICOM file, DICOMDIR, zip archive, volume file (NIfTI, Analyze, NRRD, MetaImage, MGH), "
    "or a .txt file that lists their paths"
)


class Parser(argparse.ArgumentParser):
    """Wrong usage ends with 1: argparse's own 2 means here that nothing usable was found.

    What is misspelt is answered by the command that it was meant for, and with what it may have been meant to be.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str) -> NoReturn:
        """Print how to use it and the message, and end with 1."""
        self.print_usage(sys.stderr)
        self.exit(1, f"{self.prog}: {message.rstrip('.')}. See {self.prog} --help.\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse an unknown option before anything else is found missing because of it."""
        given = list(sys.argv[1:] if args is None else args)
        for option in self._options(given):
            if option not in self._option_string_actions:
                near = difflib.get_close_matches(option, self._option_string_actions, 1, _ALIKE)
                self.error(f"There is no option {option}{_suggested(near)}")
            used = f"{self.prog} {option}"
            if used in DEPRECATED:
                print(f"ldmsr: {DEPRECATED[used].message(used)}", file=sys.stderr)
        found, rest = super().parse_known_args(given, namespace)
        if rest:
            self.error(f"{' '.join(map(repr, rest))} is one argument too many.")
        return found, rest

    def _options(self, given: Sequence[str]) -> Iterator[str]:
        """Options in the order given; with commands, those before the command."""
        words = iter(given)
        for word in words:
            if word == "--" or (self._subparsers is not None and not word.startswith("-")):
                return
            if word.startswith("--"):
                option, equals, _ = word.partition("=")
                yield option
                action = self._option_string_actions.get(option)
                if self._subparsers is not None and action is not None and action.nargs is None and not equals:
                    next(words, None)  # its value

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            names = [str(choice) for choice in action.choices]
            near = difflib.get_close_matches(str(value), names, 1, _ALIKE)
            said = f"there is no {value!r}{_suggested(near)} Choose one of {', '.join(names)}."
            raise argparse.ArgumentError(action, said)


def _suggested(near: Sequence[str]) -> str:
    return f"; did you mean {near[0]}?" if near else "."


if TYPE_CHECKING:
    Commands = _SubParsersAction[Parser]
else:
    Commands = Any


def add_command(commands: Commands, name: str, summary: str, description: str, exit_codes: str = _EXIT_CODES) -> Parser:
    """Add a command whose help ends with its exit codes, those of all commands where it has none of its own."""
    return commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=f"{exit_codes}\n\n{RESEARCH_NOTICE}\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_model_options(parser: Parser) -> None:
    """What changes a result: of ``run`` and every command that works as it does."""
    settings = described(WorkSettings).items()
    add_setting_options(parser, *(name for name, (one, _) in settings if one.changes != "nothing"))
    add_limit_option(parser)
    add_setting_options(parser, "device", "bundle")


def add_setting_options(parser: Parser, *names: str, **defaults: Any) -> None:
    """Options of settings, by their names; ``defaults`` are other ones than the settings' own.

    What is given is read and checked by the settings, so that ``--factor 2.0`` is 2 here too.
    """
    for name in names:
        one, default = described(WorkSettings)[name]
        default = defaults.get(name, default)
        if flag := one.option(name):
            values = "{" + ",".join(map(str, one.choices)) + "}"
            metavar = values if one.choices else (one.word or name).rpartition("_")[2].upper()
            text = phrase(replace(one, choices=()), default).replace("%", "%%")
            if default is False:
                parser.add_argument(flag, dest=name, action="store_true", help=one.help)
            else:
                parser.add_argument(flag, dest=name, default=default, metavar=metavar, help=text)


def add_naming_options(parser: Parser) -> None:
    """How results are named, and who is who: of ``run`` and ``batch``."""
    parser.add_argument(
        "--names",
        choices=["hash", "stem", "path"],
        help="names of results: digits alone; name of the file, or of the folder of a series; or its path below SRC; "
        "each with digits that follow from the source alone (default: hash for DICOM, stem for volume files)",
    )
    parser.add_argument(
        "--sources-csv",
        type=Path,
        nargs="?",
        const=True,
        default=False,
        metavar="FILE.csv",
        help="write who is who: path, series number and description of each source, result, skip and failure. It may "
        "identify patients and is for you alone (default FILE: OUT/private/sources.csv)",
    )


def add_choice_options(parser: Parser) -> None:
    """What of all that is found is worked on: of ``run`` and ``batch``."""
    group = parser.add_argument_group("what is worked on (--dry-run lists what there is)")
    group.add_argument(
        "--series",
        action="append",
        default=[],
        metavar="WHICH",
        help="Series Instance UID, Series Number, or name of the case of what is worked on; repeatable",
    )
    about = "modality (CT, MR, PT), or pattern with * and ? of the Series Description or of a volume file's name"
    group.add_argument(
        "--include",
        action="append",
        default=[],
        metavar="WHAT",
        help=f"{about}, of what is worked on; repeatable: one of them must fit",
    )
    group.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="WHAT",
        help=f"{about}, of what is left out; repeatable",
    )


def add_telling_options(parser: Parser) -> None:
    """What is said, before and meanwhile: of ``run`` and ``batch``."""
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="list what would be done, with time, memory and disk space by estimate, and write nothing",
    )
    parser.add_argument("--quiet", action="store_true", help="say what failed, and nothing else")


def choice_of(arguments: argparse.Namespace) -> dict[str, tuple[str, ...]]:
    """What :func:`add_choice_options` was given, as :func:`~monai_ldmsr.super_resolve` takes it."""
    return {name: tuple(getattr(arguments, name)) for name in ("series", "include", "exclude")}


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


def model_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the options of :func:`add_model_options` say, as :func:`~monai_ldmsr.super_resolve` takes it."""
    given = {name: getattr(arguments, name) for name in described(WorkSettings) if hasattr(arguments, name)}
    return {**given, "limits": limits_of(arguments)}
